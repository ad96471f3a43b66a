"""Count training FLOPs and the share of a device's peak that they use."""

from __future__ import annotations

# Dense bf16 tensor-core peaks (FLOP/s) from NVIDIA's data sheets; an H200 computes like an H100 SXM.
_PEAK_BF16_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}


def training_flops_per_token(
    *,
    matmul_parameters: int,
    frozen_parameters: int = 0,
    layers: int = 0,
    attention_size: int = 0,
    sequence_length: int = 0,
) -> float:
    """Return the FLOPs of a forward and a backward pass for one token: 6 N - 2 F + 6 L A T.

    A multiplication and an addition per weight forward, twice that backward, once where the weight is frozen: it has
    no gradient of its own, but passes on that of its input. Causal attention sees T / 2 tokens
    on average, in two products. Recomputed activations do not count, and document boundaries, which make the
    attention cheaper still, are not taken off. PaLM (arXiv 2204.02311, appendix B) counts the attention without
    the causal half, 12 L A T.

    Args:
        matmul_parameters: N, weights that multiply (all but an untied input table).
        frozen_parameters: F, those of N that are not trained (the base of an adapter).
        layers: L; 0 leaves attention out, the plain 6 N.
        attention_size: A, query heads x head size.
        sequence_length: T, tokens.

    >>> training_flops_per_token(matmul_parameters=6_738_415_616) / 6  # LLaMA-7B, the published convention
    6738415616.0
    >>> training_flops_per_token(matmul_parameters=10, layers=2, attention_size=3, sequence_length=4)
    204.0
    >>> training_flops_per_token(matmul_parameters=10, frozen_parameters=9)  # 4 per frozen weight, 6 per trained one
    42.0
    """
    return 6.0 * matmul_parameters - 2.0 * frozen_parameters + 6.0 * layers * attention_size * sequence_length


def model_flops_utilization(
    tokens_per_second: float, flops_per_token: float, peak_flops: float, *, devices: int = 1
) -> float:
    """Return the share of the peak that training uses, as a fraction.

    Args:
        tokens_per_second: over all devices.
        flops_per_token: from `training_flops_per_token`.
        peak_flops: FLOP/s of one device.
        devices: how many there are.

    The 32 A100 of the published run at 3,255 tokens/s each, if all its 63e9 tokens had been fed in a week:

    >>> round(model_flops_utilization(32 * 3255, 6 * 6.74e9, 312e12, devices=32), 3)
    0.422
    """
    return tokens_per_second * flops_per_token / (peak_flops * devices)


def find_peak_flops(device_name: str, precision: str) -> float | None:
    """Return the dense FLOP/s of a device by its name, or None when it is not known.

    That of fp16 is that of bf16; of fp32 none is given, as it depends on whether TF32 is used.

    >>> find_peak_flops("NVIDIA A100-SXM4-80GB", "bf16")
    312000000000000.0
    >>> find_peak_flops("NVIDIA A100-SXM4-80GB", "fp32") is find_peak_flops("AMD EPYC", "bf16") is None
    True
    """
    if precision == "fp32":
        return None
    return next((peak for name, peak in _PEAK_BF16_FLOPS.items() if name in device_name), None)


def format_mfu_formula(
    *, matmul_parameters: int, frozen_parameters: int = 0, flops_per_token: float, peak_flops: float
) -> str:
    """Return the sentence that goes with every MFU.

    >>> format_mfu_formula(matmul_parameters=6_607_343_616, flops_per_token=4.1255e10, peak_flops=312e12)
    'MFU = tokens/s x (6 N + 6 L A T = 41.255 GFLOP) / peak, N = 6.607e+09, peak = 312 TFLOP/s per device'
    """
    less, frozen = (" - 2 F", f"F = {frozen_parameters:.4g}, ") if frozen_parameters else ("", "")
    return (
        f"MFU = tokens/s x (6 N{less} + 6 L A T = {flops_per_token / 1e9:.5g} GFLOP) / peak, "
        f"N = {matmul_parameters:.4g}, {frozen}peak = {peak_flops / 1e12:.4g} TFLOP/s per device"
    )
