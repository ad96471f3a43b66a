"""What training has changed, as tables: a row per task before and after, and a row per model that was scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from biomedllama_cli.evaluation.comparison_cells import show_p
from biomedllama_cli.evaluation.paired import LEVEL
from biomedllama_cli.evaluation.scores import LIKELIHOOD_SCORE
from biomedllama_cli.evaluation.seed_results import SeedGain, SeedGains, SeedScore
from biomedllama_cli.evaluation.seeds import show_mean_and_sd
from biomedllama_cli.report.table_forms import render_tables
from biomedllama_cli.report.table_terminal import Screen
from biomedllama_cli.report.tables import Cell, Column, Counts, Measured, Table, TableForm

_GAIN_COLUMNS = (
    Column("task", key=True),
    Column("profile", key=True),
    Column("n", "integer"),
    Column("random", "number"),
    Column("majority", "number"),
    Column("before", "number", 4),
    Column("after"),
    Column("seeds", "integer"),
    Column("gain [95 %]", "interval", 4),
    Column("p"),
    Column("80 % power", "number"),
)
_GAIN_NUMBERS = (
    *(
        Column("task"),
        Column("profile"),
        Column("score"),
        Column("n", "integer"),
        Column("clusters", "integer"),
    ),
    *(Column("folds", "integer"), Column("random", "number"), Column("majority", "number")),
    *(Column("before", "interval"), Column("after mean", "number"), Column("after sd", "number")),
    *(Column("seeds", "integer"), Column("gain", "interval"), Column("test"), Column("p", "number")),
    Column("smallest detectable", "number"),
)
_MODEL_COLUMNS = (
    *(Column("task", key=True), Column("profile", key=True), Column("model", key=True)),
    *(Column("accuracy", "interval", 4), Column("right", "counts"), Column("macro-F1", "number")),
    *(Column("unparsed", "part"), Column("gain", "difference", 4), Column("p of this seed")),
    Column("predicted"),
)
_MODEL_NUMBERS = (
    *(Column("task"), Column("profile"), Column("model"), Column("accuracy", "interval")),
    *(Column("right", "counts"), Column("macro-F1", "number")),
    *(Column("unparsed", "part"), Column("gain", "number"), Column("p of this seed", "number")),
    Column("predicted"),
)


def gain_lines(gains: SeedGains, form: TableForm = "terminal", screen: Screen | None = None) -> list[str]:
    """Return the tables of what training has changed as lines of text.

    Args:
        gains: what was scored before and after.
        form: how; CSV is the first table alone, with all digits.
        screen: what the terminal form is for; a file if none is given.
    """
    tables = [build_gain_table(gains, form)] + [build_model_table(gains, form)] * (form != "csv")
    return render_tables(tables, form, screen)


def build_gain_table(gains: SeedGains, form: TableForm = "terminal") -> Table:
    """Return one row per task and profile: baselines, before, after as published (`0.3946 ± 0.008`), and the gain."""
    row, columns = (_number_row, _GAIN_NUMBERS) if form == "csv" else (_gain_row, _GAIN_COLUMNS)
    rows = tuple(row(cell) for cell in gains.cells)
    return Table("Before and after", columns, rows, tuple(_gain_notes(gains)))


def build_model_table(gains: SeedGains, form: TableForm = "terminal") -> Table:
    """Return one row per model: the one before, and that of every seed."""
    numbers = form == "csv"
    rows = tuple(
        _model_row(cell, place, numbers) for cell in gains.cells for place in range(len(cell.after) + 1)
    )
    columns = _MODEL_NUMBERS if numbers else _MODEL_COLUMNS
    return Table("Each seed", columns, rows, tuple(_model_notes(gains.cells))).without_empty_columns()


def _measure(cell: SeedGain) -> Measured:
    """Return the gain; where no answer changed, resampling gives the same 0 every time, which is an interval too."""
    difference = cell.gain.difference
    unchanged = difference.interval is None and difference.value == 0 and cell.n > 1
    return Measured(difference.value, (0.0, 0.0) if unchanged else difference.interval)


def _gain_row(cell: SeedGain) -> tuple[Cell, ...]:
    gain = cell.gain
    return (
        *(cell.task, cell.profile, cell.n, cell.random, cell.majority, cell.before.accuracy.value),
        *(show_mean_and_sd(gain.summary), gain.summary.n),
        *(_measure(cell), show_p(gain.p_value)),
        gain.smallest_detectable,
    )


def _number_row(cell: SeedGain) -> tuple[Cell, ...]:
    gain = cell.gain
    return (
        *(cell.task, cell.profile, cell.score, cell.n, cell.clusters, cell.folds, cell.random, cell.majority),
        *(Measured.of(cell.before.accuracy), gain.summary.mean, gain.summary.sd, gain.summary.n),
        *(_measure(cell), gain.test, gain.p_value),
        gain.smallest_detectable,
    )


def _model_row(cell: SeedGain, place: int, numbers: bool) -> tuple[Cell, ...]:
    """Return the row of the model before (place 0) or of a seed (its place from 1)."""
    score: SeedScore = cell.after[place - 1] if place else cell.before
    paired = cell.gain.seeds[place - 1] if place else None
    labels = score.predicted_labels
    unparsed = score.unparsed is not None and score.generated is not None
    p_value: Cell = None
    if paired is not None:
        p_value = paired.p_value if numbers else show_p(paired.p_value)
    return (
        *(cell.task, cell.profile, "before" if score.seed is None else f"after, seed {score.seed}"),
        *(Measured.of(score.accuracy), Counts(score.accuracy.correct, score.accuracy.n), score.macro_f1),
        Counts(score.unparsed or 0, score.generated or 0) if unparsed else None,
        *(None if paired is None else paired.difference.value, p_value),
        None if labels is None else ", ".join(f"{label} {count}" for label, count in labels.items()),
    )


def _gain_notes(gains: SeedGains) -> Iterator[str]:
    resampled = "its 95 % interval by bootstrap over questions (passages)"
    if any(len(cell.after) > 1 for cell in gains.cells):
        yield "after: mean \N{PLUS-MINUS SIGN} standard deviation over seeds"
        yield f"gain: mean after minus before, {resampled} with the seeds drawn inside"
    else:
        yield f"gain: after minus before, {resampled}; one seed shows nothing of how runs differ"
    for cell in gains.cells:
        yield f"{cell.task}, {cell.profile}: {_judge(cell)}"
        if cell.score == LIKELIHOOD_SCORE and cell.template == "chat":
            yield (
                f"{cell.task}, {cell.profile}: the options' likelihood is that after the plain prompt, not after the "
                "chat template that the model was trained in"
            )
    if any(cell.folds > 1 for cell in gains.cells):
        yield (
            "cross-validation: every question was answered by a model that was not trained on it; the models of "
            "different folds share most of their training questions, which no interval allows for"
        )
    for name in gains.left_out:
        yield f"not compared, since not every model has it: {name}"


def _judge(cell: SeedGain) -> str:
    """Return in a sentence what the numbers do and do not show."""
    gain = cell.gain
    low, high = gain.difference.interval or (0.0, 0.0)
    significant = gain.p_value < LEVEL and (low > 0 or high < 0)
    text = ("a gain" if low > 0 else "a loss") if significant else "no significant gain"
    text += f" ({gain.test}: p = {show_p(gain.p_value)}"
    if gain.smallest_detectable is None:
        text += "; too few questions answered differently to find any difference with 80 % power)"
    else:
        text += f"; with 80 % power {100 * gain.smallest_detectable:.1f} points would be found)"
    after = gain.summary.mean
    if after <= cell.majority:
        text += f"; always the commonest answer scores {cell.majority:.4f}, as much or more"
    return text


def _model_notes(cells: Sequence[SeedGain]) -> Iterator[str]:
    for cell in cells:
        bounds = [
            (score, bound)
            for score in (cell.before, *cell.after)
            if (bound := score.unparsed_bound) is not None
        ]
        if bounds:
            shown = ", ".join(
                f"{'before' if score.seed is None else f'seed {score.seed}'} {bound:.1%}"
                for score, bound in bounds
            )
            yield f"{cell.task}, {cell.profile}: unparsed answers, upper 95 % bound (Wilson): {shown}"
