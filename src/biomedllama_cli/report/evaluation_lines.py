"""What `biomedllama evaluate` prints: its numbers as tables, with everything they depend on beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from biomedllama_cli.evaluation.cells import QuestionCell, Results
from biomedllama_cli.evaluation.scores import KINDS
from biomedllama_cli.report import evaluation_notes as notes
from biomedllama_cli.report.evaluation_records import build_records
from biomedllama_cli.report.profile_differences import build_profile_tables
from biomedllama_cli.report.table_forms import escape_markdown, render_tables
from biomedllama_cli.report.table_terminal import Screen
from biomedllama_cli.report.tables import (
    Cell,
    Column,
    Counts,
    Measured,
    Table,
    TableForm,
    show_controls,
)

_MATRIX_SCORE = re.compile(rf"(?P<form>\w+?)_(?P<rule>{'|'.join(KINDS)})")
_FORMS = {
    "text": "option text",
    "letter": "option letter",
    "letter_text": "letter and text",
    "space": "with space",
    "nospace": "without space",
}


def evaluation_lines(
    results: Results | Sequence[Results], *, format: TableForm = "terminal", screen: Screen | None = None
) -> list[str]:
    """Return results as lines of text, one block per model; CSV is one table with a row per number.

    Args:
        results: of one evaluation, or of several.
        format: form of the tables.
        screen: what the terminal form is for; stdout if none is given.
    """
    chosen = [results] if isinstance(results, Results) else list(results)
    if format == "csv":
        return render_tables([build_records(chosen)], "csv")
    where = screen or Screen.of_stdout()
    lines: list[str] = []
    for one in chosen:
        lines += [""] * bool(lines)
        lines += _introduce(one, format) + render_tables(build_evaluation_tables(one), format, where)
    return lines


def _introduce(results: Results, form: TableForm) -> list[str]:
    lines = notes.describe_run(results)
    if form == "latex":
        return [f"% {show_controls(line)}" for line in lines] + [""]
    if form == "markdown":
        return [f"- {escape_markdown(line)}" for line in lines] + [""]
    return [show_controls(line) for line in lines] + [""]


def build_evaluation_tables(results: Results) -> list[Table]:
    """Return the tables of one evaluation: the numbers first, then what they are made of."""
    tables = []
    if results.questions:
        tables.append(_question_table(results.questions))
    if results.texts:
        tables.append(_text_table(results))
    tables += build_profile_tables(results)
    for cell in results.questions:
        tables += _detail_tables(cell)
    return tables


def _question_table(cells: Sequence[QuestionCell]) -> Table:
    columns = (
        Column("profile", key=True),
        Column("task", key=True),
        Column("shots", "integer", key=True),
        Column("n", "part"),
        Column("score"),
        Column("accuracy", "interval"),
        Column("k/n", "counts"),
        Column("acc_norm", "interval"),
        Column("random", "number"),
        Column("majority", "number"),
        Column("context-free", "interval"),
        Column("macro-F1", "number"),
    )
    rows: list[tuple[Cell, ...]] = []
    for cell in cells:
        metrics = cell.metrics
        headline = metrics.scores[metrics.headline]
        normalized = metrics.scores.get("acc_norm") if metrics.headline != "acc_norm" else None
        rows.append(
            (
                cell.profile,
                cell.task,
                cell.facts.shots,
                Counts(metrics.n, metrics.n_all),
                metrics.headline,
                Measured.of(headline),
                Counts(headline.correct, headline.n),
                Measured.of(normalized),
                metrics.random,
                metrics.majority,
                Measured.of(metrics.context_free),
                metrics.macro_f1,
            )
        )
    table = Table(
        "Questions (accuracy with its 95 % interval)", columns, tuple(rows), tuple(notes.of_questions(cells))
    )
    return table.without_empty_columns()


def _text_table(results: Results) -> Table:
    columns = (
        Column("profile", key=True),
        Column("task", key=True),
        Column("documents", "part"),
        Column("bits per byte", "interval", decimals=4),
        Column("word perplexity \N{DAGGER}", "perplexity"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            cell.profile,
            cell.task,
            Counts(cell.metrics.n, cell.metrics.n_all),
            Measured.of(cell.metrics.bits_per_byte),
            Measured.of(cell.metrics.word_perplexity),
        )
        for cell in results.texts
    ]
    title = "Running text (bits per UTF-8 byte with their 95 % interval; lower is better)"
    return Table(title, columns, tuple(rows), tuple(notes.of_texts(results)))


def _detail_tables(cell: QuestionCell) -> list[Table]:
    tables = [_matrix_table(cell), _scores_table(cell), *_group_tables(cell), _vote_table(cell)]
    return [table for table in tables if table.rows]


def _title(cell: QuestionCell, what: str) -> str:
    return f"{notes.name_cell(cell)}: {what}"


def _bos(cell: QuestionCell) -> tuple[str, ...]:
    return (f"BOS: {cell.facts.bos}",)


def _matrix_table(cell: QuestionCell) -> Table:
    """Every form of the scored continuation by every way to sum it up."""
    forms: dict[str, dict[str, Measured | None]] = {}
    for name, accuracy in cell.metrics.scores.items():
        if found := _MATRIX_SCORE.fullmatch(name):
            forms.setdefault(found["form"], {})[found["rule"]] = Measured.of(accuracy)
    columns = (
        Column("scored", key=True),
        *(Column(rule.replace("_", " ").replace("domain ", "domain-"), "interval") for rule in KINDS),
    )
    rows = tuple((_describe_form(form), *map(scores.get, KINDS)) for form, scores in forms.items())
    return Table(_title(cell, "scoring matrix"), columns, rows, _bos(cell)).without_empty_columns()


def _describe_form(form: str) -> str:
    """Say in words what is scored.

    >>> _describe_form("letter_text_nospace"), _describe_form("other")
    ('letter and text, without space', 'other')
    """
    scored, _, space = form.rpartition("_")
    return f"{_FORMS[scored]}, {_FORMS[space]}" if scored in _FORMS and space in _FORMS else form


def _scores_table(cell: QuestionCell) -> Table:
    metrics = cell.metrics
    shown = {metrics.headline, "acc_norm"}
    rows = tuple(
        (name, Measured.of(accuracy), Counts(accuracy.correct, accuracy.n))
        for name, accuracy in metrics.scores.items()
        if name not in shown and not _MATRIX_SCORE.fullmatch(name)
    )
    columns = (Column("score", key=True), Column("accuracy", "interval"), Column("k/n", "counts"))
    return Table(_title(cell, "other scores"), columns, rows, _bos(cell))


def _group_tables(cell: QuestionCell) -> list[Table]:
    tables = []
    for kind, groups in cell.metrics.groups.items():
        columns = (Column(kind, key=True), Column("accuracy", "interval"), Column("k/n", "counts"))
        rows = tuple((name, Measured.of(each), Counts(each.correct, each.n)) for name, each in groups.items())
        tables.append(Table(_title(cell, f"{cell.metrics.headline} by {kind}"), columns, rows, _bos(cell)))
    return tables


def _vote_table(cell: QuestionCell) -> Table:
    columns = (Column("chains", "integer", key=True), Column("accuracy", "number"))
    rows = tuple(sorted((cell.metrics.vote_curve or {}).items()))
    return Table(_title(cell, "accuracy of the majority vote"), columns, rows, _bos(cell))
