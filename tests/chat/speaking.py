"""Conversations with a speaker, and what plain transformers says to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from biomedllama_cli.chat.conversation import Reply
from biomedllama_cli.chat.speaker import Speaker, TokenChoice
from biomedllama_cli.settings.chat import ReplySettings

MakeSpeaker = Callable[..., Speaker]
Turns = list[tuple[str, str]]
STYLES = ("chat", "instructed", "completion")
QUESTIONS = ("What is aspirin?", "Does it thin the blood?", "Who must not take it?")
GREEDY = ReplySettings(max_new_tokens=12, temperature=0, repetition_guard=False)
SAMPLED = ReplySettings(max_new_tokens=12, temperature=1.5, top_p=0.95, repetition_guard=False)


def ask(speaker: Speaker, turns: Turns, settings: ReplySettings = GREEDY, *, seed: int = 1) -> Reply:
    """Return a reply, having checked that its pieces are its text."""
    stream = speaker.stream(turns, settings, noise_seed=seed)
    assert "".join(stream) == stream.reply.text
    return stream.reply


def talk(speaker: Speaker, questions: Sequence[str] = QUESTIONS) -> Iterator[tuple[Turns, Reply]]:
    """Yield what is said up to each question, and the reply to it."""
    turns: Turns = [("system", "Be brief.")]
    for question in questions:
        turns = [*turns, ("user", question)]
        reply = ask(speaker, turns)
        yield turns, reply
        turns = [*turns, ("assistant", reply.text)]


def generate(speaker: Speaker, prompt_ids: Sequence[int], count: int = 12) -> str:
    """Return what plain transformers goes on with."""
    ids = torch.tensor([list(prompt_ids)])
    rows = speaker.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return speaker.tokenizer.decode([*prompt_ids, *rows[0, len(prompt_ids) :].tolist()])[
        len(speaker.tokenizer.decode(prompt_ids)) :
    ]


def script(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int]) -> None:
    """Have every speaker say these ids, whatever its model thinks."""
    left = iter(ids)
    monkeypatch.setattr(TokenChoice, "choose", lambda self, scores: next(left))
