"""Baselines every result is held against: a unigram model for text, chance and majority for questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenStream(Protocol):
    """Anything that holds one flat array of token ids, as `corpus.shards.Shard` does."""

    @property
    def token_ids(self) -> npt.NDArray[np.integer]:
        """Token ids, 1-D."""
        ...


def unigram_bits_per_byte(
    token_counts: npt.ArrayLike,
    shards: Iterable[TokenStream],
    utf8_bytes: int,
    *,
    bos_id: int | None = None,
) -> float:
    """Return the bits per byte of a unigram model of the training tokens on held-out shards.

    The same tokens are scored as in a model's validation: all but the first of each shard, which has
    nothing before it, and BOS, which is never a target. Counts get one added (Laplace), so that a piece
    the training text lacks stays finite.

    Args:
        token_counts: how often each id occurs in the training tokens, shape [vocabulary_size].
        shards: held-out token streams.
        utf8_bytes: UTF-8 bytes of the held-out text (in bytes).
        bos_id: id that starts documents and is no target, where the corpus has one.

    Returns:
        Bits per UTF-8 byte; lower is better.

    Raises:
        ValueError: `utf8_bytes` is not positive.

    >>> from types import SimpleNamespace
    >>> held_out = SimpleNamespace(token_ids=np.array([0, 1, 0, 1, 0]))
    >>> round(unigram_bits_per_byte([9, 9], [held_out], utf8_bytes=4), 6)  # 4 targets of 1 bit each
    1.0
    """
    if utf8_bytes <= 0:
        raise ValueError(f"utf8_bytes is {utf8_bytes}; it must be positive")
    counts = np.asarray(token_counts, dtype=np.float64) + 1.0
    if bos_id is not None:
        counts[bos_id] = 0.0
    with np.errstate(divide="ignore"):
        bits = np.log2(counts.sum()) - np.log2(counts)
    targets = np.zeros(len(counts), dtype=np.int64)
    for shard in shards:
        targets += np.bincount(np.asarray(shard.token_ids[1:]), minlength=len(counts))
    if bos_id is not None:
        targets[bos_id] = 0
        bits[bos_id] = 0.0
    return float(targets @ bits) / utf8_bytes


def random_accuracy(option_counts: Sequence[int]) -> float:
    """Return the expected accuracy of guessing, given each question's number of options.

    >>> random_accuracy([4, 4, 2]), random_accuracy([5] * 640)
    (0.3333333333333333, 0.2)
    """
    return float(sum(Fraction(1, count) for count in option_counts) / len(option_counts))


def majority_accuracy(answer_indices: Sequence[int]) -> float:
    """Return the accuracy of always choosing the commonest answer index.

    >>> majority_accuracy([0, 0, 1, 2])
    0.5
    """
    return Counter(answer_indices).most_common(1)[0][1] / len(answer_indices)
