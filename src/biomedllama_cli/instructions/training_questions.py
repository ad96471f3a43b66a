"""Questions to tune on: a task's training split or a file of one's own, with what is wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.instructions.training_reading import TrainingReading, UnusableRecord
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.audit import ItemDefect, drop_defective, find_defects
from biomedllama_cli.tasks.catalogue import (
    TASKS,
    QuestionTask,
    Source,
    describe_source,
    open_records,
)
from biomedllama_cli.tasks.own_questions import read_own_questions
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.recognition import naming_other_task
from biomedllama_cli.tasks.records import SUFFIXES, file_sha256, iter_records

DataVersion = Literal["published", "cleaned"]
AUDIT_FILE, DEFECTS_FILE = "training_audit.json", "training_defects.jsonl"


class TrainingAudit(BaseModel):
    """What a training set held and what was taken: records = unusable + questions + dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: str
    """Task, or name of the file of one's own questions."""
    source: str
    """File or hub split."""
    sha256: str | None
    """SHA-256 of the file."""
    revision: str | None
    """Commit of the hub's data set, where it can be told."""
    data_version: DataVersion
    """published keeps questions that have defects, cleaned drops them."""
    records: int
    """Records read."""
    unusable: dict[str, int]
    """Records without an answer or a question, by kind; never trained on."""
    defects: dict[str, int]
    """Questions by kind of defect; a question may have several."""
    defective: int
    """Questions that have any."""
    dropped: int
    """Defective questions left out: all of them when cleaned, none as published."""
    questions: int
    """Questions left."""
    notes: tuple[str, ...]
    """What else is to be known of this training set, as sentences."""


@dataclass(frozen=True)
class LoadedTraining:
    """Questions to tune on.

    Attributes:
        name: of the task, or of the file of one's own questions without its suffix.
        questions: what is trained on, in the order of the file.
        source: where they came from; `rows` counts the questions that were read, dropped ones among them.
        places: where each question that was read stands, dropped ones among them: file and line, or split and row.
        defects: of the questions that were read, by their place among them.
        unusable: records that no question was made of.
        dropped: questions left out because of their defects.
        audit: all of it in numbers.
    """

    name: str
    questions: tuple[Question, ...]
    source: Source
    places: tuple[str, ...]
    defects: tuple[ItemDefect, ...]
    unusable: tuple[UnusableRecord, ...]
    dropped: int
    audit: TrainingAudit


def load_training_questions(
    task: str, train_file: Path | None = None, data_version: DataVersion = "published"
) -> LoadedTraining:
    """Read the training questions of a task and audit them.

    Args:
        task: name of a task of questions, or path of a file of one's own (schema: `tasks/own_questions.py`).
        train_file: training questions in the task's original schema; None reads the hub's split.
        data_version: `published` takes all questions that have an answer, `cleaned` only those without a defect.

    Raises:
        SettingsError: there is no such task, or a file is given to a task that is a file itself.
        DataError: the file is missing, broken or of another task, or nothing is left to train on.
        UnavailableError: the hub is needed and cannot be reached.
    """
    known = TASKS.get(task)
    if known is None:
        return _load_own(task, train_file, data_version)
    if not isinstance(known, QuestionTask):
        raise SettingsError(f"--task {task} is running text; a model is tuned on questions")
    place = train_file or known.tuning or known.train
    if place is None:
        raise DataError(
            f"{task} has no training questions on the hub, and no file was given",
            f"Add --data {task}.train=FILE.",
        )
    reading = TrainingReading(open_records(place, f"{task}.train"))
    with naming_other_task(task):
        reading.read(known)
    if reading.unusable and not reading.questions:
        raise DataError(
            f"{place}: none of the {reading.count:,} records has a question and an answer "
            f"(the first: {reading.unusable[0].detail})",
            "Give a training split; test splits may come without answers.",
        )
    source = describe_source(place, reading.records, len(reading.questions))
    choice = _Choice(data_version, tuple(reading.unusable), tuple(reading.places), reading.list_notes(task))
    return _finish(task, reading.questions, source, reading.defects, choice)


