"""Answer a file of questions: in batches, so that a run that was stopped goes on, and ends with the same bytes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedllama_cli.chat.answering import LookedUp, encode_questions, look_up
from biomedllama_cli.chat.answers_file import check_output, load_facts
from biomedllama_cli.chat.private_files import make_private_folder
from biomedllama_cli.chat.questions_file import FileQuestion, read_questions
from biomedllama_cli.chat.retrieval.library import Library
from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.evaluation.journal import (
    ANSWERING,
    open_journal,
    remove_journal,
)
from biomedllama_cli.models.identity import hash_weights, locate_model
from biomedllama_cli.recipes.chat_file_report import FileReport
from biomedllama_cli.recipes.chat_file_run import (
    FileRun,
    collect_library_versions,
    describe_asked,
    name_files,
)
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.chat import ChatSettings
from biomedllama_cli.tasks.records import file_sha256

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
    file, output = name_files(settings)
    read_questions(file, settings.style.system)
    facts = load_facts(output)
    asked = describe_asked(settings)
    if (
        facts is not None
        and facts.asked == json.loads(json.dumps(asked))
        and facts.questions["sha256"] == file_sha256(file)
        and (facts.corpus or {}).get("identity") == (None if library is None else library.identity)
        and facts.versions == collect_library_versions()
        and len(facts.models) == len(sources)
        and all(_is_model(fact, source) for fact, source in zip(facts.models, sources, strict=True))
    ):
        logger.info("%s holds the answers already", output)
        if facts.work.startswith(ANSWERING.prefix):  # a kill right after the end left it behind
            remove_journal(output.parent / Path(facts.work).name)
        return FileReport.of(facts, output, found=facts.questions["count"])
    check_output(output, file, overwrite=settings.overwrite)
    return None


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
    known = find_answers(settings, [str(fact["source"]) for fact in facts], library)
    if known is not None:
        return known
    file, output = name_files(settings)
    questions = read_questions(file, settings.style.system)
    asked = _look_up(questions, settings, library)
    given = [encode_questions(speaker, asked, settings.reply, settings.seed) for speaker in speakers]
    identity = _identify(settings, speakers, facts, library)
    make_private_folder(output.parent)
    with (
        StopRequest("the token at hand") as stop,
        open_journal(output.parent, identity, keeper=ANSWERING) as journal,
    ):
        run = FileRun(settings, speakers, asked, given, journal, stop)
        found = journal.found
        run.answer()
        written = run.write(output, facts, library)
    remove_journal(journal.folder)
    return FileReport.of(written, output, found=found // len(speakers))


def _look_up(
    questions: Sequence[FileQuestion], settings: ChatSettings, library: Library | None
) -> list[LookedUp]:
    count = settings.sources.passages
    if library is None:
        return look_up(questions, None, count)
    with Progress("looking up", len(questions), "questions") as progress:
        return look_up(questions, library, count, progress.advance)


def _is_model(fact: Mapping[str, Any], source: str) -> bool:
    """Tell whether a source still is the model that facts tell of."""
    if fact["source"] != source:
        return False
    if fact["weights_sha256"] is None or Path(source).is_file():
        return True
    folder = locate_model(source, fact.get("revision"))
    return folder is not None and hash_weights(folder) == fact["weights_sha256"]


def _identify(
    settings: ChatSettings,
    speakers: Sequence[Speaker],
    facts: Sequence[Mapping[str, Any]],
    library: Library | None,
) -> dict[str, Any]:
    """Return everything the answers follow from: a start with the same identity continues this one.

    The size of a batch is no part of it, so that a run that ran out of memory can go on with a smaller one.
    """
    file, output = name_files(settings)
    return {
        "output": str(output.absolute()),
        "questions": file_sha256(file),
        "corpus": None if library is None else library.identity,
        "asked": describe_asked(settings),
        "models": [
            {
                **{name: fact.get(name) for name in ("revision", "dtype", "quantize", "attention")},
                "weights": fact["weights_sha256"] or fact["source"],
                "device": str(fact["device"]).partition(":")[0],
                "tokenizer": speaker.tokenizer.digest,
                "style": speaker.style.name,
                "context_length": speaker.context_length,
            }
            for speaker, fact in zip(speakers, facts, strict=True)
        ],
        "versions": collect_library_versions(),
    }
