"""GGUF files written from tiny transformers folders, the way llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import torch
from transformers import AutoModelForCausalLM

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    folder: Path,
    file: Path,
    *,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_factors: torch.Tensor | None = None,
    metadata: dict[str, Any] | None = None,
    words: str = "gpt-2",
    without: str = "",
    names_unknown: bool = True,
) -> Path:
    """Write the model and the tokenizer of a folder into a GGUF file.

    `metadata` overrides numbers and texts; `words` names how a byte-level vocabulary splits them;
    `without` names a tensor that is left out; `names_unknown` says whether a SentencePiece vocabulary has the key
    of its unknown piece.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    architecture = {"mistral": "llama"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(str(file), architecture)
    values: dict[str, Any] = {
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.key_length": head_size,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{architecture}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
    } | (metadata or {})
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    if (folder / "tokenizer.model").is_file():
        _add_sentencepiece(writer, folder, names_unknown=names_unknown)
    else:
        _add_byte_level(writer, folder, rows=model.get_input_embeddings().weight.shape[0], words=words)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if _name(name) == without:
            continue
        values_of = _convert(name, weight, config, architecture)
        kind = quantization if weight.dim() > 1 else gguf.GGMLQuantizationType.F32
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(_name(name), values_of)
        else:
            writer.add_tensor(_name(name), gguf.quants.quantize(values_of, kind), raw_dtype=kind)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def _convert(name: str, weight: torch.Tensor, config: Any, architecture: str) -> np.ndarray:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if architecture == "llama" and part in heads:
        count = heads[part]
        halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
        weight = halves.swapaxes(1, 2).reshape(weight.shape)
    return weight.float().numpy()


def _add_sentencepiece(writer: gguf.GGUFWriter, folder: Path, *, names_unknown: bool) -> None:
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = range(sp.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([sp.id_to_piece(i) for i in ids])
    writer.add_token_scores([sp.get_score(i) for i in ids])
    writer.add_token_types(
        [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in ids]
    )
    if names_unknown:
        writer.add_unk_token_id(sp.unk_id())
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())


def _add_byte_level(writer: gguf.GGUFWriter, folder: Path, *, rows: int, words: str) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    vocabulary: dict[str, int] = definition["model"]["vocab"]
    added = {token["content"] for token in definition["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens += [f"[PAD{number}]" for number in range(len(tokens), rows)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [3 if token in added else 5 if token.startswith("[PAD") else 1 for token in tokens]
    )
    writer.add_token_merges([" ".join(merge) for merge in definition["model"]["merges"]])
    if config.get("bos_token"):
        writer.add_bos_token_id(vocabulary[config["bos_token"]])
    writer.add_eos_token_id(vocabulary[config["eos_token"]])
