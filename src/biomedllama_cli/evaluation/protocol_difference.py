"""One model under several profiles: how much of a difference between numbers is protocol."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from biomedllama_cli.evaluation.cells import Accuracy, Frozen, QuestionCell, Results
from biomedllama_cli.evaluation.comparability import Answer, clusters_of, load_answers
from biomedllama_cli.evaluation.comparison_cells import paired_lines, show_accuracy
from biomedllama_cli.evaluation.paired import PairedAnswers, adjust_by_holm, compare_answers


class ProfileAccuracy(Frozen):
    """What one profile gives in a task, over all items it scores."""

    profile: str
    score: str
    accuracy: Accuracy


class ProfilePair(Frozen):
    """Two profiles on the questions both score.

    Attributes:
        first: one profile with its version.
        second: the other; differences are the second minus the first.
        n_first: questions the first scores.
        n_second: likewise the second.
        changed: common questions to which the two give different answers, right or wrong.
        paired: of the common questions.
        p_holm: adjusted for all pairs of the table.
        notes: how the sets of questions differ.
    """

    first: str
    second: str
    n_first: int
    n_second: int
    changed: int
    paired: PairedAnswers
    p_holm: float
    notes: tuple[str, ...] = ()


class TaskProtocols(Frozen):
    """One task under several profiles."""

    task: str
    profiles: tuple[ProfileAccuracy, ...]
    pairs: tuple[ProfilePair, ...]
    notes: tuple[str, ...] = ()


class ProtocolTable(Frozen):
    """How much of the difference between numbers is protocol: the same weights, asked in several ways."""

    schema_version: str = "biomedllama.protocols/1"
    tasks: tuple[TaskProtocols, ...]

    def lines(self) -> list[str]:
        """Return the table as plain lines of text."""
        lines: list[str] = []
        for task in self.tasks:
            lines += [
                *([""] if lines else []),
                f"{task.task}: the same model under {len(task.profiles)} profiles",
                *(f"  {one.profile} ({one.score}): {show_accuracy(one.accuracy)}" for one in task.profiles),
            ]
            for pair in task.pairs:
                lines.append(
                    f"  {pair.second} minus {pair.first}: {pair.changed} of {pair.paired.n} answers change"
                )
                lines += [
                    "  " + line for line in paired_lines(pair.first, pair.second, pair.paired, pair.p_holm)
                ]
                lines += [f"    note: {note}" for note in pair.notes]
            lines += [f"  note: {note}" for note in task.notes]
        return lines


def compare_profiles(results: Results, folder: Path) -> ProtocolTable:
    """Compare the profiles of each task inside one results folder, on the questions they have in common.

    Args:
        results: of the folder.
        folder: where the files of samples lie.

    Raises:
        DataError: samples cannot be read, or are not those of their cell.
    """
    by_task: dict[str, list[QuestionCell]] = {}
    for cell in results.questions:
        by_task.setdefault(cell.task, []).append(cell)
    tasks = [_compare_cells(cells, folder, results.seed) for cells in by_task.values() if len(cells) > 1]
    adjusted = iter(adjust_by_holm([pair.paired.p_value for task in tasks for pair in task.pairs]))
    return ProtocolTable(
        tasks=tuple(
            task.model_copy(
                update={
                    "pairs": tuple(pair.model_copy(update={"p_holm": next(adjusted)}) for pair in task.pairs)
                }
            )
            for task in tasks
        )
    )


def _compare_cells(cells: Sequence[QuestionCell], folder: Path, seed: int) -> TaskProtocols:
    answers = [load_answers(folder, cell, cell.metrics.headline) for cell in cells]
    pairs, notes = [], []
    for (a, ours), (b, theirs) in combinations(zip(cells, answers, strict=True), 2):
        pair = _compare_pair(a, ours, b, theirs, seed)
        if pair is None:
            notes.append(f"{a.profile} and {b.profile} have no question in common and are not compared")
        else:
            pairs.append(pair)
    return TaskProtocols(
        task=cells[0].task,
        profiles=tuple(
            ProfileAccuracy(
                profile=cell.profile,
                score=cell.metrics.headline,
                accuracy=cell.metrics.scores[cell.metrics.headline],
            )
            for cell in cells
        ),
        pairs=tuple(pairs),
        notes=tuple(notes),
    )


def _compare_pair(
    a: QuestionCell, ours: dict[str, Answer], b: QuestionCell, theirs: dict[str, Answer], seed: int
) -> ProfilePair | None:
    # Profiles may word the options differently; the question and the place of the right one must agree.
    pairs = [
        (answer, theirs[id_])
        for id_, answer in ours.items()
        if id_ in theirs and _question_of(theirs[id_]) == _question_of(answer)
    ]
    if not pairs:
        return None
    notes = []
    if not len(pairs) == len(ours) == len(theirs):
        notes.append(
            f"{a.profile} scores {len(ours)} questions and {b.profile} {len(theirs)}; compared on the "
            f"{len(pairs)} in common"
        )
    paired = compare_answers(
        [one.correct for one, _ in pairs],
        [two.correct for _, two in pairs],
        clusters_of([one for one, _ in pairs]),
        seed=seed,
    )
    return ProfilePair(
        first=a.profile,
        second=b.profile,
        n_first=len(ours),
        n_second=len(theirs),
        changed=sum(one.prediction != two.prediction for one, two in pairs),
        paired=paired,
        p_holm=paired.p_value,
        notes=tuple(notes),
    )


def _question_of(answer: Answer) -> tuple[str, int]:
    question, _, answer_index = answer.content
    return question, answer_index
