"""A corpus as a library: questions in, passages out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from biomedllama_cli.chat.conversation import Passage
from biomedllama_cli.chat.retrieval.building import build_index, find_foreign, remove_index
from biomedllama_cli.chat.retrieval.index import Index, IndexIdentity, open_index
from biomedllama_cli.chat.retrieval.terms import STEMMER, TERMS_VERSION
from biomedllama_cli.corpus.durable import flush_folder, flush_path
from biomedllama_cli.corpus.locks import LockTakenError, hold_lock
from biomedllama_cli.corpus.manifest import MANIFEST_FILE, RETRIEVAL_FOLDER, load_corpus, load_manifest
from biomedllama_cli.corpus.stored_documents import StoredDocuments
from biomedllama_cli.errors import DataError, OutputError
from biomedllama_cli.tasks.records import file_sha256

logger = logging.getLogger(__name__)

# Chosen on titles of abstracts, not on the questions that are reported (docs/decisions/0020-retrieval.md).
METHOD, K1, B = "lucene", 0.6, 0.9
_LOCK_FILE = "lock"


class Library:
    """The documents of a corpus and the index that finds passages in them; `open` makes one.

    Attributes:
        corpus: its folder.
        stored: its documents.
        index: finds their passages.
        documents: how many it holds.
        passages: into how many they are cut.
        identity: SHA-256 of the corpus' manifest, which holds the hashes of all its shards.
    """

    def __init__(self, corpus: Path, stored: StoredDocuments, index: Index) -> None:
        self.corpus, self.stored, self.index = corpus, stored, index
        self.documents, self.passages = len(stored), index.meta.passages
        self.identity = index.meta.identity.corpus

    @classmethod
    def open(
        cls,
        corpus: Path,
        *,
        passage_words: int,
        rebuild: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> Library:
        """Open a corpus made by `prepare`; its index is built where there is none that fits it.

        The index lies in the corpus (`retrieval/words-N`): several chats share one, and it is moved and removed with
        what it belongs to. It is built beside its place and moved there when it is whole.

        Args:
            corpus: the folder.
            passage_words: longest passage (in words).
            rebuild: whether it is built anew in any case.
            advance: is told how many documents more were read, while an index is built; all of them are
                `load_manifest(corpus).documents.kept`.

        Raises:
            DataError: the folder holds no corpus, or a damaged one.
            OutputError: an index is needed, and the folder cannot be written, or holds something else in its place.
        """
        corpus = corpus.expanduser()
        stored, manifest_sha256 = _open_documents(corpus)
        identity = IndexIdentity(
            corpus=manifest_sha256,
            passage_words=passage_words,
            terms_version=TERMS_VERSION,
            stemmer=f"{STEMMER} of PyStemmer {version('PyStemmer')}",
            method=METHOD,
            k1=K1,
            b=B,
        )
        folder = corpus / RETRIEVAL_FOLDER / f"words-{passage_words}"
        index, problem = open_index(folder, identity)
        if index is None or rebuild or index.meta.table != stored.stamp:
            stored.check_table()
        if index is None or rebuild:
            index = _build(stored, folder, identity, problem, rebuild=rebuild, advance=advance)
        return cls(corpus, stored, index)

    def search(self, question: str, count: int) -> tuple[Passage, ...]:
        """Return the passages that fit a question best, of as many documents as possible; none where nothing fits.

        Args:
            question: any text.
            count: most passages (in passages).

        Raises:
            DataError: the index or the corpus is damaged.
        """
        passages = []
        for hit in self.index.find(question, count):
            text, known = self.stored.read(hit.row)
            passages.append(
                Passage(
                    text=text[hit.start : hit.end],
                    document_id=known["id"],
                    pmid=known["pmid"],
                    pmcid=known["pmcid"],
                    doi=known["doi"],
                    title=known["title"],
                    licence=known["licence"],
                    year=known["year"],
                    flags=tuple(known["flags"] or ()),
                    source=known["source"] or "",
                    score=hit.score,
                )
            )
        return tuple(passages)


def _open_documents(corpus: Path) -> tuple[StoredDocuments, str]:
    """Return the documents of a corpus and the SHA-256 of their manifest, though it be replaced meanwhile."""
    while True:
        loaded = load_corpus(corpus)
        stored = StoredDocuments(loaded)
        manifest_sha256 = _hash_manifest(corpus)
        if load_manifest(corpus) == loaded.manifest:
            return stored, manifest_sha256


def _hash_manifest(corpus: Path) -> str:
    """Return the SHA-256 of a corpus' manifest; empty where there is none, as while a corpus is replaced."""
    try:
        return file_sha256(corpus / MANIFEST_FILE)
    except FileNotFoundError:
        return ""


