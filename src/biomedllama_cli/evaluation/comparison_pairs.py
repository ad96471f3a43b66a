"""Two runs on one cell: the checks, then the numbers."""

from __future__ import annotations

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.cells import TextCell
from biomedllama_cli.evaluation.comparability import (
    Entry,
    Run,
    check_same_protocol,
    check_same_questions,
    check_same_text,
    clusters_of,
    find_notes,
    name_of,
)
from biomedllama_cli.evaluation.comparison_cells import QuestionComparison, TextComparison
from biomedllama_cli.evaluation.output import load_samples
from biomedllama_cli.evaluation.paired import (
    Difference,
    compare_answers,
    compare_bits_per_byte,
    compare_macro_f1,
)
from biomedllama_cli.evaluation.statistics import accuracy

PERPLEXITY_PROFILE = "paper"
"""Only the published rows are in perplexity per word."""


def compare_entries(first: Entry, second: Entry, seed: int) -> QuestionComparison:
    """Compare two runs' answers to the questions of one cell; `p_holm` is left unadjusted.

    Raises:
        SettingsError: they were not asked alike.
        DataError: they were not asked the same, or the samples are broken.
    """
    check_same_protocol(first, second)
    check_same_questions(first, second)
    pairs = [(answer, second.answers[id_]) for id_, answer in first.answers.items()]
    clusters = clusters_of([one for one, _ in pairs])
    right = [one.correct for one, _ in pairs], [two.correct for _, two in pairs]
    labels = first.cell.metrics.predicted_labels
    macro_f1: Difference | None = None
    if labels and first.cell.metrics.macro_f1 is not None and first.score == first.cell.metrics.headline:
        macro_f1 = compare_macro_f1(
            [one.content[2] for one, _ in pairs],
            [one.prediction for one, _ in pairs],
            [two.prediction for _, two in pairs],
            len(labels),
            clusters=clusters,
            seed=seed,
        )
    paired = compare_answers(*right, clusters, seed=seed)
    return QuestionComparison(
        first=first.run.label,
        second=second.run.label,
        profile=first.cell.profile,
        task=first.cell.task,
        score=first.score,
        accuracies=(accuracy(right[0], clusters), accuracy(right[1], clusters)),
        paired=paired,
        p_holm=paired.p_value,
        macro_f1=macro_f1,
        notes=find_notes(first.run, second.run, first.cell, second.cell),
    )


def compare_text_cells(first: Run, a: TextCell, second: Run, b: TextCell, *, seed: int) -> TextComparison:
    """Compare two runs on the same running text; `p_holm` is left unadjusted.

    Raises:
        SettingsError: the text was not read alike.
        DataError: the text is not the same, or the samples are broken.
    """
    check_same_text(first, second, a, b)
    samples = load_samples(first.folder, a.samples_file), load_samples(second.folder, b.samples_file)
    try:
        ids = [[(str(row["id"]), int(row["utf8_bytes"])) for row in rows] for rows in samples]
        values = [[float(row["log_likelihood"]) for row in rows] for rows in samples]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{a.samples_file} of {first.label} or {second.label}: no sample of text ({error!r})"
        ) from error
    if ids[0] != ids[1]:
        raise DataError(
            f"{a.task} cannot be compared: the documents of {first.label} and {second.label} differ in id or size",
            "Evaluate both on the same data with the same --limit.",
        )
    sizes = [size for _, size in ids[0]]
    difference, p_value = compare_bits_per_byte(values[0], values[1], sizes, seed=seed)
    published = name_of(a.profile) == PERPLEXITY_PROFILE
    return TextComparison(
        first=first.label,
        second=second.label,
        profile=a.profile,
        task=a.task,
        n=len(sizes),
        utf8_bytes=sum(sizes),
        bits_per_byte=(a.metrics.bits_per_byte, b.metrics.bits_per_byte),
        difference=difference,
        p_value=p_value,
        p_holm=p_value,
        word_perplexity=(a.metrics.word_perplexity, b.metrics.word_perplexity) if published else None,
        notes=find_notes(first, second, a, b),
    )
