"""A tiny random LLaMA with a tokenizer trained on the spot, and an independent loop that scores with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from biomedllama_cli.tasks.sample import SAMPLE_FILE

VOCABULARY_SIZE = 384
POSITIONS = 512


@dataclass(frozen=True)
class TinyModel:
    """A model folder, and the same weights and tokenizer loaded by plain transformers."""

    folder: Path
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def score_option(self, context: str, continuation: str, context_length: int) -> float:
        """Sum the log-probabilities of the continuation's tokens in the joint encoding, one row at a time."""
        start = len(self.encode(context))
        ids = self.encode(context + continuation)
        removed = max(0, len(ids) - (context_length + 1))
        return self.score_ids(ids[removed:], start - removed)

    def score_ids(self, ids: list[int], start: int) -> float:
        with torch.no_grad():
            logits = self.model(torch.tensor([ids[:-1]])).logits[0].double()
        table = logits.log_softmax(-1)
        return sum(table[position - 1, ids[position]].item() for position in range(start, len(ids)))


def build_tiny_model(folder: Path, *, adds_bos: bool, seed: int = 0) -> TinyModel:
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SAMPLE_FILE.read_text(encoding="utf-8").splitlines(), trainer)
    if adds_bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.4,  # large, so that options differ by whole nats
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return TinyModel(
        folder, AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    )
