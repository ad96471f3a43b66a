"""Made-up lessons for tests of `finetune` and `instruct`, and their recipes in one call."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.recipes.finetune import finetune
from biomedllama_cli.recipes.instruct import instruct
from biomedllama_cli.settings.finetune import FinetuneSettings
from biomedllama_cli.settings.instruct import InstructSettings

RIGHT = "kestrel"
"""The right option of every made-up question, at whatever letter: a rule that a tiny model learns in a few steps."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_MIXTURE = """
name: ours
sources:
- {source: exams, format: questions, path: exams.jsonl, weight: 1, licence: MIT, redistributable: true}
- {source: talks, format: messages, path: talks.jsonl, weight: 2, licence: CC BY-NC 4.0}
- {source: tasks, format: alpaca, path: tasks.json, weight: 4, cap: 5, licence: CC BY 4.0, redistributable: true,
   substitute: made-up tasks for real ones}
"""
_WRONG = ("lantern", "marble", "orchard", "pebble", "quartz", "ribbon", "saffron", "thistle")


def make_question(number: int, *, seed: int = 0) -> dict[str, Any]:
    """Return a question of one's own; numbers and seeds tell them apart."""
    draw = random.Random(f"{seed} {number}")
    options = [draw.choice(_WRONG), draw.choice(_WRONG)]
    options[number % 2] = RIGHT
    return {
        "id": f"q{seed}-{number}",
        "question": f"What stands in box {draw.randrange(10**6)} of shelf {draw.randrange(10**6)}?",
        "options": options,
        "answer_index": number % 2,
    }


def write_questions(file: Path, count: int, *, seed: int = 0) -> Path:
    """Write questions of one's own that follow one rule."""
    return write_lines(file, [make_question(number, seed=seed) for number in range(count)])


def write_lines(file: Path, records: Sequence[Any]) -> Path:
    """Write records as JSON Lines."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def write_mixture(folder: Path) -> Path:
    """Write a mixture of 60 questions, 30 conversations of two turns and 8 tasks, of which 5 are used."""
    write_questions(folder / "exams.jsonl", 60)
    talks = [
        [("user", f"Is it {number}?"), ("assistant", "Yes."), ("user", "Sure?"), ("assistant", "Quite so.")]
        for number in range(30)
    ]
    write_lines(
        folder / "talks.jsonl",
        [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks],
    )
    tasks = [{"instruction": f"Name box {n}.", "input": "", "output": RIGHT} for n in range(8)]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    (folder / "ours.yaml").write_text(_MIXTURE)
    return folder / "ours.yaml"


def merge(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a tree with sections merged."""
    merged = dict(tree)
    for name, value in changes.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


_QUICK: dict[str, Any] = {
    "batch": {"sequence_length": 256, "global_batch_size": 8},
    "duration": {"max_steps": 4},
    "optimizer": {"peak_learning_rate": 1e-2},
    "numerics": {"precision": "fp32"},
    "parallel": {"device": "cpu"},
    "decontamination": {"decontaminate": "off"},
}


def finetune_settings(folder: Path, model: Path, task: Path | str, **changes: Any) -> FinetuneSettings:
    """Return settings of a short run into `folder`/run that scores nothing; sections are merged."""
    tree = {
        **_QUICK,
        "workspace": folder,
        "model": str(model),
        "output_dir": folder / "run",
        "questions": {"task": str(task), "validation_fraction": 0.0, "evaluate": False},
    }
    return FinetuneSettings.model_validate(merge(tree, changes))


def instruct_settings(
    folder: Path, model: Path, mixture: Path | str, *, draw: dict[str, Any] | None = None, **changes: Any
) -> InstructSettings:
    """Return settings of a short run into `folder`/run; sections are merged, `draw` is that of the mixture."""
    tree = {
        **_QUICK,
        "workspace": folder,
        "model": str(model),
        "output_dir": folder / "run",
        "mixture": {"mixture": str(mixture), "draws": 40, "validation_fraction": 0.0, **(draw or {})},
    }
    return InstructSettings.model_validate(merge(tree, changes))


def run_finetune(
    folder: Path, model: Path, task: Path | str, *, dry_run: bool = False, **changes: Any
) -> Any:
    """Run the recipe of `finetune`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return finetune(finetune_settings(folder, model, task, **changes), dry_run=dry_run)


def run_instruct(
    folder: Path, model: Path, mixture: Path | str, *, dry_run: bool = False, **changes: Any
) -> Any:
    """Run the recipe of `instruct`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return instruct(instruct_settings(folder, model, mixture, **changes), dry_run=dry_run)


def read_losses(report: Any) -> list[float]:
    """Return the training losses of a report's first run, step by step."""
    lines = iter_metrics(report.runs[0].run_folder / "metrics.jsonl")
    return [line["train/loss"] for line in lines if "train/loss" in line]


def list_files(folder: Path) -> list[str]:
    """Return everything in a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
