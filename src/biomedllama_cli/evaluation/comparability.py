"""What may be compared: refusals that name the field, and notes on what differs without forbidding it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.cells import QuestionCell, Results, TextCell
from biomedllama_cli.evaluation.output import load_samples

DATA_FIELDS = ("items_sha256", "text_sha256")

CellT = TypeVar("CellT", QuestionCell, TextCell)


@dataclass(frozen=True)
class Run:
    """One results folder; `label` names it in the comparison."""

    label: str
    folder: Path
    results: Results

    @property
    def model_key(self) -> tuple[object, ...]:
        """What two runs of the same model agree in."""
        model = self.results.model
        weights = model.weights_sha256 or (model.source, model.revision)
        return weights, model.dtype, model.tokenizer_fingerprint


@dataclass(frozen=True)
class Answer:
    """What a run answered to one question.

    Attributes:
        content: hashes of the question and of its options, and the index of the right one.
        cluster: hash of the passage the question shares with others.
        prediction: the chosen option; None where no option could be read.
        correct: whether it is the right one.
    """

    content: tuple[str, str, int]
    cluster: str | None
    prediction: int | None
    correct: bool


@dataclass(frozen=True)
class Entry:
    """One question cell of a run, with its answers under one score; they are read when first asked for."""

    run: Run
    cell: QuestionCell
    score: str

    @property
    def draws(self) -> str | None:
        """Hash of the examples; None without examples."""
        return self.cell.facts.draws_sha256 if self.cell.facts.shots else None

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Answers by id.

        Raises:
            DataError: the file of samples is not that of the cell.
        """
        return load_answers(self.run.folder, self.cell, self.score)


def name_of(profile: str) -> str:
    """Return a profile's name without its version.

    >>> name_of("paper/1")
    'paper'
    """
    return profile.split("/")[0]


def load_answers(folder: Path, cell: QuestionCell, score: str) -> dict[str, Answer]:
    """Read a cell's answers under one score, by id.

    Raises:
        DataError: the file of samples is missing, broken or not that of the cell.
    """
    samples = load_samples(folder, cell.samples_file)
    place = folder / cell.samples_file
    hint = "The folder has been changed since it was written; evaluate again."
    answers: dict[str, Answer] = {}
    for number, sample in enumerate(samples, start=1):
        try:
            answers[str(sample["id"])] = _read_answer(sample, score, headline=score == cell.metrics.headline)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{place} line {number}: not a sample with the score {score} ({error!r})", hint
            ) from error
    if len(answers) != cell.metrics.n or len(samples) != cell.metrics.n:
        raise DataError(
            f"{place}: {len(samples)} samples with {len(answers)} ids; n of {cell.task} is {cell.metrics.n}",
            hint,
        )
    return answers


def _read_answer(sample: Mapping[str, Any], score: str, *, headline: bool) -> Answer:
    given = sample["prediction"] if headline else sample["scores"][score]
    answer_index = int(sample["answer_index"])
    cluster = sample.get("cluster")
    return Answer(
        content=(_digest([sample["question"]]), _digest(sample["options"]), answer_index),
        cluster=None if cluster is None else str(cluster),
        prediction=None if given is None else int(given),
        correct=bool(sample["correct"]) if headline else given == answer_index,
    )


def _digest(texts: Sequence[str]) -> str:
    """Hash texts but for the amount of white space."""
    return hashlib.sha256("\x1f".join(" ".join(text.split()) for text in texts).encode()).hexdigest()


def clusters_of(answers: Sequence[Answer]) -> list[str] | None:
    """Return the passage of each question (a question without one is its own), or None where none are shared."""
    clusters = [
        str(number) if one.cluster is None else f"passage {one.cluster}" for number, one in enumerate(answers)
    ]
    return clusters if len(set(clusters)) < len(clusters) else None


def check_same_protocol(
    first: Entry, second: Entry, *, across_seeds: bool = False, across_items: bool = False
) -> None:
    """Refuse two question cells that were not asked alike.

    Args:
        first: of the one run.
        second: of the other, the same profile and task.
        across_seeds: whether examples may differ, as they do between seeds.
        across_items: whether items and examples may differ, as they do between the folds of a cross-validation.

    Raises:
        SettingsError: version, method, prompt, generation, shots, draws or BOS differ, or the context
            length where it cut an input or a prompt.
        DataError: the items do.
    """
    a, b = first.cell, second.cell
    pairs: list[tuple[str, object, object]] = [
        ("profile", a.profile, b.profile),
        ("method", a.method, b.method),
        *_pair_up("prompt", a.facts.prompt, b.facts.prompt),
        *_pair_up("generation", a.facts.generation or {}, b.facts.generation or {}),
        ("shots", a.facts.shots, b.facts.shots),
    ]
    if not _bos_by_convention(first, second):
        pairs.append(("bos", _without_id(a.facts.bos), _without_id(b.facts.bos)))
    # Where nothing was cut, the longest input decides nothing.
    if any(one.metrics.truncated_inputs or one.metrics.truncated_prompts for one in (a, b)):
        pairs.append(("context_length", a.facts.context_length, b.facts.context_length))
    if not across_items:
        pairs.append(("items_sha256", a.facts.items_sha256, b.facts.items_sha256))
    if not (across_seeds or across_items):
        pairs.append(("draw_rule", a.facts.draw_rule, b.facts.draw_rule))
        pairs.append(("draws_sha256", first.draws, second.draws))
    _refuse_differences(first.run, second.run, a, pairs)


