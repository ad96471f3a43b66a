"""Majority votes over sampled chains of thought, and what more chains are worth.

Source: Wang et al., Self-consistency improves chain of thought reasoning in language models, arXiv:2203.11171.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Votes = Sequence[int | None]
"""The option each chain of one question answers with, in order; None where it names none, and abstains."""


def majority_vote(votes: Votes) -> int | None:
    """Return the option most chains name; of equals the one that reached the count first; None without votes.

    >>> majority_vote([1, 0, 0, 1]), majority_vote([1, 0, 1, 0]), majority_vote([None, 2]), majority_vote([None])
    (0, 1, 2, None)
    """
    counts: Counter[int] = Counter()
    winner: int | None = None
    for vote in votes:
        if vote is None:
            continue
        counts[vote] += 1
        if winner is None or counts[vote] > counts[winner]:
            winner = vote
    return winner


def agreement(votes: Votes) -> float:
    """Return the share of all chains, abstaining ones included, that name the winner of the vote.

    >>> agreement([1, 1, 0, None]), agreement([None])
    (0.5, 0.0)
    """
    winner = majority_vote(votes)
    return 0.0 if winner is None else sum(vote == winner for vote in votes) / len(votes)


def vote_curve(votes: Sequence[Votes], answers: Sequence[int]) -> dict[int, float]:
    """Return the accuracy of the vote of N chains for N = 1, 2, 4, 8, ... and all of them.

    Below all of them it is the mean over every subset of N chains in every order, so no luck of one subset is in it
    and a tie is worth the share of its orders that end well. It is computed exactly, not drawn. For all chains it is
    the accuracy of `majority_vote`.

    Args:
        votes: one row per question, each with the same number of chains.
        answers: index of the right option per question.

    Raises:
        ValueError: there are no questions, or the rows differ in length.

    >>> vote_curve([[0, 0, 1, 1], [0, 1, None, None]], [0, 0])
    {1: 0.375, 2: 0.458333, 4: 1.0}
    """
    if not votes or len({len(row) for row in votes}) != 1 or not votes[0]:
        raise ValueError("a vote curve needs at least one question and as many chains for each")
    chains = len(votes[0])
    sizes = [1 << power for power in range(chains.bit_length()) if 1 << power < chains]
    totals = np.zeros(chains + 1)
    for row, answer in zip(votes, answers, strict=True):
        counts = Counter(vote for vote in row if vote is not None)
        others = tuple(sorted(count for option, count in counts.items() if option != answer))
        totals += win_probabilities(counts[answer], others, chains)
    curve = {size: round(float(totals[size]) / len(votes), 6) for size in sizes}
    right = sum(majority_vote(row) == answer for row, answer in zip(votes, answers, strict=True))
    return {**curve, chains: right / len(votes)}


@lru_cache(maxsize=4096)
def win_probabilities(right: int, others: tuple[int, ...], chains: int) -> NDArray[np.float64]:
    """Return the probability that the right option wins the vote of N random chains, for N = 0 ... `chains`.

    With m votes for the right option, the ways in which every other option gets m at most are the coefficients of a
    product of polynomials, one per option; t options that tie with it leave it one chance in t + 1.

    Args:
        right: chains that name the right option.
        others: chains of each other option that is named.
        chains: all chains, abstaining ones included.

    >>> win_probabilities(1, (1,), 3).round(4).tolist()  # alone in 1 of 3; of pairs 1/2 + 1 + 0 in 3
    [0.0, 0.3333, 0.5, 0.5]
    """
    abstaining = chains - right - sum(others)
    won = np.zeros(chains + 1)
    for held in range(1, right + 1):
        # tied[t] holds the coefficients by number of chains where t options have as many votes.
        tied = [_binomials(abstaining)]
        for count in others:
            below = _binomials(count)[:held]
            level = np.zeros(held + 1)
            level[held] = math.comb(count, held)
            tied = [
                _add(
                    np.convolve(tied[t], below) if t < len(tied) else np.zeros(1),
                    np.convolve(tied[t - 1], level) if t else np.zeros(1),
                )
                for t in range(len(tied) + 1)
            ]
        for ties, ways in enumerate(tied):
            reach = min(len(ways), chains + 1 - held)
            won[held : held + reach] += math.comb(right, held) * ways[:reach] / (ties + 1)
    won /= _binomials(chains)
    won.setflags(write=False)
    return won


def _binomials(count: int) -> NDArray[np.float64]:
    return np.array([math.comb(count, chosen) for chosen in range(count + 1)], dtype=np.float64)


def _add(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros(max(len(first), len(second)))
    total[: len(first)] += first
    total[: len(second)] += second
    return total
