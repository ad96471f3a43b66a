"""The chat on a terminal with models that say what a test needs, without a real one; started by the pty tests."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # and not where pytest looks for doctests
    # The session needs one function of a module that would load torch, which no test of the terminal waits for.
    _sampling = types.ModuleType("biomedllama_cli.evaluation.sampling")
    _sampling.chain_seed = lambda seed, name, attempt: seed + attempt  # type: ignore[attr-defined]
    _rendering = types.ModuleType("biomedllama_cli.models.chat_rendering")
    _rendering.Turns = object  # type: ignore[attr-defined]
    sys.modules |= {_sampling.__name__: _sampling, _rendering.__name__: _rendering}

from biomedllama_cli.chat.conversation import Finish, Passage, Reply
from biomedllama_cli.chat.private_files import write_private
from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.chat.terminal.app import run_terminal
from biomedllama_cli.chat.terminal.talk import Services
from biomedllama_cli.chat.terminal.words import ModelFacts, TerminalFacts
from biomedllama_cli.cli.logs import configure_logging
from biomedllama_cli.cli.output import print_error
from biomedllama_cli.settings.chat import ChatSettings

HOSTILE = (
    "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\ "
    "\x9b31m \x07\x08\x7f \u202egnp.exe\u202c [bold red]markup[/] [good](http://bad.example) &#x9b;1m &#27;[5m "
    "</kbd>\r\nlast line\r over\n"
)
MARKDOWN = "# Findings\n\nIt is **bold** and `code`.\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


class Stream:
    """A reply, character by character or slowly word by word."""

    def __init__(self, text: Iterator[str] | str, *, seconds: float = 0.0, finish: Finish = "end") -> None:
        self._pieces = iter([text] if isinstance(text, str) else text)
        self._seconds = seconds
        self._finish: Finish = finish
        self._stopped = False
        self._text = ""
        self._tokens = 0

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            if self._stopped:
                self._finish = "interrupted"
                return
            time.sleep(self._seconds)
            self._tokens += 1
            self._text += piece
            yield piece

    def stop(self) -> None:
        self._stopped = True

    @property
    def reply(self) -> Reply:
        dropped = 4 if "forget" in self._text else 0
        return Reply(self._text, self._finish, 12, 7, self._tokens, dropped, 0.25, 2.25)


class Speaker:
    """Says what the question asks for, and writes down what it was given."""

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log

    def stream(self, turns: Any, reply: Any, *, noise_seed: int) -> Stream:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": self._name, "turns": turns, "seed": noise_seed}) + "\n")
        word, _, rest = turns[-1][1].rpartition("Question: ")[2].partition(" ")
        if word == "endless":
            return Stream((f"word{number} " for number in range(10**6)), seconds=0.01)
        if word in ("items", "slowly"):
            text = "".join(f"- item {number} ends\n" for number in range(int(rest.split()[-1])))
            return Stream(_split(text), seconds=0.005 if word == "slowly" else 0.0)
        if word == "paragraph":
            return Stream(_split(" ".join(f"w{number}" for number in range(int(rest)))))
        if word == "hostile":
            return Stream(iter(HOSTILE))
        if word == "markdown":
            return Stream(_split(MARKDOWN))
        if word == "cut":
            return Stream("forget it", finish="length")
        if word == "loop":
            return Stream("again again", finish="repetition")
        if word == "silent":
            return Stream(("" for _ in range(10**6)), seconds=0.01)
        if word == "warn":
            return Stream(_warn())
        if word == "fail":
            raise RuntimeError("out of memory\x1b[31m")
        return Stream(f"{self._name} heard {len(turns[-1][1])} characters.")


def _warn() -> Iterator[str]:
    for number in range(40):
        if number == 20:
            logging.getLogger("biomedllama_cli.chat").warning("in the \x1b]0;x\x07middle")
            print("somebody prints")
        time.sleep(0.005)
        yield f"word{number} "


def _split(text: str) -> Iterator[str]:
    return (text[start : start + 5] for start in range(0, len(text), 5))


class Library:
    """Finds one hostile passage; for `wait` it takes forever."""

    def search(self, question: str, count: int) -> tuple[Passage, ...]:
        if question.startswith("wait"):
            logging.getLogger("biomedllama_cli.chat").warning("looking \x1b[31mthrough the shelf")
            time.sleep(3600)
        text = "The whole \x1b[2Jpassage."
        return (
            Passage(text, "pmid:7.1", 7, title="On \x1b]0;x\x07cress", licence="CC BY", flags=("retracted",)),
        )


def _facts(name: str) -> ModelFacts:
    facts = {"source": name, "parameters": 1_200_000, "dtype": "float32", "device": "cpu"}
    return ModelFacts(facts | {"weights_sha256": "ab" * 32}, "chat", "the model's own chat template", 2048)


def _load_other(name: str, log: Path) -> tuple[Speaker, ModelFacts]:
    if name == "forever":
        time.sleep(3600)
    if name == "broken":
        raise RuntimeError("CUDA out of memory")
    return Speaker(name, log), _facts(name)


def _load(path: Path, session: ChatSession) -> list[str]:
    if path.name == "forever":
        time.sleep(3600)
    return ["It was held with another model."]


def _save(path: Path, session: ChatSession) -> bool:
    said = [[each.question, each.reply.text] for each in session.conversation.exchanges if each.reply.text]
    if said:
        write_private(path, json.dumps(said))
    return bool(said)


def main() -> int:
    """Chat; like the command, with stdout kept for a report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--corpus", action="store_true")
    parser.add_argument("--settings", default="{}")
    given = parser.parse_args()
    configure_logging(0)
    names = ["tiny", "other"] if given.compare else ["tiny"]
    settings = ChatSettings.model_validate_json(given.settings)
    session = ChatSession(
        [Speaker(name, given.log) for name in names], settings, Library() if given.corpus else None
    )
    facts = TerminalFacts(tuple(map(_facts, names)), "shelf: 3 documents, 4 passages" if given.corpus else "")
    services = Services(
        find_other=lambda name: name,
        load_other=lambda name: _load_other(name, given.log),
        free_memory=lambda: None,
        ask_exam=lambda text, session: [],
        save=_save,
        load=_load,
    )
    try:
        with redirect_stdout(sys.stderr):
            run_terminal(session, facts, services)
    except (Exception, KeyboardInterrupt) as error:
        return print_error(error, as_json=False, debug=False)
    print("the report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
