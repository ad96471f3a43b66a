"""Record a session of `biomedllama chat` in a real terminal and write it as docs/images/chat.svg.

Whoever has a model can record it again:

    python docs/record_chat.py --model FOLDER [--corpus DIR]

What is typed stands in `SESSION`; what the picture shows is what the terminal held afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import groupby
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from biomedllama_cli.chat.terminal.words import NOTICE

IMAGE = Path(__file__).parent / "images" / "chat.svg"
SESSION = (
    "Is Rift Valley fever found in the sheep of Mozambique? Answer in one sentence.",
    "And in goats?",
    "/mc Which animal carries the virus of Rift Valley fever? | Mosquitoes | Dogs | Salmon | Parrots | Answer: A",
    "/quit",
)
COLUMNS, ROWS = 100, 90
QUIET_SECONDS = 1.0
"""The prompt that ends a reply has come when it stands last and the terminal has been still for so long."""
PROMPT_END = ">"


def record(arguments: list[str], session: tuple[str, ...]) -> pyte.Screen:
    """Type a session into `biomedllama chat` and return the terminal's screen after it."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    # The cursor's place is asked for by prompt_toolkit, and answered by no screen of pyte.
    child = pexpect.spawn(
        sys.executable,
        ["-m", "biomedllama_cli", "chat", *arguments],
        dimensions=(ROWS, COLUMNS),
        env=os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"},
    )
    _wait_for_prompt(child, stream, screen)
    for line in session:
        child.send(line + "\r")
        _wait_for_prompt(child, stream, screen)
    child.close()
    return screen


def _wait_for_prompt(child: pexpect.spawn, stream: pyte.ByteStream, screen: pyte.Screen) -> None:
    """Feed the screen until an empty prompt stands last, or the program has ended."""
    still_since = time.monotonic()
    while time.monotonic() - still_since < QUIET_SECONDS or not _ends_in_prompt(screen):
        try:
            stream.feed(child.read_nonblocking(1 << 16, timeout=0.2))
            still_since = time.monotonic()
        except pexpect.TIMEOUT:
            continue
        except pexpect.EOF:
            return


def _ends_in_prompt(screen: pyte.Screen) -> bool:
    lines = [line.rstrip() for line in screen.display if line.strip()]
    return bool(lines) and lines[-1].endswith(PROMPT_END)


def draw(screen: pyte.Screen) -> Text:
    """Return what a screen shows from the notice on, with its colours."""
    lines = []
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        line = Text()
        # Cells that look alike stand together: a picture of single letters cannot be searched.
        for style, run in groupby(cells, key=_find_style):
            line.append("".join(cell.data for cell in run), style)
        line.rstrip()
        lines.append(line)
    begin = next(number for number, line in enumerate(lines) if line.plain.startswith(NOTICE[:40]))
    while not lines[-1].plain:
        lines.pop()
    return Text("\n").join(lines[begin:])


def _find_style(cell: pyte.screens.Char) -> Style:
    return Style(color=_color(cell.fg), bold=cell.bold, italic=cell.italics)


def _color(name: str) -> str | None:
    """Return a colour of pyte as rich names it."""
    if name == "default":
        return None
    if len(name) == 6 and all(letter in "0123456789abcdef" for letter in name):
        return f"#{name}"
    names = {"brown": "yellow"}
    bright = name.removeprefix("bright")
    plain = names.get(bright, bright)
    return f"bright_{plain}" if bright != name else plain


def main() -> None:
    """Record the session and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a model that was tuned to answer")
    parser.add_argument("--corpus", help="corpus made by `biomedllama prepare`")
    given = parser.parse_args()
    arguments = ["--model", given.model, "--max-new-tokens", "80", "--temperature", "0"]
    if given.corpus:
        arguments += ["--corpus", given.corpus, "--passages", "2", "--passage-words", "100"]
    text = draw(record(arguments, SESSION))
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(text, soft_wrap=True)
    IMAGE.write_text(console.export_svg(title="biomedllama chat"), encoding="utf-8")


if __name__ == "__main__":
    main()
