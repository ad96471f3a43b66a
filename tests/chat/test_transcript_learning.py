"""Saved conversations are what `instruct` learns from, token by token as the model was given them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from chat_models import load_chat_model
from parrots import make_reply, make_session

from biomedllama_cli.chat.conversation import Conversation, Exchange
from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.style import choose_style
from biomedllama_cli.chat.transcript import save_conversation
from biomedllama_cli.chat.transcript_facts import collect_facts
from biomedllama_cli.instructions.encoder import Encoder
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.mixture_file import load_mixture
from biomedllama_cli.instructions.sources.catalogue import load_source
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.settings.chat import ChatSettings

TALK = Conversation(
    "Be brief.",
    (
        Exchange("Is water wet?", "[1] PMID 7 — It wets.\n\nIs water wet?", make_reply("Yes [1].")),
        Exchange("Hm", "Hm", make_reply("", "interrupted")),
        Exchange("Is ice?", "Is ice?", make_reply("No.\n\nIt is too cold", "interrupted")),
        Exchange("Sure?", "Sure?", make_reply(" \n")),
    ),
)
SILENT = Conversation("", (Exchange("Hm", "Hm", make_reply("", "interrupted")),))


def save(path: Path, *conversations: Conversation) -> Path:
    """Save conversations of one chat each."""
    for conversation in conversations:
        session = make_session()
        session.resume(conversation)
        save_conversation(path, conversation, collect_facts(session, {"source": "m"}))
    return path


def learn(path: Path) -> list[Example]:
    """Return the examples of a file of conversations."""
    return load_source("messages", path, "talks").examples


@pytest.mark.parametrize("given", [False, True])
def test_a_mixture_reads_transcripts_as_they_are(tmp_path: Path, given: bool) -> None:
    path = save(tmp_path / "talks.jsonl", TALK, SILENT, TALK)
    mine = tmp_path / "mine.yaml"
    named = "elsewhere.jsonl" if given else "talks.jsonl"
    mine.write_text(f"sources:\n- {{source: talks, format: messages, path: {named}}}\n")
    mixture = load_mixture(str(mine), {"talks": path} if given else {}, False)
    (source,) = mixture.sources
    loaded = load_source(source.source.format, source.path, source.name)
    assert loaded.left_out == loaded.noted == {}
    assert [[turn.role for turn in example.turns] for example in loaded.examples] == [
        ["system", "user", "assistant", "user", "assistant"]
    ] * 2
    first, second = loaded.examples
    assert first.turns[1].text == TALK.exchanges[0].prompt  # with its passages, as the model was given it
    assert first.turns[4].text == "No.\n\nIt is too cold"
    assert [turn.learnt for turn in first.turns] == [True, True, True, True, False]  # it was interrupted
    assert first.id != second.id


@pytest.mark.parametrize(
    ("style", "template"),
    [
        ("instructed", "zephyr"),
        ("chat", "zephyr"),
        ("chat", "llama2"),
        ("chat", "llama3"),
        ("chat", "chatml"),
        ("chat", "gemma"),
        ("chat", "mistral"),
    ],
)
def test_what_is_learnt_are_the_tokens_that_chat_fed(tmp_path: Path, style: str, template: str) -> None:
    tokenizer, _ = load_chat_model("byte-level", template, tmp_path / "model")
    source = str(tmp_path / "model")
    chosen = choose_style(tokenizer, source, style)  # type: ignore[arg-type]
    written = choose_template(tokenizer, source, "plain" if style == "instructed" else "chat")
    whole = replace(TALK.exchanges[2], reply=make_reply("No.\n\nIt is too cold."))
    talk = replace(TALK, exchanges=(*TALK.exchanges[:2], whole, TALK.exchanges[3]))
    (example,) = learn(save(tmp_path / "talks.jsonl", talk))
    encoded = Encoder(tokenizer, written, 4096).encode(example)
    session = ChatSession([make_session().speakers[0]], ChatSettings())
    for answered, exchange in ((0, talk.exchanges[0]), (2, talk.exchanges[2])):
        session.resume(Conversation(talk.system, talk.exchanges[:answered]))
        fed = chosen.encode(tokenizer, session.read_turns(session.begin(exchange.prompt)))
        assert encoded.token_ids[: len(fed)] == fed
        assert encoded.trained[len(fed)]
        assert not encoded.trained[len(fed) - 1]
    assert encoded.token_ids[-1] in chosen.end_ids


@pytest.mark.parametrize("style", ["instructed", "chat"])
def test_a_conversation_with_a_model_is_learnt_as_it_was_fed(
    tmp_path: Path, make_speaker: Callable[..., Speaker], style: str
) -> None:
    speaker = make_speaker(style)
    session = ChatSession(
        [speaker],
        ChatSettings.model_validate({"reply": {"max_new_tokens": 8}, "style": {"system": "Be brief."}}),
    )
    fed = []
    for question in ("Is water wet?", "Why?", "Is ice?"):
        asking = session.begin(question)
        turns = session.read_turns(asking)
        stream = session.stream(asking)
        list(stream)
        exchange = session.finish(asking, [stream.reply])
        assert exchange.reply.prompt_tokens > 0
        fed.append(turns)
    path = tmp_path / "talks.jsonl"
    save_conversation(path, session.conversation, collect_facts(session, {"source": "tiny"}))
    (example,) = learn(path)
    said = [(turn.role, turn.text) for turn in example.turns]
    # White space around a text is no part of what is learnt.
    assert said[: len(fed[-1])] == [(role, text.strip()) for role, text in fed[-1]]
    assert said[-1] == ("assistant", session.conversation.exchanges[-1].reply.text.strip())
