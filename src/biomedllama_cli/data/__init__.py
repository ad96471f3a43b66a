"""The sample text bundled with the package; what it is and whose it is stands in `sample/NOTICE.md`."""

from __future__ import annotations

from pathlib import Path

SAMPLE_FOLDER = Path(__file__).resolve().parent / "sample"
"""Folder of Pile-format records, `plos-00.jsonl.zst` and on, with their NOTICE.md."""


def list_sample_files() -> tuple[Path, ...]:
    """Return the record files of the bundled sample, in reading order."""
    return tuple(sorted(SAMPLE_FOLDER.glob("*.jsonl.zst")))
