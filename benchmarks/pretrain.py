"""How fast is a pretraining step here, and with HF Trainer, litgpt and torchtitan at the same setting?

Every arm trains the same model of LLaMA's shape (58 million parameters, vocabulary 32,000) from the same weights on the
same rows (no borders of documents, so that all attend alike), AdamW with the same numbers, in a process of its own;
rounds go through the arms forwards and backwards in turn. Equal losses at every step prove equal work. Then: what the
losses that save memory save and cost, what borders of documents cost, and what part of a step waits for the loader.
On request (`--parts alternatives`): losses that no setting gives. Thirteen minutes on two cores.

    python benchmarks/pretrain.py --folder /tmp/pretrain --peers-folder /tmp/peers
    python benchmarks/pretrain.py --folder /tmp/pretrain-fp32 --peers-folder /tmp/peers --precision fp32 --parts speed
    python benchmarks/pretrain.py --folder /tmp/smoke --peers-folder /tmp/peers --smoke

A peer that cannot be installed or trained is left out, and the result says why. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from biomedllama_cli.models.flops import training_flops_per_token
from pretrain_arms import ALTERNATIVE_ARMS, BORDERS, CHUNKS, OURS, PLAIN, PRODUCT_ARMS, TRAINER
from pretrain_peers import PEERS, find_peer
from pretrain_report import (
    WANTED_LOSS,
    Runs,
    describe_memory,
    describe_speed,
    find_difference,
    format_ratio,
    judge_memory,
    median_speed,
    speeds,
)
from pretrain_setting import FULL_SHAPE, SMOKE_SHAPE, Outcome, Setting, measure_peak, write_inputs

WANTED_SPEED, WANTED_WAIT, WANTED_BORDERS = 1.0, 0.01, 0.04
PARTS = ("speed", "memory", "borders", "loader")
EXTRA_PART = "alternatives"


def start_arm(setting: Setting, python: str, arm: str) -> Outcome:
    """Run an arm in a fresh process.

    Raises:
        RuntimeError: it failed; with its last words.
    """
    path = setting.folder / "setting.json"
    setting.save(path)
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads), "HF_HUB_OFFLINE": "1"}
    command = [python, str(Path(__file__).with_name("pretrain_arms.py")), str(path), arm]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300])
    outcome = Outcome(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{arm}: {outcome.speed(setting.warmup):,.0f} tokens/s, {outcome.peak_mib:,.0f} MiB", flush=True)
    return outcome


def find_interpreters(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Return the interpreter of every arm that can run, and why the others cannot."""
    found, missing = {}, {}
    for name in PEERS:
        if options.peers_folder is None:
            missing[name] = "no --peers-folder was given"
            continue
        try:
            found[name] = str(find_peer(name, options.peers_folder.resolve()))
        except (RuntimeError, OSError) as error:
            missing[name] = str(error)
    return found, missing


def measure(
    setting: Setting, arms: Sequence[str], rounds: int, peers: dict[str, str], missing: dict[str, str]
) -> Runs:
    """Run the arms in alternating order; a peer that fails is left out and its words are put into `missing`.

    Args:
        setting: of all.
        arms: in the order of the first round.
        rounds: of every arm.
        peers: their interpreters.
        missing: gets what failed.
    """
    runs: Runs = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else arms[::-1]:
            if arm in missing:
                continue
            try:
                runs[arm].append(start_arm(setting, peers.get(arm, sys.executable), arm))
            except RuntimeError as error:
                if arm not in peers:
                    raise
                missing[arm] = str(error)
    return {arm: of for arm, of in runs.items() if arm not in missing}


