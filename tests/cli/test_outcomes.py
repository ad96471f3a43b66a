"""What a command prints and returns, whatever its recipe does."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli import errors
from biomedllama_cli.chat.terminal.sanitise import sanitise
from biomedllama_cli.cli.app import run
from biomedllama_cli.cli.logs import _Formatter
from biomedllama_cli.errors import ExitCode, UserError

Recipe = Callable[[Callable[..., Any]], None]


def raiser(error: BaseException) -> Callable[..., Any]:
    def recipe(settings: Any, *, dry_run: bool) -> None:
        raise error

    return recipe


def test_a_report_is_printed_as_lines(fake_prepare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fake_prepare(["prepare", "--seed", "5", "--dry-run"]) == 0
    assert capsys.readouterr().out == "seed 5\ndry run True\n"


def test_a_report_is_one_json_document(fake_prepare: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fake_prepare(["prepare", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == {"schema_version": "test/1", "seed": 0, "dry_run": False}


def test_what_a_recipe_prints_goes_to_stderr(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(lambda settings, *, dry_run: print("chatter of a library"))
    assert run(["prepare", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "chatter of a library" in captured.err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_of_a_job_prints(
    fake_prepare: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert fake_prepare(["prepare", "--json"]) == 0
    assert bool(capsys.readouterr().out) == (rank == "0")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_of_a_job_prints_an_error_document(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    recipe(raiser(errors.DataError("It broke.")))
    assert run(["prepare", "--json"]) == ExitCode.DATA
    captured = capsys.readouterr()
    assert bool(captured.out) == (rank == "0")
    assert ("It broke." in captured.err) == (rank == "1")


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UserError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_error_has_its_exit_code(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], kind: type[UserError]
) -> None:
    recipe(raiser(kind("Something is wrong.", "Do something.")))
    assert run(["prepare"]) == kind.exit_code
    captured = capsys.readouterr()
    word = "" if kind is errors.Resumable else "Error: "
    assert captured.err == f"{word}Something is wrong.\nHint: Do something.\n"
    assert captured.out == ""
    assert run(["prepare", "--json"]) == kind.exit_code
    captured = capsys.readouterr()
    if kind is errors.ThresholdError:  # the report it speaks of is the one document on stdout
        assert (captured.out, "Something is wrong." in captured.err) == ("", True)
        return
    assert json.loads(captured.out)["error"] == {
        "message": "Something is wrong.",
        "hint": "Do something.",
        "exit_code": int(kind.exit_code),
        "kind": kind.__name__,
    }


def test_an_unexpected_failure_is_one_line_and_a_way_to_its_traceback(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(raiser(ZeroDivisionError("division by zero")))
    assert run(["prepare"]) == ExitCode.FAILURE
    assert capsys.readouterr().err == (
        "Error: Unexpected ZeroDivisionError: division by zero\n"
        "Hint: Run again with --debug for the traceback.\n"
    )


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), errors.DataError("x")], ids=repr)
def test_debug_shows_the_traceback(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    recipe(raiser(error))
    run(["prepare", "--debug"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_ctrl_c_is_an_interruption(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(raiser(KeyboardInterrupt()))
    assert run(["prepare"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_full_disk_is_an_output_error(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(raiser(OSError(errno.ENOSPC, "No space left on device", "corpora/x.bin")))
    assert run(["prepare"]) == ExitCode.OUTPUT
    assert capsys.readouterr().err.startswith(
        "Error: The disk cannot take the output for corpora/x.bin: No space left on device.\n"
    )


def test_a_broken_pipe_of_a_recipe_is_not_mistaken_for_a_reader_that_left(recipe: Recipe) -> None:
    recipe(raiser(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert run(["prepare"]) == ExitCode.FAILURE


@pytest.mark.parametrize("arguments", [["pretrain", "--help"], ["pretrain", "--print-config"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    source = str(Path(sys.modules["biomedllama_cli"].__file__ or "").parent.parent)
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "biomedllama_cli", *arguments],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")


def test_our_log_lines_reach_stderr_and_details_only_when_asked(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(settings: Any, *, dry_run: bool) -> None:
        ours, theirs = logging.getLogger("biomedllama_cli.corpus"), logging.getLogger("library")
        ours.debug("our detail")
        ours.info("our progress")
        theirs.info("their progress")
        theirs.warning("their warning")
        logging.getLogger("py.warnings").warning("a warning of the interpreter")

    recipe(speak)
    shown = []
    for flags in ([], ["-v"], ["-vv"]):
        run(["prepare", *flags])
        captured = capsys.readouterr()
        assert captured.out == ""
        said = ["our detail", "our progress", "their progress", "Warning: library: their warning"]
        shown.append([line in captured.err for line in [*said, "of the interpreter"]])
    assert shown == [
        [False, True, False, True, False],
        [True, True, False, True, True],
        [True, True, True, True, True],
    ]


DRIVING = "\x1b]0;title\x07\x1b[2J\x9b1m\x7f\u202e"
SHOWN = "␛]0;title␇␛[2J�1m␡�"


def test_what_errors_quote_drives_no_terminal(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(raiser(errors.DataError(f"It holds\n{DRIVING}.", f"Remove {DRIVING}.")))
    assert run(["prepare"]) == ExitCode.DATA
    assert capsys.readouterr().err == f"Error: It holds\n{SHOWN}.\nHint: Remove {SHOWN}.\n"
    recipe(raiser(ValueError(DRIVING)))
    run(["prepare", "--debug"])
    shown = capsys.readouterr().err
    assert f"ValueError: {SHOWN}\n" in shown
    assert not set(DRIVING) & set(shown) - set("title[]012mJ;")


def test_json_has_driving_characters_as_escapes_and_loses_none(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    said = DRIVING + "é 漢 👩\u200d⚕ a\u200db \U000e0041 \ud800"
    recipe(raiser(errors.DataError(said + ".")))
    run(["prepare", "--json"])
    printed = capsys.readouterr().out
    assert json.loads(printed)["error"]["message"] == said + "."
    assert sanitise(printed) == printed
    assert "é 漢 👩\u200d⚕ a\\u200db" in printed


@pytest.mark.parametrize("colour", [True, False])
def test_log_lines_and_their_tracebacks_drive_no_terminal(colour: bool) -> None:
    try:
        raise ValueError(DRIVING)
    except ValueError as error:
        trace = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("library", logging.WARNING, "", 1, "Warning of %s", (DRIVING,), trace)
    text = _Formatter(colour=colour).format(record)
    level = "\x1b[33mWarning\x1b[0m" if colour else "Warning"
    assert text.partition(" ")[2].startswith(f"{level}: library: Warning of {SHOWN}\nTraceback (most")
    assert text.endswith(f"ValueError: {SHOWN}")
