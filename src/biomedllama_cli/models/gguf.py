"""GGUF files: what their header says, checked before a library reads them, and the model inside.

A GGUF file holds configuration, vocabulary and (mostly quantised) weights of one model. The weights are unpacked while
they are loaded, so that the model is a plain one and takes the memory of one. transformers can do that too; it reads
the header four times (12 of 14 s for 135 million parameters), leaves out LLaMA 3's frequency factors, trusts every
count in the file, and reads whatever other model's files lie beside it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.gguf_header import MAGIC, GgufHeader, GgufTensor, MalformedHeader, parse_header

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What the header calls the models that can be loaded (a Mistral calls itself llama)."""
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
_ROPE_FACTORS = "rope_freqs.weight"
_HINT = "Download the file again, or convert the model again with llama.cpp."


def find_gguf(source: str) -> Path | None:
    """Return the GGUF file that the name of a model stands for, or None for anything else.

    A file is one by its suffix or by its first bytes (some programs keep them under the name of their hash).
    """
    path = Path(source).expanduser()
    if not source or not path.is_file():
        return None
    return path if path.suffix == ".gguf" or _read_magic(path) == MAGIC else None


def read_gguf(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; no tensor is read.

    Raises:
        ModelError: the file is malformed, or holds something that cannot be loaded.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise MalformedHeader("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                header = parse_header(content, size)
    except MalformedHeader as error:
        raise ModelError(f"model: {path} is no GGUF file that can be read: {error}.", _HINT) from None
    except OSError as error:
        raise ModelError(f"model: {path} cannot be read: {error.strerror}.") from error
    _check_kind(path, header)
    _check_shapes(path, header)
    return header


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

    header = read_gguf(path)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            _build_config(header), dtype=dtype, attn_implementation=attention
        )
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    for gguf_name, tensor in header.tensors.items():
        name = _name_parameter(gguf_name)
        if name in wanted:
            if tuple(wanted[name]) != tensor.shape:
                raise ModelError(
                    f"model: {path} holds {gguf_name} of shape {tensor.shape}; {tuple(wanted[name])} is needed.",
                    _HINT,
                )
            weights[name] = _restore_rows(_unpack(path, tensor), gguf_name, header).to(dtype)
        elif gguf_name != _ROPE_FACTORS:
            raise ModelError(f"model: {path} holds {gguf_name}, which its architecture has not.", _HINT)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - weights.keys() - tied):
        raise ModelError(
            f"model: {path} lacks the weights of {len(missing)} tensors, first {missing[0]}.", _HINT
        )
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    _scale_frequencies(model, path, header)
    model.name_or_path = str(path)
    loaded: PreTrainedModel = model.eval()
    return loaded


