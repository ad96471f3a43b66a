"""A model that replies turn by turn, and reads of each prompt only what it has not read before."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from biomedllama_cli.chat.conversation import Finish, Reply
from biomedllama_cli.chat.memory import Memory
from biomedllama_cli.chat.repetition import find_loop
from biomedllama_cli.chat.streaming_text import StreamingText
from biomedllama_cli.chat.style import Style
from biomedllama_cli.chat.trimming import Trimmed, trim_turns
from biomedllama_cli.evaluation.answer_text import decode_answer
from biomedllama_cli.evaluation.continuation import find_end_ids
from biomedllama_cli.evaluation.sampling import ChainSampler, check_scores
from biomedllama_cli.models.control_tokens import list_control_tokens
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.settings.chat import ReplySettings

CONTEXT_IDS = 64
"""Ids of the prompt before a reply that decoding it needs."""


class Speaker:
    """Replies with one model.

    Args:
        model: a causal language model; of its own generation settings only the ids it ends with are used.
        tokenizer: its tokenizer.
        style: how conversations are written for it.
        context_length: longest conversation with its reply (in tokens).
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, style: Style, *, context_length: int
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.style = style
        self.context_length = context_length
        self.end_ids = frozenset({*style.end_ids, *find_end_ids(model, tokenizer)})
        self._control_ids = {
            token.token_id for token, special in list_control_tokens(tokenizer).values() if special
        }
        self.memory = Memory(model, context_length)
        """What it has read."""
        self._said: dict[str, list[int]] = {}
        self.latest: ReplyStream | None = None
        """The reply that was begun last."""

    def stream(
        self, turns: Sequence[tuple[str, str]], reply: ReplySettings, *, noise_seed: int
    ) -> ReplyStream:
        """Begin a reply to the last turn; iterating over it generates it.

        Replies that this speaker gave before stand in the prompt with the very ids they were generated with, so that
        they need not be read again; another text is encoded as it is.

        Args:
            turns: (role, text) of each; the last is the user's.
            reply: how it is generated.
            noise_seed: of the sampling.

        Raises:
            SettingsError: the last turn does not fit the context, or the chat template does not take the turns.
        """
        started = time.perf_counter()
        trimmed = trim_turns(
            turns,
            lambda some: self.style.encode(self.tokenizer, some, said=self._said),
            context_length=self.context_length,
            max_new_tokens=reply.max_new_tokens,
        )
        self.latest = ReplyStream(self, trimmed, reply, noise_seed=noise_seed, started=started)
        return self.latest

    def remember(self, prompt_ids: Sequence[int], new_ids: Sequence[int], text: str) -> None:
        """Keep the ids of a reply that say its text and nothing besides; those of its stop text are not among them."""
        spoken = [i for i in new_ids if i not in self.end_ids]
        for length in range(len(spoken), max(0, len(spoken) - CONTEXT_IDS), -1):
            if decode_answer(self.tokenizer, prompt_ids[-CONTEXT_IDS:], spoken[:length]) == text:
                if not self._control_ids.intersection(spoken[:length]):
                    self._said[text] = spoken[:length]
                return


