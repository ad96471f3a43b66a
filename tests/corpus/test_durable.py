"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from biomedllama_cli.corpus.durable import name_temporary, write_atomically


@pytest.mark.parametrize("flush", [False, True])
def test_what_lies_at_the_temporary_name_is_neither_followed_nor_kept(tmp_path: Path, *, flush: bool) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "facts.json"
    elsewhere.write_text("of somebody")
    name_temporary(path).symlink_to(elsewhere)
    write_atomically(path, "new é", flush=flush)
    assert (path.read_text("utf-8"), elsewhere.read_text()) == ("new é", "of somebody")
    assert not path.is_symlink()
    name_temporary(path).write_text("half of what a killed proc")
    write_atomically(path, "newer", flush=flush)
    assert path.read_text() == "newer"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["elsewhere", "facts.json"]
