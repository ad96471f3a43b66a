"""What goes wrong at the terminal is told, and the conversation goes on."""

from __future__ import annotations

import io
import json
import signal
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parrots import make_session
from pty_chat import PtyProgram
from test_terminal_commands import Desk

from biomedllama_cli.chat.terminal import talk as talk_module
from biomedllama_cli.chat.terminal.screen import Screen

Start = Callable[..., PtyProgram]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/load ~nosuchuser/x", "~nosuchuser/x is in nobody's home folder."),
        ("/save ~nosuchuser/x", "~nosuchuser/x is in nobody's home folder."),
        ("/load a\0b", "The name of the file holds a NUL"),
        ("/compare broken", "/compare failed (RuntimeError): CUDA out of memory"),
    ],
)
def test_a_command_that_fails_does_not_lose_the_conversation(start: Start, line: str, told: str) -> None:
    with start(columns=120) as chat:
        chat.say("hello")
        chat.expect("tokens reused")
        chat.paste(line)
        chat.press("enter")
        chat.expect(told)
        chat.say("/history")
        chat.expect("1 > hello")
        assert "Traceback" not in chat.text


def test_a_home_that_nobody_has_may_be_typed(start: Start) -> None:
    with start() as chat:
        chat.type("/load ~nosuchuser/x")
        chat.expect("~nosuchuser/x")
        chat.press("enter")
        chat.expect("in nobody's home folder")
        assert "Traceback" not in chat.text
        assert "Unhandled" not in chat.text


def test_ctrl_c_breaks_the_loading_of_a_conversation_off(start: Start) -> None:
    with start() as chat:
        chat.say("/load forever")
        chat.wait(
            lambda screen: not termios.tcgetattr(screen.handle)[3] & termios.ECHO, "the command at work"
        )
        chat.press("ctrl-c")
        chat.expect("Interrupted")
        chat.say("hello")
        chat.expect("tiny heard 5 characters.")


def test_a_byte_that_is_no_text_does_not_end_a_plain_chat(start: Start, tmp_path: Path) -> None:
    with start(env={"TERM": "dumb", "PYTHONIOENCODING": "utf-8:strict"}) as chat:
        chat.type_bytes(b"caf\xe9\n")
        chat.expect("tiny heard 4 characters.")
    (asked,) = (tmp_path / "asked.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(asked)["turns"][-1][1] == "caf\ufffd"


def test_a_history_file_that_can_no_longer_be_written_is_told_once(start: Start, tmp_path: Path) -> None:
    history = tmp_path / "history"
    with start(columns=160, settings={"transcript": {"history_file": str(history)}}) as chat:
        chat.say("hello 0")
        chat.expect("tiny heard 7 characters.")
        chat.expect(" · chat >", 2)
        history.unlink()
        history.mkdir()
        for number in (1, 2, 3):
            chat.say(f"hello {number}")
            chat.expect("tiny heard 7 characters.", number + 1)
        chat.expect(" · chat >", 5)
        assert chat.text.replace("\n", "").count("What is typed is no longer kept.") == 1
        assert "Traceback" not in chat.text
        chat.press("up")
        chat.expect("> hello 3", 2)


def test_ctrl_z_waits_for_the_prompt(start: Start) -> None:
    with start() as chat:
        chat.say("endless")
        chat.expect("word5 ")
        assert termios.tcgetattr(chat.handle)[6][termios.VSUSP] == b"\0"
        chat.press("ctrl-c")
        chat.expect("Stopped;")
        chat.expect(" · chat >", 2)
        chat.press("ctrl-d")
        assert chat.expect_end() == 0
        assert termios.tcgetattr(chat.handle)[6][termios.VSUSP] == b"\x1a"


def test_a_signal_before_the_first_of_two_replies_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # wide enough for both
    desk = Desk(make_session("one", "two"))
    desk.talk.screen = Screen(io.StringIO(), plain=False)
    stream_beside = talk_module.stream_beside

    def kill_first(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        stream_beside(*arguments)

    monkeypatch.setattr(talk_module, "stream_beside", kill_first)
    with desk.talk.interrupts:
        desk.talk.ask("first")
    (exchange,) = desk.talk.session.conversation.exchanges
    assert exchange.reply.text.startswith("one")
    assert exchange.other is None


def test_code_that_is_very_long_is_shown_in_one_colour() -> None:
    screen = Screen(io.StringIO(), plain=False)

    def count_styles(lines: int) -> int:
        laid_out = screen.lay_out_markdown("```python\n" + "if x: return 'y'\n" * lines + "```\n")
        return len({segment.style for line in laid_out for segment in line if segment.text.strip()})

    assert count_styles(3) > 1
    assert count_styles(500) == 1
