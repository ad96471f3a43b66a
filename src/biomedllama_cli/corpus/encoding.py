"""Texts to what a shard keeps of them: token ids end to end, and one row per document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.corpus.shards import choose_dtype
from biomedllama_cli.corpus.split import DOCUMENT, hash_content
from biomedllama_cli.models.tokenizer import Tokenizer


def encode_documents(
    texts: Sequence[str], tokenizer: Tokenizer, *, adds_bos: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the ids of all texts end to end ([BOS] text EOS each), and their rows of the document table.

    Args:
        texts: documents.
        tokenizer: turns them into ids; its memory of words is kept from call to call.
        adds_bos: whether BOS begins each document.

    Returns:
        the ids, in the type shards of this vocabulary have, and an array of `split.DOCUMENT`, shape [documents].
    """
    dtype = choose_dtype(tokenizer.vocabulary_size)
    begin = np.array([tokenizer.bos_id] if adds_bos else [], dtype).tobytes()
    end = np.array([tokenizer.eos_id], dtype).tobytes()
    rows = np.empty(len(texts), DOCUMENT)
    pieces: list[bytes] = []
    for index, (text, ids) in enumerate(zip(texts, tokenizer.encode_bytes(texts, dtype), strict=True)):
        data = text.encode("utf-8")
        tokens = (len(begin) + len(ids) + len(end)) // dtype.itemsize
        rows[index] = (*hash_content(data), tokens, len(data))
        pieces += (begin, ids, end)
    return np.frombuffer(b"".join(pieces), dtype), rows
