"""`biomedllama certify`: whether a run was fed every sequence of every epoch exactly once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.corpus.merging import merge_corpora
from biomedllama_cli.engine.certification import (
    check_epochs,
    find_missing_steps,
    find_other_steps,
)
from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.order import PADDING_SEQUENCE, SequenceOrder
from biomedllama_cli.engine.rows import PackedRows
from biomedllama_cli.engine.saved_runs import (
    REPORT_FILE,
    SETTINGS_FILE,
    find_checkpoint,
    find_last_writer,
    read_step,
)
from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, FedStep, read_frames, sum_checks
from biomedllama_cli.engine.sequence_history import SequenceHistory, follow_history
from biomedllama_cli.errors import DataError
from biomedllama_cli.recipes.certify_report import (
    CertifyReport,
    EpochReport,
    StartReport,
    name_numbers,
)
from biomedllama_cli.recipes.pretrain_plan import fingerprint_corpus
from biomedllama_cli.recipes.sequence_facts import SequenceFacts
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.certify import CertifySettings

__all__ = ["CertifyReport", "certify"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Case:
    """What is to be judged.

    Attributes:
        history: what the log says.
        facts: of every start.
        order: of the last one.
        through: last step that made the weights.
        checkpoint: that holds them, or None where there is none (any more).
        saved_targets: tokens that it was trained on, as it says.
    """

    history: SequenceHistory
    facts: list[SequenceFacts]
    order: SequenceOrder
    through: int
    checkpoint: Path | None
    saved_targets: int | None


def certify(settings: CertifySettings) -> CertifyReport:
    """Hold what a run was fed against what there is; nothing of the run is changed, so it may be training.

    Raises:
        DataError: there is no such run, its log cannot be read, or the corpora that are given are not those of the run.
    """
    folder = find_run(settings)
    case = open_case(folder)
    problems = [*list_problems(case)]
    epochs = tuple(
        EpochReport(
            epoch=finding.epoch,
            sequences=finding.due,
            whole=finding.is_whole,
            fed=finding.fed,
            missing=len(finding.missing),
            repeated=len(finding.repeated),
            first_missing=tuple(finding.missing[:16].tolist()),
            first_repeated=tuple(finding.repeated[:16].tolist()),
        )
        for finding in check_epochs(case.order, case.history.steps, case.through)
    )
    problems += [sentence for epoch in epochs for sentence in epoch.problems()]
    contents, note = "not checked", "--no-contents"
    if settings.contents:
        contents, note, others = check_contents(case, settings.corpus)
        problems += others
    made = [case.history.steps[step] for step in range(1, case.through + 1) if step in case.history.steps]
    is_over = case.through >= case.order.total_steps
    return CertifyReport(
        verdict="not certified" if problems else "certified" if is_over else "certified so far",
        run_folder=folder,
        checkpoint=case.checkpoint,
        step=case.through,
        total_steps=case.order.total_steps,
        global_batch_size=case.order.global_batch_size,
        epochs=epochs,
        starts=tuple(
            StartReport(step=start.step, started=facts.started, processes=facts.world_size)
            for start, facts in zip(case.history.starts, case.facts, strict=True)
        ),
        steps_undone=case.history.undone,
        steps_ahead=sum(step > case.through for step in case.history.steps),
        updates_left_out=tuple(fed.step for fed in made if not fed.was_updated),
        damaged_bytes=sum(damage.size for damage in case.history.damages),
        damage_is_of_kills=case.history.torn == len(case.history.damages),
        contents=contents,
        contents_note=note,
        problems=tuple(problems),
    )


def find_run(settings: CertifySettings) -> Path:
    """Return the folder of the run, which has a log.

    Raises:
        DataError: it is no run of `pretrain`, or has no log.
    """
    if settings.run is None:
        newest = find_last_writer(settings.workspace, SEQUENCE_LOG)
        if newest is None:
            raise DataError(
                f"No run was given, and the workspace {settings.workspace.resolve()} holds none of pretrain.",
                hint="Give a run folder: biomedllama certify runs/NAME",
            )
        return newest
    folder = settings.run
    try:
        job = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))["job"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"run: {folder} is no run folder.", hint="Give the folder that --output-dir names, runs/NAME."
        ) from error
    if not (folder / SEQUENCE_LOG).is_file():
        command = job.get("command", "pretrain") if isinstance(job, dict) else "pretrain"
        why = "has no log of its sequences" if command == "pretrain" else f"is a run of {command}"
        raise DataError(
            f"run: {folder} {why}, so nothing can be proved of it.",
            hint=f"Runs of pretrain write {SEQUENCE_LOG} from their first step on; give one of those.",
        )
    return folder


def open_case(folder: Path) -> _Case:
    """Read the log and find out which steps made the newest weights.

    Raises:
        DataError: the log holds no start that can be read, or the checkpoint is broken.
    """
    path = folder / SEQUENCE_LOG
    # Before the log, which a run that is training writes first; meanwhile it may remove this checkpoint.
    checkpoint = find_checkpoint(folder)
    saved_targets = load_progress(checkpoint, "run").tokens_seen if checkpoint is not None else None
    try:
        history = follow_history(read_frames(path))
        facts = [SequenceFacts.model_validate(start.facts) for start in history.starts]
        order = facts[-1].build_order()
    except (OSError, ValidationError, IndexError) as error:
        what = "no start of a run can be read from it" if isinstance(error, IndexError) else str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = f"a start says of its {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(
            f"{path} cannot be read: {what}.", hint="Restore the file from a copy of the run folder."
        ) from error
    if checkpoint is not None:
        through = read_step(checkpoint)
    else:  # of a finished run they may have been moved away; before the first, a kill takes every step
        through = history.last_step if (folder / REPORT_FILE).is_file() else 0
    return _Case(history, facts, order, through, checkpoint, saved_targets)


def list_problems(case: _Case) -> Iterator[str]:
    """Generate what the log itself says against the run, one sentence each."""
    yield from case.history.disorder
    for number, facts in enumerate(case.facts, start=1):
        if differences := facts.list_differences(case.facts[-1]):
            yield f"Start {number} had another {' and another '.join(differences)} than the last."
    if missing := find_missing_steps(case.history.steps, case.through):
        yield f"The log does not say what {name_numbers('step', missing)} fed."
    if others := find_other_steps(case.order, case.history.steps, case.through):
        yield f"What was fed in {name_numbers('step', others)} is not what the order of the run gives."
    if case.saved_targets is not None and not missing:
        logged = sum(case.history.steps[step].targets for step in range(1, case.through + 1))
        if case.saved_targets != logged:
            yield (
                f"{case.checkpoint} was trained on {case.saved_targets:,} target tokens, but the steps of the log have "
                f"{logged:,}: it is not what these steps made."
            )


def check_contents(case: _Case, given: tuple[Path, ...]) -> tuple[str, str, list[str]]:
    """Hold the checksums of what was fed against the corpora.

    Returns:
        Whether they were checked, why or how, and what does not agree.

    Raises:
        DataError: the corpora that are given are not those of the run.
    """
    facts = case.facts[-1]
    folders = given or facts.corpora
    try:
        corpus = merge_corpora([load_corpus(folder) for folder in folders])
    except DataError as error:
        if given:
            raise
        return "not checked", f"{error.message} Name it with --corpus.", []
    manifest = corpus.manifest
    named = ", ".join(map(str, folders))
    if fingerprint_corpus(manifest) != facts.order.get("corpus"):
        if given:
            raise DataError(
                f"corpus: {named} is not what the run was trained on.",
                hint="Give the corpora in the order of --corpus and --mix.",
            )
        return "not checked", f"{named} is not (any more) what the run was trained on.", []
    rows = PackedRows(corpus.train, facts.sequence_length, eos_id=manifest.eos_id, has_bos=manifest.adds_bos)
    if len(rows) != case.order.sequence_count:
        counts = f"{len(rows):,} sequences, but the run counted {case.order.sequence_count:,}"
        return "checked", named, [f"{named} has {counts}."]
    others = find_other_contents(rows, case)
    problem = f"What was fed in {name_numbers('step', others)} is not what {named} holds there."
    return "checked", named, [problem] if others else []


def find_other_contents(rows: PackedRows, case: _Case) -> list[int]:
    """Return the steps whose rows, read again, have another checksum."""
    with Progress("certify", case.through, "steps") as progress:
        others = []
        for step in range(1, case.through + 1):
            fed = case.history.steps.get(step)
            if fed is not None and not _agrees(rows, fed):
                others.append(step)
            progress.advance()
    return others


def _agrees(rows: PackedRows, fed: FedStep) -> bool:
    ids = fed.ids
    if not len(ids) or ids.max() >= len(rows) or ids.min() < PADDING_SEQUENCE:
        return False
    checks = (rows.__getitems__([number])["row_checks"].numpy() for number in ids.tolist())
    return sum(map(sum_checks, checks)) % 2**64 == fed.checksum
