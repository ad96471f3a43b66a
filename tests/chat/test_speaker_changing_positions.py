"""Models whose positions change with the length of the text say what they say to each text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from speaking import GREEDY, QUESTIONS, Turns, ask, generate
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from biomedllama_cli.chat.answering import LookedUp, answer_questions, choose_noise_seed, encode_questions
from biomedllama_cli.chat.questions_file import FileQuestion
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.style import choose_style
from biomedllama_cli.evaluation.generation import HuggingFaceGenerator
from biomedllama_cli.evaluation.prompting import GenerationRule, Prompt
from biomedllama_cli.evaluation.refilling import can_refill
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

TRAINED = 120
"""Tokens, beyond which positions change."""
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


def build_model(kind: str, size: int) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "longrope":
        rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        config = Phi3Config(
            vocab_size=size,
            max_position_embeddings=512,
            original_max_position_embeddings=TRAINED,
            rope_parameters=rope | {"rope_theta": 10000.0},
            **SHAPE,
        )
        return Phi3ForCausalLM(config).eval()
    if kind == "dynamic":
        llama = LlamaConfig(
            vocab_size=size, max_position_embeddings=TRAINED, rope_parameters=DYNAMIC, **SHAPE
        )
        return LlamaForCausalLM(llama).eval()
    layers = ["sliding_attention", "full_attention"]
    gemma = Gemma3TextConfig(
        vocab_size=size,
        head_dim=8,
        max_position_embeddings=TRAINED,
        layer_types=layers,
        rope_parameters={layers[0]: {"rope_type": "default", "rope_theta": 10000.0}, layers[1]: DYNAMIC},
        **SHAPE,
    )
    return Gemma3ForCausalLM(gemma).eval()


KINDS = ("longrope", "dynamic", "dynamic in some layers")


def build_speaker(kind: str, tokenizer: Tokenizer, folder: Path) -> Speaker:
    style = choose_style(tokenizer, str(folder), "instructed")
    return Speaker(build_model(kind, tokenizer.vocabulary_size), tokenizer, style, context_length=512)


@pytest.mark.parametrize("kind", KINDS)
def test_each_turn_says_what_a_fresh_model_generates(
    kind: str, tiny_chat_tokenizer: Tokenizer, tiny_chat_folder: Path
) -> None:
    speaker = build_speaker(kind, tiny_chat_tokenizer, tiny_chat_folder)
    settings = GREEDY.model_copy(update={"max_new_tokens": 30})
    turns: Turns = []
    lengths = []
    for question in (*QUESTIONS, *QUESTIONS):
        turns.append(("user", question))
        stream = speaker.stream(turns, settings, noise_seed=1)
        list(stream)
        count = stream.reply.new_tokens
        fresh = build_speaker(kind, tiny_chat_tokenizer, tiny_chat_folder)
        expected = generate(fresh, stream.prompt_ids, count).rstrip("\ufffd")
        assert stream.reply.text.rstrip("\ufffd") == expected
        assert stream.reply.reused_tokens == 0
        # Asked again, it is answered in the same way.
        assert ask(speaker, turns, settings).text == stream.reply.text
        lengths.append((len(stream.prompt_ids), len(stream.prompt_ids) + count))
        turns.append(("assistant", stream.reply.text))
    # One reply goes over the boundary, and there are texts on either side.
    assert any(start <= TRAINED < end for start, end in lengths)
    assert lengths[0][1] <= TRAINED < lengths[-1][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_answered_as_at_the_terminal_whatever_is_answered_beside(
    kind: str, tiny_chat_tokenizer: Tokenizer, tiny_chat_folder: Path
) -> None:
    texts = [question * count for question, count in zip(QUESTIONS, (1, 5, 9), strict=True)]
    asked = [LookedUp(FileQuestion(str(number), text), text) for number, text in enumerate(texts)]
    speaker = build_speaker(kind, tiny_chat_tokenizer, tiny_chat_folder)
    given = encode_questions(speaker, asked, GREEDY, 5)
    found = dict(answer_questions(speaker, given, GREEDY, batch_size=3))
    for number, one in enumerate(asked):
        fresh = build_speaker(kind, tiny_chat_tokenizer, tiny_chat_folder)
        alone = fresh.stream(one.turns, GREEDY, noise_seed=choose_noise_seed(5, str(number)))
        list(alone)
        assert (found[number].text, found[number].finish) == (alone.reply.text, alone.reply.finish)
    assert not can_refill(speaker.model)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_answers_do_not_depend_on_the_batch(kind: str, tiny_chat_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_chat_folder))
    prompts = [Prompt("short", "Iron?"), Prompt("long", "What is aspirin? " * 15)]
    prompts += [Prompt("short", "Iron?", chain) for chain in (1, 2)]
    texts = [
        dict(
            HuggingFaceGenerator(
                build_model(kind, tokenizer.vocabulary_size), tokenizer, context_length=512, batch_size=size
            ).generate(prompts, GenerationRule(max_new_tokens=12))
        )
        for size in (1, 4)
    ]
    assert texts[0] == texts[1]
