"""The memory of words as flat arrays, looked up by compiled code.

Same contract as `word_cache.WordCache`, some five times as fast: texts are cut, hashed, looked up and written
out on their UTF-8 bytes, and only words that are new come to Python. Needs numba (extra `fast`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from biomedllama_cli.models.merge_kernel import LONGEST_WORD, build_table, merge_words
from biomedllama_cli.models.word_cache import BATCH_WORDS, LONG_TEXT, MAX_WORDS, WordCodec, iter_batches
from biomedllama_cli.models.word_kernels import Batch, Loose, count_ids, find_words, write_ids

_BATCH_CHARACTERS = 1 << 16


class WordTable:
    """Encode texts through a table of words in memory that is taken once and never grows much.

    Args:
        codec: cuts texts and encodes words.
        max_words: words kept; when there are more, the table begins anew.

    Attributes:
        seen: words looked up so far.
        missed: words that were not there.
    """

    def __init__(self, codec: WordCodec, *, max_words: int = MAX_WORDS) -> None:
        self._codec = codec
        self._rule, self._merges = codec.list_cut_rule(), codec.build_merge_tables()
        self._table = build_table(max_words, 16 * max_words + LONGEST_WORD)
        self._ids, self._ids_used = np.empty(1 << 16, codec.dtype), 0
        self.seen = self.missed = 0

    def __len__(self) -> int:
        """Return the number of words kept."""
        return int(self._table.used[0])

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of every text as bytes of the codec's type."""
        encoded: list[bytes] = []
        for batch in iter_batches(texts, _BATCH_CHARACTERS):
            if len(batch) == 1:
                parts = self._codec.iter_parts(batch[0], LONG_TEXT)
                encoded.append(b"".join(self._encode_few([part])[0] for part in parts))
            else:
                encoded += self._encode_few(batch)
        return encoded

    def _encode_few(self, texts: Sequence[str]) -> list[bytes]:
        prepared = [self._codec.prepare(text) for text in texts]
        blobs = [b"" if text is None else text.encode("utf-8") for text in prepared]
        data = np.frombuffer(b"".join(blobs), np.uint8)
        batch = Batch(
            data=data,
            text_ends=np.cumsum([len(blob) for blob in blobs], dtype=np.int64),
            rule=self._rule,
            words=np.empty(len(data), np.int32),
            word_ends=np.zeros(len(blobs), np.int64),
            loose=np.empty((len(data) // LONGEST_WORD + 1, 2), np.int64),
        )
        counts = np.zeros(len(blobs), np.int64)
        ids = self._encode_batch(batch, counts)
        edges = [0, *(np.cumsum(counts) * self._ids.itemsize).tolist()]
        return [
            self._codec.encode_whole(text) if ready is None else ids[start:end]
            for text, ready, (start, end) in zip(texts, prepared, itertools.pairwise(edges), strict=True)
        ]

    def _encode_batch(self, batch: Batch, counts: npt.NDArray[np.int64]) -> bytes:
        """Return the ids of all texts end to end, and add the number of each one's to `counts`."""
        chunks: list[bytes] = []
        start = 0
        while True:
            known = len(self)
            start, long, _ = find_words(batch, self._table, start)
            self.seen += int(batch.word_ends[-1])
            self.missed += len(self) - known + long
            self._encode_new(known)
            encoded = self._encode_raw([bytes(batch.data[a:b]) for a, b in batch.loose[:long].tolist()])
            ends = np.cumsum([0, *(len(ids) // self._ids.itemsize for ids in encoded)], dtype=np.int64)
            loose = Loose(ends, np.frombuffer(b"".join(encoded), self._ids.dtype))
            out = np.empty(count_ids(batch, self._table, loose, counts), self._ids.dtype)
            write_ids(batch, self._table, self._ids, loose, out)
            chunks.append(out.tobytes())
            if start == len(batch.data):
                return b"".join(chunks)
            # The table is full: it begins anew, and the rest of the texts with it.
            self._table.slots[:] = 0
            self._table.used[:] = 0
            self._ids_used = 0

    def _encode_new(self, known: int) -> None:
        """Encode the entries from number `known` on."""
        if known == len(self):
            return
        table = self._table
        left = np.arange(known, len(self))
        if self._merges is not None:
            self._reserve_ids(int(table.used[1] - table.entries["start"][known]))
            self._ids_used = merge_words(table, known, self._merges, self._ids, self._ids_used)
            left = left[table.entries["begin"][left] < 0]
        if len(left) == 0:
            return
        encoded = self._encode_raw(
            [bytes(table.keys[a : a + size]) for a, size in table.entries[["start", "size"]][left].tolist()]
        )
        data = np.frombuffer(b"".join(encoded), self._ids.dtype)
        self._reserve_ids(len(data))
        ends = self._ids_used + np.cumsum([len(ids) // data.itemsize for ids in encoded])
        self._ids[self._ids_used : self._ids_used + len(data)] = data
        table.entries["begin"][left] = np.concatenate([[self._ids_used], ends[:-1]])
        table.entries["end"][left] = ends
        self._ids_used += len(data)

    def _reserve_ids(self, count: int) -> None:
        if self._ids_used + count > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty(len(self._ids) + count, self._ids.dtype)])

    def _encode_raw(self, raw: Sequence[bytes]) -> list[bytes]:
        """Return the ids of words given as bytes."""
        words = [self._codec.name_word(word.decode("utf-8")) for word in raw]
        encoded: dict[str, bytes] = {}
        for batch in iter_batches(dict.fromkeys(words), BATCH_WORDS):
            encoded.update(self._codec.encode_words(batch))
        return [encoded[word] for word in words]
