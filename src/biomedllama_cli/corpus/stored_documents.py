"""Documents read back out of a corpus: their text from the shards, what is known of them from the document table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomedllama_cli.corpus.assembly import DOCUMENT_TABLE_FILE
from biomedllama_cli.corpus.manifest import Corpus
from biomedllama_cli.corpus.shards import Shard
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.tasks.records import file_sha256

_HINT = "The copy is damaged: copy the folder again, or run prepare again."
_PLACE = ("shard", "document", "first_token", "tokens")
_KNOWN = ("id", "source", "pmid", "pmcid", "doi", "title", "licence", "year", "flags")


class StoredTexts:
    """The texts of a corpus, read back out of its shards.

    Args:
        corpus: as `load_corpus` returns it.

    Raises:
        DataError: its tokenizer is another than it was made with.
        ModelError: its tokenizer cannot be loaded.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._has_bos, self._eos_id = corpus.manifest.adds_bos, corpus.manifest.eos_id
        self._tokenizer = load_tokenizer(str(corpus.tokenizer_folder))
        if self._tokenizer.fingerprint != corpus.manifest.tokenizer.fingerprint:
            raise DataError(f"{corpus.tokenizer_folder} is not the tokenizer of this corpus.", _HINT)

    def read(self, shard: Shard, document: int) -> str:
        """Return a document's text: its tokens but for BOS, where there is one, and EOS.

        Raises:
            DataError: it does not end with EOS.
        """
        start, end = int(shard.document_starts[document]), int(shard.document_starts[document + 1])
        if shard.token_ids[end - 1] != self._eos_id:
            raise DataError(f"Document {document} of shard {shard.path} has no end.", _HINT)
        return self._tokenizer.decode(shard.token_ids[start + self._has_bos : end - 1].tolist())


class StoredDocuments:
    """The documents of a corpus, in the order of its table: held-out ones too.

    Args:
        corpus: as `load_corpus` returns it.

    Attributes:
        stamp: size (in bytes) and time of the last change (in nanoseconds) of the document table.

    Raises:
        DataError: it has no document table, or one that does not fit it.
        ModelError: its tokenizer cannot be loaded.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._path = corpus.folder / DOCUMENT_TABLE_FILE
        try:
            state = self._path.stat()
            self._table = pq.ParquetFile(self._path, memory_map=True)
            groups = [self._table.metadata.row_group(i).num_rows for i in range(self._table.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._path} cannot be read ({error}).", _HINT) from None
        missing = {*_PLACE, *_KNOWN} - set(self._table.schema_arrow.names)
        if missing or sum(groups) != corpus.manifest.documents.kept:
            what = f"no column {min(missing)!r}" if missing else f"{sum(groups):,} rows"
            raise DataError(
                f"{self._path} has {what}, and the manifest lists {corpus.manifest.documents.kept:,} documents.",
                _HINT,
            )
        self.stamp = (state.st_size, state.st_mtime_ns)
        self._listed = {entry.file: entry.sha256 for entry in corpus.manifest.files}.get(DOCUMENT_TABLE_FILE)
        self._first_rows = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        self._shards = {shard.path.name: shard for shard in (*corpus.train, *corpus.validation)}
        self._texts = StoredTexts(corpus)
        # A question's passages lie in a few groups of rows; what is read of a group is some hundred kilobytes.
        self._read_group = lru_cache(maxsize=8)(self._load_group)

    def __len__(self) -> int:
        """Return the number of documents."""
        return int(self._first_rows[-1])

    def check_table(self) -> None:
        """Read the whole document table, some seconds for millions of documents, and compare its hash.

        Raises:
            DataError: it is not the one that the manifest lists.
        """
        try:
            same = file_sha256(self._path) == self._listed
        except OSError as error:
            raise DataError(f"{self._path} cannot be read ({error}).", _HINT) from None
        if not same:
            raise DataError(f"{self._path} is not the table that the corpus' manifest lists.", _HINT)

    def iter_texts(self) -> Iterator[tuple[str, str]]:
        """Yield text and title of every document; without a title an empty one."""
        for group in range(len(self._first_rows) - 1):
            columns = self._load_group(group, (*_PLACE, "title")).to_pydict()
            for *place, title in zip(*columns.values(), strict=True):
                yield self._decode(*place), title or ""

    def read(self, row: int) -> tuple[str, dict[str, Any]]:
        """Return the text of a document and what the table says of it (`id`, `pmid`, `title`, `flags`, ...).

        Args:
            row: its number in the table.

        Raises:
            DataError: its place in the shards is not where the table says.
        """
        group = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        facts = self._read_group(group, (*_PLACE, *_KNOWN)).slice(row - int(self._first_rows[group]), 1)
        known: dict[str, Any] = facts.to_pylist()[0]
        return self._decode(*(known.pop(name) for name in _PLACE)), known

    def _load_group(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        try:
            return self._table.read_row_group(group, columns=list(columns)).select(list(columns))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._path} cannot be read ({error}).", _HINT) from None

    def _decode(self, shard_name: str, document: int, first_token: int, tokens: int) -> str:
        """Return a document's text, if it is where the table says."""
        shard = self._shards.get(shard_name)
        starts = None if shard is None else shard.document_starts
        if shard is None or starts is None or not 0 <= document < len(starts) - 1:
            raise DataError(f"{self._path} lists document {document} of a shard {shard_name!r}.", _HINT)
        start, end = int(starts[document]), int(starts[document + 1])
        if (start, end) != (first_token, first_token + tokens):
            raise DataError(
                f"Document {document} of shard {shard_name} is not where {self._path} says.", _HINT
            )
        return self._texts.read(shard, document)