def _build_config(header: GgufHeader) -> Any:
    """Return the configuration that the header describes."""
    from transformers import AutoConfig

    says = {
        key.partition(".")[2]: value
        for key, value in header.metadata.items()
        if key.startswith(header.architecture)
    }
    tokens = {
        name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding")
    }
    heads = says["attention.head_count"]
    shape: dict[str, Any] = {
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": says["embedding_length"],
        "intermediate_size": says["feed_forward_length"],
        "num_hidden_layers": says["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": says.get("attention.head_count_kv", heads),
        "head_dim": says.get("attention.key_length")
        or says.get("rope.dimension_count")
        or says["embedding_length"] // heads,
        "rms_norm_eps": says.get("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_parameters": {"rope_type": "default", "rope_theta": says.get("rope.freq_base", 10_000.0)},
        "max_position_embeddings": says["context_length"],
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
    kind = GGMLQuantizationType[tensor.type_name]
    if kind == GGMLQuantizationType.F32:
        values = np.array(raw).view(np.float32)
    else:
        try:
            rows = raw.view(np.float16) if kind == GGMLQuantizationType.F16 else raw
            values = dequantize(rows.reshape(*tensor.shape[:-1], -1), kind)
        except NotImplementedError:
            raise ModelError(
                f"model: {path} stores weights as {tensor.type_name}, which cannot be unpacked.",
                "Give another quantisation of the model, such as Q4_K_M or Q8_0.",
            ) from None
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape)


def _restore_rows(weight: torch.Tensor, name: str, header: GgufHeader) -> torch.Tensor:
    """Put the rows of a LLaMA's queries and keys back in transformers' order.

    llama.cpp rotates neighbouring numbers of a head, transformers those half a head apart; the converter interleaves
    the two halves of each head for that (`permute` in convert_hf_to_gguf.py).
    """
    part = name.split(".")[-2]
    if header.architecture != "llama" or part not in ("attn_q", "attn_k"):
        return weight
    heads = header.metadata["llama.attention.head_count"]
    if part == "attn_k":
        heads = header.metadata.get("llama.attention.head_count_kv", heads)
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape)


def _read_magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError:
        return b""


def _check_kind(path: Path, header: GgufHeader) -> None:
    """Check that the file holds a whole model of a kind that can be loaded."""
    name = header.architecture
    if name not in ARCHITECTURES:
        raise ModelError(
            f"model: {path} holds a model of the architecture {name[:40]!r}, which is not loaded from GGUF files.",
            f"Supported: {', '.join(ARCHITECTURES)} (a Mistral is a llama). Give the model's transformers folder.",
        )
    if (parts := header.metadata.get("split.count", 0)) and parts != 1:
        raise ModelError(
            f"model: {path} is one of {parts} parts of a model.",
            "Join them with `llama-gguf-split --merge FIRST-PART WHOLE.gguf`, and give the whole file.",
        )
    scaling = header.metadata.get(f"{name}.rope.scaling.type", "none")
    factors = [tensor for tensor in header.tensors if tensor.startswith("rope_") and tensor != _ROPE_FACTORS]
    stretched = scaling != "none" or header.metadata.get(f"{name}.rope.scale_linear", 1.0) != 1.0
    if stretched or factors or (_ROPE_FACTORS in header.tensors and name != "llama"):
        raise ModelError(
            f"model: {path} stretches its positions ({scaling if scaling != 'none' else 'factors'}), which is not "
            "read from GGUF files: every position would be computed wrongly.",
            "Give the model's transformers folder.",
        )


def _check_shapes(path: Path, header: GgufHeader) -> None:
    """Check that the numbers the model is built from fit the tensors: building follows them before it compares."""
    name, tensors = header.architecture, header.tensors
    widest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    limits = {"block_count": len(tensors)} | dict.fromkeys(
        ("embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"), widest
    )
    limits |= dict.fromkeys(
        ("attention.key_length", "attention.value_length", "rope.dimension_count"), widest
    )
    limits |= {"vocab_size": widest, "context_length": 1 << 30}
    required = {
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "context_length",
    }
    for key, largest in limits.items():
        value = header.metadata.get(f"{name}.{key}")
        if value is None and key not in required:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
            raise ModelError(
                f"model: {path} says that {name}.{key} is {str(value)[:40]}; "
                f"a whole number from 1 to {largest:,} is needed.",
                _HINT,
            )
    rows = tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else 0
    if rows != header.metadata.get(f"{name}.vocab_size", rows) or not rows:
        raise ModelError(f"model: {path} has {rows:,} embeddings, another number than its vocabulary.", _HINT)


def _scale_frequencies(model: Any, path: Path, header: GgufHeader) -> None:
    """Divide the rotary frequencies by the file's factors (LLaMA 3.1 and later), which transformers leaves out."""
    tensor = header.tensors.get(_ROPE_FACTORS)
    if tensor is None:
        return
    if tensor.type_name != "F32":
        raise ModelError(f"model: {path} holds {_ROPE_FACTORS} as {tensor.type_name}; F32 is needed.", _HINT)
    import torch

    raw = np.memmap(path, np.float32, "r", offset=tensor.start, shape=tensor.shape)
    factors = torch.from_numpy(np.array(raw))
    rotary = model.model.rotary_emb
    if factors.shape != rotary.inv_freq.shape or not bool((factors.isfinite() & (factors > 0)).all()):
        raise ModelError(f"model: {path} holds {_ROPE_FACTORS} that do not fit its heads.", _HINT)
    for frequencies in (rotary.inv_freq, getattr(rotary, "original_inv_freq", None)):
        if isinstance(frequencies, torch.Tensor):
            frequencies.div_(factors.to(frequencies.device))
