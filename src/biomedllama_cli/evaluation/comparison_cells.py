"""The records a comparison of results is made of, and its summary as plain lines."""

from __future__ import annotations

from collections.abc import Iterable

from biomedllama_cli.evaluation.cells import Accuracy, Estimate, Frozen
from biomedllama_cli.evaluation.paired import Difference, PairedAnswers
from biomedllama_cli.evaluation.statistics import SeedSummary


class ComparedRun(Frozen):
    """One results folder of a comparison; `label` is its name in it."""

    label: str
    folder: str
    source: str
    revision: str | None
    weights_sha256: str | None
    dtype: str
    seed: int


class QuestionComparison(Frozen):
    """Two runs on the same questions of one task under one profile.

    Attributes:
        first: label of the one run.
        second: of the other; differences are the second minus the first.
        profile: with its version.
        task: as in `--task`.
        score: name of the score that was compared.
        accuracies: of both.
        paired: what became of the same questions.
        p_holm: the p-value adjusted for all tests of the comparison.
        macro_f1: difference of macro-F1, where labels mean the same in every question.
        notes: what differs without forbidding the comparison.
    """

    first: str
    second: str
    profile: str
    task: str
    score: str
    accuracies: tuple[Accuracy, Accuracy]
    paired: PairedAnswers
    p_holm: float
    macro_f1: Difference | None = None
    notes: tuple[str, ...] = ()


class TextComparison(Frozen):
    """Two runs on the same text with the same window and prefix.

    Attributes:
        first: label of the one run.
        second: of the other; the difference is the second minus the first, so that below 0 the second is better.
        profile: with its version.
        task: as in `--task`.
        n: documents.
        utf8_bytes: of all documents.
        bits_per_byte: of both.
        difference: in bits per byte.
        p_value: of the test that turns the two round document by document; None for a single document.
        p_holm: adjusted for all tests of the comparison.
        word_perplexity: of both, for the published protocol only. Perplexities per token are never compared.
        notes: what differs without forbidding the comparison.
    """

    first: str
    second: str
    profile: str
    task: str
    n: int
    utf8_bytes: int
    bits_per_byte: tuple[Estimate, Estimate]
    difference: Difference
    p_value: float | None
    p_holm: float | None
    word_perplexity: tuple[Estimate, Estimate] | None = None
    notes: tuple[str, ...] = ()


class SeedComparison(Frozen):
    """One model with several seeds on the same questions: summarised, not tested against itself.

    Attributes:
        labels: of the runs, in the order of `seeds`.
        seeds: of their draws.
        profile: with its version.
        task: as in `--task`.
        score: name of the score.
        n: questions.
        summary: of the accuracies.
    """

    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    profile: str
    task: str
    score: str
    n: int
    summary: SeedSummary


class NotCompared(Frozen):
    """A cell that took no part, and why; `profile` is its name without a version."""

    labels: tuple[str, ...]
    profile: str
    task: str
    reason: str


class Comparison(Frozen):
    """Two or more results folders side by side.

    Attributes:
        runs: the folders.
        questions: all pairs of comparable question cells.
        texts: likewise of running text.
        seeds: of runs that differ in nothing but the seed.
        not_compared: cells that took no part.
        tests: how many p-values `p_holm` allows for.
    """

    schema_version: str = "biomedllama.comparison/1"
    runs: tuple[ComparedRun, ...]
    questions: tuple[QuestionComparison, ...] = ()
    texts: tuple[TextComparison, ...] = ()
    seeds: tuple[SeedComparison, ...] = ()
    not_compared: tuple[NotCompared, ...] = ()
    tests: int = 0

    def lines(self) -> list[str]:
        """Return the comparison as plain lines of text; differences are the second run minus the first."""
        lines = [f"{run.label}: {run.source} ({run.dtype}, seed {run.seed})" for run in self.runs]
        for cell in self.questions:
            lines += ["", *_question_lines(cell)]
        for text in self.texts:
            lines += ["", *_text_lines(text)]
        for group in self.seeds:
            lines += ["", *_seed_lines(group)]
        if self.not_compared:
            lines += ["", "Not compared:"]
            lines += [
                f"  {item.task} · {item.profile} · {', '.join(item.labels)}: {item.reason}"
                for item in self.not_compared
            ]
        if self.tests:
            lines += [
                "",
                f"Intervals are 95 %; tests of this comparison that p (Holm) allows for: {self.tests}.",
            ]
        return lines


