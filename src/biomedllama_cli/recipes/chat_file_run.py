"""A file of questions on its way to its answers: every reply is kept as it comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from biomedllama_cli.chat.answering import Given, LookedUp, answer_questions
from biomedllama_cli.chat.answers_file import (
    AnswerCounts,
    AnswerFacts,
    AskedFacts,
    CorpusFacts,
    ModelFacts,
    QuestionFacts,
    check_output,
    describe_answer,
    describe_reply,
    hash_text,
    write_answers,
    write_lines,
)
from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.errors import Resumable, SettingsError
from biomedllama_cli.evaluation.journal import Journal
from biomedllama_cli.evaluation.provenance import collect_versions
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.chat import ChatSettings

BATCH_SIZES = {"cpu": 16, "cuda": 64}
"""Questions answered at once where none was asked for."""
_LIBRARIES = ("biomedllama-cli", "torch", "transformers")


@dataclass
class FileRun:
    """A file of questions on its way to its answers.

    Attributes:
        settings: of the chat.
        speakers: one, or two that are compared.
        asked: the questions, with their passages.
        given: what each speaker is given.
        journal: that keeps the answers.
        stop: that a signal sets.
        questions_sha256: of the file of questions, as it was when it was read.
        seconds: that this start has answered for.
        new_tokens: that it has written.
    """

    settings: ChatSettings
    speakers: Sequence[Speaker]
    asked: Sequence[LookedUp]
    given: Sequence[Sequence[Given]]
    journal: Journal
    stop: StopRequest
    questions_sha256: str
    seconds: float = 0.0
    new_tokens: int = 0

    @property
    def batch_size(self) -> int:
        """Questions answered at once."""
        return self.settings.questions.batch_size or BATCH_SIZES[self.speakers[0].model.device.type]

    def count_finished(self) -> int:
        """Return how many questions every model has answered."""
        keys = [
            [_key(number, place) for number in range(len(self.speakers))] for place in range(len(self.asked))
        ]
        return sum(all(self.journal.find(key) is not None for key in each) for each in keys)

    def answer(self) -> None:
        """Answer what is not answered yet."""
        with Progress("answering", len(self.asked) * len(self.speakers), "questions") as progress:
            progress.start_at(self.journal.found)
            started = time.monotonic()
            for number, speaker in enumerate(self.speakers):
                try:
                    self._answer_with(number, speaker, progress)
                except torch.OutOfMemoryError as error:
                    raise SettingsError(
                        f"questions.batch_size is {self.batch_size}, too many for the memory of the device",
                        "Give a smaller --batch-size; what is answered is kept.",
                    ) from error
            self.seconds = time.monotonic() - started

    def _answer_with(self, number: int, speaker: Speaker, progress: Progress) -> None:
        given = self.given[number]
        finished = {one.number for one in given if self.journal.find(_key(number, one.number)) is not None}
        stream = answer_questions(
            speaker,
            given,
            self.settings.reply,
            batch_size=self.batch_size,
            finished=finished,
            tick=self._stop_if_asked,
        )
        for place, reply in stream:
            name = self.asked[place].question.id
            self.journal.append(_key(number, place), f"model {number}", name, describe_reply(reply))
            self.new_tokens += reply.new_tokens
            progress.advance(1)

    def _stop_if_asked(self) -> None:
        if self.stop.requested:
            raise Resumable(
                f"Stopped by {self.stop.signal_name} with {self.journal.count():,} answers saved.",
                "The same command continues.",
            )

    def write(self, output: Path, models: Sequence[ModelFacts], library: Library | None) -> AnswerFacts:
        """Write the answers in the order of the questions, and return the facts that stand beside them."""
        settings = self.settings
        file, _ = name_files(settings)
        check_output(output, file, overwrite=settings.overwrite)
        replies = [
            [self.journal.find(_key(number, place)) or {} for number in range(len(self.speakers))]
            for place in range(len(self.asked))
        ]
        lines = [
            describe_answer(
                one,
                self.given[0][place].trimmed.turns,
                self.given[0][place].noise_seed,
                replies[place],
                looked_up=library is not None,
            )
            for place, one in enumerate(self.asked)
        ]
        content = write_lines(lines)
        told = AnswerFacts(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            answers_sha256=hash_text(content),
            questions=QuestionFacts(path=str(file), sha256=self.questions_sha256, count=len(lines)),
            corpus=None
            if library is None
            else CorpusFacts(path=str(library.corpus), identity=library.identity),
            models=tuple(models),
            asked=describe_asked(settings),
            batch_size=self.batch_size,
            work=self.journal.folder.name,
            versions=collect_library_versions(),
            counts=tuple(_count([each[number] for each in replies]) for number in range(len(models))),
            seconds=round(self.seconds, 3),
            new_tokens=self.new_tokens,
        )
        write_answers(output, content, told)
        return told


def _key(number: int, place: int) -> str:
    """Return the key of a model's answer in the journal, whose identity holds the file and the models."""
    return f"{number}/{place}"


def _count(replies: Sequence[Mapping[str, Any]]) -> AnswerCounts:
    return AnswerCounts(
        finish=dict(sorted(Counter(reply["finish"] for reply in replies).items())),
        prompt_tokens=sum(reply["prompt_tokens"] for reply in replies),
        new_tokens=sum(reply["new_tokens"] for reply in replies),
        empty=sum(not reply["answer"].strip() for reply in replies),
        trimmed=sum(reply["dropped_turns"] > 0 for reply in replies),
    )


def name_files(settings: ChatSettings) -> tuple[Path, Path]:
    """Return the files of questions and of answers."""
    file, output = settings.questions.file, settings.questions.output
    assert file is not None, "the settings give a file to answer"
    assert output is not None, "the settings give both or neither"
    return file, output


def describe_asked(settings: ChatSettings) -> AskedFacts:
    """Return the settings that answers depend on, but for the models' identity."""
    asked = settings.model_dump(mode="json", include={"seed", "reply", "style", "compute"})
    sources = settings.sources
    looked_up = {"passages": sources.passages, "passage_words": sources.passage_words}
    return AskedFacts(**asked, sources=None if sources.corpus is None else looked_up)


def collect_library_versions() -> dict[str, str]:
    """Return the versions that answers depend on."""
    versions = collect_versions()
    return {name: versions[name] for name in _LIBRARIES}
