"""Answer a file of questions: in batches, so that a run that was stopped goes on, and ends with the same bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.chat.answering import LookedUp, encode_questions, look_up
from biomedllama_cli.chat.answers_file import ModelFacts, check_output, load_facts
from biomedllama_cli.chat.private_files import make_private_folder
from biomedllama_cli.chat.questions_file import FileQuestion, QuestionsFile, load_questions
from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.evaluation.journal import (
    ANSWERING,
    open_journal,
    remove_journal,
)
from biomedllama_cli.recipes.chat_file_model import describe_model, is_same_model
from biomedllama_cli.recipes.chat_file_report import FileReport
from biomedllama_cli.recipes.chat_file_run import (
    FileRun,
    collect_library_versions,
    describe_asked,
    name_files,
)
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.chat import ChatSettings

logger = logging.getLogger(__name__)


def find_answers(
    settings: ChatSettings, sources: Sequence[str], library: Library | None
) -> FileReport | None:
    """Return the report of a run that has finished already, and check the files of one that has not.

    Nothing is loaded for it, so call it before the models are.

    Args:
        settings: of the chat; `questions.file` and `questions.output` are given.
        sources: of the models, as `recipes.chat_model.find_source` names them.
        library: what questions are looked up in.

    Raises:
        DataError: the file of questions cannot be read, or records of it do not fit.
        OutputError: the output holds something else and may not be replaced, or cannot be written.
    """
    file, _ = name_files(settings)
    return _find(settings, sources, library, load_questions(file, settings.style.system))


def answer_file(
    settings: ChatSettings,
    speakers: Sequence[Speaker],
    facts: Sequence[Mapping[str, Any]],
    library: Library | None = None,
) -> FileReport:
    """Answer every question of a file and write the answers in the file's order.

    Args:
        settings: of the chat; `questions.file` and `questions.output` are given.
        speakers: one, or two that are compared.
        facts: of their models, as a transcript has them.
        library: what questions are looked up in.

    Raises:
        DataError: the questions cannot be read, or some of them do not fit the context.
        SettingsError: the device has no memory for a batch.
        ModelError: a model answers with something that is no number.
        OutputError: the output may not be written, or the same command is running already.
        Resumable: stopped by a signal; the same command continues.
    """
    file, output = name_files(settings)
    # Read once: what is answered, and what the answers are said to follow from, are the same bytes.
    questions = load_questions(file, settings.style.system)
    known = _find(settings, [str(fact["source"]) for fact in facts], library, questions)
    if known is not None:
        return known
    models = [describe_model(fact) for fact in facts]
    asked = _look_up(questions.questions, settings, library)
    given = [encode_questions(speaker, asked, settings.reply, settings.seed) for speaker in speakers]
    identity = _identify(settings, speakers, models, library, questions)
    make_private_folder(output.parent)
    with (
        StopRequest("the token at hand") as stop,
        open_journal(output.parent, identity, keeper=ANSWERING) as journal,
    ):
        run = FileRun(settings, speakers, asked, given, journal, stop, questions.sha256)
        found = run.count_finished()
        run.answer()
        written = run.write(output, models, library)
    remove_journal(journal.folder)
    return FileReport.of(written, output, found=found)


def _find(
    settings: ChatSettings, sources: Sequence[str], library: Library | None, questions: QuestionsFile
) -> FileReport | None:
    file, output = name_files(settings)
    facts = load_facts(output)
    if (
        facts is not None
        and facts.asked == describe_asked(settings)
        and facts.questions.sha256 == questions.sha256
        and (facts.corpus and facts.corpus.identity) == (library and library.identity)
        and facts.versions == collect_library_versions()
        and len(facts.models) == len(sources)
        and all(is_same_model(fact, source) for fact, source in zip(facts.models, sources, strict=True))
    ):
        logger.info("%s holds the answers already", output)
        if facts.work.startswith(ANSWERING.prefix):  # a kill right after the end left it behind
            remove_journal(output.parent / Path(facts.work).name)
        return FileReport.of(facts, output, found=facts.questions.count)
    check_output(output, file, overwrite=settings.overwrite)
    return None


def _look_up(
    questions: Sequence[FileQuestion], settings: ChatSettings, library: Library | None
) -> list[LookedUp]:
    count = settings.sources.passages
    if library is None:
        return look_up(questions, None, count)
    with Progress("looking up", len(questions), "questions") as progress:
        return look_up(questions, library, count, progress.advance)


def _identify(
    settings: ChatSettings,
    speakers: Sequence[Speaker],
    models: Sequence[ModelFacts],
    library: Library | None,
    questions: QuestionsFile,
) -> dict[str, Any]:
    """Return everything the answers follow from: a start with the same identity continues this one.

    The size of a batch is no part of it, so that a run that ran out of memory can go on with a smaller one.
    """
    _, output = name_files(settings)
    return {
        "output": str(output.absolute()),
        "questions": questions.sha256,
        "corpus": None if library is None else library.identity,
        "asked": describe_asked(settings).model_dump(),
        "models": [
            {
                **model.model_dump(include={"revision", "dtype", "quantize", "attention"}),
                "weights": model.weights_sha256 or model.source,
                "files": model.files_sha256,
                "device": str(model.model_dump()["device"]).partition(":")[0],
                "tokenizer": speaker.tokenizer.digest,
                "style": speaker.style.digest,
                "context_length": speaker.context_length,
            }
            for speaker, model in zip(speakers, models, strict=True)
        ],
        "versions": collect_library_versions(),
    }
