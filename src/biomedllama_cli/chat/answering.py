"""Questions of a file answered in batches: what each model is given, and what it answers.

An answer is what a chat at the terminal gives to the same conversation from the same noise. It does not depend on the
other questions of a batch but for rounding: in float32 about 1e-6, in bfloat16 and float16 about 1e-2, where two tokens
that close may change places. So that a run which was stopped ends with the answers of one that was not, questions are
answered in waves that follow from the whole file, and a wave that is not finished is answered again from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from biomedllama_cli.chat.conversation import Passage, Reply
from biomedllama_cli.chat.questions_file import FileQuestion
from biomedllama_cli.chat.repetition import find_loop
from biomedllama_cli.chat.retrieval.prompt import write_prompt
from biomedllama_cli.chat.session import Searching
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.chat.streaming_text import StreamingText
from biomedllama_cli.chat.trimming import Trimmed, trim_turns
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.continuation import (
    ContinuationRule,
    Continued,
    RowRequest,
    continue_padded,
)
from biomedllama_cli.evaluation.refilling import RefilledBatch, can_refill
from biomedllama_cli.evaluation.sampling import chain_seed
from biomedllama_cli.settings.chat import ReplySettings
from biomedllama_cli.tasks.problems import tell_first

WAVE_BATCHES = 4
"""Batches' worth of questions that are answered together: what a killed run loses at most."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a model is given for a question.

    Attributes:
        number: of the question in its file.
        noise_seed: of the sampling.
        trimmed: the turns that have room, as ids too.
    """

    number: int
    noise_seed: int
    trimmed: Trimmed


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A question with the passages it is asked with.

    Attributes:
        question: of the file.
        prompt: the user's last turn as the models are given it.
        passages: in the prompt, numbered from 1.
    """

    question: FileQuestion
    prompt: str
    passages: tuple[Passage, ...] = ()

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The whole conversation."""
        return [*self.question.turns, ("user", self.prompt)]


def look_up(
    questions: Sequence[FileQuestion],
    library: Searching | None,
    count: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[LookedUp]:
    """Return the questions with the best passages for each, where there is a library.

    Args:
        questions: of the file.
        library: what they are looked up in.
        count: passages per question.
        advance: is told of each question.
    """
    found = []
    for question in questions:
        passages = library.search(question.question, count) if library is not None else ()
        found.append(LookedUp(question, write_prompt(question.question, passages), passages))
        advance(1)
    return found


def choose_noise_seed(seed: int, question_id: str) -> int:
    """Return the seed of the sampling of an answer: that of the chat and the question's id decide, nothing else.

    >>> choose_noise_seed(0, "a") == choose_noise_seed(0, "a"), choose_noise_seed(0, "a") == choose_noise_seed(0, "b")
    (True, False)
    """
    return chain_seed(seed, question_id, 0)


def encode_questions(
    speaker: Speaker, questions: Sequence[LookedUp], reply: ReplySettings, seed: int
) -> list[Given]:
    """Return what a model is given for each question; long conversations lose whole turns, as at the terminal.

    Raises:
        DataError: questions do not fit the context, or the template does not take them: the first by id, and how many.
    """
    given: list[Given] = []
    problems: list[DataError] = []
    hint = ""
    for number, one in enumerate(questions):
        try:
            trimmed = trim_turns(
                one.turns,
                lambda turns: speaker.style.encode(speaker.tokenizer, turns),
                context_length=speaker.context_length,
                max_new_tokens=reply.max_new_tokens,
            )
        except SettingsError as error:
            problems.append(DataError(f"id {one.question.id!r}: {error.message}"))
            hint = hint or error.hint
            continue
        given.append(Given(number, choose_noise_seed(seed, one.question.id), trimmed))
    if problems:
        told = tell_first(problems, len(problems))
        few = "question cannot" if len(problems) == 1 else "questions cannot"
        raise DataError("\n".join([f"{len(problems):,} {few} be asked:", *told]), hint)
    return given


def plan_waves(given: Sequence[Given], batch_size: int) -> list[list[Given]]:
    """Return the questions in waves, those with the longest prompts first, so that little is padded."""
    ordered = sorted(given, key=lambda one: (-len(one.trimmed.prompt_ids), one.number))
    size = WAVE_BATCHES * batch_size
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def answer_questions(
    speaker: Speaker,
    given: Sequence[Given],
    reply: ReplySettings,
    *,
    batch_size: int,
    finished: Collection[int] = frozenset(),
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Reply]]:
    """Yield the number of a question and the reply to it, as replies end.

    Args:
        speaker: the model, and how it is written to.
        given: what it is given, of all questions: the waves follow from these.
        reply: how replies are generated.
        batch_size: questions answered at once.
        finished: numbers of questions that are answered already.
        tick: called after every token; what it raises ends the work.

    Raises:
        ModelError: the model's scores are no numbers.
    """
    rule = ContinuationRule(
        temperature=reply.temperature,
        top_p=reply.top_p,
        repetition_penalty=reply.repetition_penalty,
        stop=(*speaker.style.stop, *reply.stop),
        end_ids=tuple(sorted(speaker.end_ids)),
        find_loop=find_loop if reply.repetition_guard else None,
    )
    for wave in plan_waves(given, batch_size):
        if all(one.number in finished for one in wave):
            continue
        for place, continued in _continue(speaker, wave, rule, batch_size, tick):
            if wave[place].number not in finished:
                yield wave[place].number, _read_reply(speaker, wave[place].trimmed, continued, reply, rule)


def _continue(
    speaker: Speaker, wave: Sequence[Given], rule: ContinuationRule, batch_size: int, tick: Callable[[], None]
) -> Iterator[tuple[int, Continued]]:
    requests = [
        RowRequest(tuple(one.trimmed.prompt_ids), one.trimmed.max_new_tokens, one.noise_seed) for one in wave
    ]
    if can_refill(speaker.model):
        refilled = RefilledBatch(speaker.model, speaker.tokenizer, rule, batch_size=batch_size)
        yield from refilled.run(requests, tick)
        return
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        yield from enumerate(continue_padded(speaker.model, speaker.tokenizer, batch, rule, tick=tick), start)


def _read_reply(
    speaker: Speaker, trimmed: Trimmed, continued: Continued, settings: ReplySettings, rule: ContinuationRule
) -> Reply:
    """Return a reply with the text that a terminal would have shown."""
    streaming = StreamingText(speaker.tokenizer, trimmed.prompt_ids, rule.stop)
    for token_id in continued.new_ids:
        streaming.push(token_id)
    full = trimmed.max_new_tokens < settings.max_new_tokens
    text, finish = streaming.end(continued.finish, continued.new_ids, full=full)
    return Reply(
        text=text,
        finish=finish,
        prompt_tokens=len(trimmed.prompt_ids),
        reused_tokens=0,
        new_tokens=continued.new_tokens,
        dropped_turns=trimmed.dropped_turns,
    )
