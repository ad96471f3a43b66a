"""The open-access text bundled with the package (its NOTICE names every article and licence)."""

from __future__ import annotations

from pathlib import Path

import biomedllama_cli
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.errors import DataError


def find_sample() -> list[InputFile]:
    """Return the bundled files, sorted by name.

    Raises:
        DataError: the package was installed without them.
    """
    folder = Path(biomedllama_cli.__file__).parent / "data" / "sample"
    files = sorted(folder.glob("*.jsonl.zst"))
    if not files:
        raise DataError("The bundled sample is not in this installation.", "Install the package again.")
    # The date of installation says nothing about the content: it must not make two jobs differ.
    return [InputFile(path, f"sample:{path.name}", path.stat().st_size, 0) for path in files]
