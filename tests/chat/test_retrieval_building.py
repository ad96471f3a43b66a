"""An index is whole or not there: kills, other chats, other corpora and full disks do not change what is found."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retrieval_corpora import HARVEST, TEXTS, make_corpus, open_library, read_index

from biomedllama_cli.chat.retrieval import library as library_module
from biomedllama_cli.corpus.manifest import RETRIEVAL_FOLDER, load_corpus
from biomedllama_cli.corpus.stored_documents import StoredDocuments
from biomedllama_cli.errors import DataError, OutputError
from biomedllama_cli.models.tokenizer import train_tokenizer
from biomedllama_cli.tasks.records import file_sha256

# Says when the first document is read, and goes on when it is told to.
BUILD = """
import sys
from pathlib import Path
from biomedllama_cli.chat.retrieval.library import Library
told = []
def advance(documents):
    told.append(documents)
    if len(told) == 1:
        print("building", flush=True)
        sys.stdin.readline()
Library.open(Path(sys.argv[1]), passage_words=40, advance=advance)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("building")
    train_tokenizer(TEXTS, 360, folder / "vocabulary", seed=0)
    return make_corpus(folder / "made", folder / "vocabulary")


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A corpus without an index, to do anything to."""
    return Path(shutil.copytree(made, tmp_path / "corpus", ignore=shutil.ignore_patterns(RETRIEVAL_FOLDER)))


@pytest.fixture
def builder(corpus: Path) -> Any:
    """Another process, in the middle of building the index."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(corpus)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n", process.communicate()
    yield process
    process.kill()
    process.communicate()


def list_folder(corpus: Path) -> list[str]:
    return sorted(path.name for path in (corpus / RETRIEVAL_FOLDER).iterdir())


def test_index_is_used_again_and_mapped(corpus: Path) -> None:
    told: list[int] = []
    open_library(corpus, advance=told.append)
    before = read_index(corpus)
    again = open_library(corpus, advance=told.append)
    assert sum(told) == len(TEXTS)
    assert read_index(corpus) == before
    scores = again.index.blocks[0].scorer.scores
    assert all(isinstance(scores[name], np.memmap) for name in ("data", "indices", "indptr"))
    assert not scores["data"].flags.writeable


def test_index_is_the_same_to_the_byte_whenever_it_is_built(corpus: Path) -> None:
    told: list[int] = []
    open_library(corpus)
    first = read_index(corpus)
    open_library(corpus, rebuild=True, advance=told.append)
    assert sum(told) == len(TEXTS)
    assert read_index(corpus) == first


def test_nothing_in_an_index_is_pickled(corpus: Path) -> None:
    open_library(corpus)
    assert {Path(name).suffix for name in read_index(corpus)} == {".json", ".npy", ".txt"}
    for name, data in read_index(corpus).items():
        if name.endswith(".npy"):
            assert b"'descr': '|O'" not in data[:128]


