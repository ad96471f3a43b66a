"""What a corpus consists of, counted while it is put together; memory grows with kinds, not with documents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "source": ("source",),
        "subset": ("source", "subset"),
        "licence": ("source", "licence"),
        "year": ("year",),
        "language": ("language",),
    }
)
"""Name of a breakdown -> the columns of the document table it groups by."""
MOST_ROWS = 10_000
"""Rows of one breakdown; what a broken source names beyond that is counted together."""
BEYOND = "(more)"

_LENGTH = "length"
_MEASURES = ("documents", "tokens", "bytes")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Row(_Record):
    """Documents of one kind."""

    kind: tuple[str | int | None, ...]
    """What they have in common, one value for each column of the breakdown; null where nothing is stated."""
    documents: int
    """How many."""
    tokens: int
    """Their tokens, BOS and EOS included."""
    bytes: int
    """Their text in bytes of UTF-8."""


class Counts(_Record):
    """What the kept documents are, training and validation together."""

    breakdowns: dict[str, tuple[Row, ...]]
    """Name of a breakdown (`GROUPS`) -> its rows, in order."""
    lengths: tuple[Row, ...]
    """By source and length: kind is (source, k) for documents of 2^k to 2^(k+1) - 1 tokens."""


class CardCounter:
    """Count kept documents, table by table."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[tuple[str | int | None, ...], list[int]]] = {
            name: {} for name in (*GROUPS, _LENGTH)
        }

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table with the columns of `GROUPS`, `tokens` and `bytes`; a missing one is null."""
        if not table.num_rows:
            return
        for column in sorted({column for columns in GROUPS.values() for column in columns}):
            if column not in table.column_names:
                table = table.append_column(column, pa.nulls(table.num_rows, pa.string()))
        exponents = np.frexp(np.maximum(table.column("tokens").to_numpy(), 1))[1] - 1
        table = table.append_column(_LENGTH, pa.array(exponents, pa.int64()))
        for name, columns in (*GROUPS.items(), (_LENGTH, ("source", _LENGTH))):
            self._add_groups(name, columns, table)

    def _add_groups(self, name: str, columns: tuple[str, ...], table: pa.Table) -> None:
        grouped = table.group_by(list(columns), use_threads=False).aggregate(
            [("tokens", "count"), ("tokens", "sum"), ("bytes", "sum")]
        )
        kinds = zip(*(grouped.column(column).to_pylist() for column in columns), strict=True)
        sums = zip(
            *(grouped.column(key).to_pylist() for key in ("tokens_count", "tokens_sum", "bytes_sum")),
            strict=True,
        )
        known = self._sums[name]
        for kind, numbers in zip(kinds, sums, strict=True):
            if kind not in known and len(known) >= MOST_ROWS:
                kind = tuple(BEYOND for _ in columns)
            held = known.setdefault(kind, [0] * len(_MEASURES))
            for index, number in enumerate(numbers):
                held[index] += number

    def finish(self) -> Counts:
        """Return what was counted: most tokens first, years and lengths in their own order."""
        return Counts(
            breakdowns={name: _sort_rows(self._sums[name], by_kind=name == "year") for name in GROUPS},
            lengths=_sort_rows(self._sums[_LENGTH], by_kind=True),
        )


def _sort_rows(sums: Mapping[tuple[str | int | None, ...], list[int]], *, by_kind: bool) -> tuple[Row, ...]:
    def kind_key(row: Row) -> list[tuple[int, int, str]]:
        return [
            (2, 0, "") if value is None else (0, value, "") if isinstance(value, int) else (1, 0, value)
            for value in row.kind
        ]

    rows = sorted(
        (Row(kind=kind, **dict(zip(_MEASURES, numbers, strict=True))) for kind, numbers in sums.items()),
        key=kind_key,
    )
    return tuple(rows if by_kind else sorted(rows, key=lambda row: -row.tokens))
