"""The document table: which documents a corpus holds, under which licence, and where each lies in the shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from biomedllama_cli.corpus.document import Metadata, Record

DOCUMENT_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("subset", pa.string()),
        ("pmid", pa.int64()),
        ("pmcid", pa.string()),
        ("version", pa.int32()),
        ("doi", pa.string()),
        ("title", pa.string()),
        ("licence", pa.string()),
        ("year", pa.int16()),
        ("language", pa.string()),
        ("publication_types", pa.list_(pa.string())),
        ("mesh", pa.list_(pa.string())),
        ("flags", pa.list_(pa.string())),
        ("where", pa.string()),
        ("content_hash", pa.string()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
PLACE_COLUMNS = pa.schema(
    [("split", pa.string()), ("shard", pa.string()), ("document", pa.int64()), ("first_token", pa.int64())]
)
"""Where a document lies: its shard's name without ending, its number in the shard, its first token there."""
_ROWS_PER_GROUP = 1 << 13
_NOTHING = Metadata()


class _ParquetWriter(pq.ParquetWriter):  # type: ignore[misc]
    """pyarrow's writer; one that an error left open does not shout a second time when it is forgotten."""

    def __del__(self) -> None:
        with suppress(OSError):  # the disk is still full
            super().__del__()


class TableWriter:
    """Write the documents of one task.

    Args:
        path: the Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self._writer = _ParquetWriter(path, DOCUMENT_COLUMNS, compression="zstd", write_statistics=False)
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, records: Sequence[Record], sources: Sequence[str], rows: npt.NDArray[Any]) -> None:
        """Add neighbouring documents.

        Args:
            records: the documents.
            sources: the name of each one's source.
            rows: their rows of `split.DOCUMENT`.
        """
        if not records:
            return
        hashes = [f"{split:016x}{content:016x}" for content, split in zip(
            rows["content"].tolist(), rows["split"].tolist(), strict=True)]  # fmt: skip
        known = [record.metadata or _NOTHING for record in records]
        columns = [
            [_name(*facts) for facts in zip(sources, known, hashes, strict=True)],
            list(sources),
            [record.subset for record in records],
            [m.pmid for m in known],
            [None if m.pmcid is None else f"PMC{m.pmcid}" for m in known],
            [m.version for m in known],
            [m.doi for m in known],
            [m.title or None for m in known],
            [m.licence for m in known],
            [m.year for m in known],
            [m.language for m in known],
            [m.publication_types for m in known],
            [m.mesh for m in known],
            [sorted(m.flags) for m in known],
            [record.where for record in records],
            hashes,
            rows["tokens"],
            rows["bytes"],
        ]
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, DOCUMENT_COLUMNS, strict=True)
        ]
        self._held.append(pa.RecordBatch.from_arrays(arrays, schema=DOCUMENT_COLUMNS))
        self._rows += len(records)
        if self._rows >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held, DOCUMENT_COLUMNS))
        self._held, self._rows = [], 0

    def close(self) -> None:
        """Write what is held and finish the file."""
        self._flush()
        self._writer.close()


def _name(source: str, metadata: Metadata, content_hash: str) -> str:
    if metadata.pmcid is not None and source != "pubmed":
        return f"pmcid:PMC{metadata.pmcid}.{metadata.version}"
    if metadata.pmid is not None:
        return f"pmid:{metadata.pmid}.{metadata.version}"
    return f"blake2b:{content_hash}"


def iter_tables(path: Path) -> Iterator[pa.Table]:
    """Yield the rows of a task's table, some thousand at a time, in order."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


class PlacedTableWriter:
    """Write the table of a finished corpus.

    Args:
        path: the Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self._schema = pa.schema([*DOCUMENT_COLUMNS, *PLACE_COLUMNS])
        self._writer = _ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[pa.Table] = []
        self._rows = 0

    def add(
        self,
        table: pa.Table,
        kept: npt.NDArray[np.bool_],
        places: Sequence[npt.NDArray[Any] | Sequence[str]],
    ) -> pa.Table:
        """Add the kept rows of a task's table with their places, and return them.

        Args:
            table: rows of a task's table.
            kept: which of them are in the corpus; shape [rows].
            places: the columns of `PLACE_COLUMNS` for the kept rows, in order.
        """
        chosen = table.filter(pa.array(kept))
        for field, values in zip(PLACE_COLUMNS, places, strict=True):
            chosen = chosen.append_column(field, pa.array(values, field.type))
        self._held.append(chosen)
        self._rows += chosen.num_rows
        if self._rows >= _ROWS_PER_GROUP:
            self._flush(whole_groups=True)
        return chosen

    def _flush(self, *, whole_groups: bool) -> None:
        """Write groups of always the same size: where tasks begin and end must not show in the file."""
        held = pa.concat_tables(self._held) if self._held else self._schema.empty_table()
        rows = held.num_rows // _ROWS_PER_GROUP * _ROWS_PER_GROUP if whole_groups else held.num_rows
        if rows:
            self._writer.write_table(held.slice(0, rows).combine_chunks(), row_group_size=_ROWS_PER_GROUP)
        self._held, self._rows = [held.slice(rows)], held.num_rows - rows

    def close(self) -> None:
        """Finish the file."""
        self._flush(whole_groups=False)
        self._writer.close()
