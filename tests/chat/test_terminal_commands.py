from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parrots import Parrot, Shelf, make_session, shown
from test_exam_answer import VALUES, build_answer

from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.chat.terminal.commands import COMMANDS, complete, run_command
from biomedllama_cli.chat.terminal.interrupts import Interrupts
from biomedllama_cli.chat.terminal.screen import Screen
from biomedllama_cli.chat.terminal.talk import Services, Talk
from biomedllama_cli.chat.terminal.words import ModelFacts, TerminalFacts
from biomedllama_cli.errors import SettingsError, UserError

SAFE = ("", "off", "1", "temperature", "temperature 0.5", "nonsense", "x | y")


def refuse(*what: object) -> Any:
    """Say that a service is not there."""
    raise UserError("Not here.", "Elsewhere.")


def describe(name: str) -> ModelFacts:
    return ModelFacts({"source": f"folder/{name}"}, "chat", "so it is", 512)


class Desk:
    """A chat whose words are kept."""

    def __init__(self, session: ChatSession, **services: Callable[..., Any]) -> None:
        self.stream = io.StringIO()
        given = dict.fromkeys(("load_other", "ask_exam", "save", "load"), refuse) | services
        given = {"find_other": str, "free_memory": lambda: None} | given
        facts = TerminalFacts(tuple(describe(str(each.name)) for each in session.speakers))  # type: ignore[attr-defined]
        self.talk = Talk(
            session, facts, Services(**given), screen=Screen(self.stream), interrupts=Interrupts()
        )

    def run(self, line: str) -> str:
        """Return what a command says."""
        start = len(self.stream.getvalue())
        run_command(self.talk, line)
        return self.stream.getvalue()[start:]

    def ask(self, question: str) -> str:
        start = len(self.stream.getvalue())
        self.talk.ask(question)
        return self.stream.getvalue()[start:]


@pytest.fixture
def desk() -> Desk:
    return Desk(make_session(library=Shelf()))


def offer(desk: Desk, before: str) -> list[str]:
    return [text for _, text, _ in complete(desk.talk, before)]


def test_help_names_every_command_once(desk: Desk) -> None:
    said = desk.run("/help").split("\n")
    for command in COMMANDS:
        assert len([line for line in said if line.startswith(f"{command.name} ")]) == 1


def test_names_are_not_taken_twice() -> None:
    names = [each for command in COMMANDS for each in (command.name, *command.aliases)]
    assert len(set(names)) == len(names)
    assert {"/help", "/new", "/system", "/set", "/retry", "/undo", "/history", "/save", "/load", "/compare", "/mc",
            "/sources", "/quit", "/exit"} == set(names)  # fmt: skip


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
@pytest.mark.parametrize("rest", SAFE)
@pytest.mark.parametrize("asked", [0, 2])
def test_a_command_does_something_or_says_why_not(name: str, rest: str, asked: int) -> None:
    desk = Desk(make_session())
    for number in range(asked):
        desk.ask(f"question {number}")
    hint = "none needed"
    try:
        desk.run(f"{name} {rest}".strip())
    except UserError as error:
        hint = error.hint
    assert hint
    assert len(desk.talk.session.conversation.exchanges) in (asked, asked - 1, 0)


def test_every_command_is_completed_from_its_first_letters(desk: Desk) -> None:
    assert offer(desk, "/") == [each for command in COMMANDS for each in (command.name, *command.aliases)]
    assert offer(desk, "/s") == ["/system", "/set", "/save", "/sources"]
    assert offer(desk, "//s") == []
    assert offer(desk, "what is /s") == []


def test_settings_and_their_values_are_completed(desk: Desk) -> None:
    assert offer(desk, "/set t") == ["temperature", "top_p"]
    assert offer(desk, "/set repetition_guard ") == ["on", "off"]
    assert offer(desk, "/set temperature ") == ["0.7"]


