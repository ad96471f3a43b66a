"""What is found out about records while a source is read: errors together, what is left out, what is odd."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.problems import PROBLEMS_TOLD, tell_first
from biomedllama_cli.tasks.records import Record

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class LeftOutError(Exception):
    """A record can be read and holds nothing to learn from; its argument is the reason in snake_case."""


@dataclass
class Findings:
    """Counts of what was found in a source, by snake_case reason.

    Attributes:
        left_out: records that give no example.
        noted: records that give one and are not quite what they should be.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    _firsts: dict[str, str] = field(default_factory=dict)

    def leave_out(self, where: str, reason: str) -> None:
        """Count a record that gives no example, and stands there."""
        self.left_out[reason] += 1
        self._firsts.setdefault(reason, where)

    def note(self, record: Record, kind: str, detail: str) -> None:
        """Count a record that is kept; a `tasks.records.Note`."""
        self.note_at(record.where, kind, detail)

    def note_at(self, where: str, kind: str, detail: str) -> None:
        """Count what is kept and stands there."""
        self.noted[kind] += 1
        self._firsts.setdefault(kind, f"{where}: {detail}")

    def warn(self, source: str) -> None:
        """Log each reason once, with its count and its first record."""
        for counts, what in ((self.left_out, "left out"), (self.noted, "noted")):
            for reason, count in sorted(counts.items()):
                logger.warning("%s: %d %s (%s), first %s", source, count, what, reason, self._firsts[reason])


def read_each(
    records: Iterable[Record], read: Callable[[Record], Value], findings: Findings
) -> Iterator[Value]:
    """Yield what is read from each record; what cannot be read is told once, when all are through.

    Args:
        records: the records.
        read: raises DataError for a record that is wrong, LeftOutError for one that gives nothing.
        findings: takes down what is left out.

    Raises:
        DataError: records are wrong: the first twenty of them by name, and how many there are.
    """
    errors: list[DataError] = []
    count = 0
    for record in _until_broken(records):
        if isinstance(record, DataError):
            error = record
        else:
            try:
                value = read(record)
            except LeftOutError as left:
                findings.leave_out(record.where, str(left))
                continue
            except DataError as raised:
                error = raised
            else:
                yield value
                continue
        count += 1
        errors = [*errors, error][:PROBLEMS_TOLD]
    if count == 1:
        raise errors[0]
    if errors:
        told = tell_first(errors, count)
        raise DataError("\n".join([f"{count:,} records are wrong:", *told]), errors[0].hint)


def _until_broken(records: Iterable[Record]) -> Iterator[Record | DataError]:
    """Yield records, and the error that ends them where one does: a reader cannot go on behind it."""
    try:
        yield from records
    except DataError as error:
        yield error
