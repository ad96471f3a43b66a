"""Write an evaluation's folder: all of it or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from biomedllama_cli.errors import DataError, OutputError
from biomedllama_cli.evaluation.cells import Results

RESULTS_FILE = "results.json"


def check_output_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that must not be written.

    Raises:
        OutputError: it is a file, or holds something and may not be replaced.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"output_dir {folder} is a file; it must be a folder")
    if not any(folder.iterdir()):
        return
    if not (folder / RESULTS_FILE).is_file():
        raise OutputError(
            f"output_dir {folder} is not empty and holds no {RESULTS_FILE}; only results are replaced",
            "Give another --output-dir.",
        )
    if not overwrite:
        raise OutputError(
            f"output_dir {folder} holds results already", "Give another --output-dir, or --overwrite."
        )


def write_results(
    folder: Path,
    report: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    overwrite: bool,
    work: Path | None = None,
) -> None:
    """Write results.json and the files of samples; the folder appears complete or not at all.

    Args:
        folder: to write.
        report: content of results.json.
        samples: lines by name of their file.
        overwrite: whether earlier results may be replaced.
        work: where the folder is put together, on the same disk; beside it when not given.

    Raises:
        OutputError: the folder cannot be written, or has been filled in the meantime.
    """
    check_output_folder(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        room = work or folder.parent
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=room))
        try:
            for name, rows in samples.items():
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                (staging / name).write_text(lines, encoding="utf-8")
            content = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
            (staging / RESULTS_FILE).write_text(content, encoding="utf-8")
            staging.chmod(0o755)  # mkdtemp makes it private
            _replace(folder, staging, room)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"output_dir {folder} cannot be written ({error.strerror or error})") from error


def load_results(folder: Path) -> Results:
    """Read the results of a finished evaluation.

    Raises:
        DataError: the folder holds no results, or those of another version of this program.
    """
    path = folder / RESULTS_FILE
    try:
        return Results.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no {RESULTS_FILE}",
            "Give the output folder of a finished `biomedllama evaluate`.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the document"
        raise DataError(
            f"{path} is not a result this version reads: {place}: {first['msg']}",
            "Evaluate again with this version.",
        ) from error


def load_samples(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read one file of samples of a finished evaluation.

    Raises:
        DataError: it is missing or broken.
    """
    path = folder / Path(name).name  # a foreign results.json names no file outside its folder
    samples: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    samples.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise DataError(f"{path} line {number}: not valid JSON ({error.msg})") from error
    except OSError as error:
        raise DataError(f"{path}: the samples cannot be read ({error.strerror})") from error
    return samples


def _replace(folder: Path, staging: Path, room: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        staging.replace(folder)  # a rename may take the place of an empty folder
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=room))
    folder.replace(old)
    staging.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
