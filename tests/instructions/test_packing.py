from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from biomedllama_cli.instructions.packing import (
    Pack,
    count_positions,
    lay_out,
    pack,
    spread,
)

lengths_and_capacity = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)
full_rows = st.integers(20, 80).flatmap(
    lambda capacity: st.tuples(
        st.lists(st.sets(st.integers(1, capacity - 1), max_size=6), min_size=1, max_size=12).map(
            lambda cuts: [np.diff([0, *sorted(places), capacity]).tolist() for places in cuts]
        ),
        st.just(capacity),
    )
)
"""Rows that are full to the last token, as the lengths of what fills them: the least number of rows is known."""


def sums(lengths: Sequence[int], packs: Sequence[Pack]) -> list[int]:
    return [sum(lengths[number] for number in row) for row in packs]


@settings(max_examples=200)
@given(lengths_and_capacity)
def test_every_example_is_in_one_row_once_and_no_row_is_too_long(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    packs = pack(lengths, capacity)
    assert sorted(chain(*packs)) == list(range(len(lengths)))
    assert all(0 < total <= capacity for total in sums(lengths, packs))


@settings(max_examples=200)
@given(full_rows)
def test_rows_are_within_the_proven_bound_of_the_least_number(case: tuple[list[list[int]], int]) -> None:
    rows, capacity = case
    assert len(pack(list(chain(*rows)), capacity)) <= 11 / 9 * len(rows) + 4


@settings(max_examples=100)
@given(lengths_and_capacity)
def test_no_two_rows_would_fit_into_one(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    shortest = sorted(sums(lengths, pack(lengths, capacity)))[:2]
    assert len(shortest) < 2 or sum(shortest) > capacity


def test_an_example_goes_where_it_leaves_the_least_room() -> None:
    # First-fit would put the last one beside the 8.
    assert pack([8, 6, 5, 1], capacity=12) == [[0], [1, 2, 3]]


def test_equal_lengths_keep_their_order() -> None:
    assert pack([4, 4, 4, 4], capacity=8) == [[0, 1], [2, 3]]


def test_a_length_that_fits_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="lengths 3 to 9 do not fit rows of 8"):
        pack([3, 9], capacity=8)
    with pytest.raises(ValueError, match="lengths 0 to 3"):
        pack([3, 0], capacity=8)


def test_packing_does_not_look_at_every_row_for_every_example() -> None:
    lengths = np.random.default_rng(0).integers(40, 700, 100_000).tolist()
    start = time.process_time()
    packs = pack(lengths, 2048)
    assert time.process_time() - start < 20  # looking at all rows takes minutes
    assert sum(lengths) > 0.999 * 2048 * len(packs)


@settings(max_examples=200)
@given(lengths_and_capacity, st.integers(0, 6))
def test_spreading_keeps_to_the_rows_and_the_capacity(case: tuple[list[int], int], more: int) -> None:
    lengths, capacity = case
    least = len(pack(lengths, capacity))
    packs = spread(lengths, max(1, least + more), capacity)
    assert sorted(chain(*packs)) == list(range(len(lengths)))
    assert len(packs) <= least + more
    assert all(total <= capacity for total in sums(lengths, packs))


@settings(max_examples=200)
@given(full_rows)
def test_spread_rows_are_nearly_equal(case: tuple[list[list[int]], int]) -> None:
    rows, capacity = case
    lengths = list(chain(*rows))
    longest = max(sums(lengths, spread(lengths, len(rows), 3 * capacity)))
    assert longest <= 1.22 * capacity + 1  # the bound proven in the paper, and the last step of the search


@settings(max_examples=200)
@given(
    case=lengths_and_capacity,
    rows_at_once=st.integers(1, 5),
    ranks=st.integers(1, 5),
    packing=st.booleans(),
)
@example(case=([], 8), rows_at_once=2, ranks=3, packing=True)
@example(case=([], 8), rows_at_once=2, ranks=3, packing=False)
@example(case=([5], 8), rows_at_once=1, ranks=4, packing=True)
def test_a_layout_holds_every_example_once_and_gives_ranks_equally_many_forwards(
    case: tuple[list[int], int], rows_at_once: int, ranks: int, packing: bool
) -> None:
    lengths, capacity = case
    layout = lay_out(lengths, capacity=capacity, rows_at_once=rows_at_once, ranks=ranks, packing=packing)
    assert len(layout) == ranks
    assert len({len(micro_batches) for micro_batches in layout}) == 1
    every = list(chain(*layout))
    assert layout[0]
    assert sorted(chain(*chain(*every))) == list(range(len(lengths)))
    for rows in every:
        assert rows
        assert len(rows) * max(sums(lengths, rows)) <= rows_at_once * capacity
        assert packing or max(map(len, rows)) <= 1
    least = len(pack(lengths, capacity)) if packing else len(lengths)
    assert len(layout[0]) <= 1.1 * max(1, -(-least // (rows_at_once * ranks)))


def test_a_layout_leaves_next_to_no_padding_and_no_rank_waits() -> None:
    lengths = np.random.default_rng(1).integers(60, 500, 128).tolist()
    for rows_at_once, ranks in ((1, 1), (4, 1), (1, 8), (2, 4)):
        layout = lay_out(lengths, capacity=2048, rows_at_once=rows_at_once, ranks=ranks)
        assert sum(lengths) >= 0.97 * count_positions(lengths, layout)
        work = [sum(map(sum, (sums(lengths, rows) for rows in micro_batches))) for micro_batches in layout]
        assert min(work) >= 0.96 * max(work)


def test_short_examples_take_short_rows_of_the_same_number_of_tokens() -> None:
    lengths = np.random.default_rng(2).integers(10, 60, 512).tolist()
    layout = lay_out(lengths, capacity=2048, rows_at_once=1, ranks=1)
    assert max(map(len, layout[0])) == 8
    assert max(max(sums(lengths, rows)) for rows in layout[0]) <= 256
    assert sum(lengths) >= 0.97 * count_positions(lengths, layout)


def test_rows_stay_long_where_shorter_ones_would_need_more_forward_passes() -> None:
    layout = lay_out([500] * 128, capacity=2000, rows_at_once=1, ranks=1)
    assert (len(layout[0]), {len(rows) for rows in layout[0]}) == (32, {4})
    layout = lay_out([800] * 32 + [700] * 32 + [500] * 32, capacity=2000, rows_at_once=1, ranks=1)
    assert (len(layout[0]), {len(rows) for rows in layout[0]}) == (36, {1})  # rows of 1000 would need 40


def test_one_long_example_keeps_the_rows_of_its_step_long() -> None:
    lengths = [1500, *np.random.default_rng(2).integers(60, 250, 127).tolist()]
    layout = lay_out(lengths, capacity=2048, rows_at_once=1, ranks=1)
    assert {len(rows) for rows in layout[0]} == {1}


def test_unpacked_rows_of_similar_lengths_stand_together() -> None:
    layout = lay_out([3, 9, 4, 8, 2], capacity=16, rows_at_once=2, ranks=2, packing=False)
    assert layout == [[[[1], [3]], [[4]]], [[[2], [0]], [[]]]]
