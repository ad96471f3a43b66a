"""What decontamination found: a line per document while it runs, and a report per benchmark item after."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex
from biomedllama_cli.corpus.decontamination.items import BenchmarkSource, hash_item
from biomedllama_cli.corpus.decontamination.matching import Overlap
from biomedllama_cli.corpus.document import Metadata
from biomedllama_cli.errors import DataError

ITEMS_REPORT, UNTESTABLE_REPORT = "contamination.jsonl", "untestable.jsonl"
LOOKED_FOR_REPORT = "benchmark_items.jsonl"
MAX_LISTED = 1000
"""Documents listed with one item; further ones are only counted, so that the report fits in memory."""


class BenchmarkCounts(BaseModel):
    """What became of the items of one benchmark: items = testable + the sum of untestable."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str
    """The file or the hub splits the items came from."""
    sha256: str | None
    """SHA-256 of that file."""
    items: int
    """Items read."""
    testable: int
    """Items that text can be searched for."""
    untestable: dict[str, int]
    """Items that it cannot be searched for, by reason; `untestable.jsonl` lists them."""
    contaminated: int
    """Items found in some document."""
    documents: int
    """Documents that hold an item of this benchmark."""
    kinds: dict[str, int]
    """Overlaps by how they were found."""


class DecontaminationSummary(BaseModel):
    """Which benchmark items the input held."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mode: Literal["report", "drop"]
    """Whether documents that hold items were left out, or only reported."""
    index_sha256: str
    """Identity of everything that was looked for."""
    documents: int
    """Documents that hold an item of any benchmark."""
    benchmarks: dict[str, BenchmarkCounts]
    """Counts of each benchmark."""


def write_overlaps(
    file: BinaryIO,
    document: int | None,
    where: str,
    metadata: Metadata | None,
    *,
    overlaps: Sequence[Overlap],
) -> None:
    """Append the line of one document that holds benchmark items.

    Args:
        file: a task's `contamination.jsonl`, open for writing.
        document: its number within the task, or None when it was dropped before it got one.
        where: file and line it was read from.
        metadata: what the source says of it.
        overlaps: what was found, at least one.
    """
    line = describe_overlaps(document, where, metadata, overlaps)
    file.write(json.dumps(line).encode() + b"\n")


def describe_overlaps(
    document: int | None, where: str, metadata: Metadata | None, overlaps: Sequence[Overlap]
) -> dict[str, Any]:
    """Return the line of one document that holds benchmark items (see `write_overlaps`)."""
    return {
        "document": document,
        "where": where,
        "pmid": metadata.pmid if metadata else None,
        "pmcid": metadata.pmcid if metadata else None,
        "overlaps": [overlap.describe() for overlap in overlaps],
    }


def write_report(
    index: BenchmarkIndex, tasks: Iterable[Path], folder: Path, *, mode: Literal["report", "drop"]
) -> DecontaminationSummary:
    """Write which documents hold each item, and which items could not be tested; return the counts.

    Args:
        index: what was looked for.
        tasks: the tasks' overlap files, in order of the tasks.
        folder: receives `contamination.jsonl`, one line per item found, `untestable.jsonl`, and
            `benchmark_items.jsonl`, one line per item looked for with the hash of its content.
        mode: what was done with the documents.

    Raises:
        DataError: a line of a task's file is not one that `write_overlaps` wrote.
    """
    return write_findings(index, _iter_lines(tasks), folder, mode=mode)


def write_findings(
    index: BenchmarkIndex,
    lines: Iterable[dict[str, Any]],
    folder: Path | None,
    *,
    mode: Literal["report", "drop"],
) -> DecontaminationSummary:
    """Do what `write_report` does with what `describe_overlaps` says of the documents; without a folder only count."""
    tally = _Tally()
    for line in lines:
        tally.add(line)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_items(index, tally, folder)
        _write_untestable(index, folder)
        _write_looked_for(index, folder)
    return DecontaminationSummary(
        mode=mode,
        index_sha256=index.sha256,
        documents=tally.total,
        benchmarks={source.benchmark: _count(index, source, tally) for source in index.sources},
    )


@dataclass
class _Tally:
    """What the tasks' lines add up to; an item is (benchmark, id)."""

    total: int = 0
    listed: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, line: dict[str, Any]) -> None:
        """Count one document."""
        self.total += 1
        by_item: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for overlap in line.pop("overlaps"):
            item = (overlap.pop("benchmark"), overlap.pop("item_id"))
            self.kinds[item[0], overlap["kind"]] += 1
            by_item.setdefault(item, []).append(overlap)
        self.documents.update({benchmark for benchmark, _ in by_item})
        for item, overlaps in by_item.items():
            self.counts[item] += 1
            listed = self.listed.setdefault(item, [])
            if len(listed) < MAX_LISTED:
                listed.append(line | {"overlaps": overlaps})


def _count(index: BenchmarkIndex, source: BenchmarkSource, tally: _Tally) -> BenchmarkCounts:
    name = source.benchmark
    reasons = Counter(
        untestable.reason for untestable in index.untestable if index.items[untestable.item].benchmark == name
    )
    return BenchmarkCounts(
        source=source.location,
        sha256=source.sha256,
        items=source.items,
        testable=source.items - sum(reasons.values()),
        untestable=dict(sorted(reasons.items())),
        contaminated=sum(benchmark == name for benchmark, _ in tally.counts),
        documents=tally.documents[name],
        kinds={kind: count for (of, kind), count in sorted(tally.kinds.items()) if of == name},
    )


def _iter_lines(tasks: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for task, path in enumerate(tasks):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    value = json.loads(line)
                    yield {"task": task, **value, "overlaps": list(value["overlaps"])}
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{path} line {number}: not a list of overlaps ({error})") from error


def _write_items(index: BenchmarkIndex, tally: _Tally, folder: Path) -> None:
    with (folder / ITEMS_REPORT).open("w", encoding="utf-8") as file:
        # An id that stands twice in a benchmark is one line.
        for item in dict.fromkeys((item.benchmark, item.item_id) for item in index.items):
            if item in tally.counts:
                line = {"benchmark": item[0], "item": item[1], "count": tally.counts[item]}
                file.write(json.dumps(line | {"documents": tally.listed[item]}) + "\n")


def _write_untestable(index: BenchmarkIndex, folder: Path) -> None:
    with (folder / UNTESTABLE_REPORT).open("w", encoding="utf-8") as file:
        for untestable in index.untestable:
            item = index.items[untestable.item]
            line = {"benchmark": item.benchmark, "item": item.item_id, "reason": untestable.reason}
            file.write(json.dumps(line) + "\n")


def _write_looked_for(index: BenchmarkIndex, folder: Path) -> None:
    with (folder / LOOKED_FOR_REPORT).open("w", encoding="utf-8") as file:
        for item in index.items:
            line = {"benchmark": item.benchmark, "item": item.item_id, "sha256": hash_item(item)}
            file.write(json.dumps(line) + "\n")
