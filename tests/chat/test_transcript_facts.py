"""What a transcript tells of who answered, and whether that is who goes on."""

from __future__ import annotations

from typing import Any

import pytest
from parrots import make_session

from biomedllama_cli.chat.transcript_facts import TranscriptFacts, collect_facts, describe_difference


def test_the_facts_of_a_session_are_those_of_now() -> None:
    session = make_session(style={"system": "old"}, sources={"corpus": "here"})
    session.change("temperature", "0.2")
    session.set_system("new")
    facts = collect_facts(session, {"source": "m"})
    assert facts.settings["reply"]["temperature"] == 0.2
    assert facts.settings["style"]["system"] == "new"
    assert facts.settings["sources"]["corpus"] == "here"
    assert set(facts.settings) == {"reply", "style", "sources"}
    assert (facts.id, facts.created) == (session.conversation_id, session.created)
    assert facts.created.endswith("+00:00")
    assert "torch" in facts.versions
    before = facts.id
    session.new()
    assert collect_facts(session, {"source": "m"}).id != before


MODEL = {"source": "m", "revision": "1", "weights_sha256": "ab" * 32, "dtype": "fp32", "template": "chat"}


@pytest.mark.parametrize(
    ("saved", "loaded", "told"),
    [
        (MODEL, {**MODEL, "device": "cuda"}, None),
        (MODEL, {**MODEL, "source": "/elsewhere/m"}, None),
        (MODEL, {**MODEL, "weights_sha256": None}, None),
        (
            MODEL,
            {**MODEL, "source": "n", "weights_sha256": "cd" * 32},
            "The replies so far are those of another model: the model was m (weights abababab) and is n (weights "
            "cdcdcdcd) now.",
        ),
        (
            {**MODEL, "weights_sha256": None},
            {**MODEL, "revision": "2"},
            "The replies so far are those of another model: the model was m and is m (weights abababab) now.",
        ),
        (
            MODEL,
            {**MODEL, "dtype": "bf16", "template": "completion"},
            "The replies so far were given otherwise; of the model have changed: the precision (fp32, now bf16), the "
            "way that conversations are written for it (chat, now completion).",
        ),
        (
            {},
            MODEL,
            "The file does not say which model gave its replies; the model is m (weights abababab) now.",
        ),
    ],
)
def test_another_model_than_the_transcripts_is_told(
    saved: dict[str, Any], loaded: dict[str, Any], told: str | None
) -> None:
    facts = TranscriptFacts(model=saved), TranscriptFacts(model=loaded)
    assert describe_difference(*facts) == told


def test_another_model_to_compare_with_is_told() -> None:
    other = {**MODEL, "weights_sha256": "ef" * 32}
    told = describe_difference(
        TranscriptFacts(model=MODEL, other=MODEL), TranscriptFacts(model=MODEL, other=other)
    )
    assert told is not None
    assert "the model it is compared with was m (weights abababab) and is m (weights efefefef) now" in told
    assert (
        describe_difference(TranscriptFacts(model=MODEL, other=MODEL), TranscriptFacts(model=MODEL)) is None
    )
