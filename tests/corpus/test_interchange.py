"""Shards give other programs the same ids and the same documents."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomedllama_cli.corpus.encoding import encode_documents
from biomedllama_cli.corpus.shards import ShardWriter, load_shard
from biomedllama_cli.models.tokenizer import Tokenizer, train_tokenizer

TEXTS = [
    "Serum ferritin was 12.5 ng/mL in 38 patients; p < 0.001.",
    "β-catenin and TNF-α.\n\n  Two  spaces.",
    "x",
    "Mutations of BRCA1 and BRCA2 predispose to breast cancer. " * 20,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(TEXTS, 380, tmp_path_factory.mktemp("trained"), seed=0)


@pytest.fixture(params=["uint16", "int32"])
def shard(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """Return a shard of four documents, with the ids a large vocabulary needs four bytes for in one case."""
    ids, rows = encode_documents(TEXTS, tokenizer, adds_bos=True)
    writer = ShardWriter(tmp_path / "train-00000", request.param)
    writer.append_documents(ids, rows["tokens"])
    writer.close()
    return tmp_path / "train-00000"


def expected_documents(tokenizer: Tokenizer) -> list[list[int]]:
    return [[tokenizer.bos_id or 0, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(TEXTS)]


def read_documents(prefix: Path) -> list[list[int]]:
    shard = load_shard(prefix)
    starts = shard.document_starts.tolist()
    return [shard.token_ids[start:end].tolist() for start, end in itertools.pairwise(starts)]


def test_megatron_core_reads_the_same_documents(shard: Path, tokenizer: Tokenizer) -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    dataset = indexed_dataset.IndexedDataset(str(shard))
    assert [dataset[i].tolist() for i in range(len(dataset))] == expected_documents(tokenizer)
    assert dataset.document_indices.tolist() == list(range(len(TEXTS) + 1))
    assert dataset.sequence_lengths.tolist() == [len(ids) for ids in expected_documents(tokenizer)]
    assert read_documents(shard) == expected_documents(tokenizer)


def test_what_megatron_core_writes_is_read_here(tokenizer: Tokenizer, tmp_path: Path) -> None:
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    torch = pytest.importorskip("torch")
    builder = indexed_dataset.IndexedDatasetBuilder(str(tmp_path / "peer.bin"), dtype=np.uint16)
    for ids in expected_documents(tokenizer):
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(str(tmp_path / "peer.idx"))
    assert read_documents(tmp_path / "peer") == expected_documents(tokenizer)


def test_datatroves_megatron_writer_gives_the_same_bytes(
    shard: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    size = load_shard(shard).token_ids.dtype.itemsize
    peer = MegatronTokenizedFile(str(tmp_path / "peer"), "peer", token_size=size)
    for ids in expected_documents(tokenizer):
        peer.write(ids)
    peer.close()
    for suffix in (".bin", ".idx"):
        ours = shard.with_name(shard.name + suffix).read_bytes()
        assert (tmp_path / "peer" / f"peer{suffix}").read_bytes() == ours


def read_by_datatrove(shard: Path, sequence_length: int, **options: Any) -> Any:
    from datatrove.utils.dataset import DatatroveFileDataset

    size = load_shard(shard).token_ids.dtype.itemsize
    return DatatroveFileDataset(
        str(shard) + ".bin", sequence_length, token_size=size, return_positions=True, **options
    )


def test_datatroves_reader_gives_the_same_ids_and_document_starts(shard: Path, tokenizer: Tokenizer) -> None:
    documents = expected_documents(tokenizer)
    whole = sum(map(len, documents))
    # One window over everything; datatrove's windows are one token longer than their name.
    dataset = read_by_datatrove(shard, whole - 1, positions_from_eos_token_id=tokenizer.eos_id)
    assert len(dataset) == 1
    assert dataset[0]["input_ids"].tolist() == [i for ids in documents for i in ids]
    assert dataset[0]["positions"].tolist() == [place for ids in documents for place in range(len(ids))]


def test_datatroves_reader_takes_document_ends_from_an_index_of_ours(
    shard: Path, tokenizer: Tokenizer
) -> None:
    documents = expected_documents(tokenizer)
    ends = load_shard(shard).document_starts[1:]
    shard.with_name(shard.name + ".bin.index").write_bytes(ends.astype("<u8").tobytes())
    window = len(documents[0]) + len(documents[1])
    dataset = read_by_datatrove(shard, window - 1)
    assert dataset[0]["input_ids"].tolist() == documents[0] + documents[1]
    assert dataset[0]["positions"].tolist() == [*range(len(documents[0])), *range(len(documents[1]))]