def _build(
    stored: StoredDocuments,
    folder: Path,
    identity: IndexIdentity,
    problem: str,
    *,
    rebuild: bool,
    advance: Callable[[int], None] | None,
) -> Index:
    with _write_alone(folder.parent) as waited:
        if waited or not rebuild:  # another chat may have built it
            index, problem = open_index(folder, identity)
            if index is not None:
                return index
        if problem:
            logger.warning("The index %s is built anew: %s.", folder, problem)
        staged, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "replaced"))
        for path in (folder, staged, old):
            _refuse_foreign(path)
        for leftover in (staged, old):  # of a process that was killed: the lock says so
            remove_index(leftover)
        try:
            staged.mkdir()
            build_index(stored.iter_texts(), staged, identity, table=stored.stamp, advance=advance)
            flush_folder(staged)
            _check_unchanged(folder.parent.parent, identity)
            if folder.exists():
                folder.rename(old)
            staged.rename(folder)
            flush_path(folder.parent)
        except FileNotFoundError:  # the index went with the corpus it was in
            _check_unchanged(folder.parent.parent, identity)
            raise
        finally:
            for leftover in (staged, old):
                remove_index(leftover)
        index, problem = open_index(folder, identity)
    if index is None:
        raise DataError(f"The index {folder} cannot be used after it was built: {problem}.")
    return index


@contextmanager
def _write_alone(folder: Path) -> Iterator[bool]:
    """Be the only one who writes indexes into a folder; yield whether that took waiting for another."""
    waited = False
    try:
        if folder.is_symlink():
            raise OutputError(
                f"sources.corpus: {folder} is a link, and indexes are written only inside the corpus.",
                "Remove the link: a folder takes its place.",
            )
        folder.mkdir(exist_ok=True)
        lock = hold_lock(folder / _LOCK_FILE)
        try:
            lock.__enter__()
        except LockTakenError:
            logger.info("Another process is building an index in %s: waiting for it.", folder)
            waited = True
            lock = hold_lock(folder / _LOCK_FILE, wait_seconds=math.inf)
            lock.__enter__()
    except OSError as error:
        raise _refuse(folder, error) from None
    try:
        yield waited
    except OSError as error:
        raise _refuse(folder, error) from None
    finally:
        lock.__exit__(None, None, None)


def _check_unchanged(corpus: Path, identity: IndexIdentity) -> None:
    if _hash_manifest(corpus) != identity.corpus:
        raise DataError(f"{corpus} was replaced while its passages were indexed.", "Open it again.")


def _refuse_foreign(folder: Path) -> None:
    """Refuse to put an index where something else lies."""
    foreign = find_foreign(folder)
    if foreign is not None:
        raise OutputError(
            f"sources.corpus: {foreign} is no part of an index, and would be lost with the one it lies in.",
            "Move it away.",
        )


def _refuse(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"sources.corpus: the index of its passages cannot be written to {folder} ({error.strerror or error}).",
        "Have the index built once by somebody who may write there, or copy the corpus to a place of your own.",
    )
