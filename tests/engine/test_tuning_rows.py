from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.instructions.encoding import EncodedSet

EOS = 2
LARGE = 70_000  # beyond 16 bits


def encode(examples: Sequence[Sequence[tuple[int, bool]]]) -> EncodedSet:
    """Return made-up examples of (token, is it learnt) as an encoded set."""
    flat = [pair for example in examples for pair in example]
    return EncodedSet(
        token_ids=np.array([token for token, _ in flat], dtype=np.uint32),
        trained=np.array([trained for _, trained in flat], dtype=bool),
        starts=np.cumsum([0] + [len(example) for example in examples], dtype=np.int64),
        ids=[str(number) for number in range(len(examples))],
        sources=["made-up"] * len(examples),
        cut_tokens=np.zeros(len(examples), dtype=np.int64),
    )


FIRST = [(1, False), (11, False), (12, False), (LARGE, True), (EOS, True)]
SECOND = [(1, False), (21, True), (22, False), (23, True)]  # two turns are learnt, what lies between is not
THIRD = [(31, False), (EOS, True)]


@pytest.fixture
def rows() -> TuningRows:
    return TuningRows(encode([FIRST, SECOND, THIRD]), eos_id=EOS, sequence_length=12)


def test_a_row_holds_its_examples_end_to_end_with_labels_shifted(rows: TuningRows) -> None:
    batch = rows.__getitems__([[1, 0, 2]])
    assert batch["input_ids"].tolist() == [[1, 21, 22, 1, 11, 12, LARGE, 31]]
    assert batch["labels"].tolist() == [[21, -100, 23, -100, -100, LARGE, EOS, EOS]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_no_attention_mask_is_made(rows: TuningRows) -> None:
    assert rows[[0]].keys() == {"input_ids", "labels", "position_ids"}


def test_rows_are_cut_to_the_longest_and_padding_is_no_target(rows: TuningRows) -> None:
    batch = rows.__getitems__([[2], [0], []])
    assert batch["input_ids"].tolist() == [[31, EOS, EOS, EOS], [1, 11, 12, LARGE], [EOS] * 4]
    assert batch["labels"].tolist() == [[EOS, -100, -100, -100], [-100, -100, LARGE, EOS], [-100] * 4]


def test_a_row_of_one_example_has_positions_that_never_start_anew(rows: TuningRows) -> None:
    assert rows.__getitems__([[2], [0]])["position_ids"].tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("packs", "width"), [([[2]], 8), ([[0, 1]], 8), ([[0, 1, 2]], 8), ([[0, 0, 2]], 10), ([[]], 8)]
)
def test_rows_are_a_multiple_of_eight_up_to_the_sequence_length(packs: list[list[int]], width: int) -> None:
    rows = TuningRows(encode([FIRST, SECOND, THIRD]), eos_id=EOS, sequence_length=10, multiple_of=8)
    assert rows.__getitems__(packs)["input_ids"].shape == (1, width)


def test_rows_padded_in_full_have_the_sequence_length() -> None:
    rows = TuningRows(encode([FIRST]), eos_id=EOS, sequence_length=12, pad_to="full")
    assert rows[[0]]["input_ids"].shape == (1, 12)


def test_only_empty_packs_make_one_position_without_targets(rows: TuningRows) -> None:
    batch = rows.__getitems__([[]])
    assert batch["input_ids"].tolist() == [[EOS]]
    assert batch["labels"].tolist() == [[-100]]


def test_an_example_that_is_nothing_but_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="two tokens"):
        TuningRows(encode([FIRST, [(5, False)]]), eos_id=EOS, sequence_length=12)


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(3, 99), st.booleans()), min_size=2, max_size=12),
        min_size=1,
        max_size=8,
    )
)
def test_a_packed_row_is_its_examples_one_by_one(examples: list[list[tuple[int, bool]]]) -> None:
    rows = TuningRows(encode(examples), eos_id=EOS, sequence_length=200)
    packed = rows[list(range(len(examples)))]
    ends = np.cumsum([0, *rows.lengths]).tolist()
    for number, (first, end) in enumerate(pairwise(ends)):
        alone = rows[[number]]
        for name, tensor in alone.items():
            assert packed[name][0, first:end].tolist() == tensor[0].tolist()
    targets = sum(trained for example in examples for _, trained in example[1:])
    assert int((packed["labels"] != -100).sum()) == targets
