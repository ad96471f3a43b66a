"""A tiny LLaMA in a folder, with a tokenizer, and adapters that are not zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from biomedllama_cli.models.adapters import add_adapter, save_adapter
from biomedllama_cli.models.load import load_model
from biomedllama_cli.settings.tuning import AdapterSettings

VOCABULARY = 48
INPUT_IDS = torch.arange(24).reshape(2, 12) % VOCABULARY


def build_base(folder: Path, *, tied: bool = True, seed: int = 0, vocabulary: int = VOCABULARY) -> Path:
    """Save a model of two layers whose logits differ by whole nats."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer(folder)
    return folder


def build_tokenizer(folder: Path) -> None:
    """Save a vocabulary of words w0, w1, ..."""
    words = ["<s>", "</s>", *(f"w{number}" for number in range(VOCABULARY - 2))]
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def build_adapted(base: Path, **settings: Any) -> LlamaForCausalLM:
    """Return a model with adapters that change its outputs."""
    model = load_model(str(base))
    add_adapter(model, AdapterSettings(**{"method": "lora", "rank": 4, "alpha": 8.0} | settings), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        elif "magnitude" in name:
            parameter.data = parameter.data * 1.1
    return model.eval()


def save_trained(model: LlamaForCausalLM, folder: Path) -> Path:
    """Save a model's adapters."""
    weights = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
    save_adapter(model, weights, folder)
    return folder


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Return what a model says of some ids."""
    return model.eval()(input_ids=INPUT_IDS).logits


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, as a part of the largest number where that is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
