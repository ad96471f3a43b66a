from __future__ import annotations

import csv
import io
import re

import pytest
from rich.cells import cell_len

from biomedllama_cli.report.table_forms import render_csv, render_latex, render_markdown, render_tables
from biomedllama_cli.report.table_terminal import Screen, render_terminal
from biomedllama_cli.report.tables import Column, Counts, Measured, Table

HOSTILE = (
    "a|b",
    "two\nlines\r\nof text",
    "100% _of_ #1 & $x^2$ ~{\\cmd} [x](y) *bold* <i>",
    "[starts with a bracket",
    "\x1b[31mred\x1b[0m\x07",
    "\u202eturned round",
    'quote " and, comma',
    "模型 \N{GREEK SMALL LETTER ALPHA}",
    "--task -- dashes",
)
COLUMNS = (
    Column("model", key=True),
    Column("n", "part"),
    Column("accuracy", "interval"),
    Column("k/n", "counts"),
    Column("bits per byte", "interval", decimals=4),
    Column("difference", "difference"),
)
ROWS = tuple(
    (
        name,
        Counts(100, 1273),
        Measured(0.3534956794972506, (0.3277, 0.38019), "\N{DAGGER}"),
        Counts(450, 1273),
        Measured(0.8123456789, None),
        -0.0123,
    )
    for name in HOSTILE
)
TABLE = Table(
    "Title with 5 % | & <b>", COLUMNS, (*ROWS, ("nothing", None, None, None, None, None)), ("a note_",)
)
NUMBERS = ("0.353 [0.328, 0.380]\N{DAGGER}", "100 of 1,273", "450/1273", "0.8123", "-0.012")


@pytest.mark.parametrize("width", [None, 200, 80, 40, 12])
def test_a_terminal_shows_every_row_and_no_number_in_two_pieces(width: int | None) -> None:
    lines = render_terminal(TABLE, Screen(width))
    text = "\n".join(lines)
    for number in NUMBERS:
        assert text.count(number) == len(HOSTILE), number
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("width", [200, 80, 60])
def test_a_terminal_is_not_written_beyond_its_width(width: int) -> None:
    assert max(map(cell_len, render_terminal(TABLE, Screen(width)))) <= width


def test_a_table_too_wide_goes_on_below_with_its_key_column_repeated() -> None:
    lines = render_terminal(Table("", COLUMNS, TABLE.rows[-2:]), Screen(60))
    headings = [line for line in lines if re.search(r"\bmodel\b", line)]
    assert len(headings) > 1
    assert sum("nothing" in line for line in lines) == len(headings)


def test_without_a_width_a_row_is_a_line_and_columns_are_aligned() -> None:
    lines = render_terminal(Table("", COLUMNS, TABLE.rows), Screen())
    assert len(lines) == 1 + len(TABLE.rows)
    ends = {cell_len(line[: line.index("450/1273") + 8]) for line in lines if "450/1273" in line}
    assert len(ends) == 1


def test_headings_are_bold_only_where_asked() -> None:
    assert any("\x1b[1m" in line for line in render_terminal(TABLE, Screen(100, bold=True)))
    assert not any("\x1b" in line for line in render_terminal(TABLE, Screen(100)))


def test_a_pipe_has_no_width_and_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert Screen.of_stdout() == Screen(None, bold=False)
    monkeypatch.setenv("COLUMNS", "66")
    assert Screen.of_stdout() == Screen(66, bold=False)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_width_and_codes_unless_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "66")
    monkeypatch.setattr("sys.stdout", _Terminal())
    assert Screen.of_stdout() == Screen(66, bold=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert Screen.of_stdout() == Screen(66, bold=False)


def split_markdown(row: str) -> list[str]:
    return re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1]


def test_markdown_has_a_line_per_row_and_as_many_cells_in_each() -> None:
    lines = render_markdown(TABLE)
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(TABLE.rows)
    assert {len(split_markdown(row)) for row in rows} == {len(COLUMNS)}
    assert split_markdown(rows[2])[0].strip() == r"a\|b"
    assert split_markdown(rows[2])[2].strip() == NUMBERS[0]
    assert lines[-1] == r"- a note\_"


def test_markdown_takes_nothing_in_a_name_for_markup() -> None:
    (row,) = [line for line in render_markdown(TABLE) if "100%" in line]
    assert r"\[x\](y) \*bold\* &lt;i&gt;" in row
    assert r"\_of\_" in row
    assert r"\$x^2\$" in row


def strip_escapes(text: str) -> str:
    """Leave out what the renderer may write of LaTeX's own letters; what is left must have none."""
    text = re.sub(
        r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|dag){}", "", text
    )
    text = re.sub(r"\\[_%&#${}]|\{\[\}|\{\]\}|\{\*\}|\$-\$|-\{\}", "", text)
    return text.removesuffix(r" \\")


def test_latex_rows_have_all_cells_and_no_letter_with_a_meaning_unescaped() -> None:
    lines = render_latex(TABLE)
    start, end = lines.index(r"\midrule"), lines.index(r"\bottomrule")
    rows = lines[start + 1 : end]
    assert len(rows) == len(TABLE.rows)
    for row in rows:
        assert row.endswith(r" \\")
        plain = strip_escapes(row)
        assert plain.count(" & ") == len(COLUMNS) - 1
        assert not set(plain.replace(" & ", "")) & set("\\_%&#${}~^<>|*")
        assert not row.startswith(("[", "*"))  # it would be the option of the row before
        assert "--" not in row
    assert "0.353 [0.328, 0.380]" in rows[0]


def test_latex_as_a_whole_is_balanced() -> None:
    text = "\n".join(line for line in render_latex(TABLE) if not line.startswith("%"))
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert begun[0] == ended[-1] == "table"
    assert sorted(begun) == sorted(ended) == ["minipage", "table", "tabular"]
    assert r"\caption{Title with 5 \% \textbar{} \& \textless{}b\textgreater{}}" in text
    assert r"a note\_\par" in text


def test_csv_is_read_back_as_the_values_themselves() -> None:
    text = "\n".join(render_csv(TABLE)) + "\n"
    records = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [record["model"] for record in records] == [*HOSTILE, "nothing"]
    assert {name: float(value) for name, value in records[0].items() if name != "model" and value} == {
        "n": 100,
        "n of": 1273,
        "accuracy": 0.3534956794972506,
        "accuracy low": 0.3277,
        "accuracy high": 0.38019,
        "correct": 450,
        "scored": 1273,
        "bits per byte": 0.8123456789,
        "difference": -0.0123,
    }
    assert set(records[-1].values()) == {"nothing", ""}


def test_csv_lines_end_as_the_standard_has_it() -> None:
    text = "\n".join(render_csv(Table("", COLUMNS[:1], (("a",), ("b",))))) + "\n"
    assert text == "model\r\na\r\nb\r\n"


def test_tables_are_divided_by_an_empty_line() -> None:
    one = Table("", (Column("task"),), (("medqa",),))
    assert render_tables([one, one], "terminal") == ["task", "medqa", "", "task", "medqa"]


def test_columns_without_any_value_can_be_left_out() -> None:
    table = Table("", (Column("a"), Column("b"), Column("c")), (("1", None, "2"), ("3", None, None)))
    assert [column.title for column in table.without_empty_columns().columns] == ["a", "c"]
