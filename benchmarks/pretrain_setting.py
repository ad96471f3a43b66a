"""What all arms of benchmarks/pretrain.py have in common: the model, the rows, the numbers they bring back.

Nothing here imports biomedllama_cli: the peers' environments need not have it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

IGNORED = -100
FULL_SHAPE = {
    "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376,
    "vocab_size": 32_000,
}  # fmt: skip
"""58 million parameters, 16 million of them in each table."""
SMOKE_SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 1_000,
}  # fmt: skip
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0


@dataclass(frozen=True)
class Setting:
    """What every arm is told.

    Attributes:
        model: transformers folder with the initial weights, fp32.
        rows: file of token ids, int64 [steps, rows at once, length + 1].
        starts: file of places in the document, int64 [steps, rows at once, length], for the arm with borders.
        steps: that are trained; the first `warmup` are not timed.
        warmup: steps.
        precision: of the computation (`bf16` by autocast, or by the peer's own means); weights are fp32.
        device: cpu or cuda.
        threads: of the computation on a CPU.
        compiled: whether the arms compile.
        folder: where an arm may write.
    """

    model: Path
    rows: Path
    starts: Path
    steps: int
    warmup: int
    precision: str
    device: str
    threads: int
    compiled: bool
    folder: Path

    def save(self, path: Path) -> None:
        """Write the setting for a child process."""
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def load(cls, path: Path) -> Setting:
        """Read what `save` wrote."""
        given: dict[str, Any] = json.loads(path.read_text())
        return cls(
            **{k: Path(v) if k in ("model", "rows", "starts", "folder") else v for k, v in given.items()}
        )


@dataclass
class Outcome:
    """What one arm did, in one process.

    Attributes:
        losses: mean nats per target token of every step.
        seconds: of every step.
        tokens: of every step (padding there is none).
        peak_mib: most memory of the process (VmHWM), or of the CUDA device.
        loaded_mib: resident before the first step.
        notes: what the arm wants told.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    peak_mib: float = 0.0
    loaded_mib: float = 0.0
    notes: str = ""

    def speed(self, warmup: int) -> float:
        """Return tokens per second, the median over the steps after the warm-up."""
        return self.tokens / statistics.median(self.seconds[warmup:])


class Stopwatch:
    """Times steps into an outcome; on CUDA the device is waited for."""

    def __init__(self, outcome: Outcome, device: str) -> None:
        self._outcome, self._on_cuda = outcome, device == "cuda"

    def __enter__(self) -> None:
        self._wait()
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._wait()
        self._outcome.seconds.append(time.perf_counter() - self._began)

    def _wait(self) -> None:
        if self._on_cuda:
            import torch

            torch.cuda.synchronize()


def read_memory(name: str) -> float:
    """Return `VmRSS` (now) or `VmHWM` (the highest) of this process (in MiB)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


def read_rows(setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield each step's `input_ids` and already shifted `labels`, int64 [rows at once, length].

    The last place of a row predicts nothing: transformers' models shift the labels themselves and lose it.
    """
    import numpy as np
    import torch

    for row in np.load(setting.rows, allow_pickle=False):
        rows = torch.from_numpy(row)
        labels = rows[:, 1:].clone()
        labels[:, -1] = IGNORED
        yield {"input_ids": rows[:, :-1].clone(), "labels": labels}


def write_inputs(setting: Setting, shape: dict[str, int], rows_at_once: int, length: int, seed: int) -> None:
    """Write the initial weights, the rows and the documents' borders, the same for every arm.

    Tokens are drawn with the falling frequencies of a text (Zipf), so that the loss falls and arms that did other
    work would part; documents are about a quarter of a row long.
    """
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    setting.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        **shape, max_position_embeddings=length, rms_norm_eps=1e-5, tie_word_embeddings=False
    )
    LlamaForCausalLM(config).save_pretrained(setting.model)
    generator = np.random.default_rng(seed)
    weights = 1.0 / np.arange(2, shape["vocab_size"] + 2)
    size = (setting.steps, rows_at_once, length + 1)
    drawn = generator.choice(shape["vocab_size"], size=size, p=weights / weights.sum())
    np.save(setting.rows, drawn.astype(np.int64))
    places = np.empty((setting.steps, rows_at_once, length), dtype=np.int64)
    for row in places.reshape(-1, length):
        first = 0
        while first < length:
            size_of_one = int(generator.integers(length // 8, length // 2))
            row[first : first + size_of_one] = np.arange(len(row[first : first + size_of_one]))
            first += size_of_one
    np.save(setting.starts, places)


def measure_peak(precision: str, device: str, threads: int) -> float:
    """Return the FLOP/s of a large matrix product in this precision, the best of several.

    A CPU has no data sheet that holds for a share of its cores; what its own best product reaches is its peak.
    """
    import torch

    torch.set_num_threads(threads)
    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        product = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    assert product.shape == a.shape
    return 2.0 * size**3 / best
