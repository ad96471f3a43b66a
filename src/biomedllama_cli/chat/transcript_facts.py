"""What a transcript tells besides the conversation: who answered, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from biomedllama_cli.chat.conversation import name_model
from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.evaluation.provenance import collect_versions

_COMPARED = {
    "dtype": "the precision",
    "quantize": "the quantisation",
    "tokenizer_fingerprint": "the tokenizer",
    "template": "the way that conversations are written for it",
}
"""Facts that make another speaker of the same weights."""


@dataclass(frozen=True)
class TranscriptFacts:
    """Facts of a conversation; all mappings hold what JSON can say.

    Attributes:
        id: of the conversation; empty where a file of elsewhere has none.
        created: when it began (UTC, ISO 8601).
        model: source, revision, weights_sha256, dtype, quantize, tokenizer_fingerprint, template, ...
        other: likewise, of the model it is compared with; each exchange says who gave its own second reply.
        settings: sections `reply`, `style` and `sources`, as they were at the end.
        seed: of the chat.
        corpus: identity of the corpus that questions were looked up in.
        versions: of this package and its libraries.
    """

    id: str = ""
    created: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    corpus: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def collect_facts(
    session: ChatSession,
    model: Mapping[str, Any],
    other: Mapping[str, Any] | None = None,
    corpus: str | None = None,
) -> TranscriptFacts:
    """Return the facts of a session as it is now.

    Args:
        session: the chat.
        model: facts of the first speaker; `template` among them is the name of its style.
        other: of the second.
        corpus: identity of the session's library.
    """
    sections = session.settings.model_dump(mode="json", include={"reply", "style", "sources"})
    sections["style"]["system"] = session.conversation.system  # it may have changed since the chat began
    return TranscriptFacts(
        session.conversation_id,
        session.created,
        dict(model),
        None if other is None else dict(other),
        sections,
        session.settings.seed,
        corpus,
        _collect_versions(),
    )


def describe_difference(saved: TranscriptFacts, loaded: TranscriptFacts) -> str | None:
    """Return a sentence that says how the model that goes on differs from the one that a transcript tells of.

    Args:
        saved: of the transcript.
        loaded: of the session that goes on with it.
    """
    said = [_describe_one(saved.model, loaded.model, "the model")]
    if saved.other is not None and loaded.other is not None:
        said.append(_describe_one(saved.other, loaded.other, "the model it is compared with"))
    return " ".join(sentence for sentence in said if sentence) or None


def _describe_one(saved: Mapping[str, Any], loaded: Mapping[str, Any], who: str) -> str | None:
    if not saved.get("source"):
        return f"The file does not say which model gave its replies; {who} is {name_model(loaded)} now."
    hashes = saved.get("weights_sha256"), loaded.get("weights_sha256")
    if None in hashes:
        places = [(each.get("source"), each.get("revision")) for each in (saved, loaded)]
        same = places[0] == places[1]
    else:
        same = hashes[0] == hashes[1]
    if not same:
        names = f"was {name_model(saved)} and is {name_model(loaded)} now"
        return f"The replies so far are those of another model: {who} {names}."
    changed = [
        f"{what} ({saved[name]}, now {loaded[name]})" if len(str(saved[name])) < 40 else what
        for name, what in _COMPARED.items()
        if saved.get(name) is not None and loaded.get(name) is not None and saved[name] != loaded[name]
    ]
    if not changed:
        return None
    return f"The replies so far were given otherwise; of {who} have changed: {', '.join(changed)}."


@cache
def _collect_versions() -> Mapping[str, str]:
    return collect_versions()
