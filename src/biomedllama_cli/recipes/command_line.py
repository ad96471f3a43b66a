"""The command line that made something, as it is written down beside it."""

from __future__ import annotations

import shlex
import sys


def show_command_line() -> str:
    """Return the command of this process as a user would type it, not with the path the program has here."""
    return shlex.join(["biomedllama", *sys.argv[1:]])
