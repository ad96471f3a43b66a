"""Load lm-eval's own tasks: by name, without reading all of its thousands of files, and from local files.

A local file is read by this project's strict readers and handed over in the schema the stock task expects, so that
its own prompt functions and metrics apply unchanged.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from lm_eval.tasks import TaskManager

from biomedllama_cli.errors import SettingsError, UnavailableError
from biomedllama_cli.models.hub import offline_where_unreachable
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, load_questions
from biomedllama_cli.tasks.pubmedqa_split import is_official_test
from biomedllama_cli.tasks.question import Question

logger = logging.getLogger(__name__)

PREFIX = "lm-eval:"
"""In front of any name that lm-eval knows."""

NAMES: dict[str, tuple[str, ...]] = {
    "medqa": ("medqa_4options",),
    "medmcqa": ("medmcqa",),
    "pubmedqa": ("pubmedqa",),
    "multimedqa": ("multimedqa",),
    "mmlu-pro-health": ("mmlu_pro_health",),
    "careqa": ("careqa_en", "careqa_es"),
    "headqa": ("headqa_en", "headqa_es"),
}
"""lm-eval's tasks and groups by the name they have here."""

# Where the YAML of a task, and of a group's members, lies: indexing everything takes 14 s.
_FOLDERS = {
    "medqa_4options": ("medqa",),
    "medmcqa": ("medmcqa",),
    "pubmedqa": ("pubmedqa",),
    "multimedqa": ("benchmarks/multimedqa", "medqa", "medmcqa", "pubmedqa", "mmlu/default"),
    "mmlu_pro_health": ("mmlu_pro",),
    "careqa_en": ("careqa",),
    "careqa_es": ("careqa",),
    "headqa_en": ("headqa",),
    "headqa_es": ("headqa",),
}
_STOCK_ROOT = Path(lm_eval.tasks.__file__).resolve().parent
_TRAIN = ".train"
_NEAR = 0.8  # likeness of a name worth suggesting: below it, one of 10,000 is always found, and means nothing


@dataclass(frozen=True)
class _LocalForm:
    """How one of our tasks looks to the stock task of lm-eval: its name, its file, its columns."""

    stock_name: str
    stock_file: str
    schema: pa.Schema

    def row(self, question: Question) -> dict[str, Any]:
        """Return the record the stock task expects; `id` and `groups` are ours, for the samples."""
        row: dict[str, Any] = {"id": question.id, "groups": json.dumps(dict(question.groups))}
        if self.stock_name == "pubmedqa":
            return row | {
                "QUESTION": question.question,
                "CONTEXTS": [question.context],
                "final_decision": question.answer,
            }
        names = [name for name in self.schema.names if name.startswith(("ending", "op"))]
        if self.stock_name == "medqa_4options":
            row |= {"sent1": question.question, "label": question.answer_index}
        else:
            row |= {"question": question.question, "cop": question.answer_index}
        return row | dict(zip(names, question.options, strict=True))


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema({"id": pa.string(), "groups": pa.string(), **columns})


_TEXT = pa.large_string()
_LOCAL_FORMS = {
    "medqa": _LocalForm(
        "medqa_4options",
        "medqa/medqa.yaml",
        _schema(sent1=_TEXT, **{f"ending{i}": _TEXT for i in range(4)}, label=pa.int64()),
    ),
    "medmcqa": _LocalForm(
        "medmcqa",
        "medmcqa/medmcqa.yaml",
        _schema(question=_TEXT, **{f"op{letter}": _TEXT for letter in "abcd"}, cop=pa.int64()),
    ),
    "pubmedqa": _LocalForm(
        "pubmedqa",
        "pubmedqa/pubmedqa.yaml",
        _schema(QUESTION=_TEXT, CONTEXTS=pa.list_(_TEXT), final_decision=_TEXT),
    ),
}


def stock_names(name: str) -> tuple[str, ...]:
    """Return what lm-eval calls the task or tasks of a name.

    >>> stock_names("medqa"), stock_names("lm-eval:hellaswag")
    (('medqa_4options',), ('hellaswag',))
    """
    return NAMES.get(name) or (name.removeprefix(PREFIX),)