@pytest.mark.parametrize("damage", ["corpus", "stemmer", "cut", "no meta", "half meta", "words"])
def test_stale_or_damaged_index_is_built_anew_and_said(
    corpus: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    open_library(corpus)
    whole = read_index(corpus)
    folder = corpus / RETRIEVAL_FOLDER / "words-40"
    if damage in ("corpus", "stemmer"):
        meta = json.loads((folder / "meta.json").read_text())
        meta["identity"][damage] = "0" * 64
        (folder / "meta.json").write_text(json.dumps(meta))
    elif damage in ("cut", "words"):
        name = {"cut": "block-00000/data.csc.index.npy", "words": "vocabulary.txt"}[damage]
        (folder / name).write_bytes(whole[name][:-10])
    elif damage == "no meta":
        (folder / "meta.json").unlink()
    else:
        (folder / "meta.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        (found,) = open_library(corpus).search("quinces", 1)
    assert found.text.endswith("quinces.")
    assert read_index(corpus) == whole
    assert ("is built anew" in caplog.text) == (damage != "no meta")


def test_index_of_a_corpus_that_was_made_again_is_not_used(corpus: Path) -> None:
    first = open_library(corpus)
    change_manifest(corpus)
    second = open_library(corpus)
    assert second.identity != first.identity
    assert second.index.meta.identity.corpus == second.identity


def test_index_belongs_to_the_documents_it_was_made_from(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(folder: Path) -> Any:
        """Be `prepare --overwrite`, which ends when the old corpus is open."""
        monkeypatch.setattr(library_module, "StoredDocuments", StoredDocuments)
        stored = StoredDocuments(folder)
        change_manifest(corpus)
        return stored

    opened: list[Any] = []
    monkeypatch.setattr(library_module, "StoredDocuments", replace)
    monkeypatch.setattr(
        library_module, "load_corpus", lambda folder: opened.append(load_corpus(folder)) or opened[-1]
    )
    library = open_library(corpus)
    assert len(opened) == 2
    assert library.identity == file_sha256(corpus / "manifest.json")


@pytest.mark.parametrize("how", ["changed", "moved"])
def test_corpus_that_is_replaced_while_it_is_indexed_gets_no_index(
    corpus: Path, made: Path, how: str
) -> None:
    def replace(documents: int) -> None:
        if how == "moved":
            corpus.rename(corpus.with_name("old"))
            shutil.copytree(made, corpus, ignore=shutil.ignore_patterns(RETRIEVAL_FOLDER))
        change_manifest(corpus)

    with pytest.raises(DataError, match="was replaced while"):
        open_library(corpus, advance=replace)
    assert not list(corpus.glob(f"{RETRIEVAL_FOLDER}/*words*"))


def change_manifest(corpus: Path) -> None:
    manifest = json.loads((corpus / "manifest.json").read_text())
    (corpus / "manifest.json").write_text(json.dumps({**manifest, "created": "another day"}))


@pytest.mark.parametrize("link", [".", "words-40", ".words-40.partial"])
def test_link_out_of_the_corpus_is_not_followed(corpus: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    (outside / "words-40").mkdir(parents=True)
    (outside / "words-40" / "meta.json").write_text("precious")
    place = corpus / RETRIEVAL_FOLDER / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(outside if link == "." else outside / "words-40")
    with pytest.raises(OutputError, match=r"sources\.corpus"):
        open_library(corpus)
    assert [path.name for path in outside.rglob("*")] == ["words-40", "meta.json"]
    assert place.is_symlink()


@pytest.mark.parametrize("folder", ["words-40", ".words-40.partial", ".words-40.replaced"])
def test_only_what_is_an_index_is_replaced_by_one(corpus: Path, folder: str) -> None:
    open_library(corpus)
    place = corpus / RETRIEVAL_FOLDER / folder
    (place / "block-00000").mkdir(parents=True, exist_ok=True)
    (place / "block-00000" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.txt is no part of an index"):
        open_library(corpus, rebuild=True)
    assert (place / "block-00000" / "thesis.txt").read_text() == "precious"


def test_damage_that_shows_in_a_search_is_told(corpus: Path) -> None:
    open_library(corpus)
    file = corpus / RETRIEVAL_FOLDER / "words-40" / "block-00000" / "indices.csc.index.npy"
    data = bytearray(file.read_bytes())
    data[128:] = b"\x7f" * (len(data) - 128)
    file.write_bytes(data)
    with pytest.raises(DataError, match="damaged") as raised:
        open_library(corpus).search("quinces", 1)
    assert "--rebuild-index" in raised.value.hint


def test_kill_while_building_leaves_no_index_and_no_rubbish(corpus: Path, builder: Any) -> None:
    builder.kill()
    builder.communicate()
    assert list_folder(corpus) == [".words-40.partial", "lock"]
    assert len(open_library(corpus).search("quinces", 1)) == 1
    assert list_folder(corpus) == ["lock", "words-40"]


def test_second_chat_waits_for_the_first_and_uses_its_index(corpus: Path, builder: Any) -> None:
    told: list[int] = []
    opened: list[Any] = []
    second = threading.Thread(target=lambda: opened.append(open_library(corpus, advance=told.append)))
    second.start()
    time.sleep(0.3)
    assert second.is_alive()  # it waits
    builder.communicate("go on\n")
    second.join(60)
    assert len(opened[0].search("quinces", 1)) == 1
    assert (builder.returncode, told) == (0, [])


def test_error_or_interruption_leaves_no_rubbish(corpus: Path) -> None:
    def interrupt(documents: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_library(corpus, advance=interrupt)
    assert list_folder(corpus) == ["lock"]
    open_library(corpus)
    with pytest.raises(KeyboardInterrupt):
        open_library(corpus, rebuild=True, advance=interrupt)
    assert len(open_library(corpus).search("quinces", 1)) == 1  # the old one stands


def test_folder_that_cannot_be_written_is_told(corpus: Path) -> None:
    (corpus / RETRIEVAL_FOLDER).write_text("in the way")
    with pytest.raises(OutputError, match=r"sources\.corpus") as raised:
        open_library(corpus)
    assert "copy the corpus" in raised.value.hint


def test_full_disk_is_told(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(library_module, "build_index", fail)
    with pytest.raises(OutputError, match="No space left"):
        open_library(corpus)
    assert list_folder(corpus) == ["lock"]


def test_index_that_is_there_is_read_without_writing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_library(corpus)
    monkeypatch.setattr(library_module, "hold_lock", None)  # a corpus of somebody else may be read-only
    assert len(open_library(corpus).search("quinces", 1)) == 1


def test_damaged_corpus_is_not_called_a_full_disk(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: StoredDocuments) -> Any:
        raise DataError("documents.parquet cannot be read.")

    monkeypatch.setattr(StoredDocuments, "iter_texts", fail)
    with pytest.raises(DataError, match=r"documents\.parquet"):
        open_library(corpus)


def test_index_goes_with_the_corpus_it_belongs_to(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 360, tmp_path / "vocabulary", seed=0)
    corpus = make_corpus(tmp_path, tmp_path / "vocabulary")
    open_library(corpus)
    make_corpus(tmp_path, tmp_path / "vocabulary")  # the same job: nothing to do
    assert (corpus / RETRIEVAL_FOLDER).is_dir()
    make_corpus(tmp_path, tmp_path / "vocabulary", [HARVEST])  # --overwrite
    assert not (corpus / RETRIEVAL_FOLDER).exists()
    assert open_library(corpus).documents == 1
