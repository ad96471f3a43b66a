"""Byte-level BPE tokenizers of the shapes published models have, trained on a few lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
EOS = "<|end|>"


def split_by(expression: str) -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokeniser of a tiktoken-like vocabulary."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def build_backend(kind: str, texts: Iterable[str], size: int) -> Backend:
    """Train a vocabulary of the kind `llama3`, `qwen3`, `gpt2` or `smollm2`."""
    backend = Backend(models.BPE(ignore_merges=kind == "llama3"))
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = {
        "llama3": split_by(LLAMA3),
        "qwen3": split_by(QWEN),
        "gpt2": gpt2,
        "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
    }[kind]
    if kind == "qwen3":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if kind == "qwen3":
        backend.add_tokens(
            [AddedToken(word, special=False, normalized=False) for word in ("<think>", "</think>")]
        )
    return backend


def save_backend(backend: Backend, folder: Path) -> Path:
    """Write the folder `load_tokenizer` reads."""
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS).save_pretrained(folder)
    return folder
