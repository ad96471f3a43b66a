"""The text a new vocabulary is trained on: a bounded, fixed part of the input without held-out documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from biomedllama_cli.corpus.document import Item, Record
from biomedllama_cli.corpus.selection import Gate
from biomedllama_cli.corpus.source import REPLAY, Source
from biomedllama_cli.corpus.split import hash_content, is_held_out
from biomedllama_cli.errors import DataError

TRAINING_BYTES = 32 << 20
"""Most text a vocabulary is trained on (in bytes): SentencePiece holds all of it in memory."""
_OPEN_FILES = 64


def choose_texts(
    source: Source,
    gates: Sequence[Gate],
    validation_fraction: float,
    max_bytes: int = TRAINING_BYTES,
    *,
    unlicensed: frozenset[str] = frozenset(),
) -> list[str]:
    """Return texts to train a vocabulary on: from all over the input, each once, none of them held out.

    Args:
        source: the whole input; replayed text is left out.
        gates: what each source keeps, in order.
        validation_fraction: share of documents that is held out.
        max_bytes: most text (in bytes).
        unlicensed: names of sources whose text is permitted by other records alone, which are not known yet.

    Raises:
        DataError: there is no document to train on.
    """
    texts: dict[tuple[int, int], str] = {}
    size = 0
    for part, record in _iter_spread(source):
        name = source.parts[part].name
        if not isinstance(record, Record) or name == REPLAY or name in unlicensed:
            continue
        if gates[part].find_reason(record) is not None:
            continue
        data = record.text.encode("utf-8")
        key = hash_content(data)
        if key in texts:
            continue
        texts[key] = record.text
        size += len(data)
        if size >= max_bytes:
            break
    chosen = _leave_out(texts, validation_fraction, whole=size < max_bytes)
    if not chosen:
        raise DataError(
            "No document of the input is left to train a vocabulary on.",
            "Check --subset and --validation-fraction, and for abstracts docs/licences.md; or load a vocabulary with "
            "--tokenizer.",
        )
    return chosen


def _leave_out(texts: dict[tuple[int, int], str], fraction: float, *, whole: bool) -> list[str]:
    """Return the texts that are not held out; `whole` tells that they are all there are."""
    keys = list(texts)
    held_out = is_held_out(np.array([split for _, split in keys], np.uint64), fraction)
    by_hash = sorted(range(len(keys)), key=lambda i: (keys[i][1], keys[i][0]))
    # split.SplitChooser moves one in a small corpus: the least hash (here, if this is it) or the greatest.
    if fraction > 0 and len(keys) > 1 and not held_out.any():
        held_out[by_hash[0]] = True
    if whole and keys and held_out.all():
        held_out[by_hash[-1]] = False
    return [text for text, out in zip(texts.values(), held_out, strict=True) if not out]


def _iter_spread(source: Source) -> Iterator[tuple[int, Item]]:
    """Yield records of up to 64 evenly spaced parts in turn, one of each at a time."""
    parts = source.count_tasks(None)
    count = min(parts, _OPEN_FILES)
    readers = [source.iter_part(i * parts // count, parts) for i in range(count)]
    while readers:
        going = []
        for reader in readers:
            record = next(reader, None)
            if record is not None:
                yield record
                going.append(reader)
        readers = going
