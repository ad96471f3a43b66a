"""GGUF files: what their header says, checked before anything is built from it.

A GGUF file holds configuration, vocabulary and (mostly quantised) weights of one model, and may be anybody's.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
from functools import lru_cache
from pathlib import Path

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.gguf_header import MAGIC, GgufHeader, MalformedHeader, parse_header

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What the header calls the models that can be loaded (a Mistral calls itself llama)."""
ROPE_FACTORS = "rope_freqs.weight"
MOST_BLOCKS = 1 << 10
"""Most layers of a model; one of 400 billion parameters has 126."""
BROKEN_HINT = "Download the file again, or convert the model again with llama.cpp."


def find_gguf(source: str) -> Path | None:
    """Return the GGUF file that the name of a model stands for, or None for anything else.

    A file is one by its suffix or by its first bytes (some programs keep them under the name of their hash).
    """
    path = Path(source).expanduser()
    if not source or not path.is_file():
        return None
    return path if path.suffix == ".gguf" or _read_magic(path) == MAGIC else None


def read_gguf(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; no tensor is read, and a file that has not changed is read once.

    Raises:
        ModelError: the file is malformed, or holds something that cannot be loaded.
    """
    try:
        state = path.stat()
        return _read_header(path, state.st_size, state.st_mtime_ns, state.st_ino)
    except MalformedHeader as error:
        raise ModelError(f"model: {path} is no GGUF file that can be read: {error}.", BROKEN_HINT) from None
    except OSError as error:
        raise ModelError(f"model: {path} cannot be read: {error.strerror}.") from error


@lru_cache(maxsize=2)
def _read_header(path: Path, size: int, changed: int, number: int) -> GgufHeader:
    """Read and check a header; size, time of change and the file's number make a new entry for a new content."""
    if size == 0:
        raise MalformedHeader("it is empty")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        header = parse_header(content, len(content))
    _check_kind(path, header)
    _check_shapes(path, header)
    _check_heads(path, header)
    return header


def find_head_size(header: GgufHeader) -> int:
    """Return the width of an attention head."""
    size = header.find("attention.key_length") or header.find("rope.dimension_count")
    return int(size or header.find("embedding_length") // header.find("attention.head_count"))


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
            f"model: {path} is one of {str(parts)[:40]} parts of a model.",
            "Join them with `llama-gguf-split --merge FIRST-PART WHOLE.gguf`, and give the whole file.",
        )
    scaling = header.find("rope.scaling.type", "none")
    factors = [tensor for tensor in header.tensors if tensor.startswith("rope_") and tensor != ROPE_FACTORS]
    stretched = scaling != "none" or header.find("rope.scale_linear", 1.0) != 1.0
    how = "factors" if scaling == "none" else str(scaling)[:40]
    if stretched or factors or (ROPE_FACTORS in header.tensors and name != "llama"):
        raise ModelError(
            f"model: {path} stretches its positions ({how}), which is not read from "
            "GGUF files: every position would be computed wrongly.",
            "Give the model's transformers folder.",
        )


def _check_shapes(path: Path, header: GgufHeader) -> None:
    """Check that the numbers the model is built from fit the tensors: building follows them before it compares."""
    name, tensors = header.architecture, header.tensors
    widest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    limits = {"block_count": _count_blocks(path, header)} | dict.fromkeys(
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
        value = header.find(key)
        if value is None and key not in required:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
            raise ModelError(
                f"model: {path} says that {name}.{key} is {str(value)[:40]}; "
                f"a whole number from 1 to {largest:,} is needed.",
                BROKEN_HINT,
            )
    rows = tensors["token_embd.weight"].shape[0] if "token_embd.weight" in tensors else 0
    if rows != header.find("vocab_size", rows) or not rows:
        raise ModelError(
            f"model: {path} has {rows:,} embeddings, another number than its vocabulary.", BROKEN_HINT
        )


def _count_blocks(path: Path, header: GgufHeader) -> int:
    """Return the number of blocks that have tensors, which must be numbered from 0 on."""
    found = {match[1] for name in header.tensors if (match := re.match(r"blk\.([^.]*)\.", name))}
    if not 0 < len(found) <= MOST_BLOCKS or found != set(map(str, range(len(found)))):
        raise ModelError(
            f"model: {path} has the tensors of {len(found):,} blocks; blocks numbered from 0 on are needed, and at "
            f"most {MOST_BLOCKS:,}.",
            BROKEN_HINT,
        )
    return len(found)


def _check_heads(path: Path, header: GgufHeader) -> None:
    """Check that heads can be cut as the numbers say, and what their rotation and the norms are computed with."""
    heads, size = header.find("attention.head_count"), find_head_size(header)
    sizes = {header.find(key, size) for key in ("attention.value_length", "rope.dimension_count")}
    undivided = heads % header.find("attention.head_count_kv", heads) or not size or size % 2
    # A Qwen2 has no head size of its own.
    if (
        undivided
        or sizes != {size}
        or (header.architecture == "qwen2" and size * heads != header.find("embedding_length"))
    ):
        raise ModelError(
            f"model: {path} describes {heads:,} heads of {size:,} numbers; an even number is needed, the same for "
            "keys, values and rotation, and as many queries for each key as for any other.",
            BROKEN_HINT,
        )
    for key in ("rope.freq_base", "attention.layer_norm_rms_epsilon"):
        value = header.find(key, 1.0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ModelError(
                f"model: {path} says that {header.architecture}.{key} is {str(value)[:40]}; "
                "a number above 0 is needed.",
                BROKEN_HINT,
            )
