"""The model of a GGUF file, its weights unpacked one after the other.

The result is a plain model and takes the memory of one. transformers can load such files too; it spends 12 of 14 s for
135 million parameters on the header and on names, leaves out LLaMA 3's frequency factors, and trusts every count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biomedllama_cli.errors import ModelError, UserError
from biomedllama_cli.models.gguf import BROKEN_HINT, ROPE_FACTORS, find_head_size, read_gguf
from biomedllama_cli.models.gguf_header import GgufHeader, GgufTensor

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_gguf(path: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """Load the model of a GGUF file, its weights unpacked to `dtype` one after the other.

    Args:
        path: of the file.
        dtype: of the weights.
        attention: an answer of `resolve_attention`.

    Raises:
        ModelError: the file is malformed, or its model is not supported.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    config, header = load_gguf_config(path), read_gguf(path)
    with _explain(path), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    for gguf_name, tensor in header.tensors.items():
        name = _name_parameter(gguf_name)
        if name in wanted:
            if tuple(wanted[name]) != tensor.shape:
                raise ModelError(
                    f"model: {path} holds {gguf_name[:60]} of shape {tensor.shape}; {tuple(wanted[name])} is needed.",
                    BROKEN_HINT,
                )
            weights[name] = _restore_rows(_unpack(path, tensor), gguf_name, header).to(dtype)
        elif gguf_name != ROPE_FACTORS:
            raise ModelError(
                f"model: {path} holds {gguf_name[:60]}, which its architecture has not.", BROKEN_HINT
            )
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - weights.keys() - tied):
        raise ModelError(
            f"model: {path} lacks the weights of {len(missing)} tensors, first {missing[0]}.", BROKEN_HINT
        )
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    _scale_frequencies(model, path, header)
    model.name_or_path = str(path)
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_gguf_config(path: Path) -> Any:
    """Return the configuration that a GGUF file's header describes.

    Raises:
        ModelError: the file is malformed, or its model is not supported.
    """
    header = read_gguf(path)
    with _explain(path):
        return _build_config(header)


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Turn what transformers raises at a description, errors of many types, into one sentence."""
    try:
        yield
    except UserError:  # a signal is told by one
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model: {path} describes no model that can be built: {reason}", BROKEN_HINT
        ) from error


def _build_config(header: GgufHeader) -> Any:
    from transformers import AutoConfig

    tokens = {
        name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")
    }
    heads = header.find("attention.head_count")
    shape: dict[str, Any] = {
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": header.find("embedding_length"),
        "intermediate_size": header.find("feed_forward_length"),
        "num_hidden_layers": header.find("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.find("attention.head_count_kv", heads),
        "head_dim": find_head_size(header),
        "rms_norm_eps": header.find("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_parameters": {"rope_type": "default", "rope_theta": header.find("rope.freq_base", 10_000.0)},
        "max_position_embeddings": header.find("context_length"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": tokens["bos"],
        "eos_token_id": tokens["eos"],
        "pad_token_id": tokens["padding"],
    }
    if header.architecture == "qwen2":
        del shape["head_dim"]  # its configuration has no such thing
    elif "blk.0.attn_q.bias" in header.tensors:
        shape["attention_bias"] = True
    return AutoConfig.for_model(header.architecture, **shape)


def _name_parameter(name: str) -> str:
    """Return what transformers calls a tensor.

    >>> _name_parameter("blk.3.attn_q.weight"), _name_parameter("output.weight")
    ('model.layers.3.self_attn.q_proj.weight', 'lm_head.weight')
    """
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk."):
        number, _, part = stem.removeprefix("blk.").partition(".")
        return f"model.layers.{number}.{_BLOCK_NAMES.get(part, part)}.{kind}"
    return f"{_NAMES.get(stem, stem)}.{kind}"


def _unpack(path: Path, tensor: GgufTensor) -> torch.Tensor:
    """Return a tensor in fp32."""
    import torch
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = np.memmap(path, np.uint8, "r", offset=tensor.start, shape=(tensor.length,))
    try:
        values = dequantize(raw.reshape(*tensor.shape[:-1], -1), GGMLQuantizationType[tensor.type_name])
    except NotImplementedError:
        raise ModelError(
            f"model: {path} stores weights as {tensor.type_name}, which cannot be unpacked.",
            "Give another quantisation of the model, such as Q4_K_M or Q8_0.",
        ) from None
    # Fp32 as it lies in the file is only a view of it, which cannot be written to.
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).reshape(tensor.shape)


def _restore_rows(weight: torch.Tensor, name: str, header: GgufHeader) -> torch.Tensor:
    """Put the rows of a LLaMA's queries and keys back in transformers' order.

    llama.cpp rotates neighbouring numbers of a head, transformers those half a head apart; the converter interleaves
    the two halves of each head for that (`permute` in convert_hf_to_gguf.py).
    """
    part = name.split(".")[-2]
    if header.architecture != "llama" or part not in ("attn_q", "attn_k"):
        return weight
    heads = header.find("attention.head_count")
    if part == "attn_k":
        heads = header.find("attention.head_count_kv", heads)
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)


def _scale_frequencies(model: Any, path: Path, header: GgufHeader) -> None:
    """Divide the rotary frequencies by the file's factors (LLaMA 3.1 and later), which transformers leaves out."""
    tensor = header.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return
    import torch

    factors = _unpack(path, tensor)
    rotary = model.model.rotary_emb
    if factors.shape != rotary.inv_freq.shape or not bool((factors.isfinite() & (factors > 0)).all()):
        raise ModelError(f"model: {path} holds {ROPE_FACTORS} that do not fit its heads.", BROKEN_HINT)
    for frequencies in (rotary.inv_freq, getattr(rotary, "original_inv_freq", None)):
        if isinstance(frequencies, torch.Tensor):
            frequencies.div_(factors.to(frequencies.device))
