"""Compare finished evaluations: the same cells, the same items, all pairs, one correction over everything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.cells import QuestionCell, TextCell
from biomedllama_cli.evaluation.comparability import (
    Entry,
    Run,
    check_same_protocol,
    check_same_questions,
    name_of,
)
from biomedllama_cli.evaluation.comparison_cells import (
    ComparedRun,
    Comparison,
    NotCompared,
    QuestionComparison,
    SeedComparison,
    TextComparison,
)
from biomedllama_cli.evaluation.comparison_pairs import compare_entries, compare_text_cells
from biomedllama_cli.evaluation.output import load_results
from biomedllama_cli.evaluation.paired import adjust_by_holm
from biomedllama_cli.evaluation.statistics import summarise_seeds

Key = tuple[str, str, str]
"""Profile without version, task, and score; the score of running text is bits per byte."""


@dataclass(frozen=True)
class Family:
    """Runs of one model that differ in the seed alone, with their cells.

    Attributes:
        runs: in the order they were given.
        entries: question cells of all runs.
        texts: likewise of running text.
    """

    runs: tuple[Run, ...]
    entries: dict[Key, list[Entry]]
    texts: dict[Key, list[tuple[Run, TextCell]]]

    @property
    def label(self) -> str:
        """Name of its first run."""
        return self.runs[0].label


def compare(folders: Sequence[Path], *, score: str | None = None) -> Comparison:
    """Compare two or more results folders pair by pair.

    Cells of the same profile, task and score are paired, and their questions matched by id and content. Runs of
    one model that differ in the seed are summarised over the seeds; against other models, those with the same
    few-shot draws are compared.

    Args:
        folders: results of `evaluate`.
        score: the score to compare; None takes each cell's headline.

    Raises:
        SettingsError: fewer than two folders, a score that none has, or cells that were not asked alike.
        DataError: a folder cannot be read, no cell is in two of them, or cells are not of the same items or text.
    """
    runs = _load_runs(folders)
    families = [_collect_cells(group, score) for group in _group_by_seed(runs)]
    if score and not any(family.entries for family in families):
        known = {name for run in runs for cell in run.results.questions for name in cell.metrics.scores}
        raise SettingsError(
            f"score is {score!r}; none of {', '.join(run.label for run in runs)} has it",
            f"Scores there are: {', '.join(sorted(known)) or 'none'}.",
        )
    builder = _Builder(runs[0].results.seed)
    for family in families:
        builder.summarise(family)
    for first, second in combinations(families, 2):
        builder.compare_questions(first, second)
        builder.compare_texts(first, second)
    return builder.finish(runs)


def _load_runs(folders: Sequence[Path]) -> list[Run]:
    if len(folders) < 2:
        raise SettingsError(f"compare has {len(folders)} folder; it must be two or more")
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise SettingsError(f"compare has the folder {folder} twice; each must be another")
    names = [place.name for place in resolved]
    labels = [
        name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)
    ]
    return [Run(label, folder, load_results(folder)) for label, folder in zip(labels, folders, strict=True)]


def _group_by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Put runs of one model with different seeds together; the same model and seed again is a group of its own."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            seeds = {one.results.seed for one in group}
            if group[0].model_key == run.model_key and run.results.seed not in seeds:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _collect_cells(runs: Sequence[Run], score: str | None) -> Family:
    entries: dict[Key, list[Entry]] = defaultdict(list)
    texts: dict[Key, list[tuple[Run, TextCell]]] = defaultdict(list)
    for run in runs:
        for cell in run.results.questions:
            name = score or cell.metrics.headline
            if name in cell.metrics.scores:
                entries[name_of(cell.profile), cell.task, name].append(Entry(run, cell, name))
        for text in run.results.texts:
            texts[name_of(text.profile), text.task, "bits per byte"].append((run, text))
    return Family(tuple(runs), dict(entries), dict(texts))


def _different_runs(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out runs that have an earlier one's examples and answers: without examples, the seed is idle."""
    kept: list[Entry] = []
    for entry in entries:
        if not any(entry.draws == other.draws and entry.answers == other.answers for other in kept):
            kept.append(entry)
    return kept


