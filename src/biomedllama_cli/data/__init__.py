"""The texts bundled with the package; what they are and whose they are stands in the NOTICE.md of each folder."""

from __future__ import annotations

from pathlib import Path

SAMPLE_FOLDER = Path(__file__).resolve().parent / "sample"
"""Folder of Pile-format records, `plos-00.jsonl.zst` and on, with their NOTICE.md."""


def list_sample_files() -> tuple[Path, ...]:
    """Return the record files of the bundled sample, in reading order."""
    return tuple(sorted(SAMPLE_FOLDER.glob("*.jsonl.zst")))


GENERAL_FOLDER = Path(__file__).resolve().parent / "general"
"""Folder of the general sets: records with `id` and `text`, and questions in the schema of one's own."""

GENERAL_SETS = ("literature", "speeches", "documentation", "code")
"""Names of the general sets of running text, each a `.jsonl` file."""

GENERAL_QUESTIONS = GENERAL_FOLDER / "questions.jsonl"
