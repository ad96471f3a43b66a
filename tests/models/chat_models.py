"""Chat templates of the shapes published models have, and tokenizers that know their tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from byte_level import LLAMA3 as LLAMA3_WORDS
from byte_level import split_by
from tiny import TEXT
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from biomedllama_cli.models.chat_template import Template, choose_template
from biomedllama_cli.models.sentencepiece_export import build_definition
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_MARKED = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\n' }}{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}{{- '\n' }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
QWEN3 = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- set content = message['content'] %}{% set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last %}{{- '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
{{- content.lstrip('\n') + '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Leaves a system turn out without a word."""
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Writes no BOS, and names the roles in plain text."""
ENDLESS = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
"""Ends no turn."""

TEMPLATES = {
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "chatml": CHATML,
    "chatml-marked": CHATML_MARKED,
    "qwen3": QWEN3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
}
AROUND = {"llama2": (" ", " ")}
"""White space that a template puts before and after an answer, where it puts any: the model has to write it too."""
REWRITING = {"qwen3"}

TOKENS = {
    "llama2": ["<s>", "</s>"],
    "llama3": ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "chatml-marked": ["<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>"],
    "gemma": ["<s>", "</s>", "<start_of_turn>", "<end_of_turn>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
    "zephyr": ["<s>", "</s>"],
}
END = {name: {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}.get(name, TOKENS[name][1]) for name in TOKENS}
KINDS = ("byte-level", "prefix", "prefix-first", "sentencepiece", "llama")
MODELS = [
    (kind, name)
    for kind in KINDS
    for name in TEMPLATES
    if kind not in ("sentencepiece", "llama") or name in ("llama2", "zephyr")
]
"""The SentencePiece kinds have no tokens beside <s> and </s>: the other templates' would be plain text to them."""


@cache
def build_sentencepiece(folder: Path) -> Tokenizer:
    """Train a vocabulary like LLaMA's."""
    return train_tokenizer(TEXT * 3, 380, folder, seed=0)


def save_byte_level(folder: Path, tokens: Sequence[str], *, adds_bos: bool) -> Path:
    """Write a byte-level tokenizer whose first token is BOS and whose second is EOS."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = split_by(LLAMA3_WORDS)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*TEXT, "\n\n" * 9], trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{tokens[0]} $A", special_tokens=[(tokens[0], 0)]
        )
    _save(backend, folder, tokens)
    return folder


def save_prefixed(folder: Path, tokens: Sequence[str], trained: Tokenizer, *, first: bool) -> Path:
    """Write a SentencePiece vocabulary as a tokenizer.json with more tokens, as LLaMA-2's or Mistral's is.

    Args:
        folder: to write.
        tokens: BOS, EOS and others.
        trained: the SentencePiece vocabulary.
        first: whether a space is put before the first part of a text only, not after each control token.
    """
    definition = build_definition(trained._backend, adds_bos=True)
    if first:
        definition["normalizer"] = None
        definition["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        }
    backend = Backend.from_str(json.dumps(definition))
    backend.add_special_tokens([token for token in tokens if token not in ("<s>", "</s>")])
    _save(backend, folder, ("<s>", "</s>"))
    return folder


def load_chat_model(
    kind: str, name: str, folder: Path, model_file: Path | None = None
) -> tuple[Tokenizer, Template]:
    """Return a tokenizer of a kind and the template of a name, both read from a folder; `llama` needs its file."""
    tokens = TOKENS[name]
    if kind == "byte-level":
        save_byte_level(folder, tokens, adds_bos=tokens[0] == "<s>")
    elif kind == "llama":
        assert model_file is not None
        folder.mkdir()
        shutil.copyfile(model_file, folder / "tokenizer.model")
    else:
        trained = build_sentencepiece(folder.parent / "trained")
        if kind == "sentencepiece":
            trained.save(folder)
        else:
            save_prefixed(folder, tokens, trained, first=kind == "prefix-first")
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    tokenizer = load_tokenizer(str(folder))
    return tokenizer, choose_template(tokenizer, str(folder), "chat")


def _save(backend: Backend, folder: Path, tokens: Sequence[str]) -> None:
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=tokens[0], eos_token=tokens[1]
    ).save_pretrained(folder)
