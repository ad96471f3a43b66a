from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.engine.accelerator import build_accelerator, prepare
from biomedllama_cli.engine.loader import TrainingData, iter_micro_batches
from biomedllama_cli.engine.optimizer import build_optimizer, set_learning_rate
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.engine.tuning_data import TuningData, order_examples
from biomedllama_cli.engine.tuning_rows import TuningRows
from biomedllama_cli.engine.tuning_validation import TuningValidator
from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.instructions.sources.catalogue import read_source
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.settings.pretrain import NumericsSettings, OptimizerSettings, ParallelSettings
from biomedllama_cli.settings.tuning import TuningBatchSettings

EOS = 2


def rows_of(
    lengths: Iterable[int], *, sequence_length: int = 32, learnt: bool = True, seed: int = 0
) -> TuningRows:
    """Return examples of random tokens; the second half of each is learnt."""
    sizes = np.array(list(lengths), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
    encoded = EncodedSet(
        token_ids=np.random.default_rng(seed).integers(3, 60, starts[-1]).astype(np.uint32),
        trained=(places > np.repeat(sizes, sizes) // 2) & learnt,
        starts=starts,
        ids=[str(100 + number) for number in range(len(sizes))],
        sources=["even" if number % 2 == 0 else "odd" for number in range(len(sizes))],
        cut_tokens=np.zeros(len(sizes), dtype=np.int64),
    )
    return TuningRows(encoded, eos_id=EOS, sequence_length=sequence_length)


def data_of(
    rows: TuningRows,
    order: Sequence[int],
    *,
    batch: int = 4,
    rows_at_once: int = 1,
    ranks: int = 1,
    **more: Any,
) -> TuningData:
    sizes = TuningBatchSettings(global_batch_size=batch, micro_batch_size=rows_at_once)
    return TuningData(rows, np.array(order, dtype=np.int64), batch=sizes, world_size=ranks, **more)


def examples_of(data: TrainingData, step: int, ranks: int) -> list[int]:
    """Return the examples that all ranks compute in a step, sorted."""
    packs = chain(*chain(*(data.micro_batches(step, rank) for rank in range(ranks))))
    return sorted(chain(*packs))


@given(count=st.integers(1, 50), epochs=st.floats(0.01, 4, allow_nan=False), seed=st.integers(0, 2**40))
def test_every_epoch_takes_every_example_once(count: int, epochs: float, seed: int) -> None:
    order = order_examples(count, epochs=epochs, seed=seed)
    assert len(order) == max(1, np.ceil(round(epochs * count, 6)))
    for start in range(0, len(order), count):
        epoch = order[start : start + count].tolist()
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(count))


def test_the_order_is_the_seeds() -> None:
    first, again, other = (order_examples(100, epochs=2, seed=seed).tolist() for seed in (3, 3, 4))
    assert first == again != other
    assert first[:100] != first[100:]


def test_a_fraction_of_thirty_examples_is_not_rounded_up_by_binary_fractions() -> None:
    assert len(order_examples(30, epochs=0.1, seed=0)) == 3


def test_no_examples_are_an_error() -> None:
    with pytest.raises(DataError, match="no examples"):
        order_examples(0, epochs=1, seed=0)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 33), min_size=1, max_size=30),
    batch=st.integers(1, 12),
    rows_at_once=st.integers(1, 3),
    ranks=st.integers(1, 4),
    packing=st.booleans(),
)
def test_a_step_takes_the_next_examples_on_any_layout(
    lengths: list[int], batch: int, rows_at_once: int, ranks: int, packing: bool
) -> None:
    rows = rows_of(lengths)
    order = order_examples(len(lengths), epochs=1.5, seed=1)
    data = data_of(rows, order, batch=batch, rows_at_once=rows_at_once, ranks=ranks, packing=packing)
    assert data.total_steps == -(-len(order) // batch)
    for step in range(1, data.total_steps + 1):
        expected = order[(step - 1) * batch : step * batch]
        assert examples_of(data, step, ranks) == sorted(expected.tolist())
        assert data.step_tokens(step) == sum(lengths[number] - 1 for number in expected)
        assert data.step_positions(step) >= data.step_tokens(step)
        per_rank = [data.micro_batches(step, rank) for rank in range(ranks)]
        assert len({len(micro_batches) for micro_batches in per_rank}) == 1
        for packs in chain(*per_rank):
            assert rows.__getitems__(packs)["input_ids"].numel() <= rows_at_once * 32


def test_an_example_drawn_often_is_trained_on_often() -> None:
    data = data_of(rows_of([5, 6, 7]), [2, 2, 0, 2, 1])
    assert examples_of(data, 1, 1) == [0, 2, 2, 2]
    assert examples_of(data, 2, 1) == [1]
    assert data.total_steps == 2


def test_the_run_can_be_cut_short() -> None:
    assert data_of(rows_of([5] * 20), range(20), max_steps=3).total_steps == 3
    assert data_of(rows_of([5] * 20), range(20), max_steps=30).total_steps == 5


@pytest.mark.parametrize("data_workers", [0, 2])
def test_a_later_start_reads_what_the_whole_run_reads_from_there(data_workers: int) -> None:
    lengths = np.random.default_rng(2).integers(2, 30, 40)
    order = order_examples(40, epochs=2, seed=0)
    accelerator: Any = SimpleNamespace(process_index=0, device=torch.device("cpu"))

    def read(start_step: int) -> list[Any]:
        data = data_of(rows_of(lengths), order, batch=8)
        batches = iter_micro_batches(data, accelerator, start_step, rank=0, data_workers=data_workers)
        return [batch["input_ids"].tolist() for batch in batches]

    whole, later = read(1), read(7)
    assert len(later) > 3
    assert whole[-len(later) :] == later


def test_a_broken_row_is_named_by_its_examples() -> None:
    # Two ranks with two micro-batches each, of one row that holds one example.
    data = data_of(rows_of([33, 32, 31, 30]), range(4), ranks=2)
    assert [data.micro_batches(1, rank) for rank in (0, 1)] == [[[[0]], [[2]]], [[[1]], [[3]]]]
    first = [data.most_rows * number for number in range(4)]
    assert data.name_rows(1, [first[1]]) == "examples even:102"
    assert data.name_rows(1, [first[0], first[2], first[3]]) == "examples even:100, odd:101, odd:103"
    assert data.name_rows(1, [first[0] + 1]) == "examples "  # a place without a row


def test_no_micro_batch_has_more_rows_than_it_says() -> None:
    for packing in (True, False):
        data = data_of(
            rows_of([3, 4] * 40, sequence_length=64), range(80), batch=80, rows_at_once=2, packing=packing
        )
        most = max(len(packs) for packs in data.micro_batches(1, 0))
        assert 2 <= most <= data.most_rows
        assert (most > 2) is packing


def test_a_long_list_of_examples_is_cut() -> None:
    data = data_of(rows_of([3] * 17, sequence_length=34), range(17), batch=17)
    assert data.micro_batches(1, 0) == [[[*range(17)]]]
    assert data.name_rows(1, [0]).endswith(":115, ...")


@pytest.fixture
def trainee() -> Any:
    """Return a function that makes the same tiny model, and its optimizer, anew."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one process may only build one kind
    accelerator = build_accelerator(ParallelSettings(device="cpu"), NumericsSettings(precision="fp32"))

    def build() -> tuple[Any, Any, Any]:
        model = load_model("scratch:tiny", attention="sdpa", vocabulary_size=64, eos_id=EOS, seed=0)
        optimizer = build_optimizer(enable_token_losses(model), OptimizerSettings())
        set_learning_rate(optimizer, 3e-3)
        return (accelerator, *prepare(accelerator, model, optimizer))

    return build


def test_packed_and_padded_runs_have_one_loss_curve(trainee: Any) -> None:
    lengths = np.random.default_rng(3).integers(2, 30, 40)
    order = order_examples(40, epochs=2, seed=0)

    def train(**layout: Any) -> tuple[list[float], list[float]]:
        data = data_of(rows_of(lengths), order, batch=8, **layout)
        accelerator, model, optimizer = trainee()
        losses, norms = [], []
        frame = StepFrame.plain(accelerator, 1.0, 3)
        for step in range(1, data.total_steps + 1):
            batches = [data.rows.__getitems__(packs) for packs in data.micro_batches(step, 0)]
            measured = train_step(accelerator, model, optimizer, batches, frame)
            losses.append(measured.loss)
            norms.append(measured.grad_norm)
        return losses, norms

    losses, norms = train(rows_at_once=2)
    assert losses[-1] < losses[0] - 0.1
    for layout in ({"rows_at_once": 1}, {"rows_at_once": 3, "packing": False}):
        other_losses, other_norms = train(**layout)
        assert other_losses == pytest.approx(losses, rel=1e-5)
        assert other_norms == pytest.approx(norms, rel=1e-3)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_validation_is_the_mean_over_target_tokens(trainee: Any, packing: bool, rows_at_once: int) -> None:
    rows = rows_of(np.random.default_rng(4).integers(2, 30, 11))
    accelerator, model, _ = trainee()
    nats, targets = 0.0, 0
    with torch.no_grad():
        for number in range(len(rows)):
            batch = rows[[number]]
            logits = model(input_ids=batch["input_ids"]).logits[0]
            nats += float(torch.nn.functional.cross_entropy(logits, batch["labels"][0], reduction="sum"))
            targets += int((batch["labels"] != -100).sum())
    validator = TuningValidator(rows, micro_batch_size=rows_at_once, packing=packing)
    model.train()
    found = validator.run(accelerator, model)
    assert found.loss == pytest.approx(nats / targets, rel=1e-6)
    assert found.bits_per_byte is None
    assert model.training


def test_ranks_share_the_validation_with_equally_many_forwards(
    trainee: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(np.random.default_rng(4).integers(2, 30, 11))
    accelerator, model, _ = trainee()
    validator = TuningValidator(rows, micro_batch_size=1, packing=True)
    expected = validator.run(accelerator, model).loss
    totals: list[torch.Tensor] = []
    forwards: Counter[int] = Counter()
    monkeypatch.setattr(torch.distributed, "all_reduce", totals.append)
    for rank in range(3):
        model.register_forward_pre_hook(lambda *_, rank=rank: forwards.update([rank]))
        fake: Any = SimpleNamespace(
            num_processes=3, process_index=rank, device=accelerator.device, autocast=accelerator.autocast
        )
        validator.run(fake, model)
        model._forward_pre_hooks.clear()
    assert len(set(forwards.values())) == 1
    assert len(forwards) == 3
    nats, targets = torch.stack(totals).sum(0).tolist()
    assert nats / targets == pytest.approx(expected, rel=1e-6)


def test_validation_takes_an_evenly_spaced_part(trainee: Any) -> None:
    lengths = np.random.default_rng(4).integers(2, 30, 10)
    accelerator, model, _ = trainee()
    part = TuningValidator(rows_of(lengths), micro_batch_size=1, packing=True, max_examples=5)
    seen: list[list[int]] = []
    part._rows.__getitems__ = lambda packs: (seen.extend(packs), rows_of(lengths).__getitems__(packs))[1]  # type: ignore[method-assign]
    part.run(accelerator, model)
    assert sorted(chain(*seen)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("rows", [rows_of([]), rows_of([5, 6], learnt=False)], ids=["empty", "no targets"])
def test_held_out_examples_without_targets_are_an_error(rows: TuningRows) -> None:
    with pytest.raises(DataError, match="No token of the"):
        TuningValidator(rows, micro_batch_size=1, packing=True)


FILES = {
    "medqa-5": "medqa/test_5options_first640.jsonl",
    "mmlu-cot": "instruct/mmlu-cot.json",
    "alpaca": "instruct/alpaca_format_gsm300.json",
}


@pytest.fixture(scope="module")
def real_lengths(shared_data: Path) -> dict[str, list[int]]:
    """Return the lengths of real sources' examples in LLaMA's tokens, BOS and EOS included."""
    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "llama" / "tokenizer.model"))
    lengths = {}
    for source, file in FILES.items():
        texts = [
            "".join(turn.text for turn in read.turns)
            for read in read_source(source, shared_data / file, source)
        ]
        lengths[source] = [len(ids) + 2 for ids in tokenizer.encode_batch(texts)]
    return lengths


@pytest.mark.parametrize(("rows_at_once", "ranks"), [(1, 1), (1, 8), (4, 1), (2, 4)])
@pytest.mark.parametrize("source", [*FILES, "all"])
def test_nearly_all_computed_positions_are_real_tokens_on_real_data(
    real_lengths: dict[str, list[int]], source: str, rows_at_once: int, ranks: int
) -> None:
    lengths = [*chain(*real_lengths.values())] if source == "all" else real_lengths[source]
    rows = rows_of(lengths, sequence_length=2048)
    order = order_examples(len(rows), epochs=3, seed=0)
    data = data_of(rows, order, batch=128, rows_at_once=rows_at_once, ranks=ranks)
    assert data.real_share() >= 0.95
    padded = data_of(rows, order, batch=128, rows_at_once=rows_at_once, ranks=ranks, packing=False)
    assert data.total_steps == padded.total_steps
