"""What begins with a slash: one table that help, completion and dispatch use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from biomedllama_cli.chat.changes import list_current, name_setting
from biomedllama_cli.chat.terminal.sanitise import repair_text, sanitise
from biomedllama_cli.chat.terminal.talk import Talk
from biomedllama_cli.chat.terminal.words import KEYS
from biomedllama_cli.errors import SettingsError, UserError
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.wording import name_count

_OFF = "off"


@dataclass(frozen=True)
class Command:
    """A command of the chat.

    Attributes:
        name: with its slash.
        usage: what may follow it.
        meaning: what it does, for help.
        run: does it, given what follows the name.
        takes: what completion offers after the name.
        aliases: other names.
    """

    name: str
    usage: str
    meaning: str
    run: Callable[[Talk, str], None]
    takes: str = ""
    aliases: tuple[str, ...] = ()


def run_command(talk: Talk, line: str) -> None:
    """Do what a line with a slash says.

    Raises:
        UserError: there is no such command, or it cannot be done.
    """
    name, *rest = line.split(maxsplit=1)
    for command in COMMANDS:
        if name in (command.name, *command.aliases):
            return command.run(talk, rest[0].strip() if rest else "")
    known = [each for command in COMMANDS for each in (command.name, *command.aliases)]
    near = suggest(name, known) or "Type /help."
    raise SettingsError(
        f"There is no command {name}; nothing was sent.",
        f"{near} A message that begins with / is sent by //.",
    )


def complete(talk: Talk, before: str) -> Iterator[tuple[str, str, str]]:
    """Yield (what is replaced, by what, what that is) for a line that begins with a slash."""
    if not before.startswith("/") or before.startswith("//") or "\n" in before:
        return
    name, blank, rest = before.partition(" ")
    if not blank:
        for command in COMMANDS:
            for each in (command.name, *command.aliases):
                if each.startswith(name):
                    yield name, each, command.meaning
        return
    takes = next((command.takes for command in COMMANDS if name in (command.name, *command.aliases)), "")
    if takes == "setting":
        yield from _complete_setting(talk, rest)
    elif takes == "file":
        yield from _complete_file(rest)
    elif takes == "exam":
        yield from (each for each in _complete_file(rest) if each[1].endswith(("/", ".jsonl")))
    elif takes == "model":
        if _OFF.startswith(rest):
            yield rest, _OFF, "ends the comparison"
        yield from _complete_file(rest)


def _complete_setting(talk: Talk, rest: str) -> Iterator[tuple[str, str, str]]:
    name, blank, value = rest.partition(" ")
    for each in list_current(talk.session.settings):
        if not blank and each.name.startswith(name):
            yield name, each.name, f"{each.value}: {each.description}"
        elif blank and each.name == name:
            for offered in each.completions or (each.value,):
                if offered.startswith(value):
                    yield value, offered, "now" if offered == each.value else ""


def _complete_file(typed: str) -> Iterator[tuple[str, str, str]]:
    folder, _, begun = typed.rpartition("/")
    try:
        place = Path(folder or ("/" if typed.startswith("/") else ".")).expanduser()
        found = sorted(each for each in place.iterdir() if each.name.startswith(begun))
    except (OSError, RuntimeError, ValueError):  # nobody has that home, or no path can be that
        return
    for each in found:
        if begun or not each.name.startswith("."):
            yield begun, each.name + ("/" if os.path.isdir(each) else ""), ""


def _help(talk: Talk, rest: str) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for command in COMMANDS:
        usage = " or ".join((command.name, *command.aliases))
        table.add_row(Text(f"{usage} {command.usage}".rstrip(), style="bold"), Text(command.meaning))
    table.add_row()
    for key, meaning in KEYS:
        table.add_row(Text(key, style="bold"), Text(meaning))
    talk.screen.print(table)


def _new(talk: Talk, rest: str) -> None:
    talk.session.new()
    talk.screen.show("A new conversation; the model remembers nothing of the last one.", "dim")


def _system(talk: Talk, rest: str) -> None:
    if rest == _OFF:
        talk.session.set_system("")
    elif rest:
        talk.session.set_system(repair_text(rest))
    system = talk.session.conversation.system
    talk.screen.show(f"System message: {system}" if system else "There is no system message.", "dim")


def _set(talk: Talk, rest: str) -> None:
    name, _, value = rest.partition(" ")
    if value.strip():
        talk.screen.show(talk.session.change(name, value.strip()), "dim")
        return
    wanted = name_setting(name) if name else ""
    table = Table.grid(padding=(0, 2, 0, 0))
    for each in list_current(talk.session.settings):
        if wanted in ("", each.name):
            table.add_row(Text(each.name, style="bold"), Text(sanitise(each.value)), Text(each.description))
    talk.screen.print(table)


def _retry(talk: Talk, rest: str) -> None:
    talk.answer(talk.session.retry)


def _undo(talk: Talk, rest: str) -> None:
    taken = talk.session.undo()
    talk.screen.show(f"Taken back: {taken.question}", "dim")
    talk.keep()


def _history(talk: Talk, rest: str) -> None:
    conversation = talk.session.conversation
    if conversation.system:
        talk.screen.show(f"System message: {conversation.system}", "dim")
    if not conversation.exchanges:
        talk.screen.show("Nothing was asked yet.", "dim")
    for number, exchange in enumerate(conversation.exchanges, 1):
        talk.screen.show(f"{number} > {exchange.question}", "bold")
        talk.show_reply(exchange.reply)
        if exchange.other is not None:
            who = f" ({exchange.other_source})" if exchange.other_source else ""
            talk.screen.show(f"the other model{who}:", "bold cyan")
            talk.show_reply(exchange.other)


def _save(talk: Talk, rest: str) -> None:
    if not talk.session.conversation.exchanges:
        raise SettingsError("There is nothing to save: nothing was asked yet.", "Type a question.")
    path = _read_path(rest, "/save FILE.jsonl")
    if not talk.services.save(path, talk.session):
        raise SettingsError("There is nothing to save: no reply has any text.")
    count = name_count(len(talk.session.conversation.exchanges), "question")
    talk.screen.show(f"Saved to {path}: {count}, readable by you alone.", "dim")


def _load(talk: Talk, rest: str) -> None:
    path = _read_path(rest, "/load FILE.jsonl")
    notes = talk.wait(lambda: talk.services.load(path, talk.session))
    if notes is None:
        return
    for note in notes:
        talk.screen.show(note, "yellow")
    count = name_count(len(talk.session.conversation.exchanges), "question")
    talk.screen.show(f"Going on with the last conversation of {path}: {count}. /history shows it.", "dim")


def _read_path(rest: str, usage: str) -> Path:
    if not rest:
        raise SettingsError("No file is named.", f"Type {usage}.")
    if "\0" in rest:
        raise SettingsError("The name of the file holds a NUL, which no file has.", f"Type {usage}.")
    try:
        return Path(rest).expanduser()
    except RuntimeError:
        raise SettingsError(f"{rest} is in nobody's home folder.", "Name the folder in full.") from None


def _compare(talk: Talk, rest: str) -> None:
    if not rest:
        whom = talk.models[1].name if len(talk.models) > 1 else "nobody; /compare MODEL names a model"
        talk.screen.show(f"Compared with {whom}.", "dim")
    elif rest == _OFF:
        talk.drop_other()
        talk.screen.show(f"{talk.models[0].name} answers alone.", "dim")
    else:
        _load_other(talk, rest)


def _load_other(talk: Talk, name: str) -> None:
    source = talk.wait(lambda: talk.services.find_other(name))
    if source is None:
        return
    before = f"{talk.models[1].name} is let go. " if len(talk.models) > 1 else ""
    talk.screen.show(f"{before}Loading {name} ...", "dim")
    talk.drop_other()  # first: the memory may hold two models and not three
    loaded = talk.wait(lambda: talk.services.load_other(source))
    if loaded is not None:
        talk.set_other(*loaded)
        for line in loaded[1].lines():
            talk.screen.show(line, "dim")


def _mc(talk: Talk, rest: str) -> None:
    if rest:
        talk.screen.show("Scoring ...", "dim")
        talk.exams = tuple(talk.wait(lambda: talk.services.ask_exam(repair_text(rest), talk.session)) or ())
    elif not talk.exams:
        raise SettingsError("No question is given.", "Type /mc Question? | option | option")
    for model, answer in zip(talk.models, talk.exams, strict=False):
        if len(talk.models) > 1:
            talk.screen.put(talk.screen.lay_out_title(model.name))
        for line in answer.lines(talk.screen.width, verbose=not rest):
            talk.screen.show(line)


def _sources(talk: Talk, rest: str) -> None:
    exchanges = talk.session.conversation.exchanges
    passages = exchanges[-1].passages if exchanges else ()
    if not passages:
        known = talk.session.library is not None
        hint = (
            "The last reply has none." if known else "Start the chat with --corpus DIR to look questions up."
        )
        raise UserError("There are no sources.", hint)
    numbers = [str(number) for number in range(1, len(passages) + 1)]
    if rest and rest not in numbers:
        raise UserError(f"There is no source {rest}.", f"The last reply has 1 to {len(passages)}.")
    for number, passage in zip(numbers, passages, strict=True):
        if rest in ("", number):
            talk.show_passage(number, passage)


def _quit(talk: Talk, rest: str) -> None:
    talk.running = False


COMMANDS = (
    Command("/help", "", "shows this", _help),
    Command("/new", "", "begins a new conversation", _new),
    Command("/system", "[text|off]", "shows, changes or removes what the model is told first", _system),
    Command("/set", "[name [value]]", "shows or changes how replies are made", _set, "setting"),
    Command("/retry", "", "asks the last question again, from another seed", _retry),
    Command("/undo", "", "takes the last question and its reply back", _undo),
    Command("/history", "", "shows the conversation", _history),
    Command("/save", "FILE", "writes the conversation into a .jsonl file", _save, "file"),
    Command("/load", "FILE", "goes on with the last conversation of a file", _load, "file"),
    Command("/compare", "[MODEL|off]", "lets a second model answer beside this one", _compare, "model"),
    Command(
        "/mc",
        "[QUESTION]",
        "scores `Question? | option | option` as `evaluate` does; alone: the last in full",
        _mc,
        "exam",
    ),
    Command("/sources", "[n]", "shows the passages of the last reply in full", _sources),
    Command("/quit", "", "leaves", _quit, aliases=("/exit",)),
)
"""Every command, in the order of the help."""
