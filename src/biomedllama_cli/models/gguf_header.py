"""The header of a GGUF file, read with every count and length held against the file's size.

    magic, version, tensors, entries          fixed size
    entries: key, type, value                 metadata, tokens of the vocabulary among them
    tensors: name, dims, type, offset         where each one lies
    padding, then the tensors

All numbers are little-endian. Nothing is allocated by what the file says alone, and time grows with the header's
length, which is limited.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_HEADER = 1 << 27
"""Longest header that is read (in bytes); one with 256,000 tokens and their merges takes 16 MB."""
MOST_ENTRIES = 1 << 16
"""Most entries of metadata, and most tensors; a model of 400 billion parameters has 1,200."""
LONGEST_NAME = 1 << 16
LONGEST_ARRAY = 1 << 21
"""Most elements of an array of metadata; the largest vocabularies have 262,144 tokens and twice as many merges."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class MalformedHeader(Exception):
    """The header contradicts itself or the file; the text is the end of a sentence."""


class Content(Protocol):
    """Bytes that can be sliced: a map of a file, or bytes."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Return the bytes of a slice."""
        ...


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies, and how it is stored.

    `shape` is in the order of torch; `start` and `length` are in bytes from the beginning of the file.
    """

    shape: tuple[int, ...]
    type_name: str
    start: int
    length: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of its model.

    Attributes:
        architecture: name of the kind of model.
        metadata: by key, arrays as lists.
        tensors: by name.
    """

    architecture: str
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def stored_as(self) -> str:
        """Return the type that most bytes of the weights are stored in, such as Q4_K."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + tensor.length
        return max(sizes, key=lambda name: (sizes[name], name))

    def find(self, key: str, default: Any = None) -> Any:
        """Return an entry of metadata that belongs to the architecture, such as block_count."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def parse_header(content: Content, size: int) -> GgufHeader:
    """Read the header of a GGUF file.

    Args:
        content: of the whole file.
        size: of the file (in bytes).

    Raises:
        MalformedHeader: it is no GGUF file, or a broken one.
    """
    cursor = _Cursor(content, min(size, LONGEST_HEADER))
    if cursor.take(len(MAGIC)) != MAGIC:
        raise MalformedHeader("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in VERSIONS:
        big_endian = version.to_bytes(4, "little") in (number.to_bytes(4, "big") for number in VERSIONS)
        why = (
            "its numbers are big-endian" if big_endian else f"its version is {version}, and 2 or 3 is needed"
        )
        raise MalformedHeader(why)
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    for count, what in ((tensors, "tensors"), (entries, "entries of metadata")):
        if count > MOST_ENTRIES:
            raise MalformedHeader(f"it claims {count:,} {what}, and at most {MOST_ENTRIES:,} are read")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text(LONGEST_NAME)
        if key in metadata:
            raise MalformedHeader(f"it has two entries {key[:40]!r}")
        metadata[key] = cursor.value(cursor.number("I"))
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise MalformedHeader("it does not say its architecture")
    return GgufHeader(architecture, metadata, dict(_read_tensors(cursor, tensors, metadata, size)))


def _read_tensors(
    cursor: _Cursor, count: int, metadata: dict[str, Any], size: int
) -> Iterator[tuple[str, GgufTensor]]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise MalformedHeader(f"its alignment is {str(alignment)[:20]}, and a power of two is needed")
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.text(LONGEST_NAME)
        if name in entries:
            raise MalformedHeader(f"it has two tensors {name[:40]!r}")
        dimensions = cursor.number("I")
        if not 0 < dimensions <= 4:
            raise MalformedHeader(
                f"its tensor {name[:40]!r} has {dimensions:,} dimensions, and 1 to 4 are known"
            )
        shape = tuple(reversed(cursor.numbers("Q", dimensions)))
        entries[name] = shape, cursor.number("I"), cursor.number("Q")
    end = begin = -(-cursor.place // alignment) * alignment
    for name, (shape, kind, offset) in sorted(entries.items(), key=lambda entry: entry[1][2]):
        type_name, length = _measure(name, shape, kind)
        if offset % alignment or begin + offset + length > size:
            raise MalformedHeader(
                f"its tensor {name[:40]!r} lies beyond the file's end, or not where tensors begin: is it cut off"
            )
        # Without this a small file holds any number of large tensors.
        if begin + offset < end:
            raise MalformedHeader(f"its tensor {name[:40]!r} overlaps another one")
        end = begin + offset + length
        yield name, GgufTensor(shape, type_name, begin + offset, length)


def _measure(name: str, shape: tuple[int, ...], kind: int) -> tuple[str, int]:
    """Return how a tensor is stored, and the bytes it takes."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        quantization = GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[quantization]
    except (ValueError, KeyError):
        raise MalformedHeader(f"its tensor {name[:40]!r} has the unknown type {kind}") from None
    elements = math.prod(shape)
    if elements == 0 or shape[-1] % block:
        raise MalformedHeader(
            f"its tensor {name[:40]!r} of shape {shape} is not whole in {quantization.name}"
        )
    return quantization.name, elements // block * block_bytes


class _Cursor:
    """Reads forwards in a header, and never beyond its end."""

    def __init__(self, content: Content, end: int) -> None:
        self.content, self.end, self.place = content, end, 0

    def take(self, length: int) -> bytes:
        if length > self.end - self.place:
            raise MalformedHeader("it ends inside its header")
        start, self.place = self.place, self.place + length
        return self.content[start : self.place]

    def numbers(self, form: str, count: int) -> tuple[Any, ...]:
        width = struct.calcsize("<" + form)
        return struct.unpack(f"<{count}{form}", self.take(width * count))

    def number(self, form: str) -> Any:
        return self.numbers(form, 1)[0]

    def text(self, longest: int = LONGEST_HEADER) -> str:
        length = self.number("Q")
        if length > longest:
            raise MalformedHeader(f"it has a text of {length:,} bytes")
        # Some vocabularies hold bytes that are no UTF-8 on their own.
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise MalformedHeader(f"it has an entry of the unknown type {kind}")
        kind, count = self.number("I"), self.number("Q")
        if count > LONGEST_ARRAY:
            raise MalformedHeader(f"it claims an array of {count:,} elements")
        if kind in _SCALARS:
            return list(self.numbers(_SCALARS[kind], count))
        if kind != _STRING:
            raise MalformedHeader(f"it has an array of the unknown type {kind}")
        return [self.text() for _ in range(count)]