def check_same_questions(first: Entry, second: Entry) -> None:
    """Refuse answers that are not to the same questions, by id and content.

    Raises:
        DataError: some were asked on one side only, or differ in wording, options or right answer.
    """
    labels = f"{first.run.label} and {second.run.label}"
    alone = sorted(first.answers.keys() ^ second.answers.keys())
    if alone:
        raise DataError(
            f"{first.cell.task} cannot be compared: {labels} scored different questions ({len(first.answers)} and "
            f"{len(second.answers)}; id {alone[0]} on one side only)",
            "Evaluate both with the same --limit, --seed and data.",
        )
    for id_, answer in first.answers.items():
        other = second.answers[id_].content
        for field, one, two in zip(
            ("question", "options", "answer_index"), answer.content, other, strict=True
        ):
            if one != two:
                raise DataError(
                    f"{first.cell.task} cannot be compared: {field} of id {id_} differs between {labels}",
                    "Evaluate both on the same file.",
                )


def check_same_text(first: Run, second: Run, a: TextCell, b: TextCell) -> None:
    """Refuse text cells that are not of the same text, read alike.

    Raises:
        SettingsError: version, window or prefix differ.
        DataError: the text does.
    """
    pairs: list[tuple[str, object, object]] = [
        ("profile", a.profile, b.profile),
        ("context_length", a.context_length, b.context_length),
        ("prefix", _without_id(a.prefix), _without_id(b.prefix)),
        ("text_sha256", a.metrics.text_sha256, b.metrics.text_sha256),
    ]
    _refuse_differences(first, second, a, pairs)


def find_notes(first: Run, second: Run, a: CellT, b: CellT) -> tuple[str, ...]:
    """Return what differs between two cells and may move the numbers, without forbidding the comparison."""
    notes = []
    one, two = first.results.model, second.results.model
    if one.dtype != two.dtype:
        notes.append(f"dtype differs: {first.label} {one.dtype}, {second.label} {two.dtype}")
    if isinstance(a, QuestionCell) and isinstance(b, QuestionCell):
        cut = a.metrics.truncated_inputs, b.metrics.truncated_inputs
        if any(cut):
            notes.append(
                f"inputs that lost their left end: {first.label} {cut[0]} (of {a.facts.context_length} tokens at "
                f"most), {second.label} {cut[1]} (of {b.facts.context_length})"
            )
        if a.facts.context_length != b.facts.context_length:
            notes.append(
                f"context length: {first.label} {a.facts.context_length} tokens, {second.label} "
                f"{b.facts.context_length}; neither cut any"
            )
        if _without_id(a.facts.bos) != _without_id(b.facts.bos):
            notes.append(
                f"BOS as each tokenizer has it: {first.label} {a.facts.bos}, {second.label} {b.facts.bos}"
            )
    return tuple(notes)


def _pair_up(
    name: str, one: Mapping[str, object], two: Mapping[str, object]
) -> Iterator[tuple[str, object, object]]:
    for key in sorted(one.keys() | two.keys()):
        yield f"{name}.{key}", one.get(key), two.get(key)


def _without_id(token: str) -> str:
    """`BOS (id 1)` is `BOS`: the id is another in every tokenizer."""
    return token.split(" (id")[0]


def _bos_by_convention(first: Entry, second: Entry) -> bool:
    """Tell whether both models have BOS just where their tokenizers put it: one rule, though the effect differs."""
    return all(
        (_without_id(one.cell.facts.bos) != "none") == one.run.results.model.tokenizer_adds_bos
        for one in (first, second)
    )


def _refuse_differences(
    first: Run, second: Run, cell: QuestionCell | TextCell, pairs: Sequence[tuple[str, object, object]]
) -> None:
    for field, one, two in pairs:
        if one != two:
            message = (
                f"{cell.task} under {name_of(cell.profile)} cannot be compared: {field} is {_short(one)} in "
                f"{first.label} and {_short(two)} in {second.label}"
            )
            if field in DATA_FIELDS:
                raise DataError(message, "Evaluate both on the same data with the same --limit.")
            raise SettingsError(message, f"Evaluate both with the same {_name_setting(field)}.")


def _name_setting(field: str) -> str:
    """Return what a user would make alike.

    >>> _name_setting("generation.max_new_tokens"), _name_setting("prompt.space"), _name_setting("draws_sha256")
    ('--max-new-tokens', 'prompt', 'draws')
    """
    group, _, name = field.partition(".")
    return f"--{name.replace('_', '-')}" if group == "generation" else group.removesuffix("_sha256")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
