"""Shards are Megatron's format, byte for byte, and a damaged one is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedllama_cli.corpus.shards import ShardWriter, choose_dtype, load_shard
from biomedllama_cli.errors import DataError


def write(prefix: Path, documents: list[list[int]], dtype: str = "uint16") -> str:
    writer = ShardWriter(prefix, dtype)
    for ids in documents:
        writer.append(np.array(ids))
    return writer.close()


def test_index_has_megatrons_bytes(tmp_path: Path) -> None:
    sha256 = write(tmp_path / "s", [[5, 6, 2], [7, 2]])
    expected = (
        b"MMIDIDX\x00\x00"
        + (1).to_bytes(8, "little")
        + bytes([8])  # uint16
        + (2).to_bytes(8, "little")
        + (3).to_bytes(8, "little")
        + np.array([3, 2], "<i4").tobytes()
        + np.array([0, 6], "<i8").tobytes()
        + np.array([0, 1, 2], "<i8").tobytes()
    )
    assert (tmp_path / "s.idx").read_bytes() == expected
    assert (tmp_path / "s.bin").read_bytes() == np.array([5, 6, 2, 7, 2], "<u2").tobytes()
    assert sha256 == hashlib.sha256((tmp_path / "s.bin").read_bytes()).hexdigest()


@given(
    st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=6),
    st.sampled_from([30_000, 65_536, 65_537, 262_144]),
)
@settings(max_examples=30)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocabulary_size: int
) -> None:
    documents = [[i % vocabulary_size for i in ids] for ids in documents]
    prefix = tmp_path_factory.mktemp("shard") / "s"
    write(prefix, documents, choose_dtype(vocabulary_size).name)
    shard = load_shard(prefix)
    bounds = zip(shard.document_starts[:-1], shard.document_starts[1:], strict=True)
    assert [shard.token_ids[a:b].tolist() for a, b in bounds] == documents


def test_documents_may_be_added_together(tmp_path: Path) -> None:
    write(tmp_path / "one", [[1, 2], [3], [4, 5, 6]])
    writer = ShardWriter(tmp_path / "two", "uint16")
    writer.append_documents(np.array([1, 2, 3]), np.array([2, 1]))
    writer.append_documents(np.array([4, 5, 6]), np.array([3]))
    writer.close()
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def damage_magic(index: bytes) -> bytes:
    return b"X" + index[1:]


def damage_length(index: bytes) -> bytes:
    return index[:34] + (9).to_bytes(4, "little") + index[38:]


def damage_boundary(index: bytes) -> bytes:
    return index[:-8] + (7).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_magic, "not a Megatron index"),
        (damage_length, "end to end"),
        (damage_boundary, "boundaries out of order"),
        (lambda index: index[:-4], "size its header says"),
        (lambda index: index[:10], "too short"),
    ],
)
def test_damaged_index_is_refused(tmp_path: Path, damage: object, says: str) -> None:
    write(tmp_path / "s", [[5, 6, 2], [7, 2]])
    index = tmp_path / "s.idx"
    index.write_bytes(damage(index.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=says):
        load_shard(tmp_path / "s")


def test_truncated_tokens_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "s", [[5, 6, 2], [7, 2]])
    (tmp_path / "s.bin").write_bytes(b"12")
    with pytest.raises(DataError, match="has 2 bytes"):
        load_shard(tmp_path / "s")
    (tmp_path / "s.bin").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_shard(tmp_path / "s")
