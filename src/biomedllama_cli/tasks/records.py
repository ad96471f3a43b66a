"""Read records from local files strictly: what cannot be read is named by file, line and field."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from biomedllama_cli.errors import DataError

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_KINDS = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}  # of JSON
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet", ".txt")


class MissingFieldError(DataError):
    """A record lacks a field it must have.

    Args:
        message: one sentence.
        hint: what to do about it.
        fields: names of the fields it has.
        options: how many options it has, where `options` holds any.
    """

    def __init__(
        self, message: str, hint: str = "", fields: frozenset[str] = frozenset(), options: int | None = None
    ) -> None:
        super().__init__(message, hint)
        self.fields = fields
        self.options = options


@dataclass(frozen=True)
class Record:
    """One raw record: where it stands (for messages), its key or row number, and its fields."""

    where: str
    key: str
    fields: Mapping[str, Any]

    def text(self, field: str) -> str:
        """Return a field that must be text with something in it.

        Raises:
            DataError: the field is missing, is not text or is blank.
        """
        value = self.field(field)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: field `{field}` is {type(value).__name__}; it must be text")
        if not value.strip():
            raise DataError(f"{self.where}: field `{field}` is blank; it must be text with something in it")
        return check_encodable(value, f"{self.where}: field `{field}`")

    def field(self, field: str) -> Any:
        """Return a field that must be there.

        Raises:
            MissingFieldError: the record has no such field.
        """
        if field not in self.fields:
            raise MissingFieldError(
                f"{self.where}: field `{field}` is missing",
                f"The record has: {_shorten(self.fields)}.",
                frozenset(map(str, self.fields)),
                self._count_options(),
            )
        return self.fields[field]

    def _count_options(self) -> int | None:
        options = self.fields.get("options")
        # Parquet files hold the letters of all records, null where a record has no such option.
        return sum(text is not None for text in options.values()) if isinstance(options, dict) else None

    def groups(self, **fields: str) -> tuple[tuple[str, str], ...]:
        """Return what the record belongs to, by kind: those of some fields that hold text.

        >>> Record("", "0", {"subject_name": "Anatomy", "topic_name": None}).groups(
        ...     subject="subject_name", topic="topic_name"
        ... )
        (('subject', 'Anatomy'),)
        """
        values = ((kind, self.fields.get(field)) for kind, field in fields.items())
        return tuple(
            (kind, check_encodable(value.strip(), f"{self.where}: field `{fields[kind]}`"))
            for kind, value in values
            if isinstance(value, str) and value.strip()
        )


Note = Callable[[Record, str, str], None]
"""Takes down a record that can be read and is not what it should be: the record, the kind of defect, a sentence."""


def warn_of_defect(record: Record, kind: str, detail: str) -> None:
    """Log a defect, for readers whose caller collects none."""
    logger.warning("%s: %s (%s)", record.where, detail, kind)


def _shorten(names: Iterable[Any]) -> str:
    """Return some names for a message: all of them, or the first dozen."""
    listed = list(map(str, names))
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")


def check_encodable(value: str, where: str) -> str:
    """Return a text that UTF-8 can say.

    Raises:
        DataError: it holds a lone surrogate, which JSON can escape and no text can hold.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} holds a lone surrogate, which is no character") from None
    return value


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Records:
    """Raise a record that cannot be read where it stands; who asks for the next one after that gets it."""

    def __init__(self, found: Iterator[Record | DataError]) -> None:
        self._found = found

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        record = next(self._found)
        if isinstance(record, DataError):
            raise record
        return record


def iter_records(path: Path) -> Iterator[Record]:
    """Yield the records of a .jsonl, .json, .parquet (or gzip or zstd compressed) or .txt file in order.

    A JSON object of objects (`ori_pqal.json`) gives one record per key; a JSON file that holds one object
    per line (the original MedMCQA release) is read as lines; a .txt file is one record with a `text`.

    After the error of a line or an entry, which says nothing of the next ones, the iterator goes on with these for
    who asks; after one of the file as a whole it is at its end.

    Raises:
        DataError: the file is missing, of another kind, or a record of it cannot be read.
    """
    return _Records(_iter_readable(path))


def _iter_readable(path: Path) -> Iterator[Record | DataError]:
    if path.is_dir():
        held = sorted(entry.name for entry in path.iterdir() if entry.name.lower().endswith(SUFFIXES))
        hint = f"It holds {_shorten(held)}." if held else "It holds no file that is read."
        raise DataError(f"{path} is a folder; give one file", hint)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file", "Give the path of an existing file.")
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _iter_parquet(path)
    elif name.endswith(".txt"):
        yield Record(str(path), "0", {"text": _decode(path.read_bytes(), str(path))})
    elif name.removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".json")):
        yield from _iter_json(path)
    else:
        raise DataError(f"{path}: files of this kind are not read", f"Readable: {', '.join(SUFFIXES)}.")


def _iter_json(path: Path) -> Iterator[Record | DataError]:
    if ".json" in map(str.lower, path.suffixes):
        whole = _decode(b"".join(_iter_bytes(path)), str(path))
        if not whole.strip():
            return
        try:
            content = json.loads(whole)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # one object per line under the name .json
                raise DataError(f"{path} line {error.lineno}: not valid JSON ({error.msg})") from error
        else:
            yield from _iter_whole(path, content)
            return
    row = 0
    for number, line in enumerate(_iter_lines(path), start=1):
        record = _read_line(line, f"{path} line {number}", str(row))
        if record is not None:
            yield record
            row += 1


def _read_line(line: bytes, where: str, key: str) -> Record | DataError | None:
    """Return the record of a line, or what is wrong with it; None for a blank line."""
    try:
        text = _decode(line, where)
        if not text.strip():
            return None
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")  # "Unterminated string starting at"
        return DataError(f"{where}: not valid JSON ({reason} at column {error.colno})")
    except DataError as error:
        return error
    return _checked_record(where, key, fields)


def _iter_whole(path: Path, content: Any) -> Iterator[Record | DataError]:
    if isinstance(content, list):
        for row, fields in enumerate(content):
            yield _checked_record(f"{path} entry {row}", str(row), fields)
    elif isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        for key, fields in content.items():
            yield Record(f"{path} entry {key}", key, fields)
    else:  # a single record, or an object around all of them
        yield _checked_record(str(path), "0", content)


def _checked_record(where: str, key: str, fields: Any) -> Record | DataError:
    if not isinstance(fields, dict):
        kind = _KINDS.get(type(fields), "null")
        return DataError(f"{where}: a record is {kind}; it must be an object with fields")
    return Record(where, key, fields)


def _iter_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        row = 0
        for batch in pq.ParquetFile(path).iter_batches():
            for fields in batch.to_pylist():
                yield Record(f"{path} row {row}", str(row), fields)
                row += 1
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not UTF-8") from error


def _iter_lines(path: Path) -> Iterator[bytes]:
    rest = b""
    for chunk in _iter_bytes(path):
        # Split at \n only: str.splitlines would also break at characters that JSON strings may hold.
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _iter_bytes(path: Path) -> Iterator[bytes]:
    if path.suffix.lower() == ".zst":
        yield from _iter_zstandard(path)
        return
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is broken or cut short ({error})") from error


def _iter_zstandard(path: Path) -> Iterator[bytes]:
    # The stream reader of the library takes a truncated frame for the end of the file; this loop does not.
    frame = None
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                while data:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    yield frame.decompress(data)
                    data = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path}: the zstd stream is broken ({error})") from error
    if frame is not None:
        raise DataError(f"{path}: the zstd stream is cut short")
