"""What training examples are searched for: the test questions that will be scored, and the published benchmarks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from biomedllama_cli.corpus.decontamination.items import (
    Benchmark,
    BenchmarkItem,
    BenchmarkSource,
    build_item,
    load_items,
    parse_benchmarks,
)
from biomedllama_cli.errors import UnavailableError
from biomedllama_cli.tasks.catalogue import TASKS, LoadedQuestions, QuestionTask

logger = logging.getLogger(__name__)

ALWAYS_LOOKED_FOR = ("medqa", "medmcqa", "pubmedqa")
"""Benchmarks that are looked for as far as they can be had, whatever is tuned on."""
_SAME_QUESTIONS = {"medqa": "medqa-5"}


@dataclass(frozen=True)
class LookedFor:
    """Benchmark items, and what could not be had of them.

    Attributes:
        items: the items.
        sources: where they came from, one per benchmark.
        missing: benchmarks of `ALWAYS_LOOKED_FOR` that were not to be had.
    """

    items: tuple[BenchmarkItem, ...] = ()
    sources: tuple[BenchmarkSource, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Benchmarks given in part, each as `NAME (COUNT of COUNT)`."""
        return tuple(
            f"{source.benchmark} ({source.items:,} of {_count_published(source.benchmark):,})"
            for source in self._partial
        )

    @property
    def _partial(self) -> tuple[BenchmarkSource, ...]:
        return tuple(source for source in self.sources if source.items < _count_published(source.benchmark))

    @property
    def warning(self) -> str:
        """What is not looked for and how to have it looked for, in plain sentences; empty when all is.

        >>> part = BenchmarkSource("medqa-5", "part.jsonl", 320, None)
        >>> told = LookedFor(sources=(part,), missing=("medqa", "medmcqa")).warning
        >>> for sentence in told.partition(" (--")[0].replace("; ", ". ").split(". "):
        ...     print(sentence)
        training examples are searched for the 320 questions of medqa-5 given
        953 of its published 1,273 are not among them
        Not searched for: medqa and medmcqa, which are neither on this disk nor to be had from the hub
        """
        sentences = [
            f"training examples are searched for the {source.items:,} questions of {source.benchmark} given; "
            f"{published - source.items:,} of its published {published:,} are not among them"
            for source, published in ((each, _count_published(each.benchmark)) for each in self._partial)
        ]
        if self.missing:
            start = "Not searched for:" if sentences else "training examples are not searched for"
            are = "is" if len(self.missing) == 1 else "are"
            sentences.append(
                f"{start} {_join(self.missing)}, which {are} neither on this disk nor to be had from the hub"
            )
        if not sentences:
            return ""
        return f"{'. '.join(sentences)} (--benchmark NAME=FILE gives a test file, --decontaminate off does not look)"


def gather_benchmarks(named: Sequence[str], tests: Sequence[LoadedQuestions] = ()) -> LookedFor:
    """Return what training examples are searched for, and warn in one line of what is not to be had.

    That are the test questions given; what is named; and the three benchmarks of `ALWAYS_LOOKED_FOR`, from the hub or
    its cache, as far as neither of those holds them.

    Args:
        named: NAME=FILE or NAME, as in `--benchmark`; these must be there.
        tests: what will be scored, as `load_questions` returns it.

    Raises:
        SettingsError: a benchmark's name is unknown or comes twice, or no file follows `=`.
        DataError: a file is missing, broken or holds no item.
        UnavailableError: a benchmark named without a file cannot be had from the hub.
    """
    items: list[BenchmarkItem] = []
    sources: list[BenchmarkSource] = []
    for test in tests:
        _add_test(test, items, sources)
    for benchmark in parse_benchmarks(tuple(named)):
        _add(*load_items([benchmark]), items=items, sources=sources)
    missing = []
    for name in ALWAYS_LOOKED_FOR:
        if _is_covered(name, sources):
            continue
        try:
            _add(*load_items([Benchmark(name)]), items=items, sources=sources)
        except UnavailableError as error:
            logger.debug("%s: %s", name, error)
            missing.append(name)
    looked_for = LookedFor(tuple(items), tuple(sources), tuple(missing))
    if looked_for.warning:
        logger.warning("%s", looked_for.warning)
    return looked_for


def _add_test(test: LoadedQuestions, items: list[BenchmarkItem], sources: list[BenchmarkSource]) -> None:
    # Asked with or without its abstract, an item of PubMedQA is the same item, and its id a PMID.
    name = "pubmedqa" if test.task.name.startswith("pubmedqa") else test.task.name
    source = BenchmarkSource(name, test.source.location, len(test.items), test.source.sha256)
    _add([build_item(name, question) for question in test.items], [source], items=items, sources=sources)


def _add(
    found: Sequence[BenchmarkItem],
    origins: Sequence[BenchmarkSource],
    *,
    items: list[BenchmarkItem],
    sources: list[BenchmarkSource],
) -> None:
    """Add the items of one benchmark; a second set of the same benchmark gets a name of its own."""
    (origin,) = origins
    if any(_is_same(origin, source) for source in sources):
        return
    name, count = origin.benchmark, 1
    while any(source.benchmark == name for source in sources):
        count += 1
        name = f"{origin.benchmark}-{count}"
    items += [replace(item, benchmark=name) for item in found]
    sources.append(replace(origin, benchmark=name))


def _is_same(one: BenchmarkSource, other: BenchmarkSource) -> bool:
    if one.benchmark != other.benchmark:
        return False
    return one.location == other.location or (one.sha256 is not None and one.sha256 == other.sha256)


def _is_covered(name: str, sources: Sequence[BenchmarkSource]) -> bool:
    if any(source.benchmark == name for source in sources):
        return True
    same = _SAME_QUESTIONS.get(name)
    return any(source.benchmark == same and source.items >= _count_published(name) for source in sources)


def _count_published(name: str) -> int:
    task = TASKS.get(name)
    return (task.published_items or 0) if isinstance(task, QuestionTask) else 0


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
