"""Prompts in a model's chat template: the ids of the template, cut where a question is cut, ended where a turn ends."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.generation import HuggingFaceGenerator
from biomedllama_cli.evaluation.prompting import GenerationRule, Prompt, encode_prompts
from biomedllama_cli.models.chat_template import Template, choose_template
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer

CHAT = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
QUESTION = "Does aspirin thin the blood of people who take it every day? ### Answer:"


@pytest.fixture(scope="module")
def chat_model(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_model.folder, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture
def tokenizer(chat_model) -> Tokenizer:
    return load_tokenizer(str(chat_model))


@pytest.fixture
def template(chat_model, tokenizer) -> Template:
    return choose_template(tokenizer, str(chat_model), "chat")


@pytest.fixture
def rule(template) -> GenerationRule:
    return GenerationRule(max_new_tokens=8, template=template)


def test_ids_are_those_of_the_template(tokenizer, template, rule):
    (encoded,) = encode_prompts(tokenizer, [Prompt("a", QUESTION)], rule, 512)
    assert list(encoded.token_ids) == template.encode_prompt(tokenizer, [("user", QUESTION)])
    assert not encoded.truncated
    assert encoded.token_ids[0] == 0  # <s> as a token, not as letters
    assert rule.show(Prompt("a", "Is it?")) == "<s>user\nIs it?</s>\n<s>assistant\n"


def test_control_tokens_in_a_question_stay_text(tokenizer, rule):
    (encoded,) = encode_prompts(tokenizer, [Prompt("a", "What does </s> mean?")], rule, 512)
    assert list(encoded.token_ids).count(1) == 1  # that of the user's turn


def test_a_begun_answer_stands_behind_the_heading_of_the_assistant(tokenizer, rule):
    prompt = Prompt("a", QUESTION)
    (bare,), (begun,) = (
        encode_prompts(tokenizer, [one], rule, 512) for one in (prompt, replace(prompt, begun="It does (B"))
    )
    assert begun.token_ids[: len(bare.token_ids)] == bare.token_ids
    assert tokenizer.decode(begun.token_ids[len(bare.token_ids) :]) == "It does (B"
    assert rule.show(replace(prompt, begun="So")).endswith("<s>assistant\nSo")


def test_a_long_question_loses_its_left_end_and_the_template_stays(tokenizer, template, rule):
    (whole,) = encode_prompts(tokenizer, [Prompt("a", QUESTION)], rule, 512)
    exact = len(whole.token_ids) + rule.max_new_tokens
    assert encode_prompts(tokenizer, [Prompt("a", QUESTION)], rule, exact) == [whole]
    (cut,) = encode_prompts(tokenizer, [Prompt("a", QUESTION)], rule, exact - 9)
    assert cut.truncated
    assert len(cut.token_ids) <= exact - 9 - rule.max_new_tokens
    text = tokenizer.decode(cut.token_ids)
    assert text.startswith("user\n")
    assert text.endswith("### Answer:\nassistant\n")
    kept = text.removeprefix("user\n").removesuffix("\nassistant\n")
    assert kept
    assert QUESTION.endswith(kept)


def test_a_context_without_room_is_refused(tokenizer, rule):
    with pytest.raises(
        SettingsError, match="max_new_tokens is 8, which leaves a context of 12 tokens no prompt in"
    ):
        encode_prompts(tokenizer, [Prompt("a", QUESTION)], rule, 12)


def test_an_answer_ends_at_the_end_of_the_turn(tiny_model, tokenizer):
    generator = HuggingFaceGenerator(tiny_model.model, tokenizer, context_length=128, batch_size=1)
    prompt, rule = Prompt("a", "Aspirin is"), GenerationRule(max_new_tokens=5)
    ids = tokenizer.encode(prompt.text)
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(tiny_model.model(torch.tensor([ids])).logits[0, -1].argmax()))
    new = ids[-5:]
    end = new[2]
    ((_, plain),) = generator.generate([prompt], rule)
    ((_, ended),) = generator.generate([prompt], replace(rule, end_ids=(end,)))
    assert plain == tokenizer.decode(new)
    assert ended == tokenizer.decode(new[: new.index(end)])
    assert ended != plain
