"""The bundled questions, written for this project: real enough to try `evaluate`, too few to compare models."""

from __future__ import annotations

from pathlib import Path

SAMPLE_FILE = Path(__file__).resolve().parent.parent / "data" / "questions" / "sample-questions.jsonl"
"""In the schema of one's own questions."""
