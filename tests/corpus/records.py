"""Input files in every format `prepare` reads."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import zstandard

ABSTRACTS, CENTRAL = "PubMed Abstracts", "PubMed Central"
TEXT = """serum ferritin mutation BRCA1 patients cohort randomised placebo tumour receptor expression protein
kinase inhibitor assay cells of the in with was were and 12.5 38 p<0.001 TNF-α β-catenin"""
WORDS = TEXT.split()


def make_text(seed: int, words: int = 40) -> str:
    """Return reproducible text that reads like an abstract."""
    return f"Study {seed}. " + " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


def make_record(text: Any, subset: str | None = ABSTRACTS) -> dict[str, Any]:
    """Return a record in The Pile's format."""
    return {"text": text} if subset is None else {"text": text, "meta": {"pile_set_name": subset}}


def encode_lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records in the format the path's ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        write_lines(path, encode_lines(records))
    return path


def write_lines(path: Path, data: bytes) -> Path:
    """Write bytes, compressed as the path's ending says."""
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    return path
