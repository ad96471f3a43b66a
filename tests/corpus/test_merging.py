"""Several corpora trained on as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.corpus.merging import merge_corpora
from biomedllama_cli.errors import DataError
from biomedllama_cli.recipes.prepare import PrepareReport

Prepare = Callable[..., PrepareReport]


@pytest.fixture
def folders(run_prepare: Prepare, records: Any, tmp_path: Path) -> list[Path]:
    """Return two corpora of 30 and 12 records."""
    for name, count in (("a", 30), ("b", 12)):
        rows = [records.make_record(records.make_text(1000 * count + i)) for i in range(count)]
        records.write_records(tmp_path / f"{name}.jsonl", rows)
        run_prepare(
            tmp_path / f"{name}.jsonl", output_dir=tmp_path / name, output={"validation_fraction": 0.2}
        )
    return [tmp_path / "a", tmp_path / "b"]


def test_merged_corpus_has_the_tokens_and_counts_of_both(folders: list[Path]) -> None:
    parts = [load_corpus(folder) for folder in folders]
    merged = merge_corpora(parts)
    assert [shard.path for shard in merged.train] == [shard.path for part in parts for shard in part.train]
    assert merged.manifest.documents.read == 42
    assert merged.manifest.tokens.train == sum(part.manifest.tokens.train for part in parts)
    assert merged.manifest.bytes.validation == sum(part.manifest.bytes.validation for part in parts)
    assert merged.list_train_sources() == ["a/pile", "b/pile"]
    expected = np.load(folders[0] / "token_counts.npy") + np.load(folders[1] / "token_counts.npy")
    assert merged.load_token_counts().tolist() == expected.tolist()


def test_one_corpus_stays_as_it_is(folders: list[Path]) -> None:
    corpus = load_corpus(folders[0])
    assert merge_corpora([corpus]) is corpus


def test_corpora_of_another_tokenizer_or_bos_do_not_mix(
    folders: list[Path], run_prepare: Prepare, tmp_path: Path
) -> None:
    run_prepare(tmp_path / "b.jsonl", output_dir=tmp_path / "no", tokenization={"bos": "never"})
    with pytest.raises(DataError, match="BOS"):
        merge_corpora([load_corpus(folders[0]), load_corpus(tmp_path / "no")])
    run_prepare(
        tmp_path / "b.jsonl",
        output_dir=tmp_path / "other",
        tokenization={"tokenizer": None, "vocabulary_size": 420},
    )
    with pytest.raises(DataError, match="different tokenizers"):
        merge_corpora([load_corpus(folders[0]), load_corpus(tmp_path / "other")])


def test_the_same_corpus_twice_is_refused(folders: list[Path]) -> None:
    with pytest.raises(DataError, match="same name and sources"):
        merge_corpora([load_corpus(folders[0])] * 2)
