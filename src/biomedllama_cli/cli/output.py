"""What reaches stdout: one report, as lines or as one JSON document; errors as a sentence or as JSON."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import Any, Protocol

from biomedllama_cli.cli.logs import is_follower
from biomedllama_cli.errors import ExitCode, OutputError, UserError


class Report(Protocol):
    """What a command hands back."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return everything `--json` prints."""
        ...

    def lines(self) -> list[str]:
        """Return the summary for people."""
        ...


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a report on stdout, unless another process of the same job does."""
    if is_follower():
        return
    _print(_to_json(report.model_dump(mode="json")) if as_json else "\n".join(report.lines()))


def print_error(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Say what went wrong, on stderr for people or as one JSON document on stdout.

    Returns:
        The exit code.
    """
    kind, message, hint, code = _describe(error)
    if debug:
        traceback.print_exception(error)
    if as_json and not is_follower():
        content = {"message": message, "hint": hint, "exit_code": int(code), "kind": kind}
        _print(_to_json({"error": content}))
    else:
        print(f"Error: {message}" + (f"\nHint: {hint}" if hint else ""), file=sys.stderr)
    return int(code)


def _describe(error: BaseException) -> tuple[str, str, str, int]:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        place = f" for {error.filename}" if error.filename else ""
        reason = error.strerror or "it cannot be written"
        error = OutputError(
            f"The disk cannot take the output{place}: {reason}.", "Make room or choose another folder."
        )
    kind = type(error).__name__
    if isinstance(error, UserError):
        return kind, error.message, error.hint, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return kind, "Interrupted.", "", ExitCode.INTERRUPTED
    said = " ".join(str(error).split())
    hint = "Run again with --debug for the traceback."
    return kind, f"Unexpected {kind}: {said}" if said else f"Unexpected {kind}.", hint, ExitCode.FAILURE


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head`: the reader has what it wanted, and the work is done
        silence_stdout()
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "backslashreplace") + b"\n")
        sys.stdout.flush()


def silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush finds no closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
