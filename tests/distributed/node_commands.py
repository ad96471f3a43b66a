"""What tests of `pretrain` on several nodes share: the command, its folders, and what is left of it."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

STEPS = 16


def build_command(corpus: Path, run: Path, *options: str, module: str = "biomedllama_cli") -> list[str]:
    """Return a command that trains a tiny model, the same however many processes do it."""
    command = [sys.executable, "-m", module, "pretrain", "--json", "--corpus", str(corpus)]
    command += ["--output-dir", str(run), "--model", "scratch:tiny", "--device", "cpu", "--precision", "fp32"]
    command += [
        "--max-steps",
        str(STEPS),
        "--epochs",
        "9",
        "--sequence-length",
        "32",
        "--save-every-steps",
        "3",
    ]
    command += ["--micro-batch-size", "1", "--global-batch-size", "16", "--peak-learning-rate", "1e-3"]
    return [*command, "--attention", "sdpa", *options]


def hold_at(step: int, file: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which held_command.py trains no later step while a file is there, and write the file."""
    file.touch()
    paths = os.pathsep.join([str(Path(__file__).resolve().parent), environment["PYTHONPATH"]])
    return {**environment, "PYTHONPATH": paths, "HELD": f"{step}:{file}"}


def find_ports() -> int:
    """Return a port of this machine that is free, and the next one as well.

    Both lie below those that the system gives to connections, and every process of the tests draws from its own, so
    that nobody takes them before a job listens there.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    end = int(limits.read_text().split()[0]) if limits.exists() else 32_768
    slots = range(10_000, end - 64 if end > 12_000 else 30_000, 64)
    own = 2 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 32)
    while True:
        port = random.SystemRandom().choice(slots) + own
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def find_processes(folder: Path) -> list[psutil.Process]:
    """Return the living processes that name a folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(folder) in (process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and process.pid != os.getpid()
    ]


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something, not for ever."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def read_losses(run: Path) -> list[float]:
    """Return the training losses that a run has told so far."""
    path = run / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    if path.exists():
        lines = [
            json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def assert_same_training(run: Path, reference: Path) -> None:
    """Check losses and last weights against another run."""
    losses, expected = read_losses(run), read_losses(reference)
    assert len(losses) == len(expected) == STEPS
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) <= 1e-5
    weights, wanted = (read_weights(folder) for folder in (run, reference))
    assert weights.keys() == wanted.keys()
    assert all((weights[name] - wanted[name]).abs().max() <= 1e-5 for name in wanted)


def read_weights(run: Path) -> dict[str, Any]:
    """Return the weights of a run's last checkpoint."""
    weights: dict[str, Any] = {}
    for path in (run / f"checkpoints/step-{STEPS:08d}").glob("*.safetensors"):
        weights |= load_file(path)
    return weights
