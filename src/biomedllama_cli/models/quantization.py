"""Weights in 8 or 4 bits by bitsandbytes: what it needs, and how transformers is told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from packaging.version import Version

from biomedllama_cli.errors import ModelError, UnavailableError

if TYPE_CHECKING:
    import torch

BITSANDBYTES_FLOOR = "0.46.1"
"""Oldest bitsandbytes that transformers takes for 4 bits."""
_CPU_ROWS = 32
"""Rows that bitsandbytes packs together for the CPU."""


def check_bitsandbytes(asked: str, alternative: str) -> None:
    """Check that bitsandbytes is there, without importing it.

    Args:
        asked: what needs it, such as `adapter.method is qlora`.
        alternative: what to do without it, as the end of a hint.

    Raises:
        UnavailableError: it is missing or too old.
    """
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        found = None
    if found is None or Version(found) < Version(BITSANDBYTES_FLOOR):
        raise UnavailableError(
            f"{asked}, which needs bitsandbytes {BITSANDBYTES_FLOOR} or newer, and "
            f"{'it is not' if found is None else found + ' is'} installed.",
            f"pip install 'biomedllama-cli[qlora]', or {alternative}.",
        )


def build_quantization(
    bits: Literal["int8", "nf4"], device: torch.device, compute_dtype: torch.dtype
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantise the weights onto a device while they load.

    Args:
        bits: LLM.int8 (Dettmers et al. 2022), or 4-bit NormalFloat with its scales quantised too (Dettmers et al.
            2023, section 3).
        device: of the model.
        compute_dtype: of the products with 4-bit weights.
    """
    from transformers import BitsAndBytesConfig

    with _no_code_of_the_hub():
        import bitsandbytes  # noqa: F401

    if bits == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    return {"quantization_config": config, "device_map": {"": device}}


def check_widths(model: torch.nn.Module) -> None:
    """Check that bitsandbytes can compute with a model's 4-bit weights on the CPU.

    Raises:
        ModelError: a matrix is not whole blocks; bitsandbytes would fail in the middle of the first prompt.
    """
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if parameter.device.type == "cpu" and state is not None:
            rows, columns = state.shape
            if columns % state.blocksize or rows % _CPU_ROWS:
                raise ModelError(
                    f"quantize is nf4, and {name} of {rows} x {columns} is not whole blocks of {_CPU_ROWS} rows and "
                    f"{state.blocksize} columns, which 4 bits on the CPU need.",
                    "Use --quantize int8, or leave --quantize out.",
                )


@contextmanager
def _no_code_of_the_hub() -> Iterator[None]:
    """Keep bitsandbytes from fetching a compiled kernel from the hub, as it does where `kernels` is installed."""
    found, told = sys.modules.get("kernels"), logging.getLogger("bitsandbytes.backends.cpu.ops")
    before = told.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # the import system's word for "not there"
    told.setLevel(logging.CRITICAL)  # the kernel's absence is no failure here
    try:
        yield
    finally:
        told.setLevel(before)
        if found is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = found