def test_file_names_are_completed_and_hidden_ones_only_when_begun(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("notes.jsonl", "night.jsonl", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert offer(desk, "/save n") == ["night.jsonl", "notes.jsonl"]
    assert offer(desk, "/load ") == ["folder/", "night.jsonl", "notes.jsonl"]
    assert offer(desk, "/load .h") == [".hidden"]
    assert offer(desk, f"/load {tmp_path}/f") == ["folder/"]
    assert offer(desk, "/load nowhere/") == []
    assert offer(desk, "/compare o") == ["off"]


def test_nothing_is_completed_in_a_home_that_nobody_has(desk: Desk) -> None:
    assert offer(desk, "/load ~nosuchuser/") == []
    assert offer(desk, "/load a\0/") == []


def test_what_is_behind_a_closed_folder_is_completed_as_a_file(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "closed" / "inside")
    stat = os.stat

    def refuse_inside(path: Any, *arguments: Any, **others: Any) -> os.stat_result:
        if os.path.basename(path) == "link" and others.get("follow_symlinks", True):
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **others)

    monkeypatch.setattr(os, "stat", refuse_inside)
    assert offer(desk, "/load l") == ["link"]


def test_files_of_questions_are_completed_for_the_exam(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("exam.jsonl", "essay.txt"):
        (tmp_path / name).touch()
    (tmp_path / "exams").mkdir()
    assert offer(desk, "/mc e") == ["exam.jsonl", "exams/"]
    assert offer(desk, "/mc exam of what") == []


def test_retry_takes_the_exchange_back_and_undo_too(desk: Desk) -> None:
    first = desk.ask("why?").split("\n")[0]
    again = desk.run("/retry").split("\n")[0]
    assert first != again  # another seed
    assert len(desk.talk.session.conversation.exchanges) == 1
    assert desk.run("/undo") == "Taken back: why?\n"
    with pytest.raises(SettingsError, match="nothing was asked"):
        desk.run("/undo")


def test_a_system_message_is_shown_changed_and_removed(desk: Desk) -> None:
    assert desk.run("/system") == "There is no system message.\n"
    assert desk.run("/system Be brief.\nBe kind.") == "System message: Be brief.\nBe kind.\n"
    desk.ask("why?")
    assert shown(desk.talk.session)[0] == ("system", "Be brief.\nBe kind.")
    assert desk.run("/system off") == "There is no system message.\n"


def test_set_shows_changes_and_refuses(desk: Desk) -> None:
    assert "temperature" in desk.run("/set")
    assert "top_p" not in desk.run("/set temperature")
    assert desk.run("/set temperature 0.2") == "temperature is now 0.2 (was 0.7).\n"
    assert desk.talk.session.settings.reply.temperature == 0.2
    with pytest.raises(SettingsError, match="no setting of a chat"):
        desk.run("/set temprature 1")
    with pytest.raises(SettingsError, match="cannot be set during a chat"):
        desk.run("/set dtype")


@pytest.mark.parametrize("name", ["stop", "--stop", "Stop", "reply.stop"])
def test_set_shows_a_setting_however_it_is_written_and_changes_nothing(desk: Desk, name: str) -> None:
    desk.run('/set stop "###"')
    assert desk.run(f"/set {name}").startswith('stop  "###"')
    assert desk.talk.session.settings.reply.stop == ("###",)


def test_sources_are_listed_under_the_reply_and_shown_in_full(desk: Desk) -> None:
    said = desk.ask("why?")
    assert "[1] PMID 1" in said
    assert "[3] PMID 1" in said
    assert "part 0" in desk.run("/sources")
    assert "part 0" not in desk.run("/sources 2")
    with pytest.raises(UserError, match=r"There is no source 4\."):
        desk.run("/sources 4")
    desk.ask("about nothing")
    with pytest.raises(UserError, match="no sources"):
        desk.run("/sources")


def test_without_a_corpus_nothing_is_said_of_sources() -> None:
    desk = Desk(make_session())
    assert "[1]" not in desk.ask("why?")
    with pytest.raises(UserError) as caught:
        desk.run("/sources")
    assert "--corpus" in caught.value.hint


def test_the_conversation_is_written_after_every_change(tmp_path: Path) -> None:
    written: list[tuple[Path, list[str]]] = []

    def save(path: Path, session: ChatSession) -> bool:
        written.append((path, [each.question for each in session.conversation.exchanges]))
        return bool(session.conversation.exchanges)

    path = tmp_path / "kept.jsonl"
    desk = Desk(make_session(transcript={"save": path}), save=save)
    desk.ask("one")
    desk.ask("two")
    desk.run("/undo")
    assert written == [(path, ["one"]), (path, ["one", "two"]), (path, ["one"])]
    assert desk.run(f"/save {tmp_path}/other.jsonl").startswith(
        f"Saved to {tmp_path}/other.jsonl: 1 question,"
    )
    assert written[-1] == (tmp_path / "other.jsonl", ["one"])
    desk.run("/undo")
    assert written[-1] == (path, [])  # what was taken back is not kept in the file


def test_nothing_is_written_unless_it_is_asked_for() -> None:
    def save(path: Path, session: ChatSession) -> None:
        raise AssertionError(path)

    desk = Desk(make_session(), save=save)
    desk.ask("one")
    desk.run("/undo")
    with pytest.raises(SettingsError, match="nothing to save"):
        desk.run("/save file.jsonl")


def test_a_loaded_conversation_tells_what_is_to_be_known(desk: Desk, tmp_path: Path) -> None:
    def load(path: Path, session: ChatSession) -> list[str]:
        session.resume(make_session().conversation)
        return ["Another \x1b[31mmodel answered."]

    desk = Desk(make_session(), load=load)
    said = desk.run(f"/load {tmp_path}/kept.jsonl")
    assert said.startswith("Another ␛[31mmodel answered.\nGoing on with the last conversation of")
    with pytest.raises(SettingsError, match="No file is named"):
        desk.run("/load")


def test_a_second_model_is_loaded_asked_and_let_go() -> None:
    desk = Desk(make_session("base"), load_other=lambda name: (Parrot(name), describe(name)))
    assert "nobody" in desk.run("/compare")
    assert "folder/tuned" in desk.run("/compare tuned")
    said = desk.ask("why?")
    assert said.index("base") < said.index("tuned 1")
    assert desk.talk.session.conversation.exchanges[-1].other is not None
    assert "the other model" in desk.run("/history")
    desk.run("/compare off")
    desk.ask("and?")
    assert desk.talk.session.conversation.exchanges[-1].other is None


def test_the_exam_shows_each_option_with_its_bar_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer: Any = build_answer(*VALUES, answer_index=1)

    def ask(text: str, session: ChatSession) -> list[Any]:
        asked.append(text)
        return [answer]

    monkeypatch.setenv("COLUMNS", "120")
    desk = Desk(make_session(), ask_exam=ask)
    said = desk.run("/mc Which? | a | b\n| c")
    assert asked == ["Which? | a | b\n| c"]
    for row in answer.rows():
        (line,) = [each for each in said.split("\n") if f" {row['letter']}  " in each[:7]]
        assert f"{row['probability']:.3f}" in line
        assert f"{row['log_likelihood']:.2f}" in line
        assert f"{row['domain_conditional']:.2f}" in line
        assert line.count("█") == round(row["probability"] * 10)
    assert answer.verdict() in said
    assert "Chosen by form" not in said
    assert "Chosen by form" in desk.run("/mc")
    assert len(asked) == 1
    monkeypatch.setenv("COLUMNS", "50")
    narrow = Desk(make_session(), ask_exam=ask).run("/mc Which? | a | b")
    assert "/byte" not in narrow
    assert "/byte" in said


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UserError("No."), RuntimeError("no\nmemory")])
def test_a_retry_that_fails_keeps_the_exchange(failure: BaseException) -> None:
    desk = Desk(make_session())
    desk.ask("why?")
    before = desk.talk.session.conversation

    def fail(*arguments: object, **others: object) -> None:
        raise failure

    desk.talk.session.speakers[0].stream = fail  # type: ignore[method-assign, assignment]
    refused: Callable[[], object] = lambda: desk.run("/retry")  # noqa: E731
    if isinstance(failure, KeyboardInterrupt):
        assert refused() == "Interrupted: nothing was asked.\n"
    else:
        with pytest.raises(UserError, match=r"No\.|The reply failed \(RuntimeError\): no memory"):
            refused()
    assert desk.talk.session.conversation == before
