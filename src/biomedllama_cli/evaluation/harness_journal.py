"""Where groups of sequences that have been scored are kept, or that they are not."""

from __future__ import annotations

from typing import Any, Protocol


class Journal(Protocol):
    """Where finished groups are kept, by a key over their token ids; `evaluation.journal.Journal` is one."""

    def find(self, key: str) -> Any | None:
        """Return what was kept for a key, or None."""
        ...

    def append(self, key: str, task: str, item: str, value: Any) -> None:
        """Keep the answer of one group."""
        ...


class NoJournal:
    """Keeps nothing."""

    def find(self, key: str) -> Any | None:
        """Return None."""
        return None

    def append(self, key: str, task: str, item: str, value: Any) -> None:
        """Do nothing."""
