"""One arm of benchmarks/pretrain_gpu.py, in a process of its own: some steps of pretraining, timed.

    python benchmarks/pretrain_gpu_arm.py '{"shape": "1b", "micro_batch_size": 8}'

prints what was measured as the last line. The functions are those that `biomedllama pretrain` runs: rows, loader,
order, model, optimizer, step. The tokens are drawn at random, the weights too: neither changes the time of a step.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

EOS = 2


@dataclass(frozen=True)
class Arm:
    """What is trained.

    Attributes:
        shape: NAME of `scratch:NAME`.
        micro_batch_size: rows at once.
        step_rows: rows of a step.
        sequence_length: tokens of a row.
        vocabulary_size: pieces.
        attention: as `--attention`.
        activation_checkpointing: as the flag.
        loss_memory: as the flag.
        compile: as the flag.
        data_workers: as the flag.
        documents: `packed`, abstracts and papers laid end to end, or `whole`, one document in a row.
        device: cuda or cpu.
        precision: of the computation; weights and optimizer states are fp32.
        steps: timed.
        warmup: steps before them.
    """

    shape: str = "7b"
    micro_batch_size: int = 1
    step_rows: int = 16
    sequence_length: int = 2048
    vocabulary_size: int = 32_000
    attention: str = "auto"
    activation_checkpointing: str = "none"
    loss_memory: str = "fused"
    compile: bool = False
    data_workers: int = 2
    documents: str = "packed"
    device: str = "cuda"
    precision: str = "bf16"
    steps: int = 8
    warmup: int = 3


@dataclass
class Measured:
    """What an arm brings back.

    Attributes:
        seconds: of each timed step.
        waited: of them for the loader.
        step_tokens: tokens of a step.
        allocated_gib: most memory of tensors on the device; on a CPU, of the process.
        reserved_gib: most memory taken from the device.
        attention: implementation that the model has.
        matmul_parameters: N.
        flops_per_token: attention counted.
        peak_flops: of the device, where it is known.
        losses: of all steps, in nats per token.
        device: name.
        error: why nothing was measured.
    """

    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    step_tokens: int = 0
    allocated_gib: float = 0.0
    reserved_gib: float = 0.0
    attention: str = ""
    matmul_parameters: int = 0
    flops_per_token: float = 0.0
    peak_flops: float | None = None
    losses: list[float] = field(default_factory=list)
    device: str = ""
    error: str = ""

    @property
    def speed(self) -> float:
        """Return tokens per second, by the median step; 0 where nothing was measured."""
        return self.step_tokens / statistics.median(self.seconds) if self.seconds else 0.0


def draw_documents(arm: Arm, rows: int) -> Any:
    """Return a shard that fills so many rows: of `packed` documents four in five are abstracts, the others papers."""
    import numpy as np

    generator, length = np.random.default_rng(0), arm.sequence_length
    total = rows * length + 1
    tokens = generator.integers(EOS + 1, arm.vocabulary_size, total, dtype=np.uint16)
    if arm.documents == "whole":
        # Without BOS a document's segment begins at the EOS before it.
        starts = np.append(0, np.arange(length + 1, total + 1, length))
    else:
        is_paper = generator.random(total // 8) < 0.2
        abstract = generator.integers(length // 14, length // 4, len(is_paper))
        paper = generator.integers(length, 6 * length, len(is_paper))
        ends = np.cumsum(np.where(is_paper, paper, abstract))
        starts = np.concatenate([[0], ends[ends < total], [total]])
    tokens[starts[1:] - 1] = EOS
    return SimpleNamespace(token_ids=tokens, document_starts=starts.astype(np.int64))


def open_rows(arm: Arm) -> Any:
    """Return the rows of the run and their order."""
    from biomedllama_cli.engine.loader import RunData
    from biomedllama_cli.engine.mixture import Mixture
    from biomedllama_cli.engine.order import build_batch_plan, build_sequence_order
    from biomedllama_cli.engine.rows import PackedRows
    from biomedllama_cli.settings.pretrain import BatchSettings, DurationSettings

    batch = BatchSettings(
        sequence_length=arm.sequence_length,
        global_batch_size=arm.step_rows,
        micro_batch_size=arm.micro_batch_size,
    )
    needed = arm.step_rows * (arm.steps + arm.warmup)
    rows = PackedRows([draw_documents(arm, needed)], arm.sequence_length, eos_id=EOS, has_bos=False)
    duration = DurationSettings(epochs=1.0, max_steps=arm.steps + arm.warmup)
    order = build_sequence_order(Mixture.of([("drawn", len(rows))], {}), batch, duration, seed=0)
    return RunData(rows, order, build_batch_plan(batch, 1), None)


def train(arm: Arm) -> Measured:
    """Train, and measure every step after the warm-up."""
    import torch

    from biomedllama_cli.engine.accelerator import build_accelerator
    from biomedllama_cli.engine.loader import iter_micro_batches
    from biomedllama_cli.engine.optimizer import set_learning_rate
    from biomedllama_cli.engine.step import StepFrame, train_step
    from biomedllama_cli.models.description import describe_model
    from biomedllama_cli.models.load import load_model
    from biomedllama_cli.recipes.training import build_trainee, choose_attention
    from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings

    numerics = NumericsSettings.model_validate(
        {name: getattr(arm, name)
         for name in ("precision", "attention", "activation_checkpointing", "loss_memory", "compile")}
    )  # fmt: skip
    settings: Any = SimpleNamespace(numerics=numerics, optimizer=OptimizerSettings())
    accelerator = build_accelerator(ParallelSettings.model_validate({"device": arm.device}), numerics)
    attention = choose_attention(numerics, accelerator.device)
    with accelerator.device:  # random weights are made where they are used
        model = load_model(
            f"scratch:{arm.shape}", attention=attention, vocabulary_size=arm.vocabulary_size, eos_id=EOS
        )
    measured = Measured(attention=attention, step_tokens=arm.step_rows * arm.sequence_length)
    describe(arm, measured, describe_model(model))
    trainee = build_trainee(accelerator, model, settings, None)
    trainee.model.train()
    data, frame = open_rows(arm), StepFrame.plain(accelerator, 1.0, arm.micro_batch_size)
    batches = iter_micro_batches(data, accelerator, 1, rank=0, data_workers=arm.data_workers)
    gc.collect()
    for step in range(1, data.total_steps + 1):
        set_learning_rate(trainee.optimizer, 1e-5)
        began = time.perf_counter()
        micro_batches = [next(batches) for _ in data.micro_batches(step, 0)]
        waited = time.perf_counter() - began
        measured.losses.append(
            train_step(accelerator, trainee.model, trainee.optimizer, micro_batches, frame).loss
        )
        if arm.device == "cuda":
            torch.cuda.synchronize()
        if step > arm.warmup:
            measured.seconds.append(time.perf_counter() - began)
            measured.waited.append(waited)
    read_memory(arm, measured)
    return measured


def describe(arm: Arm, measured: Measured, description: Any) -> None:
    """Note what the FLOPs are counted from."""
    import torch

    from biomedllama_cli.models.flops import find_peak_flops, training_flops_per_token

    measured.matmul_parameters = description.matmul_parameters
    measured.flops_per_token = training_flops_per_token(
        matmul_parameters=description.matmul_parameters,
        layers=description.layers,
        attention_size=description.attention_size,
        sequence_length=arm.sequence_length,
    )
    measured.device = torch.cuda.get_device_name() if arm.device == "cuda" else "CPU"
    measured.peak_flops = find_peak_flops(measured.device, arm.precision)


def read_memory(arm: Arm, measured: Measured) -> None:
    """Note the most memory that was taken."""
    import torch

    if arm.device == "cuda":
        measured.allocated_gib = torch.cuda.max_memory_allocated() / 2**30
        measured.reserved_gib = torch.cuda.max_memory_reserved() / 2**30
        return
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            measured.allocated_gib = measured.reserved_gib = int(line.split()[1]) / 2**20


def measure(arm: Arm) -> Measured:
    """Train one arm; what does not fit or cannot run here is a result, too."""
    import torch

    from biomedllama_cli.errors import UserError

    try:
        return train(arm)
    except torch.OutOfMemoryError:
        return Measured(error="out of memory")
    except UserError as error:
        return Measured(error=str(error))


def main() -> None:
    """Measure the arm of the command line and print it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    print(json.dumps(asdict(measure(Arm(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
