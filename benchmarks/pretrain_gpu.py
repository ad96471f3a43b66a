"""How fast does `pretrain` train LLaMA's 7B and 1B shapes on one CUDA device, in how much memory?

bf16 autocast, fp32 weights and optimizer states, rows of 2,048 tokens. First the flags that decide what is held in
memory are tried; of those that stay below the limit the fastest is kept, and then one thing is changed at a time:
compilation, attention, loader processes, and rows of one document each, which tells what masking documents costs: the
best arm and that one are run again in rounds that go forwards and backwards in turn. Every arm is a process of its own,
and runs what `biomedllama pretrain` runs. Peers on the device: `benchmarks/pretrain.py --device cuda`.

    python benchmarks/pretrain_gpu.py
    python benchmarks/pretrain_gpu.py --shapes 1b --steps 20
    python benchmarks/pretrain_gpu.py --smoke     # tiny shapes on the CPU, no result is written

A 7B arm takes about two minutes on an H200. Nothing else may run on the device meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pretrain_gpu_arm import Arm, Measured
from pretrain_report import find_ratio, format_ratio

WANTED_SPEED = {"7b": 10_643, "1b": 46_000}
WANTED_GIB, WANTED_WAIT, WANTED_MASKING = 130.0, 0.01, 0.04

MEMORY_FLAGS: dict[str, list[dict[str, Any]]] = {
    "7b": [
        {"micro_batch_size": 1, "activation_checkpointing": "none"},
        {"micro_batch_size": 1, "activation_checkpointing": "selective"},
        {"micro_batch_size": 2, "activation_checkpointing": "selective"},
        {"micro_batch_size": 4, "activation_checkpointing": "full"},
    ],
    "1b": [
        {"micro_batch_size": 8, "activation_checkpointing": "none"},
        {"micro_batch_size": 16, "activation_checkpointing": "none"},
        {"micro_batch_size": 16, "activation_checkpointing": "selective"},
    ],
    "tiny": [
        {"micro_batch_size": 2, "activation_checkpointing": "none"},
        {"micro_batch_size": 2, "activation_checkpointing": "full"},
    ],
}
"""Tried in this order for each shape."""

CHANGES: dict[str, dict[str, Any]] = {
    "compiled": {
        "compile": True,
        "activation_checkpointing": "none",
    },  # a compiled layer chooses what it keeps
    "compiled, layers recomputed": {"compile": True, "activation_checkpointing": "full"},
    "flash_attention_2": {"attention": "flash_attention_2"},
    "flex": {"attention": "flex"},
    "sdpa": {"attention": "sdpa"},
    "loss in chunks": {"loss_memory": "chunks"},
    "no loader process": {"data_workers": 0},
}
WHOLE = "one document per row"


def run(arm: Arm) -> Measured:
    """Run an arm in a fresh process."""
    command = [sys.executable, str(Path(__file__).with_name("pretrain_gpu_arm.py")), json.dumps(asdict(arm))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Measured(error=words[-1][:200])
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def measure_shape(arm: Arm, limit_gib: float) -> dict[str, tuple[Arm, Measured]]:
    """Run all arms of a shape; `best` is the fastest of those below the limit, with all that made it faster."""
    found: dict[str, tuple[Arm, Measured]] = {}

    def try_out(name: str, one: Arm) -> Measured:
        found[name] = (one, run(one))
        print(describe(name, *found[name]), file=sys.stderr, flush=True)
        return found[name][1]

    for flags in MEMORY_FLAGS[arm.shape]:
        one = replace(arm, **flags)
        try_out(f"{one.micro_batch_size} at once, recomputed: {one.activation_checkpointing}", one)
    if (fastest := find_fastest(found, limit_gib)) is None:
        return found
    best, base = fastest
    gains: dict[str, tuple[float, dict[str, Any]]] = {}
    for name, change in CHANGES.items():
        measured, flag = try_out(name, replace(best, **change)), next(iter(change))
        to_beat = gains[flag][0] if flag in gains else 1.01 * base.speed
        if measured.speed > to_beat and measured.reserved_gib <= limit_gib:
            gains[flag] = (measured.speed, change)
    for _, change in gains.values():
        best = replace(best, **change)
    together = try_out("best", best)
    if not fits(together, limit_gib):  # what fits one by one need not fit together
        found["best, but for memory"] = found.pop("best")
        fastest = find_fastest(found, limit_gib)
        assert fastest is not None
        found["best"] = fastest
    try_out(WHOLE, replace(found["best"][0], documents="whole"))
    return found


def fits(measured: Measured, limit_gib: float) -> bool:
    """Return whether an arm ran below the limit."""
    return bool(measured.seconds) and measured.reserved_gib <= limit_gib


def find_fastest(found: dict[str, tuple[Arm, Measured]], limit_gib: float) -> tuple[Arm, Measured] | None:
    """Return the fastest arm below the limit, or None where none is."""
    fitting = [pair for pair in found.values() if fits(pair[1], limit_gib)]
    return max(fitting, key=lambda pair: pair[1].speed, default=None)


def repeat(found: dict[str, tuple[Arm, Measured]], rounds: int) -> dict[str, list[float]]:
    """Run the best arm and that of whole documents again; return the speeds (in tokens/s) of rounds that both have."""
    names = [name for name in ("best", WHOLE) if name in found]
    speeds = {name: [found[name][1].speed] for name in names}
    for number in range(1, rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            speeds[name].append(run(found[name][0]).speed)
    whole = [each for each in zip(*speeds.values(), strict=True) if all(each)]
    return {name: [each[place] for each in whole] for place, name in enumerate(names)}


def describe(name: str, arm: Arm, measured: Measured) -> str:
    """Return the line of a table."""
    if not measured.seconds:
        return f"| {arm.shape}: {name} | - | - | - | - | - | {measured.error} |"
    speed, tokens = measured.speed, measured.step_tokens
    shares = ["-", "-"]
    if measured.peak_flops:
        per_token = (measured.flops_per_token, 6 * measured.matmul_parameters)
        shares = [f"{speed * flops / measured.peak_flops:.1%}" for flops in per_token]
    return (
        f"| {arm.shape}: {name} | {speed:,.0f} ({tokens / max(measured.seconds):,.0f}-"
        f"{tokens / min(measured.seconds):,.0f}) | {shares[0]} | {shares[1]} "
        f"| {measured.allocated_gib:.1f} / {measured.reserved_gib:.1f} | {find_wait(measured):.2%} "
        f"| {measured.attention} |"
    )


def find_wait(measured: Measured) -> float:
    """Return the share of the steps' time that passed waiting for the loader."""
    return sum(measured.waited) / sum(measured.seconds)


