from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.engine.order import PADDING_SEQUENCE
from biomedllama_cli.engine.rows import IGNORED_LABEL, PackedRows
from biomedllama_cli.engine.validation import count_split_targets

BOS, EOS = 1, 2

documents = st.lists(st.lists(st.integers(2, 60), max_size=12), min_size=1, max_size=8)


def read_all(rows: PackedRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch = rows.__getitems__(range(len(rows)))
    return tuple(batch[name].numpy() for name in ("input_ids", "labels", "position_ids"))  # type: ignore[return-value]


@settings(max_examples=100)
@given(shards=st.lists(documents, min_size=1, max_size=3), length=st.integers(1, 9), bos=st.booleans())
def test_every_token_but_bos_and_the_first_is_a_target_once(
    build_shard: Callable[..., Any], shards: list[list[list[int]]], length: int, bos: bool
) -> None:
    built = [build_shard(shard, bos=bos) for shard in shards]
    rows = PackedRows(built, length, eos_id=EOS, has_bos=bos)
    _, labels, positions = read_all(rows)
    targets = labels[labels != IGNORED_LABEL]
    expected = []
    for shard in built:
        is_bos = np.zeros(len(shard.token_ids), dtype=bool)
        is_bos[shard.document_starts[:-1]] = bos
        is_bos[0] = True  # the first token has nothing before it
        expected += shard.token_ids[~is_bos].tolist()
    assert targets.tolist() == expected
    assert len(expected) == count_split_targets(built, has_bos=bos)
    # Positions count up from 0 and go back to 0 only.
    assert (positions[:, 0] == 0).all()
    steps = positions[:, 1:] - positions[:, :-1]
    assert ((steps == 1) | (positions[:, 1:] == 0)).all()


@settings(max_examples=60)
@given(shard=documents, length=st.integers(2, 9), bos=st.booleans())
def test_each_target_is_in_the_segment_of_its_own_document(
    build_shard: Callable[..., Any], shard: list[list[int]], length: int, bos: bool
) -> None:
    """Rebuild every segment from positions and look the document of each input and target up by its place."""
    built = build_shard(shard, bos=bos)
    document_of = np.repeat(np.arange(len(shard)), np.diff(built.document_starts))
    _, labels, positions = read_all(PackedRows([built], length, eos_id=EOS, has_bos=bos))
    for row in range(len(labels)):
        segments = np.cumsum(positions[row] == 0)
        for segment in np.unique(segments):
            places = np.flatnonzero(segments == segment)
            targets = [p for p in places if labels[row, p] != IGNORED_LABEL]
            owners = {int(document_of[row * length + p + 1]) for p in targets}
            assert len(owners) <= 1
            if owners and not bos:
                # Its first input is the EOS before the document, or the row begins inside it.
                first = row * length + int(places[0])
                assert document_of[first] == owners.pop() - 1 or places[0] == 0


def test_without_bos_the_eos_before_a_document_opens_its_segment(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10, 11], [20], [30, 31]])], 8, eos_id=EOS, has_bos=False)
    inputs, labels, positions = (array[0].tolist() for array in read_all(rows))
    assert inputs == [10, 11, EOS, 20, EOS, 30, 31, EOS]
    assert labels == [11, EOS, 20, EOS, 30, 31, EOS, IGNORED_LABEL]
    assert positions == [0, 1, 0, 1, 0, 1, 2, 0]


def test_with_bos_the_bos_opens_the_segment_and_is_no_target(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10, 11], [20]], bos=True)], 8, eos_id=EOS, has_bos=True)
    inputs, labels, positions = (array[0].tolist() for array in read_all(rows))
    assert inputs == [BOS, 10, 11, EOS, BOS, 20, EOS, EOS]
    assert labels == [10, 11, EOS, IGNORED_LABEL, 20, EOS, IGNORED_LABEL, IGNORED_LABEL]
    assert positions == [0, 1, 2, 3, 0, 1, 0, 1]


def test_bos_is_no_target_at_the_end_of_a_row(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10, 11], [20, 21]], bos=True)], 4, eos_id=EOS, has_bos=True)
    _, labels, positions = read_all(rows)
    assert labels.tolist() == [[10, 11, EOS, IGNORED_LABEL], [20, 21, EOS, IGNORED_LABEL]]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]


def test_eos_inside_a_document_is_no_boundary(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10, EOS, 11]])], 3, eos_id=EOS, has_bos=False)
    assert read_all(rows)[2].tolist() == [[0, 1, 2]]


def test_rows_of_several_shards_never_mix(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10] * 5]), build_shard([[20] * 5])], 4, eos_id=EOS, has_bos=False)
    inputs, _, _ = read_all(rows)
    assert len(rows) == 4
    assert not any({10, 20} <= set(row) for row in inputs.tolist())


def test_padding_row_has_no_target(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10, 11]])], 4, eos_id=EOS, has_bos=False)
    batch = rows.__getitems__([0, PADDING_SEQUENCE])
    assert (batch["labels"][1] == IGNORED_LABEL).all()
    assert batch["position_ids"][1].tolist() == [0, 1, 2, 3]


def test_a_row_outside_is_an_error(build_shard: Callable[..., Any]) -> None:
    rows = PackedRows([build_shard([[10, 11]])], 4, eos_id=EOS, has_bos=False)
    with pytest.raises(IndexError):
        rows[1]
    with pytest.raises(IndexError):
        rows[-2]
    assert pickle.loads(pickle.dumps(rows))[0]["labels"].tolist() == rows[0]["labels"].tolist()
