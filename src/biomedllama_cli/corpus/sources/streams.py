"""Bytes and lines of files plain, gzipped or zstd-compressed, in bounded memory and without silent loss."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

MAX_LINE_BYTES = 64 << 20
"""Longest line read (in bytes): the largest papers are a few MB; a longer line is a broken file or an attack."""
_BLOCK = 1 << 20
# zstd can blow 1 byte up to 32 KB, and hands out what one call decodes at once: 2 KiB stay below 64 MiB.
_ZSTD_INPUT = 1 << 11
# `zstd -19` uses windows up to 8 MiB; the library's own limit is this 128 MiB.
_ZSTD_WINDOW = 1 << 27
_GZIP = 16 + zlib.MAX_WBITS  # a gzip header and no other


class BrokenStreamError(Exception):
    """A compressed stream ends early or is damaged; what follows in the file cannot be read.

    Args:
        reason: snake_case key for the manifest.
        problem: what is wrong, as the end of a sentence.
    """

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason, self.problem = reason, problem


def iter_blocks(path: Path, report_position: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the decompressed content of a file block by block.

    Args:
        path: a `.gz`, `.tgz`, `.zst` or plain file.
        report_position: told the bytes of the file consumed so far.

    Raises:
        BrokenStreamError: the compressed stream is truncated or damaged.
    """
    with path.open("rb") as file:
        if path.suffix == ".zst":
            blocks = _iter_zstd(file)
        elif path.suffix in (".gz", ".tgz"):
            blocks = _iter_gzip(file)
        else:
            blocks = iter(lambda: file.read(_BLOCK), b"")
        for block in blocks:
            report_position(file.tell())
            yield block


def _iter_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Decode frame after frame; the library's own stream reader does not notice a truncated last one."""
    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    decoder = None
    empty = True
    parts: list[bytes] = []
    size = 0
    try:
        while data := file.read(_ZSTD_INPUT):
            empty = False
            while data:
                decoder = decoder or context.decompressobj()
                part = decoder.decompress(data)
                data = b""
                if decoder.eof:
                    data, decoder = decoder.unused_data, None
                parts.append(part)
                size += len(part)
                if size >= _BLOCK:
                    yield b"".join(parts)
                    parts, size = [], 0
    except zstandard.ZstdError as error:
        yield b"".join(parts)
        raise BrokenStreamError("broken_stream", f"the zstd stream is damaged ({error})") from None
    yield b"".join(parts)
    if decoder is not None or empty:
        raise BrokenStreamError("truncated_stream", "the zstd stream is truncated")


def _iter_gzip(file: BinaryIO) -> Iterator[bytes]:
    """Decode member after member; Python's own reader throws away what it decoded before a break."""
    decoder = zlib.decompressobj(_GZIP)
    empty = begun = True
    try:
        while data := file.read(1 << 16):
            empty = False
            while data:
                begun = True
                yield decoder.decompress(data, _BLOCK)
                data = decoder.unconsumed_tail
                if decoder.eof:
                    data = decoder.unused_data.lstrip(b"\0")  # members may be padded with zeros
                    decoder, begun = zlib.decompressobj(_GZIP), False
        while begun and (part := decoder.decompress(b"", _BLOCK)):
            yield part
    except zlib.error as error:
        raise BrokenStreamError("broken_stream", f"the gzip stream is damaged ({error})") from None
    if empty or (begun and not decoder.eof):
        raise BrokenStreamError("truncated_stream", "the gzip stream is truncated")


def iter_lines(
    blocks: Iterator[bytes], max_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes | None]]:
    r"""Yield (line number from 1, line without its end); None stands for a line longer than `max_bytes`.

    A line that the stream breaks off inside of is not yielded: the error of `blocks` comes through instead.

    >>> list(iter_lines(iter([b"a\nb", b"c\n\nd"]), max_bytes=2))
    [(1, b'a'), (2, b'bc'), (3, b''), (4, b'd')]
    >>> list(iter_lines(iter([b"abc", b"def\ng"]), max_bytes=2))
    [(1, None), (2, b'g')]
    """
    number = 1
    held: list[bytes] = []
    held_bytes = 0
    for block in blocks:
        *finished, rest = block.split(b"\n")
        for part in finished:
            too_long = held_bytes + len(part) > max_bytes
            yield number, None if too_long else b"".join((*held, part)) if held else part
            number += 1
            held, held_bytes = [], 0
        held_bytes += len(rest)
        if held_bytes > max_bytes:
            held = []  # only its length is remembered from here on
        elif rest:
            held.append(rest)
    if held_bytes:
        yield number, None if held_bytes > max_bytes else b"".join(held)
