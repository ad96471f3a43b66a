"""The real command on a pseudo-terminal, with real (tiny) models: everything between the shell and the weights."""

from __future__ import annotations

import json
import signal
import stat
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_runs import read_samples, run
from pty_chat import PtyProgram
from tiny_llama import build_tiny_model
from tuning_runs import CHAT_TEMPLATE

from biomedllama_cli.models.tokenizer import load_tokenizer

NOTICE = "research"
EXAM = {"question": "Which metal rusts in the rain?", "options": ["tin", "iron ore", "gold leaf"]}
_WITH_STDOUT_IN_A_FILE = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600), 1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def build_talker(folder: Path, seed: int) -> Path:
    """Make a model that never ends by itself: it has no token for the end, and thousands of positions."""
    tiny = build_tiny_model(folder, adds_bos=False, seed=seed)
    tokenizer = load_tokenizer(str(folder))
    unsaid = [i for i in range(tokenizer.vocabulary_size) if not tokenizer.decode([i]).strip("\ufffd")]
    with torch.no_grad():
        tiny.model.lm_head.weight[unsaid] = 0.0
    tiny.model.config.max_position_embeddings = 8192
    tiny.model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("talkers")
    return build_talker(folder / "one", 3), build_talker(folder / "two", 4)


def start(*arguments: str, stdout: Path | None = None) -> PtyProgram:
    line = ["-m", "biomedllama_cli", "chat", "--device", "cpu", *arguments]
    if stdout is not None:
        line = ["-c", _WITH_STDOUT_IN_A_FILE, str(stdout), *line]
    return PtyProgram(line, columns=120, rows=40, env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})


def read_modes(chat: PtyProgram) -> list[Any]:
    """What `stty -a` tells of the terminal."""
    return termios.tcgetattr(chat.handle)


def count_seconds_lines(chat: PtyProgram) -> int:
    return chat.text.count("tokens/s")


def load_transcript(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_chat_from_its_notice_to_its_end(
    talkers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = talkers
    file, printed = tmp_path / "talks.jsonl", tmp_path / "stdout.txt"
    with start("--model", str(one), "--max-new-tokens", "8", stdout=printed) as chat:
        before = read_modes(chat)
        chat.expect("one · chat >")
        assert NOTICE in chat.text
        chat.say("What is cress?")
        chat.wait(lambda screen: count_seconds_lines(screen) == 1, "the reply")
        chat.say("/mc " + " | ".join([EXAM["question"], *EXAM["options"]]))
        chat.expect("gold leaf", times=2)
        chat.expect("chosen by acc")
        chat.say(f"/compare {two}")
        chat.expect("one | two", times=1)
        chat.say("And moss?")
        chat.wait(lambda screen: count_seconds_lines(screen) == 3, "both replies")
        chat.say(f"/save {file}")
        chat.expect(str(file.name), times=2)
        chat.say("/quit")
        assert chat.expect_end() == 0
        assert read_modes(chat) == before
        shown = chat.text
    assert printed.read_text() == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (told,) = load_transcript(file)
    assert [each["question"] for each in told["exchanges"]] == ["What is cress?", "And moss?"]
    assert told["exchanges"][0]["other"] is None
    assert told["exchanges"][1]["other"]["text"]
    assert told["other_model"]["source"] == str(two)
    assert_numbers_of_evaluate(shown, tmp_path, one)


def assert_numbers_of_evaluate(shown: str, folder: Path, model: Path) -> None:
    """Compare the table with what `evaluate` writes of the same question."""
    questions = folder / "questions.jsonl"
    questions.write_text(json.dumps({**EXAM, "answer_index": 1}) + "\n")
    run(folder, model, task=["questions"], data=[f"questions={questions}"], profile=["paper"])
    (sample,) = read_samples(folder, "questions")
    values = torch.tensor(sample["log_likelihoods"], dtype=torch.float64)
    lines = shown[shown.index("log-lik") :].splitlines()[1:4]
    for line, option, value, share in zip(
        lines, EXAM["options"], values.tolist(), values.softmax(0).tolist(), strict=True
    ):
        assert option in line
        assert f" {share:.3f} " in line
        assert f" {value:.2f} " in line


def test_a_signal_within_a_reply_leaves_a_whole_transcript_that_goes_on(
    talkers: tuple[Path, Path], tmp_path: Path
) -> None:
    model, file = str(talkers[0]), tmp_path / "talks.jsonl"
    endless = ["--max-new-tokens", "8000", "--no-repetition-guard", "--save", str(file)]
    with start("--model", model, *endless) as chat:
        before = read_modes(chat)
        chat.expect("one · chat >")
        chat.say("What is cress?")
        chat.wait(lambda screen: len(screen.lines) > 12, "a part of the reply")
        chat.kill(signal.SIGTERM)
        assert chat.expect_end() == 75
        assert read_modes(chat) == before
        assert "Stopped by SIGTERM" in chat.text
        assert "Traceback" not in chat.text
    (told,) = load_transcript(file)
    assert told["exchanges"][0]["reply"]["finish"] == "interrupted"
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"]
    assert told["messages"][1]["content"]
    with start("--model", model, "--max-new-tokens", "4", "--load", str(file), "--save", str(file)) as chat:
        chat.expect("one · chat >")
        chat.say("And moss?")
        chat.wait(lambda screen: count_seconds_lines(screen) == 1, "the reply")
        chat.press("ctrl-d")
        assert chat.expect_end() == 0
    (longer,) = load_transcript(file)
    assert longer["id"] == told["id"]
    assert longer["messages"][:2] == told["messages"]
    assert [each["question"] for each in longer["exchanges"]] == ["What is cress?", "And moss?"]


def test_a_broken_model_is_told_before_the_terminal_is_touched(tmp_path: Path) -> None:
    with start("--model", str(tmp_path)) as chat:
        before = read_modes(chat)
        assert chat.expect_end() == 4
        assert read_modes(chat) == before
        assert f"Error: model: the folder {tmp_path} has no config.json." in chat.text
        assert NOTICE not in chat.text
