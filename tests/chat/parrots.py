"""Speakers and a library that need no model: for tests of what stands around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from biomedllama_cli.chat.conversation import Exchange, Finish, Passage, Reply
from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.settings.chat import ChatSettings, ReplySettings


@dataclass
class Words:
    """A reply that is there at once."""

    reply: Reply

    def __iter__(self) -> Iterator[str]:
        yield self.reply.text

    def stop(self) -> None:
        """Change nothing: the reply is there."""


@dataclass
class Parrot:
    """A speaker that tells what it was given."""

    name: str = "parrot"
    asked: list[tuple[list[tuple[str, str]], ReplySettings, int]] = field(default_factory=list)

    def stream(self, turns: Sequence[tuple[str, str]], reply: ReplySettings, *, noise_seed: int) -> Words:
        """Reply with a name, the number of turns and the seed."""
        self.asked.append((list(turns), reply, noise_seed))
        return Words(make_reply(f"{self.name} {len(turns)} {noise_seed % 1000}"))


@dataclass
class Shelf:
    """A library of one document."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    def search(self, question: str, count: int) -> tuple[Passage, ...]:
        """Return so many parts of it, or none for a question about nothing."""
        self.asked.append((question, count))
        if "nothing" in question:
            return ()
        return tuple(Passage(f"part {number}", "pmid:1.1", pmid=1) for number in range(count))


def make_reply(text: str, finish: Finish = "end") -> Reply:
    """Return a reply of a text."""
    return Reply(text, finish, 10, 0, 5)


def make_session(*names: str, library: Shelf | None = None, **settings: object) -> ChatSession:
    """Return a session with parrots of these names."""
    chat = ChatSettings.model_validate(settings)
    return ChatSession([Parrot(name) for name in names or ("parrot",)], chat, library)


def ask(session: ChatSession, question: str) -> Exchange:
    """Ask every speaker, and take the replies into the conversation."""
    asking = session.begin(question)
    replies = []
    for number in range(len(session.speakers)):
        stream = session.stream(asking, number)
        list(stream)
        replies.append(stream.reply)
    return session.finish(asking, replies)


def shown(session: ChatSession, number: int = 0) -> list[tuple[str, str]]:
    """Return the turns that a speaker was last given."""
    speaker = session.speakers[number]
    assert isinstance(speaker, Parrot)
    return speaker.asked[-1][0]
