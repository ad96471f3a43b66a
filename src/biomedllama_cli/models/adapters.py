"""Small trained weights beside a frozen model: LoRA, DoRA, and LoRA on a base quantised to 4 bits, all by peft.

The adapters are put into the model itself, so that it keeps its class: loss, sharding and loop need not know of
them. peft is imported only where an adapter is used (it takes seconds).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from biomedllama_cli.errors import DataError, ModelError, UnavailableError
from biomedllama_cli.models.adapter_config import build_config, format_config
from biomedllama_cli.models.adapter_folder import (
    BASE_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFolder,
    adapter_base,
    find_adapter,
    find_tokenizer_source,
    read_adapter,
)
from biomedllama_cli.models.adapter_merge import merge_adapter
from biomedllama_cli.models.adapter_weights import (
    ADAPTER_NAME,
    keep_adapters_in_fp32,
    load_weights,
    name_tensors,
)
from biomedllama_cli.models.identity import check_base, hash_weights, locate_model
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.models.quantization import build_quantization, check_bitsandbytes
from biomedllama_cli.models.scratch import SCRATCH_PREFIX
from biomedllama_cli.settings.tuning import AdapterSettings, Method

__all__ = [
    "AdapterFolder",
    "adapter_base",
    "add_adapter",
    "check_method",
    "choose_base_dtype",
    "find_adapter",
    "find_tokenizer_source",
    "has_adapter",
    "load_adapter_weights",
    "load_base",
    "merge_adapter",
    "save_adapter",
]

logger = logging.getLogger(__name__)


def check_method(method: Method, device: str | torch.device, *, world_size: int = 1) -> None:
    """Check that the hardware and the packages for a method are there; called before anything is loaded.

    Args:
        method: how weights are trained.
        device: `cuda`, `cpu` or a torch device.
        world_size: processes of the job.

    Raises:
        UnavailableError: qlora lacks CUDA or bitsandbytes, or is asked for in several processes.
    """
    if method != "qlora":
        return
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        raise UnavailableError(
            "adapter.method is qlora, which needs CUDA, and this run is on the CPU.",
            "Use --method lora, which runs on the CPU too.",
        )
    check_bitsandbytes("adapter.method is qlora", "use --method lora")
    if world_size > 1:
        raise UnavailableError(
            f"adapter.method is qlora, whose 4-bit weights cannot be sharded, and the job has {world_size} processes.",
            "Use --num-processes 1, or --method lora.",
        )


def choose_base_dtype(method: Method, precision: str) -> torch.dtype:
    """Return the dtype to load a base in: frozen weights need no more than the precision they compute in.

    >>> choose_base_dtype("lora", "bf16"), choose_base_dtype("full", "bf16")
    (torch.bfloat16, torch.float32)
    """
    return torch.float32 if method == "full" else DTYPES[precision]


def load_base(
    source: str,
    method: Method,
    *,
    device: torch.device,
    precision: str,
    attention: str,
    vocabulary_size: int | None = None,
) -> PreTrainedModel:
    """Load the model that a method trains, or trains adapters beside.

    Weights that are frozen are loaded in the precision they compute in, or for qlora quantised onto the device.

    Args:
        source: hub id or folder.
        method: how weights are trained.
        device: of this process; only qlora loads onto it at once.
        precision: fp32, bf16 or fp16.
        attention: an answer of `resolve_attention`.
        vocabulary_size: pieces of the tokenizer.

    Raises:
        ModelError: the model cannot be used.
        UnavailableError: it, or what the method needs, is not to be had.
    """
    check_method(method, device)
    dtype = choose_base_dtype(method, precision)
    return load_model(
        source,
        dtype=dtype,
        attention=attention,
        vocabulary_size=vocabulary_size,
        quantization=build_quantization("nf4", device, dtype) if method == "qlora" else None,
    )


def add_adapter(
    model: PreTrainedModel, settings: AdapterSettings, *, seed: int, base: str | None = None
) -> None:
    """Put fresh fp32 adapters into a model and freeze everything else.

    They change nothing yet. Their weights follow from the seed alone: not from the random state, which is left
    alone, nor from the number of processes.

    Args:
        model: in any dtype; the adapters are fp32.
        settings: method, rank, scale, dropout and layers.
        seed: of the adapters' first weights.
        base: folder or hub id that the adapter's file names [default: where the model was loaded from].

    Raises:
        SettingsError: a target module is not a linear layer of the decoder.
        ModelError: the model has random weights, or weights that are themselves a base and an adapter.
    """
    base = _name_base(base or model.name_or_path)
    config = build_config(model, settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model.add_adapter(config, ADAPTER_NAME)
    config.base_model_name_or_path = base
    config.revision = getattr(model.config, "_commit_hash", None)
    keep_adapters_in_fp32(model)
    if settings.method == "dora":
        _restore_magnitudes(model)


def has_adapter(model: torch.nn.Module) -> bool:
    """Tell whether adapters are trained in a model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def save_adapter(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a model's adapters as peft does, and the hash of the base they belong to.

    Args:
        model: with adapters, sharded or not.
        weights: the trained tensors by parameter name, whole and on the CPU.
        folder: to write into; made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[ADAPTER_NAME]
    tensors = {
        name: tensor.contiguous().clone() for name, tensor in name_tensors(model, dict(weights)).items()
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(format_config(config), encoding="utf-8")
    base = locate_model(config.base_model_name_or_path, config.revision)
    digest = hash_weights(base) if base is not None else None
    facts = {"source": config.base_model_name_or_path, "revision": config.revision, "weights_sha256": digest}
    (folder / BASE_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_adapter_weights(model: PreTrainedModel, folder: Path, *, hash_base: bool = True) -> None:
    """Fill the adapters of a model, which `add_adapter` made, from a folder: to go on training them.

    Args:
        model: not yet sharded.
        folder: adapter or checkpoint.
        hash_base: check that the base's weights are those of the adapter; one process of a job is enough.

    Raises:
        DataError: the adapters were made with other settings.
        ModelError: the adapter is broken, or its base has other weights now.
    """
    adapter = read_adapter(folder)
    config = model.peft_config[ADAPTER_NAME]
    wanted = json.loads(format_config(config))
    for name in ("r", "lora_alpha", "use_dora", "target_modules"):
        if adapter.config.get(name) != wanted[name]:
            raise DataError(
                f"resume: the adapter {folder} was made with {name} {adapter.config.get(name)}, "
                f"and now {wanted[name]} is asked for.",
                hint="Undo the change, or give another --output-dir.",
            )
    if hash_base:
        check_base(adapter, config.revision)
    load_weights(model, adapter)


def _name_base(source: str) -> str:
    """Return what an adapter's file says of its base: a folder's whole path, or a hub id."""
    if not source or source.startswith(SCRATCH_PREFIX):
        raise ModelError(
            f"model: {source or 'this model'} has random weights, and adapters need trained ones beside them.",
            hint="Use --method full, or give a trained model.",
        )
    if find_adapter(source) is not None:
        raise ModelError(
            f"model: {source} is an adapter itself, and adapters are trained beside a plain model.",
            hint="Merge it first (--merge when it is trained), and give the merged folder.",
        )
    path = Path(source).expanduser()
    return os.path.abspath(path) if path.is_dir() else source


def _restore_magnitudes(model: PreTrainedModel) -> None:
    """Set DoRA's magnitudes to the norms of the base's weights in fp32: peft rounds them to the base's dtype."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for module in model.modules():
        if isinstance(module, LoraLayer):
            weight: Any = dequantize_module_weight(module.get_base_layer())
            magnitude = module.lora_magnitude_vector[ADAPTER_NAME].weight
            magnitude.data = torch.linalg.norm(weight.float(), dim=0 if module.fan_in_fan_out else 1)
