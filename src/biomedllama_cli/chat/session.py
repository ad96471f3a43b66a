"""What a chat is at any moment: its conversation, its settings, and who answers; without a terminal."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from biomedllama_cli.chat.changes import change_setting
from biomedllama_cli.chat.conversation import Conversation, Exchange, Passage, Reply
from biomedllama_cli.chat.retrieval.prompt import write_prompt
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.sampling import chain_seed
from biomedllama_cli.models.chat_rendering import Turns
from biomedllama_cli.settings.chat import ChatSettings, ReplySettings
from biomedllama_cli.tasks.records import check_encodable

_MOST_ATTEMPTS = 1000
"""So many tries of one question are told apart after a conversation was loaded."""


class Replying(Protocol):
    """A reply as it comes: a `ReplyStream`."""

    def __iter__(self) -> Iterator[str]:
        """Yield its text piece by piece."""

    def stop(self) -> None:
        """End it after the token at hand."""

    @property
    def reply(self) -> Reply:
        """What stands so far; final after the iteration."""


class Answering(Protocol):
    """Who answers: a `Speaker`."""

    def stream(self, turns: Turns, reply: ReplySettings, *, noise_seed: int) -> Replying:
        """Begin a reply to a conversation that ends with the user's turn."""


class Searching(Protocol):
    """What questions are looked up in: a `Library`."""

    def search(self, question: str, count: int) -> tuple[Passage, ...]:
        """Return the best passages, the best first."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A question on its way to a reply.

    Attributes:
        question: as it was asked.
        prompt: as the model is given it: passages included.
        passages: that stand in the prompt, numbered from 1.
        noise_seed: of the sampling; both of two models get the same.
        attempt: how often it was asked before.
        reply: how the reply is generated.
        replaces: whether it takes the place of the last exchange, which stands until there is a reply.
    """

    question: str
    prompt: str
    passages: tuple[Passage, ...]
    noise_seed: int
    attempt: int
    reply: ReplySettings
    replaces: bool = False


