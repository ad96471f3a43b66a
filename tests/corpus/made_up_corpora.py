"""Inputs of made-up words for tests that start `prepare` as a process, and corpora to compare."""

from __future__ import annotations

import json
import random
from pathlib import Path

from biomedllama_cli.models.tokenizer import train_tokenizer

WORDS = ["".join(random.Random(i).choices("abcdefghilmnoprstuv", k=5)) for i in range(3000)]
_DESCRIBED = ("manifest.json", "data_card", "DATA_CARD")  # they tell name, time and command


def write_tokenizer(folder: Path, pieces: int = 400) -> None:
    """Train a small vocabulary on the words."""
    train_tokenizer([" ".join(WORDS)], pieces, folder, seed=0)


def write_input(folder: Path, files: int, documents: int, words: int) -> None:
    """Write files of so many documents of so many words."""
    folder.mkdir()
    for number in range(files):
        draw = random.Random(number)
        with (folder / f"{number}.jsonl").open("w") as file:
            for _ in range(documents):
                file.write(json.dumps({"text": " ".join(draw.choices(WORDS, k=words))}) + "\n")


def read_corpus(folder: Path) -> dict[str, bytes]:
    """Return all files but those that differ between two runs of the same job."""
    names = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_DESCRIBED)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}
