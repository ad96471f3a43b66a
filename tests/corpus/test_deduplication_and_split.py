"""Duplicates and the split are functions of content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.corpus import decisions, deduplication
from biomedllama_cli.corpus.reasons import ALIVE, EXACT_DUPLICATE, RETRACTED
from biomedllama_cli.corpus.selection import Gate
from biomedllama_cli.corpus.source import Part, Source
from biomedllama_cli.corpus.sources.files import find_inputs
from biomedllama_cli.corpus.sources.pile import SUFFIXES, PileReader
from biomedllama_cli.corpus.split import DOCUMENT, DROPPED, TRAIN, VALIDATION, hash_content
from biomedllama_cli.corpus.vocabulary import choose_texts


def build_rows(contents: list[int]) -> npt.NDArray[Any]:
    rows = np.zeros(len(contents), DOCUMENT)
    for row, content in zip(rows, contents, strict=True):
        row["content"], row["split"] = hash_content(str(content).encode())
    return rows


def write_tables(folder: Path, contents: list[int], tables: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, part in enumerate(np.array_split(np.array(contents, dtype=np.int64), tables)):
        paths.append(folder / f"table-{number}")
        paths[-1].write_bytes(build_rows(part.tolist()).tobytes())
    return paths


def choose_splits(tables: list[Path], scratch: Path, fraction: float) -> npt.NDArray[np.uint8]:
    """Drop duplicates, then split what stays, all of one source."""
    flags = deduplication.mark_duplicates(tables, scratch)
    splits, parts = np.empty_like(flags), np.zeros_like(flags)
    decisions.choose_splits(tables, flags, splits, parts, (fraction, None))
    return splits


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 4))
@settings(max_examples=40)
def test_first_occurrence_stays_whatever_the_buckets(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int], tables: int
) -> None:
    folder = tmp_path_factory.mktemp("duplicates")
    paths = write_tables(folder, contents, tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deduplication, "_BUCKET_DOCUMENTS", 7)
        patch.setattr(deduplication, "CHUNK_DOCUMENTS", 5)
        flags = deduplication.mark_duplicates(paths, folder / "scratch")
    assert flags.tolist() == [EXACT_DUPLICATE * (value in contents[:i]) for i, value in enumerate(contents)]
    assert not list((folder / "scratch").glob("bucket-*"))


def test_document_dropped_already_makes_no_other_a_duplicate(tmp_path: Path) -> None:
    paths = write_tables(tmp_path, [1, 1, 2, 1, 2], 2)
    flags = np.array([RETRACTED, ALIVE, RETRACTED, ALIVE, ALIVE], np.uint8)
    deduplication.mark_duplicates(paths, tmp_path / "scratch", flags)
    assert flags.tolist() == [RETRACTED, ALIVE, RETRACTED, EXACT_DUPLICATE, ALIVE]


@given(st.permutations(range(40)), st.sampled_from([0.0, 0.01, 0.2, 0.99]))
@settings(max_examples=30)
def test_split_does_not_depend_on_order_or_tasks(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], fraction: float
) -> None:
    def held_out(contents: list[int], tables: int) -> set[int]:
        folder = tmp_path_factory.mktemp("split")
        splits = choose_splits(write_tables(folder, contents, tables), folder / "scratch", fraction)
        return {content for content, split in zip(contents, splits, strict=True) if split == VALIDATION}

    assert held_out(list(order), 3) == held_out(list(range(40)), 1)


@pytest.mark.parametrize("fraction", [0.01, 0.25])
def test_share_held_out_is_the_one_asked_for(tmp_path: Path, fraction: float) -> None:
    documents = 20_000
    splits = choose_splits(write_tables(tmp_path, list(range(documents)), 2), tmp_path / "s", fraction)
    held_out = int((splits == VALIDATION).sum())
    deviation = (documents * fraction * (1 - fraction)) ** 0.5
    assert abs(held_out - documents * fraction) < 5 * deviation


@pytest.mark.parametrize(
    ("contents", "fraction", "expected"),
    [
        ([1, 2, 3], 0.0, (3, 0)),  # nothing asked for
        ([1, 2, 3], 1e-9, (2, 1)),  # the hash chooses none: the smallest goes
        ([1, 2, 3], 1 - 1e-9, (1, 2)),  # the hash chooses all: the largest stays
        ([1], 1e-9, (1, 0)),  # one document cannot be split
        ([1], 1 - 1e-9, (1, 0)),  # and it stays, whatever its hash
        ([], 0.5, (0, 0)),
    ],
)
def test_small_corpora_keep_both_splits(
    tmp_path: Path, contents: list[int], fraction: float, expected: tuple[int, int]
) -> None:
    splits = choose_splits(write_tables(tmp_path, contents, 1), tmp_path / "s", fraction)
    assert (int((splits == TRAIN).sum()), int((splits == VALIDATION).sum())) == expected


def test_duplicate_is_never_in_both_splits(tmp_path: Path) -> None:
    contents = [i % 50 for i in range(200)]
    splits = choose_splits(write_tables(tmp_path, contents, 3), tmp_path / "s", 0.5)
    assert (splits == DROPPED).sum() == 150
    assert (splits[:50] != DROPPED).all()


@pytest.mark.parametrize("documents", [1, 3])
def test_vocabulary_is_trained_on_the_one_document_that_stays(
    tmp_path: Path, records: Any, documents: int
) -> None:
    texts = [records.make_text(i) for i in range(documents)]
    path = records.write_records(tmp_path / "a.jsonl", [records.make_record(text) for text in texts * 2])
    source = Source((Part("pile", PileReader(), tuple(find_inputs((str(path),), SUFFIXES))),))
    stays = max(texts, key=lambda text: hash_content(text.encode())[::-1])
    assert choose_texts(source, [Gate()], 1 - 1e-9) == [stays]