def load_stock_tasks(
    name: str, *, shots: int | None, local_rows: Mapping[str, Path], folder: Path
) -> dict[str, Any]:
    """Return lm-eval's tasks and groups of a name, as its `evaluate` takes them.

    Args:
        name: one of ours (`NAMES`), or any of lm-eval's, with or without `lm-eval:`.
        shots: few-shot examples; None for the number the task itself says.
        local_rows: files by `TASK` and `TASK.train`, read instead of the hub.
        folder: an empty one for the rows; it must live as long as the tasks.

    Raises:
        SettingsError: lm-eval has no such task.
        DataError: a local file is broken or does not fit.
        UnavailableError: the hub is needed and cannot be reached.
    """
    names = stock_names(name)
    local = [task for task, form in _LOCAL_FORMS.items() if task in local_rows and _may_hold(names, form)]
    for task in local:
        _write_local_task(task, local_rows, folder, shots)
    manager = _build_manager(names, [folder] if local else [])
    unknown = [one for one in names if one not in manager.task_index]
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], manager.all_tasks, n=3, cutoff=_NEAR)
        raise SettingsError(
            f"protocol.task is {name!r}, and lm-eval has no task {unknown[0]!r}",
            f"Nearest: {', '.join(nearest)}." if nearest else "`lm_eval ls tasks` lists them all.",
        )
    try:
        with offline_where_unreachable():
            loaded: dict[str, Any] = dict(manager.load(list(names)))
    except Exception as error:  # hub, libraries and task code raise unrelated kinds
        raise _unavailable(name, error) from error
    return loaded


def _build_manager(names: Sequence[str], own: Sequence[Path]) -> TaskManager:
    """Return a manager that knows the names: from their own folders, or, for any other, from all there are."""
    if all(name in _FOLDERS for name in names):
        folders = dict.fromkeys(folder for name in names for folder in _FOLDERS[name])
        paths = [*(_STOCK_ROOT / folder for folder in folders), *own]
        return TaskManager(include_path=paths, include_defaults=False)
    return TaskManager(include_path=list(own), include_defaults=True)


def _may_hold(names: Sequence[str], form: _LocalForm) -> bool:
    """Tell whether a stock task may be among the named ones or the members of a named group."""
    folder = form.stock_file.partition("/")[0]
    return any(name not in _FOLDERS or folder in _FOLDERS[name] for name in names)


def _write_local_task(task: str, local_rows: Mapping[str, Path], folder: Path, shots: int | None) -> None:
    """Write the rows of a file, and the stock task that reads them instead of the hub."""
    form = _LOCAL_FORMS[task]
    test, train = _read(task, local_rows)
    if task == "pubmedqa":
        test, train = _split_pubmedqa(test, train, local_rows[task])
    files = {}
    for split, questions in (("test", test), ("train", train)):
        if questions:
            files[split] = str(folder / f"{task}-{split}.parquet")
            table = pa.Table.from_pylist([form.row(question) for question in questions], schema=form.schema)
            pq.write_table(table, files[split])
    if shots and not train:
        logger.warning(
            "%s: no training file was given, so lm-eval draws the %d few-shot examples from the scored questions "
            "(never the question at hand). Give --data %s.train=FILE.",
            task,
            shots,
            task,
        )
    content = {
        "include": str(_STOCK_ROOT / form.stock_file),
        "task": form.stock_name,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "validation_split": None,
        "training_split": "train" if train else None,
        "fewshot_split": "train" if train else "test",
    }
    (folder / f"{form.stock_name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _read(task: str, local_rows: Mapping[str, Path]) -> tuple[list[Question], list[Question]]:
    """Return the questions of a file, and those of its training file if there is one."""
    known = TASKS[task]
    assert isinstance(known, QuestionTask)
    train = local_rows.get(task + _TRAIN)
    loaded = load_questions(known, shots=int(train is not None), test_file=local_rows[task], train_file=train)
    return list(loaded.items), list(loaded.pool or ())


def _split_pubmedqa(
    items: list[Question], train: list[Question], path: Path
) -> tuple[list[Question], list[Question]]:
    """Return the official test part, which lm-eval scores, and the rest for examples."""
    test = [item for item in items if is_official_test(item.id)]
    rest = [item for item in items if not is_official_test(item.id)]
    if not test:
        logger.warning(
            "%s holds no item of PubMedQA's official test part, which lm-eval's pubmedqa scores: all %d are scored",
            path,
            len(items),
        )
        return items, train
    return test, train or rest


def _unavailable(name: str, error: Exception) -> UnavailableError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
    data = [
        task for task, form in _LOCAL_FORMS.items() if task == name or form.stock_name in stock_names(name)
    ]
    hint = (
        f"Give a local file in the original schema: --data {data[0]}=FILE."
        if data
        else "It reads its data from the hub: go online once. --data FILE stands in for medqa, medmcqa, pubmedqa."
    )
    return UnavailableError(
        f"lm-eval's task {name.removeprefix(PREFIX)} cannot be loaded ({type(error).__name__}: {reason})",
        hint,
    )
