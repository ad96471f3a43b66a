"""What reaches stdout: one report, as lines or as one JSON document; errors as a sentence or as JSON."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from typing import Any, Protocol

from biomedllama_cli.chat.terminal.sanitise import escape_json, sanitise
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
    print_text(_to_json(report.model_dump(mode="json")) if as_json else "\n".join(report.lines()))


def print_error(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Say what went wrong, on stderr for people or as one JSON document on stdout.

    Returns:
        The exit code.
    """
    kind, message, hint, code = _describe(error)
    if debug:
        print(sanitise("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    # A process our own launcher started leaves stdout to the launcher, which tells what failed first.
    if as_json and not is_follower() and "_BIOMEDLLAMA_OUTCOME" not in os.environ:
        content = {"message": message, "hint": hint, "exit_code": int(code), "kind": kind}
        print_text(_to_json({"error": content}))
    else:
        # Stopped by a signal or by Ctrl-C is no error: the message says what happened.
        word = "" if code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED) else "Error: "
        said = f"{word}{message}" + (f"\nHint: {hint}" if hint else "")
        print(sanitise(said), file=sys.stderr)  # files are quoted in it
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
        message = error.message if error.message.endswith((".", "!", "?", ":")) else f"{error.message}."
        return kind, message, error.hint, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return kind, "Interrupted.", "", ExitCode.INTERRUPTED
    said = " ".join(str(error).split())
    hint = "Run again with --debug for the traceback."
    return kind, f"Unexpected {kind}: {said}" if said else f"Unexpected {kind}.", hint, ExitCode.FAILURE


def _to_json(content: dict[str, Any]) -> str:
    return escape_json(json.dumps(content, indent=2, ensure_ascii=False))


def print_text(text: str) -> None:
    """Print on stdout, whether or not somebody still reads it and whatever letters it can show."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head`: the reader has what it wanted, and the work is done
        # The interpreter's last flush must not find the closed pipe either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UnicodeEncodeError:  # a terminal that is not UTF-8
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "backslashreplace") + b"\n")
        sys.stdout.flush()