def measure_loader(setting: Setting, shape: str) -> tuple[float, int]:
    """Return the median share of a step that waits for the loader in a real run, and its steps.

    It trains a smaller model than the other parts: the shorter the step, the larger the share.
    """
    folder = setting.folder / "loader"
    program = [sys.executable, "-m", "biomedllama_cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads)}
    commands = [
        ["prepare", "--sample", "--vocabulary-size", "512", "--output-dir", f"{folder}/corpus"],
        ["pretrain", "--corpus", f"{folder}/corpus", "--model", shape, "--sequence-length", "128",
         "--micro-batch-size", "8", "--global-batch-size", "8", "--max-steps", "16", "--precision", setting.precision,
         "--device", setting.device, "--output-dir", f"{folder}/run", "--validation-sequences", "4",
         "--general", "none"],
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run(
            [*program, *command, "--overwrite"], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode != 0:
            sys.exit(f"{command[0]}: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [line["loader/wait_fraction"] for line in lines if "loader/wait_fraction" in line][1:]
    return statistics.median(shares), len(shares)


def count_flops(shape: dict[str, int], length: int) -> tuple[int, float, float]:
    """Return N without the input table, and the FLOPs of a token without attention and with it."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    weights = (
        layers * (4 * hidden**2 + 3 * hidden * shape["intermediate_size"]) + hidden * shape["vocab_size"]
    )
    with_attention = training_flops_per_token(
        matmul_parameters=weights, layers=layers, attention_size=hidden, sequence_length=length
    )
    return weights, training_flops_per_token(matmul_parameters=weights), with_attention


def choose_arms(parts: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Return the arms that these parts compare, the reference first."""
    arms = [OURS]
    if "speed" in parts or "memory" in parts:
        arms += [TRAINER, PLAIN, CHUNKS]
    if "speed" in parts:
        arms += peers
    if "borders" in parts:
        arms.append(BORDERS)
    return arms + [arm for arm in ALTERNATIVE_ARMS if EXTRA_PART in parts]


def report_speed(
    runs: Runs, options: argparse.Namespace, setting: Setting, missing: dict[str, str]
) -> list[str]:
    """Return the lines of the first part."""
    weights, plain, whole = count_flops(options.shape, options.length)
    limit = options.peak_flops or measure_peak(setting.precision, setting.device, setting.threads)
    arms = {arm: of for arm, of in runs.items() if arm in (*PRODUCT_ARMS, TRAINER, *PEERS)}
    others = [arm for arm in arms if arm not in PRODUCT_ARMS]
    best = max(others, key=lambda arm: median_speed(arms[arm], setting.warmup))
    plainly, ours, chunks = (
        format_ratio(speeds(arms[arm], setting.warmup), speeds(arms[best], setting.warmup))
        for arm in (PLAIN, OURS, CHUNKS)
    )
    apart = max(find_difference(one, arms[OURS][0]) for of in arms.values() for one in of)
    return [
        "## Speed",
        "",
        f"MFU = tokens/s x F / peak; F = 6 N = {plain / 1e6:.4g} MFLOP, or 6 N + 6 L A T = {whole / 1e6:.4g} MFLOP "
        f"with causal attention (L = {options.shape['num_hidden_layers']}, A = {options.shape['hidden_size']}, "
        f"T = {options.length}); N = {weights:,} (all but the input table); peak = {limit / 1e9:,.0f} GFLOP/s, "
        + (
            "as given." if options.peak_flops else f"the best {setting.precision} matrix product of this run."
        ),
        "",
        *describe_speed(arms, OURS, setting.warmup, (plain, whole), limit),
        "",
        *(f"{name} was left out: {why}" for name, why in missing.items()),
        f"Ours / the fastest other ({best}): {ours} as it comes, {plainly} with --loss-memory plain, {chunks} with "
        f"--loss-memory chunks; wanted: >= {WANTED_SPEED}, aim 1.1.",
        f"Losses differ by {apart:.1e} at most (wanted: <= {WANTED_LOSS[setting.precision]}).",
    ]


def report_memory(runs: Runs, setting: Setting) -> list[str]:
    """Return the lines of the losses that save memory."""
    shown = (PLAIN, OURS, CHUNKS, TRAINER, *ALTERNATIVE_ARMS)
    arms = {arm: runs[arm] for arm in shown if arm in runs}
    table = describe_memory(arms, PLAIN, TRAINER, setting.warmup)
    return [
        "## Losses that save memory", "", *table, "", judge_memory(arms, PRODUCT_ARMS, TRAINER, setting.warmup)
    ]  # fmt: skip


def report_rest(runs: Runs, options: argparse.Namespace, setting: Setting) -> list[str]:
    """Return the lines of the last two parts."""
    lines = ["## Borders of documents and the loader", ""]
    if BORDERS in runs:
        ratio = format_ratio(speeds(runs[OURS], setting.warmup), speeds(runs[BORDERS], setting.warmup))
        lines.append(
            f"Speed with rows of one document / with rows of several, each attending to itself: {ratio} (wanted: <= "
            f"{1 + WANTED_BORDERS}); attention inside documents is less work."
        )
    if "loader" in options.parts:
        share, steps = measure_loader(setting, "scratch:tiny" if options.smoke else "scratch:15m")
        lines.append(
            f"Waiting for the loader takes {share:.3%} of a step (median of {steps} of a real run on a smaller model; "
            f"wanted: < {WANTED_WAIT:.0%})."
        )
    return lines


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, required=True, help="where weights, rows and runs go")
    parser.add_argument("--peers-folder", type=Path, help="where litgpt and torchtitan are, or are installed")
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, EXTRA_PART), default=list(PARTS))
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, default=2, help="of a step, at once")
    parser.add_argument("--length", type=int, default=2048, help="of a row, in tokens")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="first steps that are not timed")
    parser.add_argument("--rounds", type=int, default=4, help="even: half of them go backwards")
    parser.add_argument("--compile", action="store_true", help="compile in every arm")
    parser.add_argument("--peak-flops", type=float, help="of the device, instead of measuring a product")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, one minute; proves that it runs")
    parser.add_argument("--no-result", action="store_true", help="print alone")
    options = parser.parse_args()
    options.shape = FULL_SHAPE
    if EXTRA_PART in options.parts and "memory" not in options.parts:
        parser.error(f"--parts {EXTRA_PART} is a part of memory's table: name memory, too")
    if options.rounds < 2 or options.rounds % 2:
        parser.error("--rounds is to be even, so that no arm always comes first")
    if options.smoke:
        options.shape, options.length, options.rounds = SMOKE_SHAPE, 128, 1
        options.no_result, options.steps, options.warmup = True, 3, 1
    return options


