"""The chat on a real pseudo-terminal: keys, pastes, signals, windows."""

from __future__ import annotations

import json
import signal
import stat
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from pty_chat import PtyProgram

PROMPT = "tiny · chat >"
Start = Callable[..., PtyProgram]


def read_asked(log: Path) -> list[str]:
    """What the model was given, question by question."""
    return [json.loads(line)["turns"][-1][1] for line in log.read_text(encoding="utf-8").splitlines()]


def wait_for_prompt(chat: PtyProgram, times: int) -> None:
    chat.expect(PROMPT, times)


def test_a_question_is_answered_and_the_report_stands_after_the_chat(start: Start) -> None:
    with start() as chat:
        assert "not medical advice" in " ".join(chat.text.split())
        assert "weights abababababab" in chat.text
        assert "Nothing of the conversation is written down" in chat.text
        chat.say("hello there")
        chat.expect("tiny heard 11 characters.")
        chat.expect("7 of 12 prompt tokens reused")
        wait_for_prompt(chat, 2)
        chat.say("/quit")
        assert chat.expect_end() == 0
        assert chat.text.endswith("the report")


def test_ctrl_c_twice_stops_the_reply_and_keeps_its_part(start: Start, log: Path) -> None:
    with start() as chat:
        chat.say("endless")
        chat.expect("word9 ")
        chat.type("\x03\x03")
        chat.expect("Stopped; the part stays")
        wait_for_prompt(chat, 2)
        assert "word9 word10" in " ".join(chat.text.split())
        chat.say("and now")
        chat.expect("tiny heard 7 characters.")
        turns = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["turns"]
        assert turns[1][0] == "assistant"
        assert turns[1][1].startswith("word0 word1")


def test_ctrl_c_breaks_the_search_for_passages_off(start: Start, log: Path) -> None:
    with start("--corpus") as chat:
        chat.say("wait for it")
        chat.expect("Warning: looking ␛[31mthrough the shelf")
        chat.type("\x03")
        chat.expect("Interrupted: nothing was asked.")
        wait_for_prompt(chat, 2)
        assert not log.exists()


def test_ctrl_c_right_after_enter_is_not_lost(start: Start, log: Path) -> None:
    with start() as chat:
        chat.type("endless\r\x03")
        chat.expect("Interrupted: nothing was asked.")
        wait_for_prompt(chat, 2)
        chat.say("hello")
        chat.expect("tiny heard 5 characters.")
        assert read_asked(log) == ["hello"]


def is_echoing(chat: PtyProgram) -> bool:
    return bool(termios.tcgetattr(chat.handle)[3] & termios.ECHO)


def test_ctrl_c_at_the_prompt_clears_the_line_and_then_tells_how_to_leave(start: Start, log: Path) -> None:
    with start() as chat:
        chat.type("not this")
        chat.expect("not this")
        chat.press("ctrl-c")
        chat.wait(lambda screen: "not this" not in screen.text, "an empty line")
        chat.press("ctrl-c")
        chat.expect("Ctrl-D or /quit leaves the chat.")
        chat.press("ctrl-d")
        assert chat.expect_end() == 0
        assert not log.exists()


def test_a_paste_of_many_lines_arrives_as_one_message(start: Start, log: Path) -> None:
    lines = [f"line {number}" for number in range(60)]
    with start() as chat:
        chat.paste("\n".join(lines))
        chat.expect("line 59")
        assert not log.exists()
        chat.press("enter")
        chat.expect("tiny heard")
        assert read_asked(log) == ["\n".join(lines)]


def test_a_paste_reaches_the_model_as_it_is_but_does_not_act_on_the_terminal(start: Start, log: Path) -> None:
    pasted = "a\x07b\x1b]0;owned\x07c\x9b2Jd\u202ee"
    with start() as chat:
        chat.paste(pasted)
        chat.expect("e")
        chat.press("enter")
        chat.expect("tiny heard")
        wait_for_prompt(chat, 2)
        assert read_asked(log) == [pasted]
        assert "\u202e".encode() not in chat.raw
        assert b"\x07" not in chat.raw
        assert b"\x1b]" not in chat.raw


def test_lines_are_added_by_alt_enter_ctrl_j_and_a_backslash(start: Start, log: Path) -> None:
    with start() as chat:
        chat.type("one")
        chat.press("alt-enter")
        chat.type("two")
        chat.press("ctrl-j")
        chat.say("three\\")
        chat.say("four")
        chat.expect("tiny heard")
        assert read_asked(log) == ["one\ntwo\nthree\nfour"]


def test_what_is_typed_while_a_reply_comes_waits_at_the_next_prompt(start: Start, log: Path) -> None:
    with start() as chat:
        chat.say("endless")
        chat.expect("word5 ")
        chat.say("typed ahead")
        chat.expect("word20")
        assert "typed ahead" not in chat.text
        chat.press("ctrl-c")
        chat.expect("tiny heard 11 characters.")
        assert read_asked(log) == ["endless", "typed ahead"]


def test_the_arrow_key_brings_back_what_was_typed_in_this_chat_and_the_last(
    start: Start, log: Path, tmp_path: Path
) -> None:
    history = tmp_path / "private" / "history"
    settings = {"transcript": {"history_file": str(history)}}
    with start(settings=settings) as chat:
        chat.say("first question")
        wait_for_prompt(chat, 2)
        chat.press("up")
        chat.expect("> first question", 2)
        chat.press("enter")
        wait_for_prompt(chat, 3)
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with start(settings=settings) as chat:
        chat.press("ctrl-r")
        chat.type("fir")
        chat.expect("first question")
        chat.press("enter")
        chat.press("enter")
        chat.expect("tiny heard 14 characters.")
    assert read_asked(log) == ["first question"] * 3