class ReplyStream:
    """A reply that is being generated: iterate for its text.

    Made by `Speaker.stream`. Where another reply of the same speaker has begun since, this one goes no further.
    """

    def __init__(
        self, speaker: Speaker, trimmed: Trimmed, settings: ReplySettings, *, noise_seed: int, started: float
    ) -> None:
        self._speaker = speaker
        self.prompt_ids = trimmed.prompt_ids
        """What the model is given."""
        self._trimmed = trimmed
        self._settings = settings
        self._started = started
        self._choice = TokenChoice(settings, noise_seed)
        stop = (*speaker.style.stop, *settings.stop)
        self._text = StreamingText(speaker.tokenizer, self.prompt_ids, stop)
        self._new_ids: list[int] = []
        self._reused = 0
        self._first: float | None = None
        self._final: Reply | None = None
        self._asked_to_stop = False
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[str]:
        """Return the stream itself."""
        return self

    def __next__(self) -> str:
        """Return the next piece of text."""
        return next(self._pieces)

    def stop(self) -> None:
        """End the reply after the token at hand, keeping what stands; a signal handler may call this."""
        self._asked_to_stop = True

    @property
    def reply(self) -> Reply:
        """The reply as far as it stands; while it is being generated it counts as interrupted."""
        return self._final or self._describe("interrupted", self._text.text)

    def _generate(self) -> Iterator[str]:
        finish: Finish = "interrupted"
        kept: int | None = None
        try:
            for token_id in self._choose_tokens():
                if token_id in self._speaker.end_ids:
                    finish = "end"
                    break
                if piece := self._text.push(token_id):
                    yield piece
                if self._text.stopped:
                    finish = "stop"
                    break
                if self._settings.repetition_guard and (kept := find_loop(self._new_ids)) is not None:
                    finish = "repetition"
                    return
                if len(self._new_ids) == self._trimmed.max_new_tokens:
                    finish = "length"
                    break
            if piece := self._text.finish(cut=finish != "end"):
                yield piece
        finally:
            self._end(finish, kept)

    def _choose_tokens(self) -> Iterator[int]:
        """Yield the ids of the reply, each as it is chosen."""
        memory = self._speaker.memory
        self._reused = memory.begin(self.prompt_ids)
        parts = memory.split(self.prompt_ids[self._reused :])
        while not self._asked_to_stop and self._speaker.latest is self:
            scores_1V = memory.read(parts.pop(0))
            if not parts:
                self._new_ids.append(self._choice.choose(scores_1V))
                self._first = self._first or time.perf_counter()
                yield self._new_ids[-1]
                parts = [self._new_ids[-1:]]

    def _end(self, finish: Finish, kept: int | None) -> None:
        new_ids = self._new_ids[:kept]
        full = self._trimmed.max_new_tokens < self._settings.max_new_tokens
        text, finish = self._text.end(finish, new_ids, full=full)
        self._final = self._describe(finish, text)
        self._speaker.remember(self.prompt_ids, new_ids, text)

    def _describe(self, finish: Finish, text: str) -> Reply:
        now = time.perf_counter()
        return Reply(
            text=text,
            finish=finish,
            prompt_tokens=len(self.prompt_ids),
            reused_tokens=self._reused,
            new_tokens=len(self._new_ids),
            dropped_turns=self._trimmed.dropped_turns,
            seconds_to_first_token=(self._first or now) - self._started,
            seconds=now - self._started,
        )


class TokenChoice:
    """Chooses the next token: the likeliest, or one that a seed draws.

    Args:
        settings: temperature, top_p and penalty.
        noise_seed: of the draws.
    """

    def __init__(self, settings: ReplySettings, noise_seed: int) -> None:
        self._penalty = settings.repetition_penalty
        self._said_1V: torch.Tensor | None = None
        self._sampler: ChainSampler | None = None
        if settings.temperature > 0:
            self._sampler = ChainSampler([noise_seed], settings.temperature, settings.top_p)

    @torch.inference_mode()
    def choose(self, scores_1V: torch.Tensor) -> int:
        """Return an id, given the model's scores; what was chosen before is penalised as in transformers.

        Raises:
            ModelError: the scores are no numbers.
        """
        if self._penalty != 1.0:
            if self._said_1V is None:
                self._said_1V = torch.zeros_like(scores_1V, dtype=torch.bool)
            lowered_1V = torch.where(scores_1V < 0, scores_1V * self._penalty, scores_1V / self._penalty)
            scores_1V = torch.where(self._said_1V, lowered_1V, scores_1V)
        if self._sampler is not None:
            scores_1V = self._sampler(scores_1V, scores_1V)
        check_scores(scores_1V)
        chosen = int(scores_1V.argmax(dim=-1))
        if self._said_1V is not None:
            self._said_1V[:, chosen] = True
        return chosen
