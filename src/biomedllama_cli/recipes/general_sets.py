"""The sets by which a run sees what it forgets: which ones `--general` names, and how they become probes."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.corpus.manifest import Corpus
from biomedllama_cli.data import GENERAL_FOLDER, GENERAL_QUESTIONS, GENERAL_SETS
from biomedllama_cli.engine.forgetting import ForgettingMeter, Schedule
from biomedllama_cli.engine.run_folder import RunStart
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.held_out_probes import HELD_OUT_DOCUMENTS, build_held_out_probes
from biomedllama_cli.evaluation.probes import Probe, Reading, build_question_probe, build_text_probe
from biomedllama_cli.models.scratch import SCRATCH_PREFIX
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.settings.pretrain import PretrainSettings
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks.documents import iter_documents
from biomedllama_cli.tasks.own_questions import read_own_questions
from biomedllama_cli.tasks.question import Document
from biomedllama_cli.tasks.records import iter_records
from biomedllama_cli.wording import name_count

logger = logging.getLogger(__name__)

BUNDLED, NONE = "bundled", "none"
QUESTIONS = GENERAL_QUESTIONS.stem
_LARGEST_SHARE = 0.5  # of a run's time, for looks that nobody asked for
_TOLD_SHARE = 0.1
_NAME = re.compile(r"[\w.-]+")
_EXAMPLE = (
    "Give NAME=FILE, such as --general wiki=wiki.jsonl with a `text` in every line, or bundled, or none."
)


@dataclass(frozen=True)
class GeneralSets:
    """What `--general` asks for.

    Attributes:
        documents: of every set, by its name.
        asks_questions: whether the bundled questions are asked.
    """

    documents: dict[str, tuple[Document, ...]]
    asks_questions: bool


@dataclass(frozen=True)
class Training:
    """What looks are held against: they should not take longer than it.

    Attributes:
        steps: of the whole run.
        tokens: that it trains on, over all steps.
    """

    steps: int
    tokens: int


def read_general_sets(settings: PretrainSettings) -> GeneralSets | None:
    """Read the sets that are asked for; None where nothing is to be looked at.

    Raises:
        SettingsError: a value is none of NAME=FILE, `bundled` and `none`, or a name is there twice.
        DataError: a file cannot be read, or holds no text.
    """
    values = settings.monitor.general or _choose(settings.model)
    if NONE in values:
        if len(values) > 1:
            raise SettingsError(
                f"monitor.general = {', '.join(values)}: none stands with no other.",
                "Give none, or the sets.",
            )
        return None
    files: dict[str, Path] = {}
    for value in values:
        if value == BUNDLED:
            named = {name: GENERAL_FOLDER / f"{name}.jsonl" for name in GENERAL_SETS}
        else:
            named = dict([_parse(value)])
        if twice := sorted(files.keys() & named.keys()):
            raise SettingsError(
                f"monitor.general names a set {twice[0]!r} twice.",
                f"Names are free but for those of the bundled sets ({', '.join((*GENERAL_SETS, QUESTIONS))}).",
            )
        files |= named
    return GeneralSets({name: _read(name, path) for name, path in files.items()}, BUNDLED in values)


def build_forgetting_meter(
    settings: PretrainSettings, corpus: Corpus, start: RunStart, training: Training
) -> ForgettingMeter | None:
    """Return who looks at what a run forgets, or None where nothing is to be looked at.

    Without a wish of the user, nothing is where looks would take longer than the training.
    """
    sets = read_general_sets(settings)
    if sets is None:
        return None
    meter = _build_meter(settings, corpus, start, sets)
    if meter is None:
        return None
    monitor = settings.monitor
    looks = meter.schedule.count(training.steps)
    share = find_look_share(looks * meter.positions, training.tokens)
    cost = (
        f"{name_count(looks, 'look')} of {meter.positions:,} tokens take about {share:.0%} of the run's time"
    )
    if share > _LARGEST_SHARE and not (monitor.general or monitor.general_every_steps):
        logger.info("general: %s, so nothing is looked at; --general bundled looks all the same", cost)
        return None
    if share > _TOLD_SHARE:
        logger.warning(
            "general: %s; --general none, fewer documents, or a smaller --validation-sequences make them cheaper",
            cost,
        )
    return meter


def find_look_share(looked_at: int, trained: int) -> float:
    """Return the share of a run's time that looks take (a fraction); training on a token is three times reading it.

    Args:
        looked_at: tokens of all looks.
        trained: tokens of all steps.

    >>> find_look_share(looked_at=300, trained=900)
    0.1
    """
    return looked_at / max(looked_at + 3 * trained, 1)


def _build_meter(
    settings: PretrainSettings, corpus: Corpus, start: RunStart, sets: GeneralSets
) -> ForgettingMeter | None:
    length = settings.batch.sequence_length
    reading = Reading(load_tokenizer(str(corpus.tokenizer_folder)), corpus.manifest.adds_bos, length)
    probes: list[Probe] = [build_text_probe(name, texts, reading) for name, texts in sets.documents.items()]
    if sets.asks_questions:
        probes.append(build_question_probe(QUESTIONS, read_own_questions(GENERAL_QUESTIONS), reading))
    if empty := [probe.name for probe in probes if not probe.sequences]:
        logger.warning("general: the tokenizer has no token for anything in %s", ", ".join(empty))
    most = min(settings.monitor.validation_sequences or HELD_OUT_DOCUMENTS, HELD_OUT_DOCUMENTS)
    probes = [probe for probe in probes if probe.sequences]
    probes += build_held_out_probes(corpus, reading, most=most)
    if not probes:
        return None
    return ForgettingMeter(
        probes,
        Schedule(settings.monitor.general_every_steps),
        start.folder,
        resumed_from=start.checkpoint,
        eos_id=corpus.manifest.eos_id,
        sequence_length=length,
        rows_at_once=settings.batch.micro_batch_size,
    )


def _choose(model: str) -> tuple[str, ...]:
    if model.startswith(SCRATCH_PREFIX):
        logger.debug("general: %s has random weights and nothing to forget, so nothing is looked at", model)
        return (NONE,)
    return (BUNDLED,)


def _parse(value: str) -> tuple[str, Path]:
    name, equals, file = value.partition("=")
    if not equals or not file.strip() or not _NAME.fullmatch(name):
        raise SettingsError(
            f"monitor.general = {value}: it is not NAME=FILE with a name of letters, digits, '.', '_' and '-'.",
            suggest(value, [BUNDLED, NONE]) or _EXAMPLE,
        )
    if name in (*GENERAL_SETS, QUESTIONS):
        raise SettingsError(
            f"monitor.general = {value}: {name!r} is the name of a bundled set.", "Give it another name."
        )
    return name, Path(file).expanduser()


def _read(name: str, path: Path) -> tuple[Document, ...]:
    documents = tuple(iter_documents(iter_records(path), None))
    if not documents:
        raise DataError(f"monitor.general: {path} (set {name!r}) holds no document.", _EXAMPLE)
    return documents
