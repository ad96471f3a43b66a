"""Conversations on disk: a file of JSON lines, one conversation each, that its owner alone can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.chat.conversation import Conversation
from biomedllama_cli.chat.private_files import (
    be_only_writer,
    check_folder,
    check_private,
    make_private_folder,
    write_private,
)
from biomedllama_cli.chat.transcript_facts import TranscriptFacts
from biomedllama_cli.chat.transcript_line import parse_line, read_line, write_line
from biomedllama_cli.errors import DataError, OutputError

FILE_LIMIT = 1 << 30
"""Largest transcript (in bytes)."""
LINE_LIMIT = 1 << 26
"""Longest line of one (in bytes): a conversation is a few thousand."""
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a file.

    Attributes:
        number: from 1.
        text: its end included, where it has one.
    """

    number: int
    text: str

    @property
    def content(self) -> str:
        """Return the JSON of it; empty for a blank line."""
        return self.text.removeprefix(_BYTE_ORDER_MARK if self.number == 1 else "").strip()


def save_conversation(path: Path, conversation: Conversation, facts: TranscriptFacts) -> bool:
    """Write a conversation into a transcript: instead of what it held of the same conversation, else at its end.

    A conversation in which no question got a reply has nothing to go on with or to learn from: it is not written, and
    what the file holds of it is taken out.

    Args:
        path: the file, of which all other lines stay as they are; it is made where it is missing.
        conversation: as it is now.
        facts: of it; conversations with the same `id` are the same.

    Returns:
        Whether the file holds it now.

    Raises:
        OutputError: the file is no transcript or its last line is torn (it stays as it is), it is no ordinary file
            of this user, or it cannot be written.
    """
    make_private_folder(path.parent)
    with be_only_writer(path):
        check_private(path)
        ours = [
            line.number
            for line in _read_transcript(path)
            if line.content and _read_id(line, path) == facts.id != ""
        ]
        answered = any(role == "assistant" for role, _ in conversation.turns())
        if not ours and not answered:
            return False
        text = write_line(conversation, facts) + "\n" if answered else ""
        write_private(path, _replace(_read_transcript(path), ours[-1] if ours else None, text))
        return answered


def check_transcript(path: Path) -> None:
    """Check that conversations can be saved in a file, before one is had; nothing is made or changed.

    Raises:
        OutputError: as `save_conversation`.
    """
    check_folder(path.parent)
    check_private(path)
    for line in _read_transcript(path):
        if line.content:
            _read_id(line, path)


def load_conversation(path: Path) -> tuple[Conversation, TranscriptFacts]:
    """Read the last conversation of a file of JSON lines.

    A line that something else wrote, of `messages` alone, is read as well; nothing is known of its replies then.

    Raises:
        DataError: there is no such file, or its last line is no conversation: told by file and line.
    """
    last = None
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a named pipe would be waited for
            raise DataError(f"{path} cannot be loaded: it is no ordinary file.")
        for line in _iter_lines(path):
            last = line if line.content else last
    except FileNotFoundError:
        raise DataError(f"{path} cannot be loaded: there is no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be loaded: {error.strerror}.") from None
    if last is None:
        raise DataError(f"{path} holds no conversation: it is empty.")
    return read_line(last.content, f"{path}:{last.number}")


def _replace(lines: Iterator[_Line], number: int | None, text: str) -> Iterator[str]:
    """Yield the lines of a file with a text instead of one of them, or behind them all."""
    end = "\n"
    for line in lines:
        end = line.text[-1]
        yield text if line.number == number else line.text
    if number is None:
        yield text if end == "\n" else "\n" + text


def _read_transcript(path: Path) -> Iterator[_Line]:
    try:
        yield from _iter_lines(path)
    except FileNotFoundError:
        return
    except DataError as error:
        raise _refuse(error) from None
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.", "Name another file.") from error


def _iter_lines(path: Path) -> Iterator[_Line]:
    """Yield the lines of a file, one of them in memory at a time."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > FILE_LIMIT:
            raise DataError(f"{path} is no transcript: it has {size:,} bytes, more than {FILE_LIMIT:,}.")
        # Ends as JSON lines know them, not the others that str.splitlines knows: texts hold those.
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > LINE_LIMIT:
                raise DataError(f"{where} is no conversation: it is longer than {LINE_LIMIT:,} bytes.")
            if b"\0" in line:
                raise DataError(f"{where} is no JSON: it holds a zero byte, as no text does.")
            try:
                yield _Line(number, line.decode())
            except UnicodeDecodeError as error:
                place = file.tell() - len(line) + error.start
                raise DataError(f"{where} is no UTF-8 text (byte {place} of the file).") from None


def _read_id(line: _Line, path: Path) -> str | None:
    """Return the id that this program gave a conversation; None where something else wrote it down."""
    try:
        fields = parse_line(line.content, f"{path}:{line.number}")
    except DataError as error:
        raise _refuse(error) from None
    identifier = fields.get("id")
    return identifier if "schema_version" in fields and isinstance(identifier, str) else None


def _refuse(error: DataError) -> OutputError:
    return OutputError(
        f"The conversation cannot be saved there: {error.message}",
        "The file stays as it is: name another one, or mend it.",
    )