class _Builder:
    """Collect the cells of a comparison, whose p-values are adjusted at the end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.questions: list[QuestionComparison] = []
        self.texts: list[TextComparison] = []
        self.seeds: list[SeedComparison] = []
        self.not_compared: list[NotCompared] = []
        self.shared = False
        """Whether any cell is in two runs."""

    def finish(self, runs: Sequence[Run]) -> Comparison:
        if not self.shared:
            raise DataError(
                f"nothing can be compared: no profile, task and score is in two of {', '.join(r.label for r in runs)}",
                f"They hold: {'; '.join(f'{run.label}: {_list_cells(run)}' for run in runs)}.",
            )
        p_values = [cell.paired.p_value for cell in self.questions]
        p_values += [text.p_value for text in self.texts if text.p_value is not None]
        adjusted = iter(adjust_by_holm(p_values))
        return Comparison(
            runs=tuple(_describe(run) for run in runs),
            questions=tuple(cell.model_copy(update={"p_holm": next(adjusted)}) for cell in self.questions),
            texts=tuple(
                text if text.p_value is None else text.model_copy(update={"p_holm": next(adjusted)})
                for text in self.texts
            ),
            seeds=tuple(self.seeds),
            not_compared=tuple(self.not_compared),
            tests=len(p_values),
        )

    def summarise(self, family: Family) -> None:
        for key, entries in family.entries.items():
            if len(entries) < 2:
                continue
            self.shared = True
            for other in entries[1:]:
                check_same_protocol(entries[0], other, across_seeds=True)
                check_same_questions(entries[0], other)
            labels = tuple(entry.run.label for entry in entries)
            if len(_different_runs(entries)) == 1:
                self._leave_out(labels, key, "the seed changes nothing here: every answer is the same")
                continue
            self.seeds.append(
                SeedComparison(
                    labels=labels,
                    seeds=tuple(entry.run.results.seed for entry in entries),
                    profile=entries[0].cell.profile,
                    task=key[1],
                    score=key[2],
                    n=len(entries[0].answers),
                    summary=summarise_seeds([entry.cell.metrics.scores[key[2]].value for entry in entries]),
                )
            )
        for key, texts in family.texts.items():
            if len(texts) > 1:
                self.shared = True
                labels = tuple(run.label for run, _ in texts)
                self._leave_out(labels, key, "running text has no draws that a seed could change")

    def compare_questions(self, first: Family, second: Family) -> None:
        ours, theirs = first.entries, second.entries
        for key in dict.fromkeys([*ours, *theirs]):
            if key not in ours or key not in theirs:
                self._leave_out_missing(key, first, second, key in ours)
                continue
            self.shared = True
            runs, others = _different_runs(ours[key]), _different_runs(theirs[key])
            pairs = list(_pair_by_draws(runs, others))
            if not pairs:
                check_same_protocol(runs[0], others[0])  # the draws differ at least; this says what does
            self.questions += [compare_entries(one, two, self.seed) for one, two in pairs]
            paired = {entry.run.label for pair in pairs for entry in pair}
            for entries, opposite in ((runs, second), (others, first)):
                for entry in entries:
                    if entry.run.label not in paired:
                        reason = f"no run of {opposite.label} is left that has its few-shot draws"
                        self._leave_out((entry.run.label,), key, reason)

    def compare_texts(self, first: Family, second: Family) -> None:
        ours, theirs = first.texts, second.texts  # of a group of seeds, the first run's
        for key in dict.fromkeys([*ours, *theirs]):
            if key in ours and key in theirs:
                self.shared = True
                self.texts.append(compare_text_cells(*ours[key][0], *theirs[key][0], seed=self.seed))
            else:
                self._leave_out_missing(key, first, second, key in ours)

    def _leave_out(self, labels: tuple[str, ...], key: Key, reason: str) -> None:
        item = NotCompared(labels=labels, profile=key[0], task=key[1], reason=reason)
        if item not in self.not_compared:
            self.not_compared.append(item)

    def _leave_out_missing(self, key: Key, first: Family, second: Family, first_has: bool) -> None:
        missing = second if first_has else first
        scored = {
            (name_of(cell.profile), cell.task) for run in missing.runs for cell in run.results.questions
        }
        reason = f"has other scores of it, not {key[2]}" if key[:2] in scored else "has not scored it"
        self._leave_out((first.label, second.label), key, f"{missing.label} {reason}")


def _pair_by_draws(ours: Sequence[Entry], theirs: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Yield pairs with the same examples, each entry once and in order."""
    free = list(theirs)
    for entry in ours:
        for other in free:
            if entry.draws == other.draws:
                free.remove(other)
                yield entry, other
                break


def _list_cells(run: Run) -> str:
    cells: list[QuestionCell | TextCell] = [*run.results.questions, *run.results.texts]
    return ", ".join(f"{cell.task} under {cell.profile}" for cell in cells) or "nothing"


def _describe(run: Run) -> ComparedRun:
    model = run.results.model
    return ComparedRun(
        label=run.label,
        folder=str(run.folder),
        source=model.source,
        revision=model.revision,
        weights_sha256=model.weights_sha256,
        dtype=model.dtype,
        seed=run.results.seed,
    )