def paired_lines(first: str, second: str, paired: PairedAnswers, p_holm: float) -> list[str]:
    """Return what two sets of answers show side by side: counts, difference, test, what could have been found."""
    shared = f" in {paired.clusters} passages" if paired.clusters is not None else ""
    if paired.smallest_detectable is None:
        reach = "no difference would be found with 80 % power: the two differ on too few questions"
    else:
        points = 100 * paired.smallest_detectable
        reach = f"smallest difference found with 80 % power: {points:.1f} points (before Holm)"
    return [
        f"  difference {show_points(paired.difference)}",
        f"  of {paired.n} questions{shared}: only {first} right {paired.only_first}, only {second} right "
        f"{paired.only_second}, both {paired.both}, neither {paired.neither}",
        f"  {paired.test}: p = {show_p(paired.p_value)}, p (Holm) = {show_p(p_holm)}",
        f"  {reach}",
    ]


def show_points(difference: Difference) -> str:
    """Return a difference of fractions in percentage points.

    >>> show_points(Difference(value=0.012, interval=(-0.004, 0.028)))
    '+1.2 points [-0.4, +2.8]'
    """
    text = f"{100 * difference.value:+.1f} points"
    if difference.interval is None:
        return text + " (no interval: no question tells the two apart)" if difference.value == 0 else text
    return text + f" [{100 * difference.interval[0]:+.1f}, {100 * difference.interval[1]:+.1f}]"


def show_p(value: float) -> str:
    """Return a p-value with two significant digits.

    >>> show_p(0.0123), show_p(0.00002)
    ('0.012', '< 0.0001')
    """
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def show_perplexity(value: float) -> str:
    """Return a perplexity with four decimals as published, a large one with six significant digits.

    >>> show_perplexity(29.05834), show_perplexity(437312861658.5584), show_perplexity(float("inf"))
    ('29.0583', '4.37313e+11', 'inf')
    """
    return f"{value:.4f}" if value < 1e5 else f"{value:.6g}"


def show_accuracy(accuracy: Accuracy) -> str:
    """Return an accuracy as counts and as a share with its interval.

    >>> show_accuracy(Accuracy(value=0.5, correct=50, n=100, interval=(0.4038, 0.5962)))
    '50/100 = 0.5000 [0.4038, 0.5962]'
    """
    low, high = accuracy.interval
    return f"{accuracy.correct}/{accuracy.n} = {accuracy.value:.4f} [{low:.4f}, {high:.4f}]"


def _question_lines(cell: QuestionComparison) -> list[str]:
    lines = [
        f"{cell.task} · {cell.profile} · {cell.score}: {cell.second} minus {cell.first}",
        *(
            f"  {label}: {show_accuracy(accuracy)}"
            for label, accuracy in zip((cell.first, cell.second), cell.accuracies, strict=True)
        ),
        *paired_lines(cell.first, cell.second, cell.paired, cell.p_holm),
    ]
    if cell.macro_f1 is not None:
        ends = cell.macro_f1.interval
        interval = f" [{ends[0]:+.4f}, {ends[1]:+.4f}]" if ends else ""
        lines.append(f"  macro-F1: {cell.macro_f1.value:+.4f}{interval}")
    return lines + _note_lines(cell.notes)


def _text_lines(cell: TextComparison) -> list[str]:
    ends = cell.difference.interval
    interval = f" [{ends[0]:+.4f}, {ends[1]:+.4f}]" if ends else " (no interval: a single document)"
    values = (
        f"{label} {one.value:.4f}"
        for label, one in zip((cell.first, cell.second), cell.bits_per_byte, strict=True)
    )
    lines = [
        f"{cell.task} · {cell.profile} · bits per byte: {cell.second} minus {cell.first}",
        f"  {', '.join(values)}; {cell.n} {'document' if cell.n == 1 else 'documents'}, {cell.utf8_bytes} bytes",
        f"  difference {cell.difference.value:+.4f}{interval} (lower is better)",
    ]
    if cell.p_value is not None and cell.p_holm is not None:
        lines.append(
            f"  sign-flip test of documents: p = {show_p(cell.p_value)}, p (Holm) = {show_p(cell.p_holm)}"
        )
    if cell.word_perplexity is not None:
        first, second = cell.word_perplexity
        lines.append(
            f"  per word, as published: {show_perplexity(first.value)}, {show_perplexity(second.value)}"
        )
    return lines + _note_lines(cell.notes)


def _seed_lines(group: SeedComparison) -> list[str]:
    summary = group.summary
    lines = [
        f"{group.task} · {group.profile} · {group.score}: {', '.join(group.labels)} differ in the seed alone "
        f"({', '.join(map(str, group.seeds))})",
    ]
    spread = "" if summary.sd is None else f" ± {summary.sd:.4f} (standard deviation of {summary.n} seeds)"
    lines.append(f"  mean {summary.mean:.4f}{spread}, {group.n} questions")
    if summary.interval is not None:
        low, high = summary.interval
        lines.append(
            f"  95 % t-interval of the mean over seeds, for these questions: [{low:.4f}, {high:.4f}]"
        )
    return lines


def _note_lines(notes: Iterable[str]) -> list[str]:
    return [f"  note: {note}" for note in notes]
