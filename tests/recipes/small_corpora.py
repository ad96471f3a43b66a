"""Small corpora of the bundled open-access papers, written without `prepare`."""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path

import numpy as np
import orjson
import zstandard

from biomedllama_cli.corpus.manifest import (
    ByteCounts,
    CorpusManifest,
    DocumentCounts,
    ShardEntry,
    TokenCounts,
    TokenizerIdentity,
)
from biomedllama_cli.corpus.shards import ShardWriter
from biomedllama_cli.models.tokenizer import train_tokenizer


def read_sample(documents: int) -> list[str]:
    """Return passages of the bundled open-access papers."""
    packed = resources.files("biomedllama_cli").joinpath("data/sample/plos-00.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read().splitlines()
    paragraphs = [
        part for line in lines for part in orjson.loads(line)["text"].split("\n") if 200 < len(part) < 1500
    ]
    return paragraphs[:documents]


def write_corpus(
    folder: Path,
    texts: list[str],
    vocabulary_size: int = 400,
    *,
    bos: bool = False,
    learned_from: list[str] | None = None,
) -> Path:
    """Write a corpus whose first eight documents are held out, and return its folder.

    Args:
        folder: to make.
        texts: one a document.
        vocabulary_size: of its tokenizer.
        bos: put it before every document.
        learned_from: texts of the tokenizer, where they are others.
    """
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(learned_from or texts, vocabulary_size, folder / "tokenizer", seed=0)
    splits = {"validation": texts[:8], "train": texts[8:]}
    counts = np.zeros(tokenizer.vocabulary_size, dtype=np.int64)
    shards, sizes = [], {}
    for split, part in splits.items():
        writer = ShardWriter(folder / f"{split}-00000", np.uint16)
        for text in part:
            ids = [*([tokenizer.bos_id] if bos else []), *tokenizer.encode(text), tokenizer.eos_id]
            writer.append(np.array(ids))
            if split == "train":
                counts += np.bincount(ids, minlength=len(counts))
        sizes[split] = writer.tokens
        shards.append(
            ShardEntry(
                split=split,
                source="pile",
                file=f"{split}-00000",
                tokens=writer.tokens,
                documents=len(part),
                sha256=writer.close(),
            )
        )
    np.save(folder / "token_counts.npy", counts)
    manifest = CorpusManifest(
        name=folder.name,
        job="0" * 64,
        documents=DocumentCounts(
            read=len(texts), kept=len(texts), train=len(texts) - 8, validation=8, dropped={}
        ),
        tokens=TokenCounts(**sizes, dropped={}),
        bytes=ByteCounts(**{split: sum(len(t.encode()) for t in part) for split, part in splits.items()}),
        adds_bos=bos,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        vocabulary_size=tokenizer.vocabulary_size,
        tokenizer=TokenizerIdentity(
            source="trained",
            kind=tokenizer.kind,
            fingerprint=tokenizer.fingerprint,
            digest=tokenizer.digest,
            adds_bos=tokenizer.adds_bos,
        ),
        shards=tuple(shards),
        inputs=(),
        settings={},
        versions={},
        created="2026-01-01T00:00:00Z",
        command="",
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder
