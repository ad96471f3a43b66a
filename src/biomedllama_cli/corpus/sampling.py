"""Reading a part of the input: which files, and what is found in each up to where."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from biomedllama_cli.corpus.document import Deletion, Dropped, Item, Record
from biomedllama_cli.corpus.sources.files import InputFile

_BATCH = 256
_GOLDEN = (math.sqrt(5) - 1) / 2


class Sampled(NamedTuple):
    """What was found in a file so far."""

    bytes: int
    """Bytes of the file consumed, compressed as it is."""
    tokens: int
    """Tokens of kept documents."""
    kept: int
    """Documents that no filter of single documents drops."""
    read: int
    """Documents read."""


Sampler = Callable[[InputFile], Iterator[Sampled]]
"""Reads a file from its beginning and says how far it is; ends with the file."""


class ItemReader(Protocol):
    """Reads the items of one input file."""

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        """Yield them; `report_position` is told the bytes of the file consumed."""


def sample_file(
    file: InputFile,
    reader: ItemReader,
    decide: Callable[[Record], Record | Dropped],
    count_tokens: Callable[[list[str]], int],
    *,
    on_unreadable: Callable[[Dropped], None] = lambda _: None,
) -> Iterator[Sampled]:
    """Read a file as `prepare` does, and yield what was found at every position that the reader reports.

    Args:
        file: the file.
        reader: reads it.
        decide: the filters of single documents.
        count_tokens: the tokens that some documents make, BOS and EOS included.
        on_unreadable: told each record that cannot be read.
    """
    position = tokens = kept = read = 0
    texts: list[str] = []

    def report(consumed: int) -> None:
        nonlocal position
        position = consumed

    before = 0
    for item in reader.iter_documents(file, report):
        if texts and (position != before or len(texts) >= _BATCH):
            tokens, kept = tokens + count_tokens(texts), kept + len(texts)
            texts = []
        if position != before:
            yield Sampled(before, tokens, kept, read)
            before = position
        if not isinstance(item, Deletion):
            read += 1
            if isinstance(item, Dropped) and item.problem:
                on_unreadable(item)
            if isinstance(item, Record) and isinstance(decide(item), Record):
                texts.append(item.text)
    yield Sampled(file.size, tokens + (count_tokens(texts) if texts else 0), kept + len(texts), read)


def iter_order(count: int, seed: int) -> Iterator[int]:
    """Yield the numbers below `count` in an order whose every beginning is spread evenly.

    Steps of the golden ratio from a random start, wrapped around (Weyl's sequence); numbers met again are left out.

    >>> order = list(iter_order(8, 0))
    >>> order[:3], sorted(order) == list(range(8))
    ([6, 3, 0], True)
    """
    start = random.Random(seed).random()
    seen: set[int] = set()
    for step in range(2 * count):
        number = int((start + step * _GOLDEN) % 1.0 * count)
        if number not in seen:
            seen.add(number)
            yield number
    yield from (number for number in range(count) if number not in seen)
