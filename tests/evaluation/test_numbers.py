"""Macro-F1, baselines and the atomic output folder."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from biomedllama_cli.errors import OutputError
from biomedllama_cli.evaluation.baselines import unigram_bits_per_byte
from biomedllama_cli.evaluation.output import write_results
from biomedllama_cli.evaluation.statistics import macro_f1


def test_macro_f1_of_always_yes():
    answers = [0] * 552 + [1] * 338 + [2] * 110
    assert macro_f1(answers, [0] * 1000, 3) == pytest.approx(2 * 0.552 / 1.552 / 3)


def test_unigram_baseline_equals_the_entropy_of_its_own_counts():
    generator = np.random.default_rng(0)
    tokens = generator.choice(4, p=[0.5, 0.25, 0.125, 0.125], size=200_000)
    counts = np.bincount(tokens, minlength=4)
    shard = SimpleNamespace(token_ids=tokens.astype(np.uint16))
    assert unigram_bits_per_byte(counts, [shard], len(tokens)) == pytest.approx(1.75, abs=0.01)
    assert unigram_bits_per_byte(counts, [shard, shard], len(tokens)) == pytest.approx(3.5, abs=0.02)


def test_unigram_baseline_leaves_bos_out_and_survives_unseen_pieces():
    shard = SimpleNamespace(token_ids=np.array([0, 1, 3, 0, 2, 3]))
    bits = unigram_bits_per_byte([100, 3, 0, 3], [shard], 4, bos_id=0)
    # Targets 1, 3, 2, 3 with smoothed counts 4, 4, 1, 4 of 9 without BOS.
    assert bits == pytest.approx((3 * math.log2(9 / 4) + math.log2(9)) / 4)
    with pytest.raises(ValueError, match="utf8_bytes"):
        unigram_bits_per_byte([1], [shard], 0)


def test_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        write_results(tmp_path / "out", {"value": object()}, {"medqa": [{"id": "1"}]}, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_output_folder_below_a_file_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_results(tmp_path / "file" / "out", {}, {}, overwrite=False)
