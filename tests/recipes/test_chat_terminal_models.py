"""The models of a conversation at the terminal: loaded, asked and let go, without one."""

from __future__ import annotations

import io
import weakref
from pathlib import Path
from typing import Any

import pytest
from test_chat_terminal import build_talker

from biomedllama_cli.chat.session import ChatSession
from biomedllama_cli.chat.terminal.commands import run_command
from biomedllama_cli.chat.terminal.interrupts import Interrupts
from biomedllama_cli.chat.terminal.screen import Screen
from biomedllama_cli.chat.terminal.talk import Services, Talk
from biomedllama_cli.chat.terminal.words import TerminalFacts
from biomedllama_cli.errors import DataError, ModelError
from biomedllama_cli.recipes import chat_once, chat_terminal
from biomedllama_cli.recipes.chat_load import load_voices
from biomedllama_cli.settings.chat import ChatSettings

EXAM = "/mc Which metal rusts? | tin | iron ore"


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("talkers")
    return [str(build_talker(folder / name, seed)) for seed, name in enumerate(("one", "two", "three"), 3)]


def begin(monkeypatch: pytest.MonkeyPatch, sources: list[str]) -> Talk:
    """Return a conversation as `hold_conversation` begins it, in which a test types the commands."""
    talks: list[Talk] = []

    def run(session: ChatSession, facts: TerminalFacts, services: Services) -> None:
        screen = Screen(io.StringIO())
        talks.append(Talk(session, facts, services, screen=screen, interrupts=Interrupts()))

    monkeypatch.setattr(chat_terminal, "run_terminal", run)
    given: dict[str, Any] = {"compute": {"device": "cpu"}, "reply": {"max_new_tokens": 4}}
    settings = ChatSettings.model_validate(given)
    chat_terminal.hold_conversation(settings, load_voices(sources, settings), None)
    return talks[0]


def watch(talk: Talk) -> weakref.ref[Any]:
    """Return a reference to the second model that does not keep it."""
    speaker: Any = talk.session.speakers[1]
    return weakref.ref(speaker.model)


def test_a_model_that_is_compared_no_longer_leaves_the_memory(
    talkers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two, three = talkers
    talk = begin(monkeypatch, [one, two])
    talk.ask("What is cress?")
    run_command(talk, EXAM)
    second = watch(talk)
    assert second() is not None
    run_command(talk, f"/compare {three}")
    assert second() is None
    talk.ask("And moss?")
    third = watch(talk)
    run_command(talk, "/compare off")
    assert third() is None
    run_command(talk, EXAM)
    assert len(talk.exams) == 1
    run_command(talk, f"/save {tmp_path}/talk.jsonl")
    sources = [each.other_source.split(" ")[0] for each in talk.session.conversation.exchanges]
    assert sources == [two, three]


def test_there_is_room_for_the_next_model_before_it_is_loaded(
    talkers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(monkeypatch, talkers[:2])
    second, load_voice = watch(talk), chat_terminal.load_voice
    found: list[Any] = []

    def load(source: str, settings: ChatSettings) -> Any:
        found.append(second())
        return load_voice(source, settings)

    monkeypatch.setattr(chat_terminal, "load_voice", load)
    run_command(talk, f"/compare {talkers[2]}")
    assert found == [None]


def test_a_model_whose_loading_was_broken_off_at_its_end_leaves_the_chat_going(
    talkers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    talk = begin(monkeypatch, talkers[:1])
    monkeypatch.setattr(chat_terminal, "describe_voice", _press_ctrl_c)
    run_command(talk, f"/compare {talkers[1]}")
    assert len(talk.models) == len(talk.session.speakers) == 1
    talk.ask("What is cress?")
    run_command(talk, f"/save {tmp_path}/talk.jsonl")
    assert (tmp_path / "talk.jsonl").exists()


def test_a_conversation_whose_loading_was_broken_off_at_its_end_is_not_gone_on_with(
    talkers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    talk = begin(monkeypatch, talkers[:1])
    talk.ask("What is cress?")
    run_command(talk, f"/save {tmp_path}/talk.jsonl")
    run_command(talk, "/new")
    before = talk.session.conversation
    monkeypatch.setattr(chat_once, "describe_difference", _press_ctrl_c)
    run_command(talk, f"/load {tmp_path}/talk.jsonl")
    assert talk.session.conversation == before


def _press_ctrl_c(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        (f"/compare {'a' * 300}", ModelError, "names no model: File name too long"),
        ("/compare ~nosuchuser/x", ModelError, "names no model: "),
        (f"/mc {'x' * 300}.jsonl:2", DataError, "File name too long"),
        ("/mc ~nosuchuser/x.jsonl", DataError, "cannot be read: "),
    ],
)
def test_a_name_that_no_file_can_have_is_told_in_a_sentence(
    talkers: list[str], monkeypatch: pytest.MonkeyPatch, line: str, kind: type[Exception], told: str
) -> None:
    talk = begin(monkeypatch, talkers[:1])
    with pytest.raises(kind, match=told):
        run_command(talk, line)


def test_the_device_is_given_its_memory_back(talkers: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    talk = begin(monkeypatch, talkers[:2])
    second = watch(talk)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: emptied.append(second() is None))
    run_command(talk, "/compare off")
    assert emptied == [True]
