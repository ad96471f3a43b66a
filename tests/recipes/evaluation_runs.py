"""Made-up data for tests of `evaluate`, its recipe in one call, and its results read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.evaluation.cells import QuestionCell, Results
from biomedllama_cli.recipes.evaluate import EvaluateReport, evaluate
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.tasks.pubmedqa_split import NON_TEST_PMIDS

_TOP = {"output_dir", "overwrite", "seed", "reproduce", "generation", "compute", "output", "workspace"}
_WORDS = (
    "kestrel",
    "harbour",
    "lantern",
    "marble",
    "orchard",
    "pebble",
    "quartz",
    "ribbon",
    "saffron",
    "thistle",
)


def build_settings(folder: Path, models: Any, **options: Any) -> EvaluateSettings:
    """Return settings whose results go to `folder`/out; options that are no others are of the protocol."""
    given = models if isinstance(models, list) else [models] if models else []
    top = {name: value for name, value in options.items() if name in _TOP}
    protocol = {name: value for name, value in options.items() if name not in _TOP}
    values = {"workspace": folder, "output_dir": folder / "out", "model": list(map(str, given)), **top}
    return EvaluateSettings.model_validate({**values, "protocol": protocol})


def run(folder: Path, models: Any, *, dry_run: bool = False, **options: Any) -> EvaluateReport:
    """Run the recipe."""
    return evaluate(build_settings(folder, models, **options), dry_run=dry_run)


def cell_of(report: EvaluateReport, task: str, profile: str = "paper") -> QuestionCell:
    """Return the cell of a task and profile of the first model."""
    cells = report.evaluations[0].results.questions
    (found,) = [cell for cell in cells if (cell.task, cell.profile.split("/")[0]) == (task, profile)]
    return found


def read_samples(folder: Path, task: str, profile: str = "paper") -> list[dict[str, Any]]:
    """Return the samples that a run into `folder`/out has written."""
    file = folder / "out" / f"samples-{profile}-{task}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_results(folder: Path) -> Results:
    """Return what is in `folder`/out/results.json."""
    return Results.model_validate_json((folder / "out" / "results.json").read_bytes())


def write_medqa(
    file: Path, count: int, options: int = 4, *, start: int = 0, repeated: Sequence[int] = ()
) -> Path:
    """Write made-up questions as jind11 does; those in `repeated` have their right option twice."""
    lines = []
    for number in range(start, start + count):
        texts = [f"{_WORDS[(number + place) % len(_WORDS)]} {number % 7}" for place in range(options)]
        right = number % options
        if number in repeated:
            texts[(right + 1) % options] = texts[right]
        record = {
            "question": f"Patient {number} asks which {_WORDS[number % 5]} is meant?",
            "answer": texts[right],
            "options": dict(zip("ABCDE", texts, strict=False)),
            "meta_info": "step1" if number % 3 else "step2&3",
            "answer_idx": "ABCDE"[right],
        }
        lines.append(json.dumps(record) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def write_pubmedqa(file: Path, *, test: int, other: int) -> Path:
    """Write a made-up `ori_pqal.json`: items of the official test part, and items outside it."""
    ids = [f"9{number:07}" for number in range(test)] + sorted(NON_TEST_PMIDS)[:other]
    records = {}
    for number, pmid in enumerate(ids):
        word = _WORDS[number % len(_WORDS)]
        records[pmid] = {
            "QUESTION": f"Does {word} help in case {number}?",
            "CONTEXTS": [f"We looked at {word} in {number + 20} people.", "Half of them got none."],
            "LONG_ANSWER": f"The {word} did what was expected.",
            "final_decision": ("yes", "no", "maybe")[number % 3],
        }
    file.write_text(json.dumps(records), encoding="utf-8")
    return file
