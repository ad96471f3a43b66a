"""Weighted mixtures: how often each sequence comes, and that the order is a function of the step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.order import SequenceOrder, build_sequence_order, epoch_sequences
from biomedllama_cli.settings.pretrain import BatchSettings, DurationSettings


def order_of(mixture: Mixture, batch: int, epochs: float) -> SequenceOrder:
    return build_sequence_order(
        mixture, BatchSettings(global_batch_size=batch), DurationSettings(epochs=epochs), seed=5
    )


def test_weights_of_one_change_nothing() -> None:
    plain = Mixture.of([("pmc", 30)], {})
    split = Mixture.of([("pubmed", 10), ("pmc", 20)], {"pubmed": 1.0, "pmc": 1})
    for epoch in range(3):
        assert epoch_sequences(plain, 7, epoch).tolist() == epoch_sequences(split, 7, epoch).tolist()


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.75]), min_size=4, max_size=4),
    epochs=st.integers(1, 9),
)
def test_every_sequence_comes_as_often_as_its_weight_says(
    counts: list[int], weights: list[float], epochs: int
) -> None:
    names = [f"s{i}" for i in range(len(counts))]
    mixture = Mixture.of(list(zip(names, counts, strict=True)), dict(zip(names, weights, strict=False)))
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        ids = epoch_sequences(mixture, 3, epoch).tolist()
        assert len(ids) == mixture.epoch_length
        seen.update(ids)
    first = 0
    for count, draws in zip(counts, mixture.draws, strict=True):
        uses = [seen[i] for i in range(first, first + count)]
        assert sum(uses) == draws * epochs
        assert max(uses) - min(uses) <= 1, "one sequence was preferred to another"
        first += count


def test_sources_made_of_several_shards_are_one_source() -> None:
    mixture = Mixture.of([("a", 3), ("b", 4), ("a", 5)], {"b": 2})
    assert mixture.counts == (8, 4)
    assert Counter(epoch_sequences(mixture, 0, 0).tolist()) == {
        **dict.fromkeys([0, 1, 2, 7, 8, 9, 10, 11], 1),
        **dict.fromkeys([3, 4, 5, 6], 2),
    }


def test_sources_are_mixed_and_not_read_one_after_the_other() -> None:
    mixture = Mixture.of([("a", 500), ("b", 500)], {"a": 2})
    steps = order_of(mixture, 100, 1.0)
    shares = [float((steps.step_sequences(step) < 500).mean()) for step in range(1, steps.total_steps + 1)]
    assert min(shares) > 0.45
    assert max(shares) < 0.85


@pytest.mark.parametrize("step", [1, 4, 11])
def test_a_step_depends_on_nothing_that_came_before(step: int) -> None:
    mixture = Mixture.of([("a", 37), ("b", 11)], {"a": 0.5, "b": 3})
    epoch_sequences.cache_clear()
    alone = order_of(mixture, 8, 4).step_sequences(step)
    walked = order_of(mixture, 8, 4)
    stream = [walked.step_sequences(i) for i in range(1, step + 1)]
    assert np.array_equal(alone, stream[-1])
