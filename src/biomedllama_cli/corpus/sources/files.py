"""Which files a path, a folder or a pattern names."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.errors import DataError

_CORPUS_FILES = frozenset(("manifest.json", "token_counts.npy"))
_XML = (".xml", ".xml.gz", ".nxml", ".nxml.gz")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file.

    Attributes:
        path: where it is.
        label: how the manifest and messages name it.
        size: bytes.
        modified_ns: time of its last change, in nanoseconds.
        on_disk: whether `path` is a file; a part of a hub dataset is none.
    """

    path: Path
    label: str
    size: int
    modified_ns: int
    on_disk: bool = True


def find_inputs(patterns: tuple[str, ...], suffixes: tuple[str, ...]) -> list[InputFile]:
    """Return the files that files, folders and globs name: in the order given, sorted within each, once each.

    Args:
        patterns: files, folders or globs.
        suffixes: endings of the names that can be inputs.

    Raises:
        DataError: a pattern names nothing readable.
    """
    found: dict[str, InputFile] = {}
    folders: dict[str, str] = {}
    for pattern in patterns:
        for path in _expand(pattern, suffixes):
            status = path.stat()
            found.setdefault(
                _resolve(path, folders), InputFile(path, str(path), status.st_size, status.st_mtime_ns)
            )
    return list(found.values())


def _resolve(path: Path, folders: dict[str, str]) -> str:
    """Return a file's real path; there may be millions of files, so each folder is resolved once."""
    text = str(path)
    if os.path.islink(text):
        return os.path.realpath(text)
    folder, name = os.path.split(text)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder or ".")
    return os.path.join(folders[folder], name)


def _expand(pattern: str, suffixes: tuple[str, ...]) -> list[Path]:
    if not pattern.strip():
        raise DataError(f"Input {pattern!r} names nothing.", _hint(suffixes))
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = _list_folder(path, suffixes)
        if not files:
            others = _list_folder(path, _XML)
            raise DataError(
                f"Input folder {pattern} holds no file of {', '.join(suffixes)}.",
                _hint(suffixes, others[0].name if others else ""),
            )
        return files
    matches = [path] if path.exists() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    found: set[Path] = set()
    for match in matches:
        if match.is_dir():
            found.update(_list_folder(match, suffixes))
        elif match.is_file():
            if not match.name.endswith(suffixes):
                raise DataError(
                    f"Input {match} has none of the endings {', '.join(suffixes)}.",
                    _hint(suffixes, match.name),
                )
            found.add(match)
    if not found:
        raise DataError(f"Input {pattern!r} matches no file.", _hint(suffixes))
    return sorted(found)


def _list_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below a folder that can be inputs, through linked folders too, each folder once."""
    found: list[Path] = []
    visited: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        if set(names) >= _CORPUS_FILES:  # one that prepare made: its tables are no input
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [name for name in names if name.endswith(suffixes) and not name.startswith(".")]
        found += [Path(root, name) for name in files if os.path.isfile(os.path.join(root, name))]
    return sorted(found, key=lambda path: str(path).split(os.sep))


def _refuse_unreadable(error: OSError) -> None:
    raise DataError(f"Input folder {error.filename} cannot be read: {error.strerror}.") from None


def _hint(suffixes: tuple[str, ...], other: str = "") -> str:
    """Return what inputs can be; `other` is the name of a file that is none."""
    if other.endswith(_XML) and ".xml" not in suffixes:
        return "XML is read with --source pmc (articles) or --source pubmed (citations)."
    return f"Inputs are files, folders or globs of {', '.join(suffixes)}; --sample needs none."
