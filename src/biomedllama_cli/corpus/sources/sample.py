"""The open-access text bundled with the package (its NOTICE names every article and licence)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import biomedllama_cli
from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.sources.files import InputFile
from biomedllama_cli.corpus.sources.pile import iter_records
from biomedllama_cli.errors import DataError


@dataclass(frozen=True)
class SampleReader:
    """The bundled papers, in the format of The Pile."""

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the bundled files; `patterns` name nothing here."""
        return find_sample()

    def iter_documents(
        self, file: InputFile, report_position: Callable[[int], None]
    ) -> Iterator[Record | Dropped]:
        """Yield the papers of a file."""
        return iter_records(file, "text", report_position)

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read: none."""
        return {}


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
