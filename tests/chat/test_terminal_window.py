"""What the window of a chat shows: sizes, colours, replies longer than it, and output that wants to drive it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pty_chat import PtyProgram, start_chat

from biomedllama_cli.chat.terminal.commands import COMMANDS

Start = Callable[..., PtyProgram]

_OWN = re.compile(
    rb"\x1b\[[0-9;]*m"  # styles
    rb"|\x1b\[[0-9]*[A-DGHJK]"  # the cursor, and erasing
    rb"|\x1b\[\?(?:1|7|12|25|2004)[hl]"  # modes of the line editor, the cursor shown or not
    rb"|\x1b\[6n|\x1b\[0 q"  # where the cursor is, and its shape
    rb"|\r|\n|\t|\x08"
)
"""All that prompt_toolkit and rich need."""
_COLOUR = re.compile(rb"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


def leave(chat: PtyProgram) -> None:
    chat.press("ctrl-d")
    assert chat.expect_end() == 0


def count_items(chat: PtyProgram) -> list[int]:
    return [int(number) for number in re.findall(r"item (\d+) ends", chat.text)]


def test_markdown_is_shown_as_what_it_means(start: Start) -> None:
    with start() as chat:
        chat.say("markdown")
        chat.expect("tokens reused")
        assert "\nFindings\n\nIt is bold and code.\n\n • one\n • two\n" in chat.text
        assert "─" in chat.text
        leave(chat)


@pytest.mark.parametrize("rows", [8, 24])
def test_a_reply_longer_than_the_window_stands_whole_in_the_scrollback(start: Start, rows: int) -> None:
    with start(rows=rows) as chat:
        chat.say("items 120")
        chat.expect("tokens reused")
        assert count_items(chat) == list(range(120))
        chat.say("paragraph 600")
        chat.expect("tokens reused", 2)
        words = re.findall(r"\bw\d+\b", chat.text)
        assert words == [f"w{number}" for number in range(600)]
        leave(chat)


def test_the_end_of_a_long_block_is_in_sight_while_it_comes(start: Start) -> None:
    with start(rows=8, columns=40) as chat:
        chat.say("endless")
        chat.wait(lambda screen: "word120 " in screen.window, "word 120 in the window")
        assert "word0 " not in chat.window
        chat.press("ctrl-c")
        chat.expect("Stopped;")
        chat.expect("word0 word1 ")
        leave(chat)


def test_nothing_is_lost_when_the_window_changes_while_a_reply_comes(start: Start) -> None:
    with start(rows=24, columns=80) as chat:
        chat.say("slowly items 60")
        sizes = [(40, 24), (120, 24), (120, 10), (60, 30)]
        for number, (columns, rows) in enumerate(sizes, 1):
            chat.expect(f"item {number * 10} ends")
            chat.resize(columns, rows)
        chat.expect("tokens reused")
        chat.expect(" · chat >", 2)
        assert sorted(set(count_items(chat))) == list(range(60))
        chat.say("hello")
        chat.expect("tiny heard 5 characters.")
        leave(chat)


def test_what_the_model_and_the_corpus_say_cannot_drive_the_terminal(start: Start) -> None:
    with start("--corpus", columns=200) as chat:
        chat.say("hostile")
        chat.expect("tokens reused")
        chat.say("/sources")
        chat.expect("passage.")
        chat.say("/history")
        chat.expect("last line", 2)
        leave(chat)
        assert "␛[2J␛[H␛]0;owned␇␛]52;c;ZXZpbA==␇␛]8;;http://evil.example␛\\click" in chat.text
        assert "�gnp.exe� [bold red]markup[/] good (http://bad.example)" in chat.text
        assert "last line␍ over" in chat.text
        assert chat.title == ""
        rest = _OWN.sub(b"", chat.raw).decode("utf-8")
        assert not re.findall(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": None}])
def test_without_colour_a_reply_is_plain_text(start: Start, env: dict[str, str | None]) -> None:
    with start(env=env) as chat:
        chat.say("markdown")
        chat.expect("tokens reused")
        assert "# Findings\n\nIt is **bold** and `code`." in chat.text
        chat.say("hostile")
        chat.expect("tokens reused", 2)
        assert "␛[2J␛[H␛]0;owned␇" in chat.text
        chat.say("endless")
        chat.expect("word20")
        chat.press("ctrl-c")
        chat.expect("Stopped; the part stays")
        chat.expect(" · chat >", 4)
        leave(chat)
        assert not _COLOUR.search(chat.raw)
        if env.get("NO_COLOR") is None:
            assert b"\x1b" not in chat.raw


def test_a_terminal_without_unicode_is_given_the_numbers_of_letters(tmp_path: Path) -> None:
    with start_chat("--log", str(tmp_path / "log"), columns=160, env={"PYTHONIOENCODING": "ascii"}) as chat:
        chat.expect("chat >")
        chat.say("hostile")
        chat.expect("tokens reused")
        assert "\\u241b[2J\\u241b[H\\u241b]0;owned\\u2407" in chat.text
        leave(chat)


def test_two_models_answer_side_by_side_in_a_wide_window(start: Start) -> None:
    with start("--compare", columns=200) as chat:
        chat.expect("tiny | other · chat >")
        chat.say("items 3")
        chat.expect("tokens reused", 2)
        chat.expect(" · chat >", 2)
        (row,) = [line for line in chat.lines if "item 1 ends" in line]
        assert row.count("item 1 ends") == 2
        assert row.rindex("item 1 ends") - row.index("item 1 ends") == 101
        (heads,) = [line for line in chat.lines if line.split() == ["tiny", "other"]]
        assert heads.index("other") == 101
        leave(chat)


def test_two_models_answer_one_after_the_other_in_a_narrow_window(start: Start) -> None:
    with start("--compare", columns=40) as chat:
        chat.say("items 3")
        chat.expect("reused", 2)
        chat.expect(" · chat >", 2)
        assert count_items(chat) == [0, 1, 2, 0, 1, 2]
        assert chat.lines.index("tiny") < chat.lines.index("other")
        leave(chat)


def test_ctrl_c_stops_the_model_at_hand_and_the_other_still_answers(start: Start) -> None:
    with start("--compare", columns=120, rows=40) as chat:
        chat.say("endless")
        chat.expect("word20")
        chat.press("ctrl-c")
        chat.wait(lambda screen: len(re.findall(r"\bword20\b", screen.window)) == 2, "the other model")
        chat.press("ctrl-c")
        chat.expect("Stopped;", 2)
        chat.expect(" · chat >", 2)
        leave(chat)


def test_a_second_model_can_join_and_leave(start: Start) -> None:
    with start(columns=120) as chat:
        chat.say("/compare path/to/tuned")
        chat.expect("tiny | tuned · chat >")
        chat.say("hello")
        chat.expect("path/to/tuned heard 5 characters.")
        chat.say("/compare off")
        chat.expect("tiny answers alone.")


def test_ctrl_c_breaks_the_loading_of_a_model_off(start: Start) -> None:
    with start() as chat:
        chat.say("/compare forever")
        chat.expect("Loading forever ...")
        chat.press("ctrl-c")
        chat.expect("Interrupted.")
        chat.say("hello")
        chat.expect("tiny heard 5 characters.")
        assert "tiny | forever" not in chat.text


def test_what_is_logged_while_a_reply_comes_stands_above_it(start: Start) -> None:
    with start(columns=50) as chat:
        chat.say("warn")
        chat.expect("tokens reused")
        leave(chat)
        assert re.findall(r"word(\d+)", chat.text) == [str(number) for number in range(40)]
        assert "Warning: in the ␛]0;x␇middle" in " ".join(chat.text.split())
        assert "somebody prints" in chat.lines
        assert chat.title == ""


@pytest.mark.parametrize("columns", [40, 200])
def test_help_is_whole_in_a_window_of_any_width(start: Start, columns: int) -> None:
    with start(columns=columns, rows=60) as chat:
        chat.say("/help")
        chat.expect(" · chat >", 2)
        lines = chat.lines
        leave(chat)
    first = next(line for line in lines if line.endswith(" shows this"))
    edge = first.index("shows this")
    left = "".join("".join(line[:edge] for line in lines).split())
    right = "".join("".join(line[edge:] for line in lines).split())
    for command in COMMANDS:
        usage = " or ".join((command.name, *command.aliases)) + command.usage
        assert "".join(usage.split()) in left
        assert "".join(command.meaning.split()) in right


def test_a_closed_stdin_ends_the_chat(tmp_path: Path) -> None:
    program = Path(__file__).with_name("chat_program.py")
    arguments = [sys.executable, str(program), "--log", str(tmp_path / "log")]
    done = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=make_env(), timeout=60
    )
    assert done.returncode == 0
    assert done.stdout == "the report\n"
    assert "not medical advice" in " ".join(done.stderr.split())


def test_questions_from_a_pipe_are_answered_in_plain_text(tmp_path: Path) -> None:
    program = Path(__file__).with_name("chat_program.py")
    arguments = [sys.executable, str(program), "--log", str(tmp_path / "log")]
    done = subprocess.run(
        arguments,
        input="one \\\ntwo\nhostile\n/help\n",
        capture_output=True,
        text=True,
        env=make_env(),
        timeout=60,
    )
    assert done.returncode == 0
    assert "tiny heard 8 characters." in done.stderr
    assert "/retry" in done.stderr
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.stderr)


@pytest.mark.parametrize("redirection", ["> REPORT", "2> LOG"])
def test_the_chat_stays_on_the_terminal_when_one_stream_leads_elsewhere(
    tmp_path: Path, redirection: str
) -> None:
    report, log = tmp_path / "report.txt", tmp_path / "log.txt"
    command = redirection.replace("REPORT", str(report)).replace("LOG", str(log))
    with PtyProgram(
        [
            "-c",
            "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])",
            f"{sys.executable} {Path(__file__).with_name('chat_program.py')} --log {tmp_path}/asked {command}",
        ]
    ) as chat:
        chat.expect(" · chat >")
        chat.say("markdown")
        chat.expect(" • one")
        chat.expect(" · chat >", 2)
        leave(chat)
    if report.exists():
        assert report.read_text(encoding="utf-8") == "the report\n"
    else:
        assert chat.text.endswith("the report")
        assert log.read_bytes() == b""


def test_the_terminal_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, biomedllama_cli.chat.terminal.app; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=make_env(), timeout=60
    )
    assert done.stdout == "[]\n"


def make_env() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8", "PATH": "/usr/bin:/bin"}
