"""What `--task` can name: where each task's data comes from, how it is read and how it is asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.documents import iter_documents
from biomedllama_cli.tasks.hub import HubSplit, iter_hub_records
from biomedllama_cli.tasks.medmcqa import iter_medmcqa
from biomedllama_cli.tasks.medqa import iter_medqa
from biomedllama_cli.tasks.prompts import ABSTRACT_QUESTION, KNOWLEDGE_QUESTION, PromptFormat
from biomedllama_cli.tasks.pubmedqa import iter_pubmedqa
from biomedllama_cli.tasks.question import Document, Question
from biomedllama_cli.tasks.records import Record, file_sha256, iter_records
from biomedllama_cli.tasks.sample import SAMPLE_FILE, iter_sample

logger = logging.getLogger(__name__)

DrawRule = Literal["train split", "train file", "the test items without the item itself"]


@dataclass(frozen=True)
class QuestionTask:
    """A task of questions.

    Attributes:
        name: as in `--task`.
        prompt: its wording.
        parse: turns raw records into questions.
        test: the hub split that is scored, or the bundled file.
        train: the hub split that few-shot examples come from; None draws from the test items themselves.
    """

    name: str
    prompt: PromptFormat
    parse: Callable[[Iterable[Record]], Iterator[Question]]
    test: HubSplit | Path
    train: HubSplit | None


@dataclass(frozen=True)
class TextTask:
    """A task of running text: one subset of the Pile's test split."""

    name: str
    pile_set_name: str
    test: HubSplit


@dataclass(frozen=True)
class Source:
    """Where the records of a task came from: a file with its SHA-256, or a hub split."""

    kind: Literal["file", "hub", "bundled"]
    location: str
    rows: int
    sha256: str | None


@dataclass(frozen=True)
class LoadedQuestions:
    """The questions of a task, the pool of its few-shot examples (None: the questions), and their origin."""

    task: QuestionTask
    items: tuple[Question, ...]
    pool: tuple[Question, ...] | None
    source: Source
    pool_source: Source | None
    draw_rule: DrawRule | None


@dataclass(frozen=True)
class LoadedDocuments:
    """The documents of a task and their origin."""

    task: TextTask
    items: tuple[Document, ...]
    source: Source


_BIGBIO = ("bigbio/med_qa", "med_qa_en_bigbio_qa")
_PILE_TEST = HubSplit("monology/pile-uncopyrighted", "test", streaming=True)
_GBAKER = "GBaker/MedQA-USMLE-4-options"

TASKS: dict[str, QuestionTask | TextTask] = {
    task.name: task
    for task in (
        QuestionTask(
            "medqa",
            KNOWLEDGE_QUESTION,
            lambda records: iter_medqa(records, 4),
            HubSplit(_GBAKER, "test"),
            HubSplit(_GBAKER, "train"),
        ),
        QuestionTask(
            "medqa-5",
            KNOWLEDGE_QUESTION,
            lambda records: iter_medqa(records, 5),
            HubSplit(_BIGBIO[0], "test", _BIGBIO[1]),
            HubSplit(_BIGBIO[0], "train", _BIGBIO[1]),
        ),
        QuestionTask(
            "medmcqa",
            KNOWLEDGE_QUESTION,
            iter_medmcqa,
            HubSplit("medmcqa", "validation"),
            HubSplit("medmcqa", "train"),
        ),
        # All 1000 labelled items are scored; the labelled part has no training split of its own.
        QuestionTask(
            "pubmedqa", ABSTRACT_QUESTION, iter_pubmedqa, HubSplit("pubmed_qa", "train", "pqa_labeled"), None
        ),
        QuestionTask("sample-questions", KNOWLEDGE_QUESTION, iter_sample, SAMPLE_FILE, None),
        TextTask("pubmed-abstracts", "PubMed Abstracts", _PILE_TEST),
        TextTask("pubmed-central", "PubMed Central", _PILE_TEST),
    )
}


def load_questions(
    task: QuestionTask, *, shots: int, test_file: Path | None = None, train_file: Path | None = None
) -> LoadedQuestions:
    """Read the questions of a task and, when there are shots, the pool of its few-shot examples.

    A local test file without a train file draws from the test file itself, as the protocol does for
    PubMedQA: the hub is never mixed into a local run.

    Raises:
        DataError: a file is missing, broken or holds no question.
        UnavailableError: the hub is needed and cannot be reached.
    """
    items, source = _read_questions(task, test_file or task.test, task.name)
    pool: tuple[Question, ...] | None = None
    pool_source: Source | None = None
    rule: DrawRule | None = "the test items without the item itself" if shots else None
    train = train_file or (task.train if test_file is None else None)
    if shots and train is not None:
        pool, pool_source = _read_questions(task, train, f"{task.name}.train")
        rule = "train file" if train_file else "train split"
    elif shots and task.train is not None:
        logger.warning(
            "%s: no training file was given, so the %d few-shot examples are drawn from the scored questions "
            "themselves (never the question at hand). This is not the published draw: give --data %s.train=FILE.",
            task.name,
            shots,
            task.name,
        )
    return LoadedQuestions(task, items, pool, source, pool_source, rule)


def load_documents(task: TextTask, *, test_file: Path | None = None) -> LoadedDocuments:
    """Read the documents of a task.

    Raises:
        DataError: the file is missing, broken or holds no document of the subset.
        UnavailableError: the hub is needed and cannot be reached.
    """
    place = test_file or task.test
    items = tuple(iter_documents(_open(place, task.name), task.pile_set_name))
    if not items:
        raise DataError(f"{place}: no record has meta.pile_set_name {task.pile_set_name!r}")
    return LoadedDocuments(task, items, _describe(place, len(items)))


def _read_questions(
    task: QuestionTask, place: HubSplit | Path, key: str
) -> tuple[tuple[Question, ...], Source]:
    items = tuple(task.parse(_open(place, key)))
    if not items:
        raise DataError(f"{place}: the file holds no question")
    return items, _describe(place, len(items))


def _open(place: HubSplit | Path, key: str) -> Iterator[Record]:
    return iter_hub_records(place, key) if isinstance(place, HubSplit) else iter_records(place)


def _describe(place: HubSplit | Path, rows: int) -> Source:
    if isinstance(place, HubSplit):
        return Source("hub", str(place), rows, None)
    if place == SAMPLE_FILE:
        return Source("bundled", place.name, rows, file_sha256(place))
    return Source("file", str(place), rows, file_sha256(place))
