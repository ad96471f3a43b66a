"""The benchmark items that training text is searched for, from the hub or from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from biomedllama_cli.corpus.decontamination.words import split_words
from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask
from biomedllama_cli.tasks.hub import HubSplit, iter_hub_records
from biomedllama_cli.tasks.medmcqa import iter_medmcqa
from biomedllama_cli.tasks.medqa import OptionCountError, iter_medqa
from biomedllama_cli.tasks.mmlu import TEST_SPLITS, iter_mmlu
from biomedllama_cli.tasks.pubmedqa import iter_pubmedqa
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record, file_sha256, iter_records


@dataclass(frozen=True)
class BenchmarkItem:
    """One item whose presence in training text would spoil a score.

    Attributes:
        benchmark: name of its benchmark.
        item_id: its id there (PubMedQA: the PMID).
        pmid: PMID of the article it was made from, or None.
        question: the question.
        options: the answers to choose from.
        answer: the right one.
        passages: text that belongs to the item: PubMedQA's contexts and its long answer.
    """

    benchmark: str
    item_id: str
    pmid: int | None
    question: str
    options: tuple[str, ...]
    answer: str
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as named in `--benchmark`: its name, and its file or None for the hub."""

    name: str
    file: Path | None = None


@dataclass(frozen=True)
class BenchmarkSource:
    """Where the items of a benchmark came from: location, number of items, and SHA-256 of a file."""

    benchmark: str
    location: str
    items: int
    sha256: str | None


_READERS: dict[str, Callable[[Iterable[Record]], Iterator[Question]]] = {
    "pubmedqa": iter_pubmedqa,
    "medqa": partial(iter_medqa, option_count=4),
    "medqa-5": partial(iter_medqa, option_count=5),
    "medmcqa": iter_medmcqa,
    "mmlu-medical": iter_mmlu,
}
BENCHMARKS = tuple(_READERS)


def parse_benchmarks(values: tuple[str, ...]) -> list[Benchmark]:
    """Return what `--benchmark NAME` and `NAME=FILE` ask for, in order.

    Raises:
        SettingsError: a name is unknown or comes twice, or no file follows `=`.
    """
    benchmarks: list[Benchmark] = []
    for value in values:
        name, equals, file = value.partition("=")
        if name not in BENCHMARKS:
            raise SettingsError(
                f"--benchmark {value}: there is no benchmark {name!r}",
                suggest(name, BENCHMARKS) or f"Known: {', '.join(BENCHMARKS)}.",
            )
        if equals and not file:
            raise SettingsError(f"--benchmark {value}: no file follows the equals sign")
        if any(name == benchmark.name for benchmark in benchmarks):
            raise SettingsError(f"--benchmark names {name} twice; each benchmark is read once")
        benchmarks.append(Benchmark(name, Path(file) if equals else None))
    return benchmarks


def load_items(benchmarks: Iterable[Benchmark]) -> tuple[list[BenchmarkItem], list[BenchmarkSource]]:
    """Read the items of all benchmarks, from the hub the split that `evaluate` scores.

    Raises:
        DataError: a file is missing, broken or holds no item.
        UnavailableError: the hub is needed and cannot be reached.
    """
    items: list[BenchmarkItem] = []
    sources: list[BenchmarkSource] = []
    for benchmark in benchmarks:
        read = [build_item(benchmark.name, question) for question in _iter_questions(benchmark)]
        if not read:
            raise DataError(f"--benchmark {benchmark.name}: {benchmark.file} holds no item")
        items += read
        file = benchmark.file
        location = str(file) if file else "; ".join(str(split) for split in list_splits(benchmark.name))
        sources.append(
            BenchmarkSource(benchmark.name, location, len(read), file_sha256(file) if file else None)
        )
    return items, sources


def list_splits(name: str) -> tuple[HubSplit, ...]:
    """Return the hub splits whose items count: those that are scored."""
    if name == "mmlu-medical":
        return TEST_SPLITS
    task = TASKS[name]
    assert isinstance(task, QuestionTask)
    assert isinstance(task.test, HubSplit)
    return (task.test,)


def _iter_questions(benchmark: Benchmark) -> Iterator[Question]:
    read = _READERS[benchmark.name]
    if benchmark.file is not None:
        if not benchmark.file.is_file():
            problem = "it is a folder, not a file" if benchmark.file.is_dir() else "there is no such file"
            raise DataError(f"--benchmark {benchmark.name}={benchmark.file}: {problem}")
        try:
            yield from read(iter_records(benchmark.file))
        except OptionCountError as error:
            hint = f"Give --benchmark {error.other}={benchmark.file} for this file." if error.other else ""
            raise DataError(error.message, hint) from None
        return
    for split in list_splits(benchmark.name):
        try:
            yield from read(iter_hub_records(split, benchmark.name))
        except UnavailableError as error:
            raise UnavailableError(
                error.message, f"Give a local file in the original schema: --benchmark {benchmark.name}=FILE."
            ) from error


def hash_item(item: BenchmarkItem) -> str:
    """Return the SHA-256 of an item's content: the words of question and right answer, and the PMID.

    Spelling, the id, the benchmark's name and the wrong options make no difference: MedQA's items with four and with
    five options are the same.
    """
    words = [b" ".join(split_words(text)).decode() for text in (item.question, item.answer)]
    return hashlib.sha256(json.dumps([item.pmid, *words]).encode()).hexdigest()


def build_item(benchmark: str, question: Question) -> BenchmarkItem:
    """Return what of a question is looked for.

    Args:
        benchmark: name of its benchmark; PubMedQA's ids are PMIDs.
        question: the question.
    """
    pmid = int(question.id) if benchmark == "pubmedqa" and question.id.isdecimal() else None
    passages = (question.context.split("\n") if question.context else []) + [question.long_answer or ""]
    return BenchmarkItem(
        benchmark=benchmark,
        item_id=question.id,
        pmid=pmid,
        question=question.question,
        options=question.options,
        answer=question.answer,
        passages=tuple(passage for passage in passages if passage.strip()),
    )
