"""Tiny models with random weights and a tokenizer each, written as plain transformers folders.

A family stands for what is special about it:

* `llama`: a SentencePiece tokenizer.model with BOS, an untied output table;
* `llama3`: a vocabulary beyond 65,536 whose real ids lie in its upper end, BOS put there by a post-processor,
  grouped queries;
* `qwen2`: no BOS, biases of queries, keys and values, no head size of its own;
* `qwen3`: no BOS at all, tied tables, more embedding rows than pieces;
* `gemma3`: layers with sliding windows beside full ones, tied tables, BOS;
* `gemma3-wrapper`: the same inside a multimodal model with a vision tower;
* `mistral`: a sliding window in every layer, grouped queries.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
)

TEXT = [
    "Aspirin irreversibly inhibits cyclooxygenase and so the synthesis of thromboxane in platelets.",
    "The mitral valve lies between the left atrium and the left ventricle of the heart.",
    "Mutations in the CFTR gene cause cystic fibrosis, which is inherited in a recessive manner.",
    "Insulin lowers the concentration of glucose in the blood; glucagon raises it.",
    "In 24 patients (12 women, 12 men) the mean age was 63.5 years and the follow-up 18 months.",
]

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    # Larger than usual, so that a wrong mask shows in the logits.
    "initializer_range": 0.3,
}


def build_tiny(family: str, folder: Path) -> Path:
    """Write the family's model and tokenizer into `folder` and return it."""
    pieces = build_tokenizer(family, folder)
    build_model(family, pieces).save_pretrained(folder)
    return folder


def build_model(family: str, vocabulary_size: int = 300) -> PreTrainedModel:
    """Return the family's model with seeded random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return _MODELS[family](vocabulary_size).eval()


def build_tokenizer(family: str, folder: Path) -> int:
    """Write the family's tokenizer, trained on `TEXT`, and return the number of its pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    if family in ("llama", "mistral"):
        return _train_sentencepiece(folder)
    bos, eos = {
        "llama3": ("<|begin_of_text|>", "<|end_of_text|>"),
        "qwen2": (None, "<|endoftext|>"),
        "qwen3": (None, "<|endoftext|>"),
        "gemma3": ("<bos>", "<eos>"),
        "gemma3-wrapper": ("<bos>", "<eos>"),
    }[family]
    trained = _train_byte_level(bos, eos, filler=66_000 if family == "llama3" else 0)
    PreTrainedTokenizerFast(tokenizer_object=trained, bos_token=bos, eos_token=eos).save_pretrained(folder)
    return trained.get_vocab_size()


def _llama(pieces: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=pieces, bos_token_id=1, eos_token_id=2, **_SHAPE))


def _llama3(pieces: int) -> PreTrainedModel:
    shape = _SHAPE | {"hidden_size": 16}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=pieces, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, **shape)
    )


def _qwen2(pieces: int) -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=pieces, num_key_value_heads=2, bos_token_id=None, eos_token_id=0, **_SHAPE
    )
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):  # which begin at nothing
            torch.nn.init.normal_(weight)
    return model


def _qwen3(pieces: int) -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=pieces + 12,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        **_SHAPE,
    )
    return Qwen3ForCausalLM(config)


def _gemma3_text_config(pieces: int) -> Gemma3TextConfig:
    return Gemma3TextConfig(
        vocab_size=pieces,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=6,
        query_pre_attn_scalar=20,  # not the head size: the scaling must come from the module
        layer_types=["sliding_attention", "full_attention"],
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        **_SHAPE,
    )


def _gemma3(pieces: int) -> PreTrainedModel:
    return Gemma3ForCausalLM(_gemma3_text_config(pieces))


def _gemma3_wrapper(pieces: int) -> PreTrainedModel:
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    config = Gemma3Config(
        text_config=_gemma3_text_config(pieces),
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=pieces - 1,
        boi_token_index=pieces - 2,
        eoi_token_index=pieces - 3,
    )
    return Gemma3ForConditionalGeneration(config)


def _mistral(pieces: int) -> PreTrainedModel:
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=pieces,
            num_key_value_heads=2,
            sliding_window=6,
            bos_token_id=1,
            eos_token_id=2,
            **_SHAPE,
        )
    )


_MODELS = {
    "llama": _llama,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "gemma3-wrapper": _gemma3_wrapper,
    "mistral": _mistral,
}


def _train_sentencepiece(folder: Path) -> int:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | special))
    return 320


def _train_byte_level(bos: str | None, eos: str, *, filler: int) -> Tokenizer:
    """Train a byte-level BPE; `filler` unused pieces lie below the real ones, which so get large ids."""
    special = [token for token in (bos, eos) if token is not None]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(TEXT, trainer)
    if filler:
        definition = json.loads(trained.to_str())
        lifted = {
            piece: token_id if piece in special else token_id + filler
            for piece, token_id in definition["model"]["vocab"].items()
        }
        lifted |= {f"unused{number}": len(special) + number for number in range(filler)}
        definition["model"]["vocab"] = lifted
        trained = Tokenizer.from_str(json.dumps(definition))
    if bos is not None:
        trained.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, trained.token_to_id(bos))]
        )
    return trained
