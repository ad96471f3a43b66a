"""Replies as they come: nothing is lost, nothing acts, whatever the pieces."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pyte
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from biomedllama_cli.chat.terminal import reply_view
from biomedllama_cli.chat.terminal.markdown import split_finished
from biomedllama_cli.chat.terminal.reply_view import stream_beside, stream_markdown, stream_plain
from biomedllama_cli.chat.terminal.screen import Screen

_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh]|\r")
"""Styles, the cursor one line up, a line erased, the cursor hidden and shown."""
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _every_piece_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_view, "_SECONDS", 0.0)
    monkeypatch.setattr(reply_view, "_SHARE", 1)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("TERM", "xterm")


def cut(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def show(written: str) -> list[str]:
    """What a terminal of 60 columns and 12 lines shows, with its scrollback."""
    screen = pyte.HistoryScreen(60, 12, history=5000, ratio=0.1)
    pyte.Stream(screen).feed(written.replace("\n", "\r\n"))
    above = ["".join(row[column].data for column in range(60)).rstrip() for row in screen.history.top]
    return "\n".join([*above, *(line.rstrip() for line in screen.display)]).rstrip().split("\n")


def stream(text: str, size: int) -> str:
    terminal = Terminal()
    stream_markdown(Screen(terminal, plain=False), cut(text, size))
    return terminal.getvalue()


@quick
@given(
    st.lists(
        st.sampled_from(
            [
                "{}",
                "- {}",
                "1. {}",
                "> {}",
                "# {}",
                "```\n{}\n```",
                "    {}",
                "{}\n{}",
                "**{}** `{}`",
                "| a | b |\n|---|---|\n| {} | {} |",
                "* {}\n  {}",
                "***",
                "- {}\n\n  {}",
                "{}\n---",
            ]
        ),
        max_size=12,
    ),
    st.sampled_from(["\n", "\n\n"]),
    st.integers(1, 40),
)
def test_every_word_is_shown_once_and_in_order_whatever_the_pieces(
    blocks: list[str], between: str, size: int
) -> None:
    text, number = between.join(blocks), 0
    while "{}" in text:
        text = text.replace("{}", f"w{number}x", 1)
        number += 1
    shown = re.findall(r"w(\d+)x", "\n".join(show(stream(text, size))))
    assert shown == [str(each) for each in range(number)]


@quick
@given(
    st.text(
        st.one_of(
            st.sampled_from("\x1b\x9b\ud800[]();\\*_`#>&x202e!|<k/>-1. \n\r\t\x07\u202e"), st.characters()
        )
    ),
    st.integers(1, 30),
)
@example('&#x202e; &#12; &#x1b; <kbd></kbd></kbd> [a](http://b "c") ![i](u) <http://auto.example>', 3)
@example("```\x1b]0;t\x07\ncode", 2)
@example("[a](<\x1b]8;;x>)\n\n[r]: http://hidden\n\n[r]", 50)
def test_only_rich_itself_writes_control_sequences(text: str, size: int) -> None:
    written = stream(text, size)
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", _OWN.sub("", written))
    terminal = Terminal()
    stream_plain(Screen(terminal, plain=True), cut(text, size))
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", terminal.getvalue())


def test_the_target_of_a_link_stands_beside_it_and_nothing_is_hidden() -> None:
    shown = " ".join(
        show(stream("[good](http://evil.example) ![p](http://i.example) <b>x</b>\n\n[r]: http://h", 7))
    )
    assert "good (http://evil.example) !p (http://i.example) <b>x</b>" in " ".join(shown.split())
    assert "[r]: http://h" in shown


def test_lines_of_a_reply_stay_lines() -> None:
    assert show(stream("A. one\nB. two", 4)) == ["A. one", "B. two"]


def test_numbered_items_keep_their_numbers_and_points() -> None:
    assert show(stream("3. three\n4. four\n\n   more\n", 5)) == ["3. three", "4. four", "   more"]


def test_finished_blocks_leave_the_part_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []
    lay_out = Screen.lay_out_markdown

    def count(self: Screen, text: str, width: int | None = None) -> list[reply_view.Line]:
        laid_out.append(len(text))
        return lay_out(self, text, width)

    monkeypatch.setattr(Screen, "lay_out_markdown", count)
    stream("".join(f"Paragraph {number}.\n\n" for number in range(50)), 8)
    assert max(laid_out) < 60  # two paragraphs, never the whole reply


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("One.\n\nTwo", "One.\n\n"),
        ("One.\n\n", ""),
        ("a\n\n- b\n- c", "a\n\n- b\n"),
        ("```\na\n\nb\n", ""),
        ("| a |\n|---|\n| 1 |\n| 2 |", ""),
        ("> a\n> b", ""),
    ],
)
def test_a_block_is_finished_when_nothing_can_change_it(text: str, finished: str) -> None:
    assert text[: split_finished(text)] == finished


def test_a_reply_without_end_of_line_ends_its_line() -> None:
    terminal = Terminal()
    stream_plain(Screen(terminal, plain=True), ["no", " end"])
    stream_plain(Screen(terminal, plain=True), ["end\n"])
    stream_plain(Screen(terminal, plain=True), [])
    assert terminal.getvalue() == "no end\nend\n"


def test_columns_that_moved_leave_nothing_behind() -> None:
    terminal = Terminal()
    stream_beside(Screen(terminal, plain=False), [cut("left " * 40, 3), cut("right", 1)], ["a", "b"])
    assert show(terminal.getvalue()) == [""]  # what moved is gone; whoever called prints the whole
