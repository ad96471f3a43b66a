"""The chat on a terminal, from its first line to its last."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, TextIO

from biomedllama_cli.chat.terminal.commands import complete, run_command
from biomedllama_cli.chat.terminal.interrupts import Interrupts, drop_typed, quiet_keys
from biomedllama_cli.chat.terminal.line_editor import Editor, LineEditor, PlainReader
from biomedllama_cli.chat.terminal.screen import Screen, find_terminal
from biomedllama_cli.chat.terminal.talk import Services, Talk, describe_failure
from biomedllama_cli.chat.terminal.words import (
    LEAVING,
    NOTICE,
    TerminalFacts,
    describe_saving,
)
from biomedllama_cli.errors import Resumable, UserError

if TYPE_CHECKING:
    from biomedllama_cli.chat.session import ChatSession


def run_terminal(
    session: ChatSession, facts: TerminalFacts, services: Services, *, terminal: TextIO | None = None
) -> None:
    """Hold a conversation on the terminal until somebody leaves it.

    Args:
        session: what is asked and answered.
        facts: of its models.
        services: what the commands need.
        terminal: what is written to; None takes the terminal wherever stdout and stderr lead.

    Raises:
        Resumable: a signal ended it, and the conversation is saved.
        KeyboardInterrupt: a signal ended it, and nothing was to be saved.
        OutputError: the file of the history cannot be written, or, after a signal, that of the conversation.
    """
    screen = Screen(terminal or find_terminal())
    with Interrupts() as interrupts:
        talk = Talk(session, facts, services, screen=screen, interrupts=interrupts)
        editor = _choose_editor(talk)
        _greet(talk, facts)
        if isinstance(editor, LineEditor) and drop_typed(sys.stdin):
            screen.show("What was typed before this is not read.", "dim")
        # A key that is pressed between two prompts must find the terminal as the editor wants it, or it is lost.
        with quiet_keys(sys.stdin, lines=False) if isinstance(editor, LineEditor) else nullcontext():
            while talk.running and interrupts.ended_by is None:
                _take_turn(talk, editor)
    _leave(talk)


def _choose_editor(talk: Talk) -> Editor:
    if talk.screen.moves and sys.stdin.isatty():
        kept = talk.session.settings.transcript.history_file
        return LineEditor(talk.screen.terminal, talk.interrupts, lambda before: complete(talk, before), kept)
    return PlainReader(talk.screen.write, talk.interrupts)


def _greet(talk: Talk, facts: TerminalFacts) -> None:
    screen = talk.screen
    screen.show(NOTICE, "yellow")
    for model in facts.models:
        first, *others = model.lines()
        screen.show(first, "bold")
        for line in others:
            screen.show(line, "dim")
    if facts.corpus:
        screen.show(f"Questions are looked up in {facts.corpus}.", "dim")
    screen.show(f"{describe_saving(talk.session.settings)}. /help lists the commands.", "dim")


def _take_turn(talk: Talk, editor: Editor) -> None:
    try:
        message = editor.read(" | ".join(model.name for model in talk.models), talk.models[0].style)
    except EOFError:
        talk.running = False
        return
    except KeyboardInterrupt:
        if talk.interrupts.ended_by is None:  # else it was no Ctrl-C
            talk.screen.show(LEAVING, "dim")
        return
    try:
        if message.startswith("//"):
            talk.ask(message[1:])
        elif message.startswith("/"):
            run_command(talk, message)
        elif message.strip():
            talk.ask(message)
    except UserError as error:
        talk.tell_error(error)
    except Exception as error:
        talk.tell_error(describe_failure(error, message.split(maxsplit=1)[0]))


def _leave(talk: Talk) -> None:
    name = talk.interrupts.ended_by
    if name is None:
        return
    # Once more: what was loaded may not be in this file yet, or the last try may have failed.
    if not talk.keep():
        raise KeyboardInterrupt
    path = talk.session.settings.transcript.save
    raise Resumable(f"Stopped by {name}; the conversation is in {path}.", f"Go on with it: --load {path}.")
