"""A conversation as one line of JSON, which `instruct` can learn from as it is.

`messages` hold what was said to the model and by it, as they stand in its prompt. A question that got no text for a
reply is no message, since nothing can be learnt from it: its exchange holds it. All else stands beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from biomedllama_cli.chat.conversation import Conversation, Exchange, Finish, Passage, Reply, name_model
from biomedllama_cli.chat.transcript_facts import TranscriptFacts
from biomedllama_cli.errors import DataError
from biomedllama_cli.settings.explain import explain

SCHEMA_VERSION = 1


class _Stored(BaseModel):
    """Of fields that are not known nothing is made: a later version may have written them."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())


class _Message(_Stored):
    role: Literal["system", "user", "assistant"]
    content: str


class _StoredReply(_Stored):
    """A reply; the first model's text is among the messages."""

    finish: Finish
    prompt_tokens: int
    reused_tokens: int
    new_tokens: int
    dropped_turns: int
    seconds_to_first_token: float
    seconds: float

    def restore(self, text: str) -> Reply:
        """Return the reply."""
        return Reply(text, **dict(self))


class _StoredOther(_StoredReply):
    text: str

    def restore_other(self) -> Reply:
        """Return the reply of the model that is compared."""
        return Reply(**dict(self))


class _Unanswered(_Stored):
    """What would be two messages, had the reply any text."""

    prompt: str
    reply: str


class _StoredExchange(_Stored):
    question: str
    noise_seed: int
    settings: dict[str, Any]
    sources: tuple[Passage, ...]
    reply: _StoredReply
    other: _StoredOther | None = None
    other_source: str | None = None
    unanswered: _Unanswered | None = None


class _Line(_Stored):
    schema_version: Literal[1]
    id: str
    created: str
    messages: tuple[_Message, ...]
    model: dict[str, Any]
    other_model: dict[str, Any] | None
    settings: dict[str, Any]
    seed: int
    corpus: str | None
    versions: dict[str, str]
    exchanges: tuple[_StoredExchange, ...]


class _ForeignLine(_Stored):
    """A conversation that something else wrote down."""

    messages: tuple[_Message, ...]


def write_line(conversation: Conversation, facts: TranscriptFacts) -> str:
    """Return a conversation as a line, without its end."""
    line = {
        "schema_version": SCHEMA_VERSION,
        "id": facts.id,
        "created": facts.created,
        "messages": conversation.messages(),
        "model": facts.model,
        "other_model": facts.other,
        "settings": facts.settings,
        "seed": facts.seed,
        "corpus": facts.corpus,
        "versions": facts.versions,
        "exchanges": [_store(exchange) for exchange in conversation.exchanges],
    }
    # What is no Unicode (half of a character, in the name of a file) would keep the whole from being written.
    return json.dumps(line, ensure_ascii=False).encode(errors="replace").decode()


def read_line(line: str | bytes, where: str) -> tuple[Conversation, TranscriptFacts]:
    """Return the conversation and the facts of a line; of one that something else wrote, the conversation.

    Args:
        line: JSON with `messages`: a system message or none, then user and assistant in turn. Where the last is the
            user's, its reply is empty.
        where: file and line, for messages.

    Raises:
        DataError: it is no conversation, or the facts do not fit its messages.
    """
    fields = parse_line(line, where)
    stored = _validate(_Line if "schema_version" in fields else _ForeignLine, line, where)
    system, pairs = _pair(stored.messages, where)
    if isinstance(stored, _ForeignLine):
        exchanges = tuple(
            Exchange(prompt, prompt, Reply(text, "end" if text else "interrupted", 0, 0, 0))
            for prompt, text in pairs
        )
        return Conversation(system, exchanges), TranscriptFacts()
    assert isinstance(stored, _Line)
    conversation = Conversation(system, tuple(_restore(stored, pairs, where)))
    return conversation, TranscriptFacts(
        stored.id,
        stored.created,
        stored.model,
        stored.other_model,
        stored.settings,
        stored.seed,
        stored.corpus,
        stored.versions,
    )


