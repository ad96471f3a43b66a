"""All results below a folder in one table: models by tasks, each column one protocol on one set of items."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.cells import Results
from biomedllama_cli.evaluation.output import RESULTS_FILE, load_results
from biomedllama_cli.report.evaluation_plots import check_picture, plot_leaderboard
from biomedllama_cli.report.leaderboard_arrangement import Leaderboard, Unread, arrange
from biomedllama_cli.report.tables import TableForm


def build_leaderboard(
    folder: Path, *, sort: str | None = None, format: TableForm = "terminal", plot: Path | None = None
) -> Leaderboard:
    """Tabulate every results.json below a folder.

    Args:
        folder: searched in all its depth; links to folders are not followed.
        sort: title or task of the column to sort by; None is by mean rank.
        format: form of the table in `lines`.
        plot: .png or .svg file to draw as well.

    Raises:
        DataError: there is no such folder, or no results.json in it.
        SettingsError: no column, or more than one, is called `sort`; the plot is no .png or .svg.
        OutputError: the plot cannot be written.
    """
    if plot is not None:
        check_picture(plot)
    if not folder.is_dir():
        raise DataError(f"leaderboard {folder} is not a folder", "Give a folder that holds results.")
    found: list[tuple[str, Results]] = []
    skipped: list[Unread] = []
    for path in _iter_results(folder, skipped):
        name = str(path.relative_to(folder))
        if reason := _foreign(path):
            skipped.append(Unread(file=name, reason=reason))
            continue
        try:
            found.append((name, load_results(path.parent)))
        except DataError as error:
            skipped.append(Unread(file=name, reason=error.message.removeprefix(f"{path} is ")))
    if not found and not skipped:
        raise DataError(
            f"leaderboard {folder} holds no {RESULTS_FILE}, at any depth",
            "Give the folder above your --output-dir folders.",
        )
    board = arrange(found, folder=str(folder), skipped=skipped, sort=sort).in_form(format)
    if plot is None:
        return board
    plot_leaderboard(board, plot)
    return board.model_copy(update={"plot": str(plot)})


def _iter_results(folder: Path, skipped: list[Unread]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        place = os.path.relpath(error.filename, folder)
        skipped.append(Unread(file=place, reason=f"the folder cannot be read ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=note):
        folders.sort()
        if RESULTS_FILE in files:
            yield Path(place) / RESULTS_FILE


def _foreign(path: Path) -> str | None:
    """Say why a file is no result of this version, or None: reading goes on."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        return f"not valid JSON ({error})"
    version = content.get("schema_version") if isinstance(content, dict) else None
    expected = Results.model_fields["schema_version"].default
    if not isinstance(version, str) or not version.startswith(expected.partition("/")[0]):
        return "not a result of biomedllama evaluate"
    return (
        None
        if version == expected
        else f"schema {version!r}, and this version reads {expected!r}: evaluate again"
    )
