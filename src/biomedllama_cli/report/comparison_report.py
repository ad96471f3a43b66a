"""A comparison of earlier results as `evaluate --compare` prints it."""

from __future__ import annotations

from pydantic import PrivateAttr

from biomedllama_cli.evaluation.comparison_cells import Comparison, QuestionComparison, TextComparison
from biomedllama_cli.report.table_forms import quote_lines, render_tables
from biomedllama_cli.report.tables import Cell, Column, Table, TableForm

_COLUMNS = (
    Column("first"),
    Column("second"),
    Column("profile"),
    Column("task"),
    Column("score"),
    Column("n", "integer"),
    Column("clusters", "integer"),
    Column("first value", "number"),
    Column("second value", "number"),
    Column("difference", "number"),
    Column("difference low", "number"),
    Column("difference high", "number"),
    Column("only first right", "integer"),
    Column("only second right", "integer"),
    Column("both right", "integer"),
    Column("neither right", "integer"),
    Column("test"),
    Column("p", "number"),
    Column("p holm", "number"),
    Column("smallest detectable", "number"),
    Column("macro_f1 difference", "number"),
    Column("notes"),
)


class ComparisonReport(Comparison):
    """A comparison with the form it is printed in; `plot` is the file that was drawn."""

    plot: str | None = None
    _form: TableForm = PrivateAttr(default="terminal")

    @classmethod
    def of(cls, comparison: Comparison, *, form: TableForm, plot: str | None = None) -> ComparisonReport:
        """Take over a comparison, to be printed as `terminal`, `markdown`, `latex` or `csv`."""
        parts = {name: getattr(comparison, name) for name in Comparison.model_fields}
        report = cls(**parts, plot=plot)
        report._form = form
        return report

    def lines(self) -> list[str]:
        """Return the comparison as lines of text; CSV is one table with a row per compared cell."""
        if self._form == "csv":
            return render_tables([build_comparison_table(self)], "csv")
        plot = [] if self.plot is None else ["", f"Plot: {self.plot}"]
        return quote_lines([*super().lines(), *plot], self._form)


def build_comparison_table(comparison: Comparison) -> Table:
    """Return one row per pair of cells, all numbers in full; accuracies and differences are fractions."""
    rows = [*map(_question_row, comparison.questions), *map(_text_row, comparison.texts)]
    return Table("", _COLUMNS, tuple(rows))


def _question_row(cell: QuestionComparison) -> tuple[Cell, ...]:
    paired = cell.paired
    return (
        *(cell.first, cell.second, cell.profile, cell.task, cell.score, paired.n, paired.clusters),
        *(accuracy.value for accuracy in cell.accuracies),
        *(paired.difference.value, *(paired.difference.interval or (None, None))),
        *(paired.only_first, paired.only_second, paired.both, paired.neither),
        *(paired.test, paired.p_value, cell.p_holm, paired.smallest_detectable),
        None if cell.macro_f1 is None else cell.macro_f1.value,
        "; ".join(cell.notes) or None,
    )


def _text_row(cell: TextComparison) -> tuple[Cell, ...]:
    test = None if cell.p_value is None else "sign-flip test of documents"
    return (
        *(cell.first, cell.second, cell.profile, cell.task, "bits_per_byte", cell.n, None),
        *(estimate.value for estimate in cell.bits_per_byte),
        *(cell.difference.value, *(cell.difference.interval or (None, None))),
        *(None, None, None, None, test, cell.p_value, cell.p_holm, None, None),
        "; ".join(cell.notes) or None,
    )