def write_audit(loaded: LoadedTraining, folder: Path) -> None:
    """Write `training_audit.json` and, one defect per line, `training_defects.jsonl` into a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(loaded.audit.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / AUDIT_FILE).write_text(content + "\n", encoding="utf-8")
    with (folder / DEFECTS_FILE).open("w", encoding="utf-8") as file:
        for record in loaded.unusable:
            line = {"where": record.where, "kind": record.kind, "detail": record.detail}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for defect in loaded.defects:
            place = {"where": loaded.places[defect.index], "place": defect.index}
            line = {"question": defect.id, "kind": defect.kind, "detail": defect.detail}
            file.write(json.dumps(place | line, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class _Choice:
    data_version: DataVersion
    unusable: tuple[UnusableRecord, ...] = ()
    places: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_task(task: str, train_file: Path | None = None) -> None:
    """Check that there is a task, or a file of one's own, of this name.

    Args:
        task: name of a task, or path of a file.
        train_file: training questions of a task.

    Raises:
        SettingsError: there is neither, or a training file is given to a task that is a file itself.
        DataError: it is named as a file, and there is none.
    """
    if task in TASKS:
        return
    there = Path(task).exists()
    if not there and not task.lower().endswith(SUFFIXES):
        names = [name for name, known in TASKS.items() if isinstance(known, QuestionTask)]
        raise SettingsError(
            f"--task {task}: there is no such task and no such file",
            suggest(task, names) or f"Known: {', '.join(names)}, or a file of your own questions.",
        )
    if train_file is not None:
        raise SettingsError(
            f"--task {task} is a file of questions, and --data names another training file ({train_file})",
            "Give one of them.",
        )
    if not there:
        raise DataError(
            f"{task}: there is no such file",
            "Give --task FILE the path of an existing file of your own questions, or --task the name of a task.",
        )


def _load_own(task: str, train_file: Path | None, data_version: DataVersion) -> LoadedTraining:
    check_task(task, train_file)
    path = Path(task)
    questions = read_own_questions(path)
    places = tuple(record.where for record in iter_records(path))  # a record of one's own is a question
    source = Source("file", str(path), len(questions), file_sha256(path))
    return _finish(_name_file(path), questions, source, (), _Choice(data_version, places=places))


def _name_file(path: Path) -> str:
    """Return a file's name without the suffixes of its kind, and apart from the known tasks'.

    >>> _name_file(Path("a/triage.v2.jsonl.gz")), _name_file(Path("medqa.json"))
    ('triage.v2', 'own-medqa')
    """
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    name = path.name[: len(path.name) - len(suffix)] or path.name
    return f"own-{name}" if name in TASKS else name


def _finish(
    name: str,
    questions: Sequence[Question],
    source: Source,
    noted: Sequence[ItemDefect],
    choice: _Choice,
) -> LoadedTraining:
    defects = tuple(sorted([*noted, *find_defects(questions)]))
    kept = drop_defective(questions, defects) if choice.data_version == "cleaned" else tuple(questions)
    if not kept:
        raise DataError(
            f"{source.location}: each of the {len(questions):,} questions has a defect, and --data-version cleaned "
            "drops them all",
            "Take --data-version published, or look at the file.",
        )
    notes = list(choice.notes)
    if name == "pubmedqa" and not any(question.answer == "maybe" for question in kept):
        notes.append(
            "no question has the answer maybe (pqa_artificial has only yes and no), so a model tuned on these "
            "questions learns never to give it"
        )
    defective = len({defect.index for defect in defects})
    audit = TrainingAudit(
        task=name,
        source=source.location,
        sha256=source.sha256,
        revision=source.revision,
        data_version=choice.data_version,
        records=len(questions) + len(choice.unusable),
        unusable=_count(record.kind for record in choice.unusable),
        defects=_count(kind for _, kind in {(defect.index, defect.kind) for defect in defects}),
        defective=defective,
        dropped=len(questions) - len(kept),
        questions=len(kept),
        notes=tuple(notes),
    )
    return LoadedTraining(
        name, kept, source, choice.places, defects, choice.unusable, len(questions) - len(kept), audit
    )


def _count(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))
