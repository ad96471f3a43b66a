"""One rank of the context-parallel tests: `context_worker.py OUTPUT_FOLDER`.

Rank 0 first trains alone on whole rows with plain SDPA (the reference); then all ranks train on their parts of
them, once per variant. Rank 0 writes all trajectories, and how many numbers its queries had.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.context_parallel import build_row_split, share_rows
from biomedllama_cli.engine.device_mesh import read_mesh
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.rows import IGNORED_LABEL
from biomedllama_cli.engine.sharding import data_rank, data_ranks
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.engine.validation import score_held_out
from biomedllama_cli.models import split_attention
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, PretrainParallelSettings

STEPS, ROWS, LENGTH, VOCABULARY = 8, 4, 32, 64
# Where a gradient is nearly 0, Adam makes a whole step of the rounding of its sums: a larger epsilon keeps that small.
OPTIMIZER = OptimizerSettings(peak_learning_rate=1e-3, max_grad_norm=0.5, adam_epsilon=1e-6)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
# Mesh, family, whether layers are computed again in the backward pass.
VARIANTS: dict[str, tuple[dict[str, int], str, bool]] = {
    "1x1x4": ({"dp_shard_size": 1, "cp_size": 4}, "llama", False),
    "1x2x2": ({"dp_shard_size": 2, "cp_size": 2}, "llama", False),
    "2x1x2": ({"dp_replicate_size": 2, "cp_size": 2}, "llama", True),
    "1x2x2-windows": ({"dp_shard_size": 2, "cp_size": 2}, "mistral", False),
}


def build_model(family: str, attention: str) -> Any:
    torch.manual_seed(0)
    if family == "mistral":
        config: Any = MistralConfig(**SHAPE, sliding_window=7, head_dim=8)
        return MistralForCausalLM._from_config(config, attn_implementation=attention)
    return LlamaForCausalLM._from_config(LlamaConfig(**SHAPE), attn_implementation=attention)


def build_row(step: int, row: int) -> dict[str, torch.Tensor]:
    """One row of some documents, with other borders in every row, and targets that are missing."""
    generator = torch.Generator().manual_seed(100 * step + row)
    ids = torch.randint(0, VOCABULARY, (1, LENGTH + 1), generator=generator)
    labels, positions = ids[:, 1:].clone(), torch.arange(LENGTH)[None].clone()
    for border in torch.randperm(LENGTH - 1, generator=generator)[:row] + 1:  # row 0 is one document
        positions[0, border:] = torch.arange(LENGTH - int(border))
        labels[0, border - 1] = IGNORED_LABEL
    if row == 1:
        labels[0, 8:] = IGNORED_LABEL  # parts without any target
    return {"input_ids": ids[:, :-1], "labels": labels, "position_ids": positions}


def train(accelerator: Accelerator, model: Any, rank: int, ranks: int) -> dict[str, Any]:
    optimizer = build_optimizer(model, OPTIMIZER)
    model, optimizer = prepare(accelerator, model, optimizer)
    frame = StepFrame(OPTIMIZER.max_grad_norm, 1, rank, ranks)
    losses, norms, targets = [], [], []
    for step in range(STEPS):
        set_learning_rate(optimizer, OPTIMIZER.peak_learning_rate)
        rows = [build_row(step, row) for row in range(rank, ROWS, ranks)]
        measured = train_step(accelerator, model, optimizer, rows, frame)
        losses.append(measured.loss)
        norms.append(measured.grad_norm)
        targets.append(measured.target_tokens)
    held_out = [build_row(1000, row) for row in range(rank, ROWS, ranks)]
    held_out_loss = score_held_out(accelerator, model, held_out)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = {name: tensor.clone() for name, tensor in get_model_state_dict(model, options=options).items()}
    return {
        "losses": losses,
        "norms": norms,
        "targets": targets,
        "held_out": held_out_loss,
        "weights": weights,
    }


def write(result: dict[str, Any], output: Path, name: str) -> None:
    save_file(result.pop("weights"), output / f"{name}.safetensors")
    (output / f"{name}.json").write_text(json.dumps(result))


def train_alone(output: Path) -> None:
    """Train in a process without a job, on whole rows."""
    for family in ("llama", "mistral"):
        accelerator = build_accelerator(
            PretrainParallelSettings(device="cpu"), NumericsSettings(precision="fp32")
        )
        write(
            train(accelerator, enable_token_losses(build_model(family, "sdpa")), 0, 1),
            output,
            f"alone-{family}",
        )


def train_together(output: Path) -> None:
    split_attention.register_split_attention()
    for name, (sizes, family, again) in VARIANTS.items():
        AcceleratorState._reset_state()
        parallel = PretrainParallelSettings(device="cpu", **sizes)
        accelerator = build_accelerator(parallel, NumericsSettings(precision="fp32"))
        mesh = read_mesh(accelerator)
        model = enable_token_losses(build_model(family, split_attention.SPLIT_ATTENTION))
        if again:
            model.train().gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        split = build_row_split(accelerator)
        assert split is not None
        share_rows(model, split)
        queries: list[int] = []
        handle = model.model.layers[0].self_attn.q_proj.register_forward_hook(
            lambda module, given, made, seen=queries: seen.append(made.numel())
        )
        rank = accelerator.process_index
        result = train(accelerator, model, data_rank(mesh, rank), data_ranks(mesh))
        handle.remove()
        result["queries"] = sorted(set(queries))
        result["mesh"] = [mesh.dp_replicate_size, mesh.dp_shard_size, mesh.cp_size]
        if rank == 0:
            write(result, output, name)


if __name__ == "__main__":
    (train_together if int(os.environ["WORLD_SIZE"]) > 1 else train_alone)(Path(sys.argv[1]))
