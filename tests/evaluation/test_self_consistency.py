"""Votes of chains, and the exact curve against a count of every subset in every order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from biomedllama_cli.evaluation.self_consistency import (
    agreement,
    majority_vote,
    vote_curve,
    win_probabilities,
)

VOTES: list[int | None] = [0, 1, 1, 0, None, 2]


def count_all(votes: list[int | None], answer: int, size: int) -> float:
    """Vote with every ordered choice of `size` chains."""
    won = [majority_vote(chosen) == answer for chosen in permutations(votes, size)]
    return sum(won) / len(won)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([0], 0),
        ([None], None),
        ([], None),
        ([2, 1, 1], 1),
        ([2, 1, 1, 2], 1),
        ([2, 1, 2, 1], 2),
        ([None, None, 3], 3),
        ([0, 1, 2], 0),
        ([0, 1, 2, 2, 1, 0], 2),
    ],
)
def test_of_equals_the_first_to_reach_the_count_wins(votes: list[int | None], winner: int | None) -> None:
    assert majority_vote(votes) == winner


def test_agreement_counts_abstaining_chains() -> None:
    assert agreement([1, 1, None, 0]) == 0.5
    assert agreement([1, 1]) == 1.0
    assert agreement([None, None]) == 0.0


@pytest.mark.parametrize("answer", [0, 1, 2, 3])
def test_the_curve_is_the_mean_over_all_subsets_in_all_orders(answer: int) -> None:
    curve = vote_curve([VOTES], [answer])
    assert list(curve) == [1, 2, 4, 6]
    for size in (1, 2, 4):
        assert curve[size] == pytest.approx(count_all(VOTES, answer, size), abs=1e-6)


@pytest.mark.parametrize(
    "votes", [[0, 0, 0], [0, 1, 1], [0, 1, 2, 3, 4], [None] * 4, [0, 0, 1, 1, 2, 2], [0, None, None, 1]]
)
def test_probabilities_hold_for_every_size(votes: list[int | None]) -> None:
    others = tuple(sorted(votes.count(option) for option in set(votes) - {0, None}))
    got = win_probabilities(votes.count(0), others, len(votes))
    expected = [0.0] + [count_all(votes, 0, size) for size in range(1, len(votes) + 1)]
    assert np.allclose(got, expected, atol=1e-12)


def test_the_last_point_is_the_vote_itself_and_the_first_the_mean_chain() -> None:
    votes: list[list[int | None]] = [[0, 1, 1, 0], [1, 1, 0, None], [None] * 4]
    curve = vote_curve(votes, [1, 1, 1])
    assert curve[4] == 2 / 3
    assert curve[1] == pytest.approx((0.5 + 0.5 + 0) / 3, abs=1e-6)


def test_eighty_chains_of_ten_options_stay_exact() -> None:
    counts = (20, 9, 8, 8, 7, 6, 6, 5, 4, 3)
    votes: list[int | None] = [option for option, count in enumerate(counts) for _ in range(count)] + [
        None
    ] * 4
    rng = np.random.default_rng(0)
    curve = vote_curve([votes], [0])
    assert list(curve) == [1, 2, 4, 8, 16, 32, 64, 80]
    assert curve[1] == 0.25
    for size in (8, 32):
        drawn = [majority_vote([votes[i] for i in rng.permutation(80)[:size]]) == 0 for _ in range(4000)]
        assert curve[size] == pytest.approx(np.mean(drawn), abs=0.03)


def test_rows_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="as many chains"):
        vote_curve([[0], [0, 1]], [0, 0])
