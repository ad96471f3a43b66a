"""Records in the format of The Pile, from JSON lines or Parquet, read strictly.

A record is `{"text": "...", "meta": {"pile_set_name": "..."}}`; `meta` may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.sources.files import InputFile, find_inputs
from biomedllama_cli.corpus.sources.streams import MAX_LINE_BYTES, BrokenStreamError, iter_blocks, iter_lines
from biomedllama_cli.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_ROWS_AT_ONCE = 16
_SMALL_COLUMN = 8 << 20  # bytes of one row group


@dataclass(frozen=True)
class PileReader:
    """Records of JSON lines or Parquet files.

    Attributes:
        text_field: field of a record that holds its text.
    """

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    text_field: str = "text"

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the files to read, in order."""
        return find_inputs(patterns, self.suffixes)

    def iter_documents(
        self, file: InputFile, report_position: Callable[[int], None]
    ) -> Iterator[Record | Dropped]:
        """Yield every record of a file."""
        return iter_records(file, self.text_field, report_position)

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read."""
        return {"text_field": self.text_field}


def iter_records(
    file: InputFile, text_field: str, report_position: Callable[[int], None] = lambda position: None
) -> Iterator[Record | Dropped]:
    """Yield every record of a file; one that cannot be read comes as `Dropped` with its problem.

    Args:
        file: what to read.
        text_field: name of the field that holds the text.
        report_position: told the bytes of the file consumed so far.

    Raises:
        DataError: the file cannot be opened.
    """
    try:
        if file.path.suffix == ".parquet":
            yield from _iter_parquet(file, text_field, report_position)
        else:
            yield from _iter_json_lines(file, text_field, report_position)
    except OSError as error:
        raise DataError(f"Input {file.label} cannot be read: {error.strerror or error}.") from None


def _iter_json_lines(
    file: InputFile, text_field: str, report_position: Callable[[int], None]
) -> Iterator[Record | Dropped]:
    number = 0
    try:
        for number, line in iter_lines(iter_blocks(file.path, report_position)):
            where = f"{file.label}, line {number}"
            if line is None:
                yield Dropped("line_too_long", where, f"the line is longer than {MAX_LINE_BYTES} bytes")
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            if line and not line.isspace():
                yield parse_line(line, text_field, where)
    except BrokenStreamError as error:
        where = f"{file.label}, line {number + 1}"
        yield Dropped(error.reason, where, f"{error.problem}; the rest of the file is lost")


def parse_line(line: bytes, text_field: str, where: str) -> Record | Dropped:
    r"""Return the record of one JSON line, or what is wrong with it.

    >>> parse_line(b'{"text": "a", "meta": {"pile_set_name": "PubMed Central"}}', "text", "f, line 1")
    Record(text='a', subset='PubMed Central', where='f, line 1', metadata=None)
    >>> parse_line(b'{"text": "\xff"}', "text", "f, line 2").reason
    'not_utf8'
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as broken:
            return Dropped("not_utf8", where, f"byte {broken.start + 1} of the line is not UTF-8")
        if "surrogate" in error.msg:
            return Dropped("lone_surrogate", where, "the text holds half a surrogate pair")
        return Dropped("broken_json", where, f"the line is not JSON ({error.msg}, column {error.colno})")
    return build_record(value, text_field, where)


def build_record(value: Any, text_field: str, where: str) -> Record | Dropped:
    """Return the record of a decoded value, or what is wrong with it."""
    if not isinstance(value, Mapping):
        return Dropped("not_an_object", where, f"the record is a {type(value).__name__}, not an object")
    if text_field not in value:
        return Dropped("missing_text", where, f"the record has no field {text_field!r}")
    text = value[text_field]
    if not isinstance(text, str):
        return Dropped(
            "text_not_a_string", where, f"its {text_field!r} is {type(text).__name__}, not a string"
        )
    if not text.isascii() and not _is_encodable(text):
        return Dropped("lone_surrogate", where, "the text holds half a surrogate pair")
    meta = value.get("meta")
    if isinstance(meta, str):  # Parquet copies of The Pile keep it as JSON text
        try:
            meta = orjson.loads(meta)
        except orjson.JSONDecodeError:
            meta = None
    subset = meta.get("pile_set_name") if isinstance(meta, Mapping) else None
    return Record(text, subset if isinstance(subset, str) else None, where)


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _iter_parquet(
    file: InputFile, text_field: str, report_position: Callable[[int], None]
) -> Iterator[Record | Dropped]:
    """Read only the columns that matter, a bounded part of a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        metadata = pq.read_metadata(file.path)
        known = metadata.schema.to_arrow_schema().names
        names = [name for name in (text_field, "meta") if name in known]
        # Few bytes for many rows are giants repeated: they stay one. Of other text Arrow would gather every value.
        dictionary = [text_field] if _is_small_column(metadata, text_field) else []
        # Without these two a whole row group is in memory, and many files are one row group.
        lean: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
        with pq.ParquetFile(file.path, read_dictionary=dictionary, **lean) as table:
            total = max(table.metadata.num_rows, 1)
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names):
                columns = {name: batch.column(name) for name in batch.schema.names}
                for index in range(batch.num_rows):
                    row += 1
                    where = f"{file.label}, row {row}"
                    try:
                        value = {name: column[index].as_py() for name, column in columns.items()}
                    except UnicodeDecodeError:
                        yield Dropped("not_utf8", where, "the row is not UTF-8")
                        continue
                    yield build_record(value, text_field, where)
                report_position(file.size * row // total)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        yield Dropped(
            "broken_stream",
            f"{file.label}, row {row + 1}",
            f"the Parquet file is damaged ({reason}); the rest of the file is lost",
        )


def _is_small_column(metadata: Any, name: str) -> bool:
    """Tell whether no row group of a Parquet file has much data in a column of plain values."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    sizes = [column.total_uncompressed_size for column in columns if column.path_in_schema == name]
    return 0 < max(sizes, default=0) <= _SMALL_COLUMN
