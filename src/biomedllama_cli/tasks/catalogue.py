"""What `--task` can name: where each task's data comes from, how it is read and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.audit import ItemDefect, find_defects
from biomedllama_cli.tasks.bioasq import iter_bioasq
from biomedllama_cli.tasks.documents import iter_documents
from biomedllama_cli.tasks.hub import HubRecords, HubSplit
from biomedllama_cli.tasks.medmcqa import iter_medmcqa
from biomedllama_cli.tasks.medqa import iter_medqa
from biomedllama_cli.tasks.medxpertqa import iter_medxpertqa
from biomedllama_cli.tasks.mmlu import DEV_SPLIT, TEST_SPLIT, iter_mmlu
from biomedllama_cli.tasks.own_questions import iter_own_questions
from biomedllama_cli.tasks.prompts import ABSTRACT_QUESTION, KNOWLEDGE_QUESTION, PromptFormat
from biomedllama_cli.tasks.pubmedqa import check_labelled, iter_pubmedqa
from biomedllama_cli.tasks.question import Document, Question
from biomedllama_cli.tasks.recognition import naming_other_task
from biomedllama_cli.tasks.records import (
    Note,
    Record,
    file_sha256,
    iter_records,
    warn_of_defect,
)
from biomedllama_cli.tasks.sample import SAMPLE_FILE

DrawRule = Literal["train split", "train file", "the test items without the item itself"]


@dataclass(frozen=True)
class QuestionTask:
    """A task of questions.

    Attributes:
        name: as in `--task`.
        prompt: its wording in the published protocol.
        parse: turns raw records into questions; the second argument is told of defects.
        test: the hub split that is scored, or the bundled file; None where it has to be given as a file.
        train: the hub split that few-shot examples come from; None draws from the test items themselves.
        check: raises a DataError where items are not those to be scored; told the items and where they are from.
        published_items: of the whole test set that published numbers are about; None where there are none.
        tuning: the hub split that models are fine-tuned on, where that is not `train`.
    """

    name: str
    prompt: PromptFormat
    parse: Callable[[Iterable[Record], Note], Iterator[Question]]
    test: HubSplit | Path | None
    train: HubSplit | None
    check: Callable[[Sequence[Question], str], None] | None = None
    published_items: int | None = None
    tuning: HubSplit | None = None


@dataclass(frozen=True)
class TextTask:
    """A task of running text: one subset of the Pile's test split, or (both None) any text given as a file."""

    name: str
    pile_set_name: str | None
    test: HubSplit | None


@dataclass(frozen=True)
class Source:
    """Where the records of a task came from: a file with its SHA-256, or a hub split with its commit if known."""

    kind: Literal["file", "hub", "bundled"]
    location: str
    rows: int
    sha256: str | None
    revision: str | None = None


@dataclass(frozen=True)
class LoadedQuestions:
    """The questions of a task, and everything that belongs to them.

    Attributes:
        task: the task.
        items: its questions, in the order of their file.
        pool: what few-shot examples are drawn from; None draws from the questions.
        source: origin of the questions.
        pool_source: origin of the pool.
        draw_rule: where the examples come from, or None without any.
        defects: what is wrong with the questions: found while reading and by the audit, in their order.
    """

    task: QuestionTask
    items: tuple[Question, ...]
    pool: tuple[Question, ...] | None
    source: Source
    pool_source: Source | None
    draw_rule: DrawRule | None
    defects: tuple[ItemDefect, ...] = ()


@dataclass(frozen=True)
class LoadedDocuments:
    """The documents of a task and their origin."""

    task: TextTask
    items: tuple[Document, ...]
    source: Source


_BIGBIO = ("bigbio/med_qa", "med_qa_en_bigbio_qa")
_PILE_TEST = HubSplit("monology/pile-uncopyrighted", "test", streaming=True)
_GBAKER = "GBaker/MedQA-USMLE-4-options"
_MEDXPERTQA = "TsinghuaC3I/MedXpertQA"

# All 1000 labelled items are scored; the labelled part has no training split of its own.
_PUBMEDQA = QuestionTask(
    "pubmedqa",
    ABSTRACT_QUESTION,
    lambda records, _: iter_pubmedqa(records),
    HubSplit("pubmed_qa", "train", "pqa_labeled"),
    None,
    check=check_labelled,
    published_items=1000,
    tuning=HubSplit("pubmed_qa", "train", "pqa_artificial"),
)


