"""Names of files in a bar of progress."""

from __future__ import annotations

import io

import pytest

from biomedllama_cli.report.progress import Progress


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


def test_brackets_in_a_name_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("indexing pub[/x]", 2, "documents") as bar:
        bar.advance(1, note="[bold]")
    assert "indexing pub[/x]" in terminal.getvalue()
    assert "[bold]" in terminal.getvalue()
