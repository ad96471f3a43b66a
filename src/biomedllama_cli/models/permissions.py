"""Who may read the files of a model."""

from __future__ import annotations

from pathlib import Path


def share_as_umask_says(folder: Path) -> None:
    """Give every file under a folder what the umask leaves to a new one; safetensors writes for the owner alone."""
    probe = folder / ".new-file"
    with probe.open("xb"):
        usual = probe.stat().st_mode  # os.umask() tells it only by changing it, for all threads
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (mode := path.stat().st_mode) | usual != mode:
            path.chmod(mode | usual)
