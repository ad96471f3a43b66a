from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.engine.loader import MicroBatchIds, RunData
from biomedllama_cli.engine.mixture import Mixture
from biomedllama_cli.engine.order import (
    PADDING_SEQUENCE,
    BatchPlan,
    SequenceOrder,
    build_batch_plan,
    build_sequence_order,
    epoch_permutation,
)
from biomedllama_cli.engine.rows import PackedRows
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.settings.pretrain import BatchSettings, DurationSettings


def order_of(
    count: int, batch: int, epochs: float = 1.0, max_steps: int | None = None, seed: int = 0
) -> SequenceOrder:
    return build_sequence_order(
        Mixture.of([("pile", count)], {}),
        BatchSettings(global_batch_size=batch),
        DurationSettings(epochs=epochs, max_steps=max_steps),
        seed,
    )


def iter_micro_batches(
    order: SequenceOrder, plan: BatchPlan, rank: int, start_step: int
) -> Iterator[list[int]]:
    rows = PackedRows([], 8, eos_id=0, has_bos=False)
    yield from MicroBatchIds(RunData(rows, order, plan, None), rank, start_step)


@settings(max_examples=60)
@given(
    extra=st.integers(0, 50),
    world_size=st.sampled_from([1, 2, 3, 4]),
    micro=st.sampled_from([1, 2, 3]),
    accumulation=st.integers(1, 3),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_every_sequence_comes_once_per_epoch_on_any_layout(
    extra: int, world_size: int, micro: int, accumulation: int, epochs: int, seed: int
) -> None:
    batch = world_size * micro * accumulation
    order = order_of(batch + extra, batch, epochs=epochs, seed=seed)
    plan = BatchPlan(batch, micro, world_size)
    per_rank = [list(iter_micro_batches(order, plan, rank, 1)) for rank in range(world_size)]
    assert {len(batches) for batches in per_rank} == {order.total_steps * accumulation}
    seen = Counter(i for batches in per_rank for ids in batches for i in ids)
    padding = seen.pop(PADDING_SEQUENCE, 0)
    assert seen == dict.fromkeys(range(batch + extra), epochs)
    assert padding == order.total_steps * batch - epochs * (batch + extra) < batch


def test_an_epoch_is_finished_before_the_next_begins() -> None:
    order = order_of(10, 4, epochs=2)
    stream = np.concatenate([order.step_sequences(step) for step in range(1, 6)])
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()


def test_ranks_split_the_same_step() -> None:
    order = order_of(64, 16)
    alone = next(iter(iter_micro_batches(order, BatchPlan(16, 16, 1), 0, 2)))
    together = [
        i
        for rank in range(4)
        for ids in list(iter_micro_batches(order, BatchPlan(16, 2, 4), rank, 2))[:2]
        for i in ids
    ]
    assert together == alone == order.step_sequences(2).tolist()


def test_starting_later_gives_the_same_steps() -> None:
    order, plan = order_of(50, 8, epochs=2), BatchPlan(8, 2, 2)
    whole = list(iter_micro_batches(order, plan, 1, 1))
    assert list(iter_micro_batches(order, plan, 1, 6)) == whole[5 * plan.grad_accum_steps :]


def test_order_is_frozen() -> None:
    # Changing the order would make every older checkpoint continue with other data than it says.
    assert epoch_permutation(8, 7, 0).tolist() == FROZEN[0]
    assert epoch_permutation(8, 7, 1).tolist() == FROZEN[1]


FROZEN = ([4, 1, 6, 3, 2, 7, 5, 0], [3, 1, 6, 2, 5, 4, 0, 7])


def test_next_seed_is_not_the_next_epoch() -> None:
    assert epoch_permutation(100, 1, 0).tolist() != epoch_permutation(100, 0, 1).tolist()


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [
        (1.0, None, 3),
        (0.5, None, 2),
        (0.01, None, 1),
        (2.0, None, 5),
        (2.0, 4, 4),
        (1.0, 9, 3),
        (0.1, None, 1),
    ],
)
def test_epochs_and_max_steps_both_bound_the_steps(epochs: float, max_steps: int | None, steps: int) -> None:
    assert order_of(10, 4, epochs=epochs, max_steps=max_steps).total_steps == steps


def test_a_fraction_of_an_epoch_pads_what_it_does_not_take() -> None:
    order = order_of(10, 4, epochs=0.5)
    assert (order.step_sequences(2) == PADDING_SEQUENCE).tolist() == [False, True, True, True]


def test_global_batch_size_must_divide_and_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"64 must be a multiple of .* = 3 x 8 = 24") as error:
        build_batch_plan(BatchSettings(global_batch_size=64, micro_batch_size=3), 8)
    assert "values of --global-batch-size are 48 and 72;" in error.value.hint


def test_global_batch_size_below_one_micro_batch_names_only_the_next() -> None:
    with pytest.raises(SettingsError) as error:
        build_batch_plan(BatchSettings(global_batch_size=4, micro_batch_size=8), 1)
    assert "value of --global-batch-size is 8;" in error.value.hint


def test_a_corpus_below_one_step_is_refused() -> None:
    with pytest.raises(DataError, match="7 training sequences of 2048 tokens, fewer than"):
        order_of(7, 8)
