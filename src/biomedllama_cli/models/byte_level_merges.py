"""A byte-level vocabulary's merges for compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from biomedllama_cli.models.merge_kernel import (
    LONGEST_WORD,
    MergeTables,
    build_table,
    build_tables,
    merge_words,
    refuse_parts,
)

_PRINTABLE = range(33, 127)
_SPACE = "\u0120"


def build_byte_level_tables(backend: Any) -> MergeTables | None:
    """Return the merges of a vocabulary with Llama-3's or Qwen's expression, for words of printable ASCII.

    None where a printable character has no piece. Where whole parts are looked up before merging (`ignore_merges`),
    the pieces that merging does not arrive at (a few foreign words in Llama-3's) are left to the library.

    Args:
        backend: a `tokenizers.Tokenizer` with a BPE model.
    """
    definition = orjson.loads(backend.to_str())
    model, vocabulary = definition["model"], definition["model"]["vocab"]
    symbols = np.full(256, -1, np.int32)
    symbols[ord(" ")] = vocabulary[_SPACE]
    for byte in _PRINTABLE:
        if chr(byte) not in vocabulary:
            return None
        symbols[byte] = vocabulary[chr(byte)]
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    merges = (
        (vocabulary[left], vocabulary[right], vocabulary[left + right], rank)
        for rank, (left, right) in enumerate(pairs)
    )
    # A word that may hold an added token is left to the library; special ones are text like any other.
    plain_tokens = [token["content"] for token in definition["added_tokens"] if not token["special"]]
    refused = {content.encode()[0] for content in plain_tokens}
    expression = definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    digits = 3 if "{1,3}" in expression else 1
    tables = build_tables(symbols, np.zeros(256, np.int32), merges, digits=digits, refused=refused)
    return refuse_parts(tables, _list_missed_pieces(vocabulary, tables)) if model["ignore_merges"] else tables


def _list_missed_pieces(vocabulary: dict[str, int], tables: MergeTables) -> list[bytes]:
    """Return the ASCII pieces whose characters do not merge into that piece."""
    printable = frozenset(map(chr, _PRINTABLE))
    pieces = [
        (piece.replace(_SPACE, " ").encode(), i)
        for piece, i in vocabulary.items()
        if printable.issuperset(piece.removeprefix(_SPACE)) and 0 < len(piece) <= LONGEST_WORD
    ]
    data = b"".join(piece for piece, _ in pieces)
    table = build_table(len(pieces), len(data))
    table.keys[:] = np.frombuffer(data, np.uint8)
    table.used[:] = len(pieces), len(data)
    sizes = np.array([len(piece) for piece, _ in pieces])
    table.entries["start"], table.entries["size"] = np.cumsum(sizes) - sizes, sizes
    ids = np.empty(len(data), np.int32)
    merge_words(table, 0, tables._replace(digits=0), ids, 0)
    begins, ends = table.entries["begin"], table.entries["end"]
    found = (ends - begins == 1) & (ids[begins] == np.array([i for _, i in pieces]))
    return [pieces[number][0] for number in np.flatnonzero(~found)]