def judge(
    shape: str, found: dict[str, tuple[Arm, Measured]], rounds: dict[str, list[float]]
) -> tuple[list[str], dict[str, Any]]:
    """Hold a shape's best arm against what is wanted.

    Args:
        shape: its name.
        found: of `measure_shape`.
        rounds: of `repeat`.
    """
    if "best" not in found or not found["best"][1].seconds:
        return [f"- {shape}: nothing fits."], {}
    best, speeds = found["best"][1], rounds["best"] or [found["best"][1].speed]
    wait, masking = find_wait(best), find_ratio(rounds[WHOLE], rounds["best"]) if rounds[WHOLE] else None
    speed, others = (
        statistics.median(speeds),
        f"{min(speeds):,.0f} to {max(speeds):,.0f} in {len(speeds)} runs",
    )
    cost = "not measured" if masking is None else format_ratio(rounds[WHOLE], rounds["best"])
    per_token = best.flops_per_token
    lines = [
        f"- {shape}: {speed:,.0f} tokens/s ({others}; wanted: {WANTED_SPEED.get(shape, 0):,}), "
        f"{best.reserved_gib:.1f} GiB (at most {WANTED_GIB:.0f}), loader {wait:.2%} (below {WANTED_WAIT:.0%}), "
        f"rows of one document are {cost} times as fast as masked ones (at most {1 + WANTED_MASKING}; below 1: several "
        "documents are faster than one).",
        f"- {shape}: MFU = tokens/s x FLOP per token / peak; 6 N + 6 L A T = {per_token / 1e9:.2f} GFLOP, "
        f"6 N = {6 * best.matmul_parameters / 1e9:.2f} GFLOP, N = {best.matmul_parameters:,}; peak "
        + (f"{best.peak_flops / 1e12:.0f} TFLOP/s." if best.peak_flops else "unknown."),
    ]
    facts = {
        "speed": speed, "wait": wait, "masking": masking, "reserved_gib": best.reserved_gib, "rounds": rounds,
    }  # fmt: skip
    return lines, facts


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["7b", "1b"], choices=["7b", "1b"])
    parser.add_argument("--steps", type=int, default=8, help="timed in every arm")
    parser.add_argument("--rounds", type=int, default=4, help="of the best arm and of whole documents; even")
    parser.add_argument("--step-rows", type=int, default=16, help="rows of 2,048 tokens in a step")
    parser.add_argument("--limit-gib", type=float, default=WANTED_GIB)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU; writes no result")
    return parser.parse_args()


def main() -> None:
    """Measure all shapes, print the table and write a dated result."""
    options = read_options()
    base = Arm(steps=options.steps, step_rows=options.step_rows)
    shapes = options.shapes
    if options.smoke:
        shapes = ["tiny"]
        base = Arm(
            device="cpu", steps=2, warmup=1, step_rows=4, sequence_length=64, vocabulary_size=300, data_workers=1
        )  # fmt: skip
    lines = [
        "| arm | tokens/s (slowest-fastest step) | MFU, attention counted | MFU, 6 N | GiB: tensors / device | loader "
        "| attention |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts, facts = [], {}
    for shape in shapes:
        found = measure_shape(replace(base, shape=shape), options.limit_gib)
        lines += [describe(name, *pair) for name, pair in found.items()]
        sentences, summary = judge(shape, found, repeat(found, 1 if options.smoke else options.rounds))
        verdicts += sentences
        facts[shape] = {
            **summary,
            "arms": {
                name: {"arm": asdict(arm), **asdict(measured), "median": median(measured)}
                for name, (arm, measured) in found.items()
            },
        }
        device = next((measured.device for _, measured in found.values() if measured.device), "no device")
        verdicts.append(f"- {shape}: on {device}, {base.step_rows} rows a step.")
    lines += ["", *verdicts]
    if options.smoke:
        print("\n".join(lines))
        return
    from report import write_result

    # Another choice of shapes or steps is another measurement.
    write_result("-".join(["pretrain_gpu", *shapes]), lines, facts)


def median(measured: Measured) -> float | None:
    """Return the median step (in seconds)."""
    return statistics.median(measured.seconds) if measured.seconds else None


if __name__ == "__main__":
    main()