def test_without_a_history_file_nothing_is_written(start: Start, tmp_path: Path) -> None:
    with start(env={"HOME": str(tmp_path)}) as chat:
        chat.say("secret")
        wait_for_prompt(chat, 2)
        chat.press("ctrl-d")
        assert chat.expect_end() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["asked.jsonl"]


def test_tab_completes_commands_and_settings(start: Start) -> None:
    with start() as chat:
        chat.type("/se")
        chat.expect("shows or changes how replies are made")
        chat.press("tab")
        chat.type(" tempe")
        chat.expect("0.7: Of the sampling")
        chat.press("tab")
        chat.say(" 0.25")
        chat.expect("temperature is now 0.25 (was 0.7).")


def test_an_unknown_command_is_refused_and_two_slashes_send_one(start: Start, log: Path) -> None:
    with start() as chat:
        chat.say("/hepl me")
        chat.expect("There is no command /hepl; nothing was sent.")
        chat.expect("Did you mean /help?")
        chat.say("//etc/passwd is what?")
        chat.expect("tiny heard 20 characters.")
        assert read_asked(log) == ["/etc/passwd is what?"]


def test_a_failing_reply_leaves_the_chat_going(start: Start, log: Path) -> None:
    with start() as chat:
        chat.say("fail")
        chat.expect("The reply failed (RuntimeError): out of memory␛[31m")
        chat.say("again")
        chat.expect("tiny heard 5 characters.")
        assert len(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["turns"]) == 1


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("cut", "Cut after 512 tokens: /set max_new_tokens 1024"),
        ("cut", "The oldest 4 turns no longer fit"),
        ("loop", "over and over"),
    ],
)
def test_an_end_out_of_the_ordinary_is_explained(start: Start, question: str, said: str) -> None:
    with start(columns=160) as chat:
        chat.say(question)
        chat.expect(said)


def test_sigterm_while_a_reply_comes_saves_its_part_and_leaves_a_sane_terminal(
    start: Start, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.json"
    with start(settings={"transcript": {"save": str(saved)}}) as chat:
        chat.say("hello")
        wait_for_prompt(chat, 2)
        assert len(json.loads(saved.read_text(encoding="utf-8"))) == 1
        chat.say("endless")
        chat.expect("word9 ")
        chat.kill(signal.SIGTERM)
        chat.expect("Stopped by SIGTERM; the conversation is in")
        assert chat.expect_end() == 75
        (_, hello), (question, part) = json.loads(saved.read_text(encoding="utf-8"))
        assert hello == "tiny heard 5 characters."
        assert question == "endless"
        assert part.startswith("word0 word1 ")
        assert chat.raw.rfind(b"\x1b[?25h") > chat.raw.rfind(b"\x1b[?25l")
        assert chat.raw.rfind(b"\x1b[?2004l") > chat.raw.rfind(b"\x1b[?2004h")
        assert is_echoing(chat)


def test_a_signal_before_the_first_word_does_not_say_that_the_conversation_is_kept(
    start: Start, log: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.json"
    with start(settings={"transcript": {"save": str(saved)}}) as chat:
        chat.say("silent")
        chat.wait(lambda screen: log.exists(), "the question")
        chat.kill(signal.SIGTERM)
        assert chat.expect_end() == 130
        assert "the conversation is in" not in chat.text
    assert not saved.exists()


def test_a_signal_has_a_conversation_written_that_is_not_in_its_file(start: Start, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    with start(settings={"transcript": {"save": str(saved)}}) as chat:
        chat.say("hello")
        wait_for_prompt(chat, 2)
        saved.unlink()
        chat.kill(signal.SIGTERM)
        assert chat.expect_end() == 75
        assert "Stopped by SIGTERM; the conversation is in" in chat.text
    assert json.loads(saved.read_text(encoding="utf-8")) == [["hello", "tiny heard 5 characters."]]


def test_a_conversation_that_cannot_be_written_at_the_end_is_an_error_of_its_own(
    start: Start, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.json"
    with start(settings={"transcript": {"save": str(saved)}}) as chat:
        chat.say("hello")
        wait_for_prompt(chat, 2)
        saved.unlink()
        saved.mkdir()
        chat.kill(signal.SIGTERM)
        assert chat.expect_end() == 6
        assert "saved.json is no ordinary file" in chat.text.replace("\n", "")


def test_sigterm_at_the_prompt_ends_the_chat(start: Start) -> None:
    with start() as chat:
        chat.type("half a ques")
        chat.expect("half a ques")
        chat.kill(signal.SIGTERM)
        assert chat.expect_end() == 130
        assert chat.text.endswith("Interrupted.")


def test_a_closed_window_keeps_the_part_of_the_reply(start: Start, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    with start(settings={"transcript": {"save": str(saved)}}) as chat:
        chat.say("endless")
        chat.expect("word9 ")
        chat.hang_up()
    ((question, part),) = json.loads(saved.read_text(encoding="utf-8"))
    assert question == "endless"
    assert part.startswith("word0 word1 ")
