"""Small corpora made by `prepare`, and their indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.corpus.manifest import RETRIEVAL_FOLDER
from biomedllama_cli.recipes.prepare import prepare
from biomedllama_cli.settings.prepare import PrepareSettings

# Made up: nobody wrote these.
CRESS = "  Two spaces stand first.\nCress that was hummed to grew no taller than cress in silence."
SNAILS = (
    "Snails of the genus Invented prefer TNF-\u03b1 to IL-6, as Sj\u00f6gren's snails do.\t\n\n"
    "  Their shells were weighed.  "
)
MOSS = "Moss on northern walls. \u2603 Nothing was measured, \u6c34 aside."
VINEGAR = "Cress was boiled in vinegar, and the vinegar was weighed </s> twice."
HARVEST = (
    " ".join(f"Sentence {n} tells of the harvest number{n}." for n in range(60))
    + "\n\nThe end speaks of quinces."
)
TEXTS = [CRESS, SNAILS, MOSS, VINEGAR, HARVEST]
WORDS = 40
"""Longest passage of the libraries here."""


def make_corpus(
    folder: Path, tokenizer: Path, texts: list[str] | None = None, *, bos: str = "auto", **source: Any
) -> Path:
    """Make a corpus of which nothing is left out, of texts or of any other source."""
    folder.mkdir(parents=True, exist_ok=True)
    if not source:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts or TEXTS)
        file = folder / "texts.jsonl"
        if not file.exists() or file.read_text() != lines:  # a file that was written again is another job
            file.write_text(lines)
        source = {"source": ("text",), "input": (str(file),)}
    off = dict.fromkeys(("language_filter", "quality_filter", "near_duplicates"), "off")
    kept = {"licences": "all", "retracted": "keep", "accept_abstract_copyright": True}
    settings = {
        "output_dir": folder / "corpus",
        "overwrite": True,
        "source": source,
        "selection": {**kept, **off},
        "tokenization": {"tokenizer": str(tokenizer), "bos": bos},
        "output": {"validation_fraction": 0.3},
    }
    prepare(PrepareSettings.model_validate(settings))
    return folder / "corpus"


def open_library(corpus: Path, **how: Any) -> Library:
    """Open a corpus as a library of short passages."""
    return Library.open(corpus, passage_words=WORDS, **how)


def read_index(corpus: Path) -> dict[str, bytes]:
    """Return the files of its index."""
    folder = corpus / RETRIEVAL_FOLDER / f"words-{WORDS}"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