def parse_line(line: str | bytes, where: str) -> dict[str, Any]:
    """Return the fields of a line.

    Raises:
        DataError: it is no object with `messages`.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is no JSON ({error.msg}, column {error.colno}): torn, or not of a transcript."
        ) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise DataError(f"{where} cannot be read: {error}.") from None
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be a conversation.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("messages"), list):
        raise DataError(f"{where} is no conversation: it must be an object with `messages`, a list.")
    return fields


def _store(exchange: Exchange) -> dict[str, Any]:
    """Return an exchange without what stands in the messages."""
    stored: dict[str, Any] = {
        "question": exchange.question,
        "noise_seed": exchange.noise_seed,
        "settings": dict(exchange.settings),
        "sources": [asdict(passage) for passage in exchange.passages],
        "reply": {name: value for name, value in asdict(exchange.reply).items() if name != "text"},
        "other": None if exchange.other is None else asdict(exchange.other),
        "other_source": exchange.other_source,
    }
    if not exchange.reply.text.strip():
        stored["unanswered"] = {"prompt": exchange.prompt, "reply": exchange.reply.text}
    return stored


def _restore(line: _Line, pairs: list[tuple[str, str]], where: str) -> Iterator[Exchange]:
    answered = sum(each.unanswered is None for each in line.exchanges)
    if answered != len(pairs):
        raise DataError(
            f"{where}: `messages` hold {len(pairs)} questions with a reply and `exchanges` {answered}; one was changed "
            "without the other.",
            "Take `exchanges` and `schema_version` out to go on with the messages alone.",
        )
    rest = iter(pairs)
    # Lines of before had the last model that was compared, and no other place for it.
    known = name_model(line.other_model) if line.other_model else ""
    for each in line.exchanges:
        prompt, text = (each.unanswered.prompt, each.unanswered.reply) if each.unanswered else next(rest)
        yield Exchange(
            each.question,
            prompt,
            each.reply.restore(text),
            each.other.restore_other() if each.other else None,
            each.sources,
            each.noise_seed,
            tuple((name, _freeze(value)) for name, value in each.settings.items()),
            (known if each.other else "") if each.other_source is None else each.other_source,
        )


def _freeze(value: Any) -> Any:
    """Return a list of JSON as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def _pair(messages: tuple[_Message, ...], where: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the system message, and each prompt with its reply."""
    begins = 1 if messages and messages[0].role == "system" else 0
    system = messages[0].content if begins else ""
    for place, message in enumerate(messages[begins:], start=begins):
        wanted = "assistant" if (place - begins) % 2 else "user"
        if message.role != wanted:
            raise DataError(
                f"{where}: messages[{place}] is the {message.role}'s where the {wanted}'s must stand: one system "
                "message or none, then user and assistant in turn."
            )
        if wanted == "user" and not message.content.strip():
            raise DataError(f"{where}: messages[{place}] is the user's and says nothing.")
    said = [message.content for message in messages[begins:]]
    said += [""] * (len(said) % 2)
    return system, list(zip(said[::2], said[1::2], strict=True))


def _validate(kind: type[_Line] | type[_ForeignLine], line: str | bytes, where: str) -> _Line | _ForeignLine:
    try:
        return kind.model_validate_json(line, strict=True)  # of passages and their like too
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        subject = f"{where}: {place.removeprefix('.')}"
        if problem["type"] == "json_invalid":  # json takes half of a character, and this does not
            raise DataError(f"{where} cannot be read: {problem['msg']}.") from None
        if problem["type"] == "missing":
            raise DataError(f"{subject} is missing.") from None
        hint = "A newer version of this program may have written it." if "schema_version" in place else ""
        raise DataError(explain(subject, problem), hint) from None