TASKS: dict[str, QuestionTask | TextTask] = {
    task.name: task
    for task in (
        QuestionTask(
            "medqa",
            KNOWLEDGE_QUESTION,
            lambda records, note: iter_medqa(records, 4, note),
            HubSplit(_GBAKER, "test"),
            HubSplit(_GBAKER, "train"),
            published_items=1273,
        ),
        QuestionTask(
            "medqa-5",
            KNOWLEDGE_QUESTION,
            lambda records, note: iter_medqa(records, 5, note),
            HubSplit(_BIGBIO[0], "test", _BIGBIO[1]),
            HubSplit(_BIGBIO[0], "train", _BIGBIO[1]),
            published_items=1273,
        ),
        QuestionTask(
            "medmcqa",
            KNOWLEDGE_QUESTION,
            lambda records, _: iter_medmcqa(records),
            HubSplit("medmcqa", "validation"),
            HubSplit("medmcqa", "train"),
            published_items=4183,
        ),
        _PUBMEDQA,
        replace(
            _PUBMEDQA,
            name="pubmedqa-no-context",
            prompt=replace(ABSTRACT_QUESTION, template=KNOWLEDGE_QUESTION.template),
            parse=lambda records, _: (replace(item, context=None) for item in iter_pubmedqa(records)),
        ),
        QuestionTask(
            "mmlu-medical",
            KNOWLEDGE_QUESTION,
            lambda records, _: iter_mmlu(records),
            TEST_SPLIT,
            DEV_SPLIT,
            published_items=1089,
        ),
        QuestionTask(
            "medxpertqa",
            KNOWLEDGE_QUESTION,
            lambda records, _: iter_medxpertqa(records),
            HubSplit(_MEDXPERTQA, "test", "Text"),
            HubSplit(_MEDXPERTQA, "dev", "Text"),
        ),
        # The challenge gives its files to registered users only.
        QuestionTask(
            "bioasq-yesno",
            ABSTRACT_QUESTION,
            lambda records, _: iter_bioasq(records),
            None,
            None,
        ),
        QuestionTask(
            "sample-questions",
            KNOWLEDGE_QUESTION,
            lambda records, _: iter_own_questions(records),
            SAMPLE_FILE,
            None,
        ),
        QuestionTask(
            "questions", KNOWLEDGE_QUESTION, lambda records, _: iter_own_questions(records), None, None
        ),
        TextTask("pubmed-abstracts", "PubMed Abstracts", _PILE_TEST),
        TextTask("pubmed-central", "PubMed Central", _PILE_TEST),
        TextTask("text", None, None),
    )
}


def load_questions(
    task: QuestionTask, *, shots: int, test_file: Path | None = None, train_file: Path | None = None
) -> LoadedQuestions:
    """Read the questions of a task and, when there are shots, the pool of its few-shot examples.

    A local test file without a train file draws from the test file itself, as the protocol does for
    PubMedQA: the hub is never mixed into a local run.

    Raises:
        DataError: a file is missing, not given, broken, of another task or holds no question.
        UnavailableError: the hub is needed and cannot be reached.
    """
    defects: list[tuple[int, str, str]] = []

    def note(record: Record, kind: str, detail: str) -> None:
        defects.append((len(items), kind, f"{record.where}: {detail}"))

    place = _find_place(task, test_file)
    records = open_records(place, task.name)
    items: list[Question] = []
    with naming_other_task(task.name):
        for question in task.parse(records, note):
            items.append(question)
    source = describe_source(place, records, len(items))
    if task.check is not None:
        task.check(items, source.location)
    found = [ItemDefect(index, items[index].id, kind, detail) for index, kind, detail in defects]
    pool, pool_source, rule = _load_pool(task, shots, test_file, train_file)
    return LoadedQuestions(
        task, tuple(items), pool, source, pool_source, rule, tuple(sorted([*found, *find_defects(items)]))
    )


def _load_pool(
    task: QuestionTask, shots: int, test_file: Path | None, train_file: Path | None
) -> tuple[tuple[Question, ...] | None, Source | None, DrawRule | None]:
    train = train_file or (task.train if test_file is None else None)
    if not shots:
        return None, None, None
    if train is None:
        return None, None, "the test items without the item itself"
    records = open_records(train, f"{task.name}.train")
    with naming_other_task(task.name):
        pool = tuple(task.parse(records, warn_of_defect))
    return pool, describe_source(train, records, len(pool)), "train file" if train_file else "train split"


def load_documents(task: TextTask, *, test_file: Path | None = None) -> LoadedDocuments:
    """Read the documents of a task.

    Raises:
        DataError: the file is missing, not given, broken or holds no document of the subset.
        UnavailableError: the hub is needed and cannot be reached.
    """
    place = _find_place(task, test_file)
    records = open_records(place, task.name)
    with naming_other_task(task.name):
        items = tuple(iter_documents(records, task.pile_set_name))
    if not items and task.pile_set_name is not None:
        raise DataError(f"{place}: no record has meta.pile_set_name {task.pile_set_name!r}")
    return LoadedDocuments(task, items, describe_source(place, records, len(items), "document"))


def _find_place(task: QuestionTask | TextTask, file: Path | None) -> HubSplit | Path:
    place = file or task.test
    if place is None:
        raise DataError(
            f"{task.name} has no data on the hub, and no file was given", f"Add --data {task.name}=FILE."
        )
    return place


def open_records(place: HubSplit | Path, key: str) -> HubRecords | Iterator[Record]:
    """Return the records of a file or a split; `key` is what `--data` calls it (`medqa.train`), for messages."""
    return HubRecords(place, key) if isinstance(place, HubSplit) else iter_records(place)


def describe_source(
    place: HubSplit | Path, records: HubRecords | Iterator[Record], rows: int, kind: str = "question"
) -> Source:
    """Return where items that were read came from.

    Raises:
        DataError: there were none.
    """
    if not rows:
        raise DataError(f"{place}: {'the file' if isinstance(place, Path) else 'the split'} holds no {kind}")
    if isinstance(records, HubRecords):
        return Source("hub", str(place), rows, None, records.revision)
    assert isinstance(place, Path)
    if place == SAMPLE_FILE:
        return Source("bundled", place.name, rows, file_sha256(place))
    return Source("file", str(place), rows, file_sha256(place))