def main() -> None:
    """Measure, print and write the result."""
    options, began = parse_arguments(), time.perf_counter()
    folder = options.folder.resolve()
    setting = Setting(
        model=folder / "model", rows=folder / "rows.npy", starts=folder / "starts.npy", steps=options.steps,
        warmup=options.warmup, precision=options.precision, device=options.device, threads=options.threads,
        compiled=options.compile, folder=folder,
    )  # fmt: skip
    write_inputs(setting, options.shape, options.rows, options.length, seed=0)
    peers, missing = find_interpreters(options) if "speed" in options.parts else ({}, {})
    runs = measure(setting, choose_arms(options.parts, list(peers)), options.rounds, peers, missing)
    lines = [
        f"{options.device}, {options.threads} threads, {options.precision}; {options.rows} x {options.length} tokens a "
        f"step, {options.steps} steps ({options.warmup} not timed), {options.rounds} rounds; "
        f"{'compiled' if options.compile else 'eager'}; weights and AdamW states are fp32.",
        "",
    ]
    if "speed" in options.parts:
        lines += [*report_speed(runs, options, setting, missing), ""]
    if "memory" in options.parts:
        lines += [*report_memory(runs, setting), ""]
    lines += report_rest(runs, options, setting)
    lines += ["", f"All of it took {(time.perf_counter() - began) / 60:.1f} minutes."]
    if options.no_result:
        print("\n".join(lines))
        return
    from report import write_result

    facts = {arm: [asdict(one) for one in of] for arm, of in runs.items()}
    # Another precision, other parts, compiled layers: another measurement.
    asked = [options.precision] if options.precision != "bf16" else []
    asked += options.parts if options.parts != list(PARTS) else []
    asked += ["compiled"] if options.compile else []
    write_result("-".join(["pretrain", *asked]), lines, {"missing": missing, "arms": facts})


if __name__ == "__main__":
    main()
