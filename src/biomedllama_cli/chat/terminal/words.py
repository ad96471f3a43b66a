"""What the chat says about a reply, a model and itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from biomedllama_cli.chat.conversation import Reply
from biomedllama_cli.settings.chat import ChatSettings, ReplySettings
from biomedllama_cli.wording import name_count

NOTICE = (
    "For research only: what a model says can be wrong, invented or out of date. It is not medical advice and not for "
    "decisions about anybody's care."
)
LEAVING = "Ctrl-D or /quit leaves the chat."
KEYS = (
    ("Enter", "sends; Alt-Enter, Ctrl-J or a backslash at the end of the line begins another line"),
    ("Up, Down, Ctrl-R", "bring back what was typed before"),
    ("Tab", "completes commands, settings and file names"),
    ("Ctrl-C", "stops a reply and keeps its part; at the prompt it clears the line"),
    ("Ctrl-D", "leaves"),
    ("//text", "sends text that begins with a slash"),
)
_LONGEST_NAME = 40


@dataclass(frozen=True)
class ModelFacts:
    """What a chat tells about a model.

    Attributes:
        facts: `source`, and where they are known `revision`, `weights_sha256`, `parameters`, `dtype`, `device`,
            `quantize`.
        style: how the conversation is written for it.
        reason: why, in a sentence.
        context_length: longest conversation with its reply (in tokens).
    """

    facts: Mapping[str, object]
    style: str
    reason: str
    context_length: int

    @property
    def name(self) -> str:
        """What it is called at the prompt."""
        return short_name(str(self.facts["source"]))

    def lines(self) -> list[str]:
        """Return what is told of it, most important first."""
        return [
            describe_model(self.facts),
            f"Written as {self.style}: {self.reason}.",
            f"Context of {name_count(self.context_length, 'token')}.",
        ]


@dataclass(frozen=True)
class TerminalFacts:
    """What a chat tells at its start.

    Attributes:
        models: in the order of the speakers.
        corpus: what questions are looked up in, with its counts; empty where there is none.
    """

    models: tuple[ModelFacts, ...]
    corpus: str = ""


def short_name(source: str) -> str:
    """Return what a model is called at the prompt.

    >>> short_name("meta-llama/Llama-3.2-1B"), short_name("runs/a/checkpoint-90/"), short_name(".")
    ('Llama-3.2-1B', 'checkpoint-90', '.')
    """
    name = source.rstrip("/").rsplit("/", 1)[-1] or source
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def describe_model(facts: Mapping[str, object]) -> str:
    """Return a model, what of it was loaded, and how.

    >>> describe_model({"source": "a/b", "weights_sha256": "0123456789abcdef", "parameters": 134515008,
    ...                 "dtype": "float32", "device": "cpu", "quantize": "none"})
    'a/b · 134.5M parameters · float32 on cpu · weights 0123456789ab'
    """
    parts = [str(facts["source"])]
    parameters = facts.get("parameters")
    if isinstance(parameters, int):
        parts.append(f"{_count(parameters)} parameters")
    if facts.get("dtype"):
        parts.append(f"{facts['dtype']} on {facts['device']}" if facts.get("device") else f"{facts['dtype']}")
    if facts.get("quantize") not in (None, "", "none"):
        parts.append(f"quantised to {facts['quantize']}")
    if facts.get("weights_sha256"):
        parts.append(f"weights {str(facts['weights_sha256'])[:12]}")
    if facts.get("revision"):
        parts.append(f"revision {str(facts['revision'])[:12]}")
    return " · ".join(parts)


def _count(number: int) -> str:
    scale, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    return f"{number / scale:,.1f}{unit}" if number >= 1e6 else f"{number:,}"


def describe_saving(settings: ChatSettings) -> str:
    """Return what of the chat is written where.

    >>> describe_saving(ChatSettings())
    'Nothing of the conversation is written down (/save FILE does)'
    """
    kept = settings.transcript
    said = (
        f"Every reply is written to {kept.save}"
        if kept.save is not None
        else "Nothing of the conversation is written down (/save FILE does)"
    )
    return said if kept.history_file is None else f"{said}; what is typed is kept in {kept.history_file}"


def describe_reply(reply: Reply) -> str:
    """Return what a reply took.

    >>> describe_reply(Reply("yes", "end", 322, 310, 5, seconds_to_first_token=0.25, seconds=2.25))
    '5 tokens · 2.0 tokens/s · first after 0.25 s · 310 of 322 prompt tokens reused'
    """
    parts = [name_count(reply.new_tokens, "token")]
    if reply.tokens_per_second is not None:
        parts.append(f"{reply.tokens_per_second:,.1f} tokens/s")
    if reply.new_tokens:
        parts.append(f"first after {reply.seconds_to_first_token:,.2f} s")
    parts.append(f"{reply.reused_tokens:,} of {name_count(reply.prompt_tokens, 'prompt token')} reused")
    return " · ".join(parts)


def explain_reply(reply: Reply, settings: ReplySettings) -> list[str]:
    """Return what is to be known of a reply that did not end in the ordinary way, or did not see every turn.

    >>> explain_reply(Reply("", "length", 9, 0, 512, dropped_turns=4), ReplySettings())[0]
    'The oldest 4 turns no longer fit the context and were left out.'
    """
    notes = []
    if reply.dropped_turns:
        turns = "turn no longer fits" if reply.dropped_turns == 1 else "turns no longer fit"
        number = "" if reply.dropped_turns == 1 else f"{reply.dropped_turns:,} "
        were = "was" if reply.dropped_turns == 1 else "were"
        notes.append(f"The oldest {number}{turns} the context and {were} left out.")
    penalty = min(round(settings.repetition_penalty + 0.1, 2), 2.0)
    told = {
        "length": f"Cut after {settings.max_new_tokens:,} tokens: /set max_new_tokens "
        f"{2 * settings.max_new_tokens} and /retry for more, or ask it to go on.",
        "context": "Cut since the context is full: /new begins with an empty one.",
        "repetition": f"Ended since it said the same over and over; the repetitions are not kept. /set "
        f"repetition_penalty {penalty:g} may help.",
        "interrupted": "Stopped; the part stays in the conversation (/undo takes it back, /retry asks again).",
    }
    if reply.finish in told:
        notes.append(told[reply.finish])
    if not reply.text.strip():
        notes.append("The reply is empty.")
    return notes
