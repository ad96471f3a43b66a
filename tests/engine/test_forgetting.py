"""Looks at what a run forgets, held against a plain loop over plain transformers."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from biomedllama_cli.engine.forgetting import ForgettingMeter, Schedule, read_last_look, read_record
from biomedllama_cli.engine.probe_rows import ProbeRows
from biomedllama_cli.evaluation.encoding import iter_windows
from biomedllama_cli.evaluation.probes import Probe, QuestionProbe, TextProbe
from biomedllama_cli.evaluation.token_trees import TokenSequence
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.loss import enable_token_losses

EOS, VOCABULARY, LENGTH = 2, 64, 32


@pytest.fixture
def accelerator() -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


@pytest.fixture
def model() -> PreTrainedModel:
    plain = load_model(
        "scratch:tiny", attention="sdpa", vocabulary_size=VOCABULARY, bos_id=None, eos_id=EOS, seed=3
    )
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(3.0)  # away from uniform, so that every token has a loss of its own
    return enable_token_losses(plain)


def draw_documents(count: int, longest: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(3, VOCABULARY, size).tolist() for size in generator.integers(1, longest + 1, count)
    ]


def build_texts(documents: list[list[int]], kind: str = "general", name: str = "notes") -> TextProbe:
    windows = [
        (number, window)
        for number, ids in enumerate(documents)
        for window in iter_windows(ids, prefix_id=EOS, context_length=LENGTH)
    ]
    numbers, sequences = zip(*windows, strict=True)
    return TextProbe(name, kind, sequences, numbers, tuple(2 * len(ids) for ids in documents))  # type: ignore[arg-type]


def score_plainly(model: PreTrainedModel, sequence: TokenSequence) -> list[float]:
    """Return the nats of the scored tokens of one sequence, alone in its row."""
    ids = torch.tensor([sequence.token_ids])
    with torch.no_grad():
        logits = type(model).forward(model, input_ids=ids[:, :-1]).logits[0]
    losses = torch.nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="none")
    return losses[-sequence.scored :].tolist()


def build_meter(probes: list[Probe], folder: Path, *, checkpoint: Path | None = None) -> ForgettingMeter:
    return ForgettingMeter(
        probes,
        Schedule(),
        folder,
        resumed_from=checkpoint,
        eos_id=EOS,
        sequence_length=LENGTH,
        rows_at_once=3,
    )


def test_sequences_packed_in_rows_have_the_likelihoods_they_have_alone(
    model: PreTrainedModel, accelerator: Accelerator
) -> None:
    """Documents shorter and longer than a row, some in one row, some in two windows."""
    sequences = build_texts(draw_documents(40, 50, seed=0)).sequences
    rows = ProbeRows(sequences, range(40), eos_id=EOS, sequence_length=LENGTH, rows_at_once=3)
    model.train()
    nats, by_bin = rows.score(accelerator, model)
    assert model.training
    alone = [score_plainly(model, sequence) for sequence in sequences]
    assert nats == pytest.approx([math.fsum(losses) for losses in alone], rel=1e-5)

    expected: dict[int, list[float]] = {}
    for sequence, losses in list(zip(sequences, alone, strict=True))[:40]:
        first = len(sequence.token_ids) - 1 - sequence.scored
        for position, loss in enumerate(losses, start=first):
            expected.setdefault(int(math.log2(position)) + 1 if position else 0, []).append(loss)
    assert rows.position_tokens.tolist() == [len(expected[number]) for number in sorted(expected)]
    assert by_bin == pytest.approx([math.fsum(expected[number]) for number in sorted(expected)], rel=1e-5)


def test_a_long_look_tells_how_far_it_is(
    model: PreTrainedModel,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sequences = build_texts(draw_documents(12, 32, seed=0)).sequences
    rows = ProbeRows(sequences, [], eos_id=EOS, sequence_length=LENGTH, rows_at_once=1)
    with caplog.at_level(logging.INFO):
        rows.score(accelerator, model)
        assert not caplog.records
        monkeypatch.setattr("biomedllama_cli.engine.probe_rows._TELL_SECONDS", -1.0)
        rows.score(accelerator, model)
    told = [int(record.args[0]) for record in caplog.records if isinstance(record.args, tuple)]  # type: ignore[call-overload]
    assert len(told) == rows.positions // LENGTH > 2
    assert told[0] == 0
    assert told == sorted(set(told))


def test_a_change_is_the_difference_to_the_model_as_it_was_given(
    model: PreTrainedModel, accelerator: Accelerator, tmp_path: Path
) -> None:
    documents = draw_documents(30, 40, seed=1)
    probe = build_texts(documents)
    meter = build_meter([probe], tmp_path)

    def bits_per_byte() -> float:
        nats = math.fsum(math.fsum(score_plainly(model, one)) for one in probe.sequences)
        return nats / math.log(2) / sum(2 * len(ids) for ids in documents)

    before = bits_per_byte()
    first = meter.measure(accelerator, model, 0)
    assert first["general/notes/bits_per_byte"] == pytest.approx(before, rel=1e-5)
    assert first["general/notes/delta"] == 0
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.1)
    second = meter.measure(accelerator, model, 7)
    assert second["general/notes/delta"] == pytest.approx(bits_per_byte() - before, rel=1e-4)
    assert second["general/notes/delta"] > 0
    look = read_last_look(tmp_path)
    assert look is not None
    assert (look.step, look.texts[0].documents) == (7, 30)
    assert look.texts[0].interval is not None
    low, high = look.texts[0].interval
    assert low < second["general/notes/delta"] < high
    # Documents are the units: the interval is of the width that their spread gives.
    assert (high - low) / 2 == pytest.approx(2 * find_standard_error(model, probe, documents), rel=0.35)


def find_standard_error(model: PreTrainedModel, probe: TextProbe, documents: list[list[int]]) -> float:
    """Return that of the ratio of sums (delta method), for the change made by scaling the output table by 1.1."""

    def score() -> np.ndarray:
        nats = [math.fsum(score_plainly(model, one)) for one in probe.sequences]
        return np.bincount(probe.owners, weights=nats) / math.log(2)

    after = score()
    with torch.no_grad():
        model.get_output_embeddings().weight.div_(1.1)
    change, sizes = after - score(), np.array([2 * len(ids) for ids in documents])
    residuals = change - change.sum() / sizes.sum() * sizes
    return float(np.sqrt((residuals**2).sum()) / sizes.sum())


def test_a_resumed_run_is_held_against_the_same_model(
    model: PreTrainedModel, accelerator: Accelerator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, checkpoint = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000005"
    run.mkdir()
    kept, changed = draw_documents(12, 20, seed=2), draw_documents(12, 20, seed=3)
    meter = build_meter([build_texts(kept), build_texts(changed, name="other")], run)
    meter.measure(accelerator, model, 0)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.2)
    whole = meter.measure(accelerator, model, 9)

    again = tmp_path / "again"
    again.mkdir()
    resumed = build_meter(
        [build_texts(kept), build_texts(draw_documents(12, 20, seed=4), name="other")],
        again,
        checkpoint=checkpoint,
    )
    with caplog.at_level(logging.WARNING):
        found = resumed.measure(accelerator, model, 9)
    assert found["general/notes/delta"] == whole["general/notes/delta"] != 0
    assert "general/other/bits_per_byte" in found
    assert "general/other/delta" not in found, "the texts are others: there is nothing to hold them against"
    assert "general/other" in caplog.text
    assert "general/notes" not in caplog.text
    look = read_last_look(again)
    assert look is not None
    assert look.texts[1].given is None
    resumed.measure(accelerator, model, 12)
    looks = read_record(again).looks
    assert [look.step for look in looks] == [0, 9, 12]

    later = build_meter([build_texts(kept)], again, checkpoint=again / "checkpoints" / "step-00000010")
    later.measure(accelerator, model, 15)
    looks = read_record(again).looks
    assert [look.step for look in looks] == [0, 9, 15], "what came after the checkpoint never was"


def test_the_likeliest_option_per_character_is_the_answer(
    model: PreTrainedModel, accelerator: Accelerator, tmp_path: Path
) -> None:
    generator = np.random.default_rng(5)
    sequences, options, answers = [], [], []
    for _ in range(24):
        prompt = generator.integers(3, VOCABULARY, 6).tolist()
        lengths = generator.integers(1, 4, 3).tolist()
        ends = [generator.integers(3, VOCABULARY, length).tolist() for length in lengths]
        own = [TokenSequence((*prompt, *end), len(end)) for end in ends]
        values = [
            -math.fsum(score_plainly(model, one)) / length for one, length in zip(own, lengths, strict=True)
        ]
        sequences += own
        options.append(tuple("x" * length for length in lengths))
        answers.append(int(np.argmax(values)))
    wrong = [(answer + 1) % 3 for answer in answers[:6]]
    probe = QuestionProbe("facts", tuple(sequences), tuple(options), (*wrong, *answers[6:]))
    found = build_meter([probe], tmp_path).measure(accelerator, model, 0)
    assert found["general/facts/accuracy"] == 18 / 24
    look = read_last_look(tmp_path)
    assert look is not None
    assert look.answers[0].chance == pytest.approx(1 / 3)


def test_positions_are_those_of_held_out_documents_where_there_are_any(
    model: PreTrainedModel, accelerator: Accelerator, tmp_path: Path
) -> None:
    general = build_texts(draw_documents(10, 30, seed=6))
    held_out = build_texts([[5, 6, 7, 8, 9]] * 3, kind="validation", name="pmc")
    build_meter([general, held_out], tmp_path).measure(accelerator, model, 0)
    look = read_last_look(tmp_path)
    assert look is not None
    assert [(place.places, place.tokens) for place in look.positions] == [
        ("0", 3),
        ("1", 3),
        ("2-3", 6),
        ("4-7", 3),
    ]


def test_of_a_model_that_broke_no_change_is_told_and_nothing_is_lost(
    model: PreTrainedModel, accelerator: Accelerator, tmp_path: Path
) -> None:
    probe = build_texts(draw_documents(10, 30, seed=7))
    meter = build_meter([probe], tmp_path)
    first = meter.measure(accelerator, model, 0)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(math.nan)
    found = meter.measure(accelerator, model, 5)
    assert math.isnan(found["general/notes/bits_per_byte"])
    assert "general/notes/delta" not in found
    record = read_record(tmp_path)
    assert [look.step for look in record.looks] == [0, 5]
    assert record.looks[0].texts[0].bits_per_byte == first["general/notes/bits_per_byte"]
    assert "general/notes" in record.given
