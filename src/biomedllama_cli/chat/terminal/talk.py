"""A conversation at a terminal: asks, shows the replies, and keeps the transcript up to date."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.text import Text

from biomedllama_cli.chat.conversation import Exchange, Passage, Reply, name_model
from biomedllama_cli.chat.retrieval.prompt import cite
from biomedllama_cli.chat.terminal.interrupts import Interrupts, quiet_keys
from biomedllama_cli.chat.terminal.reply_view import (
    column_width,
    join_columns,
    stream_beside,
    stream_markdown,
    stream_plain,
)
from biomedllama_cli.chat.terminal.sanitise import repair_text, sanitise
from biomedllama_cli.chat.terminal.screen import Line, Screen
from biomedllama_cli.chat.terminal.words import ModelFacts, TerminalFacts, describe_reply, explain_reply
from biomedllama_cli.errors import UserError

if TYPE_CHECKING:
    from biomedllama_cli.chat.exam_answer import ExamAnswer
    from biomedllama_cli.chat.session import Answering, Asking, ChatSession, Replying

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_WIDE = 100
"""From this width on (in character cells) two models answer side by side."""


@dataclass(frozen=True)
class Services:
    """What a chat can do besides asking; each raises a UserError where it cannot.

    Attributes:
        find_other: returns the source of the model that `/compare` names, before anything is loaded.
        load_other: loads a model of such a source and returns who answers with it and its facts.
        free_memory: gives the memory of models that answer no longer back.
        ask_exam: puts the multiple-choice question that a text holds or names to every model, and returns one answer
            per model.
        save: writes the session's conversation into a file, and returns whether there was anything to write.
        load: goes on with the last conversation of a file (`session.resume`), and returns what is to be known of it.
    """

    find_other: Callable[[str], str]
    load_other: Callable[[str], tuple[Answering, ModelFacts]]
    free_memory: Callable[[], None]
    ask_exam: Callable[[str, ChatSession], Sequence[ExamAnswer]]
    save: Callable[[Path, ChatSession], bool]
    load: Callable[[Path, ChatSession], Sequence[str]]


class Talk:
    """What the commands and the prompt of a chat work on.

    Args:
        session: the conversation.
        facts: of the models.
        services: what it can do besides.
        screen: where it is written.
        interrupts: signals.

    Attributes:
        models: who answers, in the order of the speakers.
        running: whether it goes on.
        exams: what the models said to the last multiple-choice question.
    """

    def __init__(
        self,
        session: ChatSession,
        facts: TerminalFacts,
        services: Services,
        *,
        screen: Screen,
        interrupts: Interrupts,
    ) -> None:
        self.session = session
        self.services = services
        self.screen = screen
        self.interrupts = interrupts
        self.models = list(facts.models)
        self.running = True
        self.exams: tuple[ExamAnswer, ...] = ()

    def ask(self, question: str) -> None:
        """Ask a question and show what is answered."""
        self.answer(lambda: self.session.begin(repair_text(question)))

    def answer(self, begin: Callable[[], Asking]) -> None:
        """Show the replies to a question that is looked up first, and keep them."""
        with quiet_keys(sys.stdin):
            try:
                with self.interrupts.raising():
                    asking = begin()
                replies = self._reply(asking)
            except KeyboardInterrupt:
                self.screen.show("Interrupted: nothing was asked.", "dim")
                return
            except UserError:
                raise
            except Exception as error:
                raise describe_failure(error, "The reply") from error
            exchange = self.session.finish(asking, replies)
        self.show_sources(exchange)
        self.screen.write("\n")
        self.keep()

    def _reply(self, asking: Asking) -> list[Reply]:
        count = len(self.session.speakers)
        if count > 1 and not self.screen.plain and self.screen.width >= _WIDE:
            return self._reply_beside(asking)
        replies: list[Reply] = []
        for number in range(count):
            if count > 1:
                self.screen.put(self.screen.lay_out_title(self.models[number].name))
            stream = self.session.stream(asking, number)
            with self.interrupts.calling(stream.stop):
                show = stream_plain if self.screen.plain else stream_markdown
                show(self.screen, stream)
            replies.append(stream.reply)
            for line in _tell(stream.reply, asking):
                self.screen.show(line, "dim")
            if self.interrupts.ended_by is not None:
                break
        return replies

    def _reply_beside(self, asking: Asking) -> list[Reply]:
        streams: list[Replying] = []

        def iter_pieces(number: int) -> Generator[str, None, None]:
            if streams and self.interrupts.ended_by is not None:
                return
            streams.append(self.session.stream(asking, number))
            with self.interrupts.calling(streams[-1].stop):
                yield from streams[-1]

        titles = [model.name for model in self.models]
        pieces = [iter_pieces(number) for number in range(len(titles))]
        with ExitStack() as leaving:
            for each in pieces:
                leaving.callback(each.close)
            stream_beside(self.screen, pieces, titles)
        replies = [stream.reply for stream in streams]
        width = column_width(self.screen, len(titles))
        columns: list[list[Line]] = [[] for _ in titles]
        for column, reply in zip(columns, replies, strict=False):
            column += self.screen.lay_out_markdown(sanitise(reply.text), width)
            column.append([])
            for line in _tell(reply, asking):
                column += self.screen.lay_out(Text(sanitise(line), style="dim"), width)
        self.screen.put(join_columns(self.screen, titles, columns))
        return replies

    def show_sources(self, exchange: Exchange) -> None:
        """List the passages of a reply, one line each."""
        for number, passage in enumerate(exchange.passages, 1):
            self.screen.show(f"[{number}] {cite(passage)}", "dim")

    def show_passage(self, number: str, passage: Passage) -> None:
        """Show a passage in full."""
        self.screen.show(f"[{number}] {cite(passage)} · score {passage.score:.1f}", "bold")
        self.screen.show(passage.text)

    def show_reply(self, reply: Reply) -> None:
        """Show a reply that was given."""
        text = sanitise(reply.text)
        if self.screen.plain:
            self.screen.show(text)
        else:
            self.screen.put(self.screen.lay_out_markdown(text))

    def set_other(self, speaker: Answering, facts: ModelFacts) -> None:
        """Have a second model answer beside the first from the next question on."""
        self.session.set_speakers([self.session.speakers[0], speaker], name_model(facts.facts))
        self.models[1:] = [facts]
        self.exams = ()

    def drop_other(self) -> None:
        """Have the first model answer alone; the memory of the second is free then."""
        self.session.set_speakers(self.session.speakers[:1])
        del self.models[1:]
        self.exams = ()
        self.services.free_memory()

    def wait(self, work: Callable[[], Result]) -> Result | None:
        """Do what may take long; None where Ctrl-C broke it off."""
        with quiet_keys(sys.stdin):
            try:
                with self.interrupts.raising():
                    return work()
            except KeyboardInterrupt:
                self.screen.show("Interrupted.", "dim")
                return None

    def keep(self) -> bool:
        """Write the conversation into the file that the settings name, if they do; tell whether it is there now."""
        path = self.session.settings.transcript.save
        return path is not None and self.services.save(path, self.session)

    def tell_error(self, error: UserError) -> None:
        """Say what went wrong; the chat goes on."""
        message = error.message if error.message.endswith((".", "!", "?", ":")) else f"{error.message}."
        self.screen.show(message, "yellow")
        if error.hint:
            self.screen.show(error.hint, "dim")


def describe_failure(error: Exception, what: str) -> UserError:
    """Return what is told of an error that no sentence was written for.

    A device out of memory, say: the conversation up to here is worth more than a quick end.
    """
    logger.debug("%s failed", what, exc_info=error)
    said = " ".join(str(error).split())
    return UserError(f"{what} failed ({type(error).__name__}): {said}")


def _tell(reply: Reply, asking: Asking) -> list[str]:
    return [describe_reply(reply), *explain_reply(reply, asking.reply)]
