"""Named LLaMA shapes to train from random weights: `scratch:NAME`, as configurations.yaml lists them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from transformers import LlamaConfig

from biomedllama_cli.errors import ModelError

SCRATCH_PREFIX = "scratch:"

_HUB_SHAPES = {"huggyllama/llama-7b": "7b", "TinyLlama/TinyLlama_v1.1": "1b"}


def build_scratch_config(
    source: str, vocabulary_size: int | None = None, *, bos_id: int | None = None, eos_id: int | None = None
) -> LlamaConfig:
    """Build the LLaMA configuration named by `scratch:NAME`.

    Raises:
        ModelError: no configuration has this name.
    """
    name = source.removeprefix(SCRATCH_PREFIX)
    shapes = _load_shapes()
    if name not in shapes:
        raise ModelError(
            f"model: {source!r} names no configuration.", hint="Known: scratch:" + ", scratch:".join(shapes)
        )
    return LlamaConfig(
        vocab_size=vocabulary_size or 32_000,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        rms_norm_eps=1e-5,
        **shapes[name],
    )


def find_bundled_config(source: str) -> LlamaConfig | None:
    """Return the shape of a model on the hub that this package knows by itself, or None; a folder comes first.

    It is good for planning: sizes are those of the model, small numbers such as the norm's epsilon need not be.
    """
    name = None if Path(source).is_dir() else _HUB_SHAPES.get(source)
    return None if name is None else build_scratch_config(SCRATCH_PREFIX + name)


@cache
def _load_shapes() -> dict[str, dict[str, Any]]:
    text = resources.files("biomedllama_cli.models").joinpath("configurations.yaml").read_text("utf-8")
    shapes: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return shapes
