"""Log lines on stderr; what libraries chatter stays out of the way."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from biomedllama_cli.chat.terminal.sanitise import sanitise

PACKAGE = "biomedllama_cli"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at the moment of writing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


class _Formatter(logging.Formatter):
    """`12:34:56 message`, with the level named (and coloured on a terminal) from WARNING on.

    Messages and tracebacks quote files, which must not drive the terminal.
    """

    def __init__(self, *, colour: bool) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, whose only command to a terminal is the level's colour."""
        text, level = sanitise(super().format(record)), _name_level(record)
        return text.replace(level, f"\x1b[33m{level}\x1b[0m", 1) if level and self._colour else text

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Put the level, and a foreign logger's name, before the message."""
        source = "" if record.name.startswith(PACKAGE) else f"{record.name}: "
        level = _name_level(record)
        record.message = f"{level}: {source}{record.message}" if level else f"{source}{record.message}"
        return super().formatMessage(record)


def _name_level(record: logging.LogRecord) -> str:
    return record.levelname.capitalize() if record.levelno != logging.INFO else ""


def configure_logging(verbose: int) -> None:
    """Send log lines to stderr.

    Args:
        verbose: 0 shows our progress and everybody's warnings, 1 our details, 2 the libraries' progress too.
    """
    terminal = sys.stderr.isatty()
    handler = _StderrHandler()
    handler.setFormatter(_Formatter(colour=terminal and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, _StderrHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose >= 2 else logging.WARNING)
    # Every rank but the first repeats what the first says: only its errors are news.
    handler.setLevel(logging.ERROR if is_follower() and not verbose else logging.NOTSET)
    logging.getLogger(PACKAGE).setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose else logging.ERROR)
    if not terminal:
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
            os.environ.setdefault(name, "1")
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("LOGURU_LEVEL", "WARNING")  # datatrove's logger


def is_follower() -> bool:
    """Tell whether this is a process of a distributed job other than its first."""
    return os.environ.get("RANK", "0") != "0"