class ChatSession:
    """A conversation with one model, or with two that answer side by side.

    Every question goes `begin` (or `retry`), `stream` once per speaker, `finish`; until then nothing has changed, so
    that one without a reply can be forgotten.

    Args:
        speakers: who answers: one or two; each is shown its own replies.
        settings: of the chat; those that `change` changes take effect with the next question.
        library: what questions are looked up in.
        other_source: who the second speaker is, as `conversation.name_model` calls it.

    Attributes:
        conversation: up to the last reply.
        conversation_id: what a transcript knows it by; `new` begins another.
        created: when it began (UTC, ISO 8601).
    """

    def __init__(
        self,
        speakers: Sequence[Answering],
        settings: ChatSettings,
        library: Searching | None = None,
        *,
        other_source: str = "",
    ) -> None:
        self.settings = settings
        self.library = library
        self.conversation = Conversation(settings.style.system.strip())
        self.set_speakers(speakers, other_source)
        self._begin_conversation()

    def set_speakers(self, speakers: Sequence[Answering], other_source: str = "") -> None:
        """Change who answers from the next question on; one who was not there is shown the first one's replies.

        Args:
            speakers: one or two.
            other_source: who the second is, as `conversation.name_model` calls it: replies that another second
                speaker gave are not shown to it.
        """
        assert 1 <= len(speakers) <= 2, "one model answers, or two side by side"
        self.speakers = tuple(speakers)
        self.other_source = other_source if len(speakers) > 1 else ""

    def begin(self, question: str) -> Asking:
        """Look a question up, write its prompt and choose the seed of its reply.

        Raises:
            DataError: it says nothing, or is no Unicode text.
        """
        return self._ask(question, len(self.conversation.exchanges) + 1, 0)

    def stream(self, asking: Asking, number: int = 0) -> Replying:
        """Begin the reply of a speaker, told by its number."""
        return self.speakers[number].stream(
            self.read_turns(asking, number), asking.reply, noise_seed=asking.noise_seed
        )

    def read_turns(self, asking: Asking, number: int = 0) -> list[tuple[str, str]]:
        """Return (role, text) of what a speaker is shown, the question last."""
        before = replace(self.conversation, exchanges=self._list_before(asking))
        return before.turns(asking.prompt, other_source=self.other_source if number else None)

    def finish(self, asking: Asking, replies: Sequence[Reply]) -> Exchange:
        """Make a question and its replies, also those that were stopped, part of the conversation.

        Args:
            asking: of `begin` or `retry`.
            replies: of the speakers in their order; the second may be missing.
        """
        first, other = replies[0], replies[1] if len(replies) > 1 else None
        exchange = Exchange(
            asking.question,
            asking.prompt,
            first,
            other,
            asking.passages,
            asking.noise_seed,
            self._describe(asking),
            self.other_source if other else "",
        )
        self._set_exchanges(self._list_before(asking), exchange)
        return exchange

    def retry(self) -> Asking:
        """Ask the last question again, with another seed; its reply takes the place of the last one.

        Raises:
            SettingsError: nothing was asked, or nothing random is in a reply that would be generated as before.
        """
        last = self._find_last("ask again")
        turn = len(self.conversation.exchanges)
        asking = replace(self._ask(last.question, turn, self._find_attempt(last, turn) + 1), replaces=True)
        if turn > self._loaded and self._would_repeat(last, asking):
            raise SettingsError(
                "The temperature is 0, so the same question gets the same reply again: nothing can change.",
                "Type /set temperature 0.7, or ask in other words.",
            )
        return asking

    def undo(self) -> Exchange:
        """Take the last exchange back and return it.

        Raises:
            SettingsError: nothing was asked.
        """
        last = self._find_last("take back")
        self._set_exchanges(self.conversation.exchanges[:-1])
        return last

    def new(self) -> None:
        """Begin another conversation, with the same system message."""
        self.conversation = Conversation(self.conversation.system)
        self._begin_conversation()

    def set_system(self, text: str) -> None:
        """Say something else to the model before the conversation; nothing removes it.

        Raises:
            DataError: it is no Unicode text.
        """
        self.conversation = replace(self.conversation, system=_strip_text(text, "system message"))

    def change(self, name: str, value: str) -> str:
        """Change a setting and return a sentence that says so.

        Raises:
            SettingsError: there is no such setting, it cannot change during a chat, or the value breaks its rule.
        """
        self.settings, said = change_setting(self.settings, name, value)
        if said.startswith("passages ") and self.library is None:
            said += " It takes effect with a corpus (--corpus), and none is given."
        return said

    def resume(self, conversation: Conversation, *, conversation_id: str = "", created: str = "") -> None:
        """Go on with a conversation, its system message included.

        Args:
            conversation: as it was.
            conversation_id: what its transcript knows it by; without one it is saved as another.
            created: when it began.
        """
        self.conversation = conversation
        self._begin_conversation()
        self._loaded = len(conversation.exchanges)
        if conversation_id:
            self.conversation_id = conversation_id
        if created:
            self.created = created

    def _begin_conversation(self) -> None:
        self.conversation_id = uuid.uuid4().hex
        self.created = datetime.now(UTC).isoformat(timespec="seconds")
        self._loaded = 0

    def _set_exchanges(self, kept: tuple[Exchange, ...], *added: Exchange) -> None:
        self.conversation = replace(self.conversation, exchanges=(*kept, *added))
        self._loaded = min(self._loaded, len(kept))

    def _list_before(self, asking: Asking) -> tuple[Exchange, ...]:
        exchanges = self.conversation.exchanges
        return exchanges[:-1] if asking.replaces else exchanges

    def _ask(self, question: str, turn: int, attempt: int) -> Asking:
        question = _strip_text(question, "question")
        if not question:
            raise DataError("The question says nothing.", "Type one.")
        passages = self.library.search(question, self.settings.sources.passages) if self.library else ()
        noise_seed = choose_noise_seed(self.settings.seed, turn, attempt)
        prompt = write_prompt(question, passages)
        return Asking(question, prompt, passages, noise_seed, attempt, self.settings.reply)

    def _find_last(self, purpose: str) -> Exchange:
        if not self.conversation.exchanges:
            raise SettingsError(f"There is nothing to {purpose}: nothing was asked yet.", "Type a question.")
        return self.conversation.exchanges[-1]

    def _find_attempt(self, exchange: Exchange, turn: int) -> int:
        """Return which attempt an exchange is; -1 where its seed is not one of this chat's."""
        seeds = (choose_noise_seed(self.settings.seed, turn, attempt) for attempt in range(_MOST_ATTEMPTS))
        return next((attempt for attempt, seed in enumerate(seeds) if seed == exchange.noise_seed), -1)

    def _would_repeat(self, last: Exchange, asking: Asking) -> bool:
        same = (last.prompt, last.settings) == (asking.prompt, self._describe(asking))
        answered = [last.reply]
        if len(self.speakers) > 1:
            if last.other is None or last.other_source != self.other_source:
                return False
            answered.append(last.other)
        whole = all(reply.finish != "interrupted" for reply in answered)
        return asking.reply.temperature == 0 and same and whole

    def _describe(self, asking: Asking) -> tuple[tuple[str, object], ...]:
        """Return what a reply is generated with; the system message too, since it may change from reply to reply."""
        described: list[tuple[str, object]] = list(asking.reply.model_dump().items())
        if self.conversation.system:
            described.append(("system", self.conversation.system))
        return tuple(described)


def choose_noise_seed(seed: int, turn: int, attempt: int = 0) -> int:
    """Return the seed of the sampling of a reply.

    Args:
        seed: of the chat.
        turn: number of the question in its conversation, from 1.
        attempt: how often it was asked before.

    >>> choose_noise_seed(0, 1) == choose_noise_seed(0, 1), choose_noise_seed(0, 1) == choose_noise_seed(0, 1, 1)
    (True, False)
    """
    return chain_seed(seed, f"turn {turn}", attempt)


def _strip_text(text: str, name: str) -> str:
    """Return a text without the white space around it, which tokenises in ways that nobody means."""
    return check_encodable(text, f"the {name}").strip()
