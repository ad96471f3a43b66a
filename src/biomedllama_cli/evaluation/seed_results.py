"""Results folders before training and after it with several seeds, read as one: also those of cross-validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.baselines import majority_accuracy
from biomedllama_cli.evaluation.cells import Accuracy, Frozen, QuestionCell
from biomedllama_cli.evaluation.comparability import (
    Answer,
    Entry,
    Run,
    check_same_protocol,
    check_same_questions,
    clusters_of,
    name_of,
)
from biomedllama_cli.evaluation.output import load_results
from biomedllama_cli.evaluation.scores import LIKELIHOOD_SCORE
from biomedllama_cli.evaluation.seeds import Gain, measure_gain
from biomedllama_cli.evaluation.statistics import accuracy, macro_f1, wilson_interval

Key = tuple[str, str]
"""Profile without its version, and task."""


class SeedScore(Frozen):
    """What one model scored, or in cross-validation the models of one seed together.

    Attributes:
        seed: that it was trained with; None before training.
        folders: of its results, one per fold.
        accuracy: with its interval over questions.
        macro_f1: where labels mean the same in every question.
        predicted_labels: how often each label was predicted.
        unparsed: generated answers no option could be read from; None where none were generated.
        generated: how many were generated.
    """

    seed: int | None
    folders: tuple[str, ...]
    accuracy: Accuracy
    macro_f1: float | None = None
    predicted_labels: dict[str, int] | None = None
    unparsed: int | None = None
    generated: int | None = None

    @property
    def unparsed_bound(self) -> float | None:
        """Upper end of the share of unparsed answers' 95 % Wilson interval."""
        if self.unparsed is None or not self.generated:
            return None
        return wilson_interval(self.unparsed, self.generated)[1]


class SeedGain(Frozen):
    """One task under one profile, before training and after it with every seed.

    Attributes:
        profile: with its version.
        task: as in `--task`.
        score: name of the score that was compared.
        n: questions.
        clusters: passages they share, None where each has its own.
        template: of the prompts of generated answers (plain or chat), None where none were generated; the options'
            likelihood is that after the plain prompt in any case.
        folds: results folders per seed that were pooled; each question was scored once per seed.
        random: expected accuracy of guessing.
        majority: accuracy of always choosing the commonest answer of these questions.
        before: the model that was trained.
        after: one per seed.
        gain: interval, tests, and what could have been found.
    """

    profile: str
    task: str
    score: str
    n: int
    clusters: int | None
    template: str | None = None
    folds: int
    random: float
    majority: float
    before: SeedScore
    after: tuple[SeedScore, ...]
    gain: Gain


