"""AdamW, and its learning rate."""

from __future__ import annotations

import torch

from biomedllama_cli.settings.pretrain import OptimizerSettings


def build_optimizer(model: torch.nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; vectors (norms, biases) have no weight decay unless told.

    The learning rate is set before every step (`set_learning_rate`), so none is given here. Fused on every device:
    the CPU has a fused kernel as well, which spares small models the Python time of one call per tensor.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2 or settings.decay_vectors]
    vectors = [p for p in parameters if p.ndim < 2 and not settings.decay_vectors]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
