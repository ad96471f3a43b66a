"""A corpus as a library: its texts come back as they were, and the passages that fit a question are found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retrieval_corpora import CRESS, HARVEST, TEXTS, VINEGAR, make_corpus, open_library

from biomedllama_cli.chat.retrieval.building import build_index
from biomedllama_cli.chat.retrieval.index import IndexIdentity, open_index
from biomedllama_cli.chat.retrieval.library import K1, METHOD, B
from biomedllama_cli.chat.retrieval.passages import cut_passages
from biomedllama_cli.chat.retrieval.terms import Stems, split_words
from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.corpus.stored_documents import StoredDocuments
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.tokenizer import train_tokenizer

IDENTITY = IndexIdentity(corpus="", passage_words=40, terms_version=1, stemmer="", method=METHOD, k1=K1, b=B)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    train_tokenizer(TEXTS, 360, folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    return make_corpus(tmp_path_factory.mktemp("library"), vocabulary)


@pytest.mark.parametrize("bos", ["always", "never"])
@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
def test_texts_come_back_from_the_shards_as_they_were(
    kind: str, bos: str, tmp_path: Path, vocabulary: Path, tiny_chat_folder: Path
) -> None:
    tokenizer = vocabulary if kind == "sentencepiece" else tiny_chat_folder
    loaded = load_corpus(make_corpus(tmp_path, tokenizer, bos=bos))
    assert loaded.manifest.adds_bos == (bos == "always")
    assert loaded.validation  # those are documents of the library too
    stored = StoredDocuments(loaded)
    assert [text for text, _ in stored.iter_texts()] == TEXTS
    assert [stored.read(row)[0] for row in range(len(stored))] == TEXTS


def test_best_passage_of_each_document_comes_before_second_ones(corpus: Path) -> None:
    found = open_library(corpus).search("number1 number2 number50 number51, or cress", 6)
    scores = [hit.score for hit in found]
    assert "number1." in found[0].text
    assert [hit.text in (CRESS.strip(), VINEGAR) for hit in found] == [False, True, True, False]
    # It fits better than the second and the third, and its document stands there already.
    assert "number50" in found[3].text
    assert scores[3] > scores[1] > scores[2] > 0


def test_passages_are_parts_of_their_documents_and_of_bounded_length(corpus: Path) -> None:
    library = open_library(corpus)
    hits = library.search("quinces and the harvest of every sentence", 50)
    assert len(hits) == library.passages - len(TEXTS) + 1  # all of the long document's
    assert all(hit.text in HARVEST and len(hit.text.split()) <= 40 for hit in hits)
    assert hits[0].text.endswith("The end speaks of quinces.")


@pytest.mark.parametrize("question", ["", "zebra", "the of and", "?!", "\x00", "\ud800"])
def test_question_that_shares_no_term_finds_nothing(corpus: Path, question: str) -> None:
    assert open_library(corpus).search(question, 3) == ()


@pytest.mark.parametrize("question", ["IL6", "il-6", "TNF-alpha", "TNF\u03b1", "Sjogren", "SNAIL", "snail's"])
def test_spellings_of_one_name_find_the_same(corpus: Path, question: str) -> None:
    (hit,) = open_library(corpus).search(question, 3)
    assert hit.text.startswith("Snails of the genus")


def test_equal_scores_keep_the_order_of_the_documents(tmp_path: Path) -> None:
    index = make_index(tmp_path, [("same words here", "")] * 7 + [("other", "")], block_postings=4)
    assert len(index.blocks) > 2
    assert [hit.row for hit in index.find("same words", 5)] == [0, 1, 2, 3, 4]


def test_title_counts_in_every_passage_and_once(tmp_path: Path) -> None:
    texts = [(HARVEST, "On larks"), ("On larks. They sing.", "On larks."), ("They sing.", "On larks")]
    index = make_index(tmp_path, texts)
    hits = index.find("larks", 100)
    assert len(hits) == len(cut_passages(HARVEST, 40)) + 2
    scores = {hit.row: hit.score for hit in hits if hit.row}
    assert scores[1] == scores[2]


def make_index(folder: Path, texts: list[tuple[str, str]], **how: Any) -> Any:
    build_index(texts, folder, IDENTITY, **how)
    index, problem = open_index(folder, IDENTITY)
    assert index is not None, problem
    return index


def test_scores_are_those_of_bm25s_and_do_not_depend_on_blocks(tmp_path: Path) -> None:
    import bm25s

    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in draw.zipf(1.3, draw.integers(3, 39)) if n < 500) for _ in range(200)]
    stems = Stems()
    peer = bm25s.BM25(k1=K1, b=B, method=METHOD)
    peer.index([[stems.find(word) for word in split_words(text)] for text in texts], show_progress=False)
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    pairs = [(text, "") for text in texts]
    one = make_index(tmp_path / "one", pairs)
    many = make_index(tmp_path / "many", pairs, block_postings=100)
    assert (len(one.blocks), len(many.blocks) > 9) == (1, True)
    for question in ("w1 w2 w3", "w7 w40", "w9"):
        expected = peer.get_scores(split_words(question))
        found = {hit.row: hit.score for hit in one.find(question, 200)}
        assert set(found) == set(np.flatnonzero(expected).tolist())
        assert list(found.values()) == pytest.approx([expected[row] for row in found], rel=1e-5)
        assert many.find(question, 20) == one.find(question, 20)


def test_empty_corpus_has_an_index_that_finds_nothing(tmp_path: Path) -> None:
    assert make_index(tmp_path, []).find("anything", 3) == []
    (tmp_path / "blank").mkdir()
    assert make_index(tmp_path / "blank", [(" ", ""), ("the", "")]).find("the", 3) == []


@pytest.mark.parametrize("what", ["rows", "place", "columns", "file"])
def test_table_of_another_corpus_is_refused(tmp_path: Path, corpus: Path, what: str) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    path = copy / "documents.parquet"
    table = pq.read_table(path)
    if what == "rows":
        pq.write_table(table.slice(1), path)
    elif what == "place":
        moved = pa.array([7] * table.num_rows, pa.int64())
        place = table.schema.get_field_index("first_token")
        pq.write_table(table.set_column(place, table.schema.field(place), moved), path)
    elif what == "columns":
        pq.write_table(table.drop_columns(["title"]), path)
    else:
        path.unlink()
    with pytest.raises(DataError, match=r"documents\.parquet"):
        open_library(copy, rebuild=True)


def test_document_without_an_end_is_refused(tmp_path: Path, corpus: Path) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    shard = copy / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\xff\x00")
    with pytest.raises(DataError, match=r"of shard .*train-00000 has no end"):
        open_library(copy, rebuild=True)


def test_table_whose_rows_were_mixed_up_is_refused(tmp_path: Path, corpus: Path) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    open_library(copy)
    path = copy / "documents.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("id")
    pq.write_table(table.set_column(column, "id", table["id"].take(pa.array([1, 2, 3, 4, 0]))), path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"documents\.parquet is not the table"):
            open_library(copy)


def test_table_is_hashed_only_where_it_may_be_another(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[StoredDocuments] = []
    check = StoredDocuments.check_table
    monkeypatch.setattr(StoredDocuments, "check_table", lambda self: (hashed.append(self), check(self)))
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    for rebuild, expected in ((True, 1), (False, 1), (False, 1), (True, 2)):
        open_library(copy, rebuild=rebuild)
        assert len(hashed) == expected
    (copy / "documents.parquet").touch()
    open_library(copy)
    assert len(hashed) == 3


def test_passage_that_is_nothing_but_the_title_is_no_passage(tmp_path: Path) -> None:
    title = "Why larks sing to cress in the very early hours of spring: a study of seven northern gardens."
    texts = [(f"{title}\n\n{HARVEST}", title), (title, title), (f"{title}\n\n{HARVEST}", "")]
    for longest in (10, 20):
        folder = tmp_path / str(longest)
        folder.mkdir()
        identity = IDENTITY.model_copy(update={"passage_words": longest})
        build_index(texts, folder, identity)
        index, problem = open_index(folder, identity)
        assert index is not None, problem
        hits = index.find("larks", 1000)
        spans = {row: [(hit.start, hit.end) for hit in hits if hit.row == row] for row in range(3)}
        assert min(spans[0]) == min(
            span for span in cut_passages(texts[0][0], longest) if span[1] > len(title)
        )
        assert len(spans[0]) > 40 // longest
        assert sorted(spans[1]) == cut_passages(title, longest)[: len(spans[1])]
        assert min(spans[2])[0] == 0


def test_passages_end_at_paragraphs_and_sentences() -> None:
    text = "One two three. Four five six e.g. Seven.\nEight nine ten eleven. Twelve et al. Thirteen fourteen."
    parts = [text[start:end] for start, end in cut_passages(text, 9)]
    assert parts == [
        "One two three. Four five six e.g. Seven.",
        "Eight nine ten eleven. Twelve et al. Thirteen fourteen.",
    ]


@pytest.mark.parametrize("text", [HARVEST, CRESS, "x" * 5000, "a " * 999, "\n\n", "", "word", "A. " * 200])
@pytest.mark.parametrize("longest", [20, 33, 300])
def test_passages_hold_every_word_once_and_in_order(text: str, longest: int) -> None:
    spans = cut_passages(text, longest)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert all(0 <= end - start <= 41 * longest * 2 for start, end in spans)
    assert all(len(text[start:end].split()) <= longest for start, end in spans)
    assert spans