class SeedGains(Frozen):
    """All tasks and profiles that were scored before and after; `left_out` names those that only some have."""

    schema_version: str = "biomedllama.seeds/1"
    cells: tuple[SeedGain, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Pool:
    """The answers of one seed, or those before, over all folds, in the order of `ids`."""

    entries: tuple[Entry, ...]
    ids: tuple[str, ...]
    answers: tuple[Answer, ...]

    @property
    def correct(self) -> list[bool]:
        return [answer.correct for answer in self.answers]


def load_gains(
    before: Sequence[Path],
    after: Mapping[int, Sequence[Path]],
    *,
    score: str | None = None,
    bootstrap_seed: int = 42,
) -> SeedGains:
    """Read what was scored before training and after it, and measure what training has changed.

    Args:
        before: results folders of the model that was trained: one, or one per fold of a cross-validation.
        after: by training seed, as many folders in the order of the folds: each holds the questions of its fold as
            answered by the model that was not trained on them.
        score: the score to compare; None takes each cell's headline.
        bootstrap_seed: of the bootstrap.

    Raises:
        SettingsError: nothing is given, folds are missing, or cells were not asked alike (another template, ...).
        DataError: a folder cannot be read, nothing was scored both before and after, or folds share questions.
    """
    if not before or not after:
        raise SettingsError("results before training, and those of at least one seed after it, must be given")
    for seed, folders in after.items():
        if len(folders) != len(before):
            raise SettingsError(
                f"seed {seed} has {len(folders)} results folders; before training there are {len(before)}",
                "Give one folder per fold, in the same order.",
            )
    runs_before = _load("before", before)
    runs_after = {seed: _load(f"seed {seed}", folders) for seed, folders in after.items()}
    groups = [runs_before, *runs_after.values()]
    keys = [_keys_of(run) for runs in groups for run in runs]
    shared = [key for key in keys[0] if all(key in others for others in keys)]
    if not shared:
        raise DataError(
            "nothing can be compared: no task and profile was scored both before training and after it",
            "Evaluate all models with the same --task and --profile.",
        )
    every = dict.fromkeys(key for others in keys for key in others)
    return SeedGains(
        cells=tuple(_measure(key, runs_before, runs_after, score, bootstrap_seed) for key in shared),
        left_out=tuple(f"{task} under {profile}" for profile, task in every if (profile, task) not in shared),
    )


def _load(label: str, folders: Sequence[Path]) -> list[Run]:
    names = [label] if len(folders) == 1 else [f"{label}, fold {fold}" for fold in range(1, len(folders) + 1)]
    return [Run(name, folder, load_results(folder)) for name, folder in zip(names, folders, strict=True)]


def _keys_of(run: Run) -> dict[Key, QuestionCell]:
    return {(name_of(cell.profile), cell.task): cell for cell in run.results.questions}


def _measure(
    key: Key,
    before: Sequence[Run],
    after: Mapping[int, Sequence[Run]],
    score: str | None,
    bootstrap_seed: int,
) -> SeedGain:
    base = _pool(key, before, score)
    tuned = {seed: _pool(key, runs, score, like=base) for seed, runs in after.items()}
    clusters = clusters_of(base.answers)
    gain = measure_gain(
        base.correct, [pool.correct for pool in tuned.values()], clusters, seed=bootstrap_seed
    )
    cells = [entry.cell for entry in base.entries]
    count = len(base.ids)
    return SeedGain(
        profile=cells[0].profile,
        task=cells[0].task,
        score=base.entries[0].score,
        n=count,
        clusters=None if clusters is None else len(set(clusters)),
        template=(cells[0].facts.generation or {}).get("template"),
        folds=len(cells),
        random=sum(cell.metrics.random * cell.metrics.n for cell in cells) / count,
        majority=majority_accuracy([answer.content[2] for answer in base.answers]),
        before=_summarise(None, base, clusters),
        after=tuple(_summarise(seed, pool, clusters) for seed, pool in tuned.items()),
        gain=gain,
    )


def _pool(key: Key, runs: Sequence[Run], score: str | None, like: _Pool | None = None) -> _Pool:
    """Put the folds' answers together, in the order of an earlier pool where one is given.

    Raises:
        SettingsError: folds, or the models before and after, were not asked alike, or have no such score.
        DataError: they were not asked the same questions, or two folds were asked one.
    """
    entries = []
    for run in runs:
        cell = _keys_of(run)[key]
        name = score or cell.metrics.headline
        if name not in cell.metrics.scores:
            raise SettingsError(
                f"score is {name!r}; {cell.task} under {cell.profile} has none of that name in {run.label}",
                f"Scores there are: {', '.join(cell.metrics.scores)}.",
            )
        entries.append(Entry(run, cell, name))
    for entry in entries[1:]:
        check_same_protocol(entries[0], entry, across_items=True)
    for other, entry in zip(like.entries, entries, strict=True) if like else ():
        check_same_protocol(other, entry)
        check_same_questions(other, entry)
    answers: dict[str, Answer] = {}
    for entry in entries:
        twice = sorted(answers.keys() & entry.answers.keys())
        if twice:
            raise DataError(
                f"{entry.cell.task}: id {twice[0]} is in {entry.run.label} and in an earlier fold; every question must "
                "be scored once per seed",
                "Give one results folder per fold, of that fold's questions.",
            )
        answers |= entry.answers
    ids = like.ids if like else tuple(answers)
    return _Pool(tuple(entries), ids, tuple(answers[id_] for id_ in ids))


def _summarise(seed: int | None, pool: _Pool, clusters: Sequence[str] | None) -> SeedScore:
    cells = [entry.cell for entry in pool.entries]
    metrics = [cell.metrics for cell in cells]
    counts: Counter[str] | None = None
    f1: float | None = None
    if all(
        one.predicted_labels and entry.score == one.headline
        for one, entry in zip(metrics, pool.entries, strict=True)
    ):
        counts = Counter()
        for one in metrics:
            counts.update(one.predicted_labels or {})
        f1 = macro_f1(
            [answer.content[2] for answer in pool.answers],
            [-1 if answer.prediction is None else answer.prediction for answer in pool.answers],
            len(counts),
        )
    # Whether a text could be read says nothing of the options' likelihood beside it.
    unparsed = [
        one.unparsed
        for one, entry in zip(metrics, pool.entries, strict=True)
        if one.unparsed is not None and entry.score != LIKELIHOOD_SCORE
    ]
    has_texts = len(unparsed) == len(cells)
    return SeedScore(
        seed=seed,
        folders=tuple(str(entry.run.folder) for entry in pool.entries),
        accuracy=accuracy(pool.correct, clusters),
        macro_f1=f1,
        predicted_labels=None if counts is None else dict(counts),
        unparsed=sum(unparsed) if has_texts else None,
        generated=sum(cell.metrics.n * _count_chains(cell) for cell in cells) if has_texts else None,
    )


def _count_chains(cell: QuestionCell) -> int:
    return int((cell.facts.generation or {}).get("chains", 1))
