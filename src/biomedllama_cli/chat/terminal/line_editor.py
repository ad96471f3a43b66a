"""What is typed: lines with history, search, completion and pastes, or plain lines where no terminal is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input.defaults import create_input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output.defaults import create_output

from biomedllama_cli.chat.private_files import open_private
from biomedllama_cli.chat.terminal.interrupts import Interrupts
from biomedllama_cli.chat.terminal.sanitise import repair_text, sanitise_line, show_character
from biomedllama_cli.errors import OutputError

logger = logging.getLogger(__name__)

Complete = Callable[[str], Iterable[tuple[str, str, str]]]
"""Given what stands before the cursor: (what is replaced, by what, what that is) of each completion."""

CONTINUATION = "… "


class Editor(Protocol):
    """Reads what is typed."""

    def read(self, who: str, style: str) -> str:
        """Return the next message.

        Args:
            who: answers; shown at the prompt.
            style: how the conversation is written; likewise.

        Raises:
            EOFError: nothing more comes, or a signal ends the chat.
            KeyboardInterrupt: Ctrl-C while nothing was typed.
        """
        ...


class LineEditor:
    """Edits lines on a terminal.

    Args:
        output: the terminal.
        interrupts: signals of the chat.
        complete: offers completions.
        history_file: keeps what is typed; None keeps it in memory only.
    """

    def __init__(
        self, output: TextIO, interrupts: Interrupts, complete: Complete, history_file: Path | None
    ) -> None:
        self._interrupts = interrupts
        self._input = create_input(sys.stdin)
        self._kept = None if history_file is None else _PrivateHistory(history_file)
        self._session: PromptSession[str] = PromptSession(
            history=self._kept or InMemoryHistory(),
            completer=_Completer(complete),
            complete_while_typing=Condition(self._is_command),
            key_bindings=_bind_keys(),
            multiline=True,
            prompt_continuation=CONTINUATION,
            input_processors=[_ShowCharacters()],
            enable_suspend=True,
            reserve_space_for_menu=6,
            input=self._input,
            output=create_output(output),
        )

    def read(self, who: str, style: str) -> str:
        """Return the next message."""
        prompt: StyleAndTextTuples = [("bold", sanitise_line(who)), ("", f" · {style} > ")]
        with self._interrupts.prompting(self._leave):
            message = str(self._session.prompt(prompt))
        self._find_interrupt()
        self._tell_failure()
        return message

    def _tell_failure(self) -> None:
        """Say once that what is typed can no longer be kept; the editor itself writes on the same lines."""
        if self._kept is not None and self._kept.failure:
            logger.warning("%s What is typed is no longer kept.", self._kept.failure)
            self._kept = None

    def _is_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")

    def _find_interrupt(self) -> None:
        """Look for a Ctrl-C that came after Enter while it was still a key and no signal."""
        keys = [*get_typeahead(self._input), *self._input.read_keys()]
        others = [key for key in keys if key.key != Keys.ControlC]
        if len(others) < len(keys):
            self._interrupts.press()
        store_typeahead(self._input, others)

    def _leave(self) -> None:
        app = self._session.app
        if app.loop is not None:
            app.loop.call_soon_threadsafe(self._exit)

    def _exit(self) -> None:
        app = self._session.app
        if app.is_running and not app.is_done:
            app.exit(exception=EOFError())


class PlainReader:
    """Reads lines where there is no terminal, or one that can only write on.

    Args:
        write: writes the prompt.
        interrupts: signals of the chat.
    """

    def __init__(self, write: Callable[[str], None], interrupts: Interrupts) -> None:
        self._write = write
        reconfigure = getattr(sys.stdin, "reconfigure", None)
        if reconfigure is not None:  # a byte that is no text is a character that no text has, and not the end
            reconfigure(errors="surrogateescape")
        self._raising: Callable[[], AbstractContextManager[None]] = interrupts.raising

    def read(self, who: str, style: str) -> str:
        """Return the next message; a backslash at the end of a line goes on with the next."""
        self._write(f"{sanitise_line(who)} · {style} > ")
        lines: list[str] = []
        while True:
            with self._raising():
                line = sys.stdin.readline()
            if not line and not lines:
                raise EOFError
            text = line.rstrip("\r\n")
            if not _continues(text) or not line:
                return "\n".join([*lines, text])
            lines.append(text[:-1])
            self._write(CONTINUATION)


def _continues(line: str) -> bool:
    r"""Tell whether a line goes on.

    >>> _continues("one \\"), _continues("a backslash: \\\\")
    (True, False)
    """
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _bind_keys() -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        chosen = buffer.complete_state.current_completion if buffer.complete_state else None
        if chosen is not None:
            buffer.apply_completion(chosen)
        elif buffer.document.is_cursor_at_the_end and _continues(buffer.document.current_line):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    @keys.add("c-j", filter=typing)
    def add_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=typing)
    @keys.add("<sigint>")
    def clear(event: KeyPressEvent) -> None:
        if event.app.current_buffer.text:
            event.app.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


class _Completer(Completer):
    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        for replaced, text, meaning in self._complete(document.text_before_cursor):
            yield Completion(
                text,
                start_position=-len(replaced),
                display=sanitise_line(text),
                display_meta=sanitise_line(meaning),
            )


class _ShowCharacters(Processor):
    """Shows what is typed or pasted without letting it act; the text itself stays as it is."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Replace characters one by one, so that the cursor stands where it belongs."""
        return Transformation(
            [
                (fragment[0], show_character(fragment[1]), *fragment[2:])
                for fragment in transformation_input.fragments
            ]
        )


class _PrivateHistory(FileHistory):
    """Keeps what is typed in a file that its owner alone can read.

    Attributes:
        failure: why it no longer can; empty as long as it does.
    """

    def __init__(self, path: Path) -> None:
        open_private(path).close()  # says at once where it cannot be written
        super().__init__(path)
        self.failure = ""
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Return what was typed before, the newest first."""
        try:
            return list(super().load_history_strings())
        except OSError as error:
            self.failure = f"{self._path} cannot be read: {error.strerror}."
            return []

    def store_string(self, string: str) -> None:
        """Write one message; after a failure they stay in memory."""
        if self.failure:
            return
        try:
            with open_private(self._path) as file:
                file.write("\n" + "".join(f"+{line}\n" for line in repair_text(string).split("\n")))
        except OutputError as error:
            self.failure = error.message
        except OSError as error:
            self.failure = f"{self._path} cannot be written: {error.strerror}."
