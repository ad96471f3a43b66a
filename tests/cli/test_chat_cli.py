"""The command line of `chat`: where a question comes from, what is refused with which exit code, and what is loaded."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import build_tiny_model

from biomedllama_cli.cli.app import run

OLD_ANSWERS = '{"id": "1", "answer": "of another run"}\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli") / "model"
    build_tiny_model(folder, adds_bos=False)
    return str(folder)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in an empty folder, with nothing on stdin."""
    for name in [name for name in os.environ if name.startswith("BIOMEDLLAMA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    give(monkeypatch, b"")


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> io.BytesIO:
    """Put bytes on stdin."""
    raw = io.BytesIO(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))
    return raw


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run `chat` and return its exit code and the message of the error."""
    code = run(["chat", *arguments, "--json"])
    out = capsys.readouterr().out
    error = json.loads(out)["error"]
    assert error["exit_code"] == code
    assert not error["message"].startswith("Unexpected"), error
    return code, error["message"]


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = run(["chat", *arguments, "--dry-run", "--json"])
    out = capsys.readouterr().out
    assert code == 0, out
    return dict(json.loads(out))


def test_the_question_comes_from_stdin(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, "What does ångström mean?\n".encode())
    assert plan(capsys, "--model", model)["asks"] == "one question: What does ångström mean?"


def test_a_prompt_leaves_stdin_alone(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = give(monkeypatch, b"of somebody else")
    assert plan(capsys, "--model", model, "--prompt", "Mine?")["asks"] == "one question: Mine?"
    assert raw.read() == b"of somebody else"


def test_a_file_of_questions_leaves_stdin_alone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Which organ?"}\n')
    raw = give(monkeypatch, b"of somebody else")
    told = plan(capsys, "--model", model, "--file", "q.jsonl", "--output", "a.jsonl")
    assert told["asks"] == "1 question of q.jsonl, answers to a.jsonl"
    assert raw.read() == b"of somebody else"
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 2, "nothing is asked"),
        (b" \n\t\n", 2, "nothing is asked"),
        ("\ufeff\n".encode(), 2, "nothing is asked"),
        (b"caf\xe9", 3, "not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe\xfd", 3, "not UTF-8"),
        (b"a" * ((1 << 20) + 1), 3, "longer than 1,048,576 characters"),
        ("\u6c34".encode() * ((1 << 20) + 1), 3, "longer than 1,048,576 characters"),
        ("\U0001f9a0".encode() * ((1 << 20) + 9), 3, "longer than 1,048,576 characters"),
    ],
    ids=["empty", "blank", "mark", "latin", "binary", "long", "long-wide", "long-widest"],
)
def test_stdin_without_a_question_is_refused(
    content: bytes,
    code: int,
    said: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(monkeypatch, content)
    assert refuse(capsys, "--model", model)[0] == code
    give(monkeypatch, content)
    assert said in refuse(capsys, "--model", model)[1]


def test_a_terminal_and_a_document_do_not_go_together(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"")))
    code, message = refuse(capsys, "--model", model)
    assert (code, message.startswith("json is for answers")) == (2, True)


def test_a_terminal_is_what_a_dry_run_asks(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"")))
    assert run(["chat", "--model", model, "--dry-run"]) == 0
    assert "asks    whoever sits at the terminal\n" in capsys.readouterr().out


def test_a_dry_run_tells_both_models_and_shows_no_escape(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, b"one\x1b[2J\ntwo")
    assert run(["chat", "--model", model, "--compare", model, "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        f"model   {model}\nbeside  {model}\nasks    one question: one\u241b[2J two\n"
        "Dry run: nothing was loaded or written.\n"
    )


REFUSALS: list[tuple[int, str, list[str]]] = [
    (2, "prompt and file are", ["--prompt", "a", "--file", "q.jsonl", "--output", "a.jsonl"]),
    (2, "file and output belong together", ["--file", "q.jsonl"]),
    (2, "file and output belong together", ["--output", "a.jsonl"]),
    (2, "prompt is blank", ["--prompt", "  "]),
    (2, "save and load are for", ["--file", "q.jsonl", "--output", "a.jsonl", "--save", "t.jsonl"]),
    (2, "--output is '.', but must name a file", ["--file", "q.jsonl", "--output", "."]),
    (2, "--save is '~nosuchuser/a', but must name a home", ["--prompt", "a", "--save", "~nosuchuser/a"]),
    (2, "--file is '~nosuchuser/a', but", ["--file", "~nosuchuser/a", "--output", "a.jsonl"]),
    (2, "--corpus is '~nosuchuser/a', but", ["--prompt", "a", "--corpus", "~nosuchuser/a"]),
    (2, "--model is '~nosuchuser/a', but", ["--prompt", "a", "--model", "~nosuchuser/a"]),
    (2, "save and history_file are the same file", ["--save", "t.jsonl", "--history-file", "./t.jsonl"]),
    (2, "load and history_file are the same file", ["--load", "t.jsonl", "--history-file", "t.jsonl"]),
    (2, "rebuild_index is given without corpus", ["--prompt", "a", "--rebuild-index"]),
    (2, "must be UTF-8 text", ["--prompt", "caf\udce9"]),
    (2, "must be UTF-8 text", ["--prompt", "a", "--system", "caf\udce9"]),
    (2, "must be UTF-8 text", ["--prompt", "a", "--stop", "caf\udce9"]),
    (2, "temperature", ["--prompt", "a", "--temperature", "-1"]),
    (2, "has no chat template", ["--prompt", "a", "--template", "chat"]),
    (2, "tokens long", ["--prompt", "a " * 600]),
    (3, "missing.jsonl", ["--file", "missing.jsonl", "--output", "a.jsonl"]),
    (3, "no such file", ["--prompt", "a", "--load", "missing.jsonl"]),
    (3, "There is no corpus", ["--prompt", "a", "--corpus", "missing"]),
    (3, "is not a corpus", ["--prompt", "a", "--corpus", "."]),
    (4, "does not exist", ["--prompt", "a", "--compare", "./missing"]),
    (4, "random weights", ["--prompt", "a", "--model", "scratch:tiny"]),
    (4, "does not exist", ["--prompt", "a", "--model", "missing.gguf"]),
    (4, "broken.gguf", ["--prompt", "a", "--model", "broken.gguf"]),
    (4, "config.json", ["--prompt", "a", "--model", "."]),
    (3, "question's file cannot be read", ["--mc", "~nosuchuser/x.jsonl"]),
    (3, "File name too long", ["--mc", "x" * 300 + ".jsonl:2"]),
    (4, "names no model: File name too long", ["--prompt", "a", "--model", "a" * 300]),
    (4, "names no model: File name too long", ["--prompt", "a", "--compare", "a" * 300]),
    (5, "no-such-owner/model", ["--prompt", "a", "--model", "no-such-owner/model"]),
    (6, "notes.txt", ["--prompt", "a", "--save", "notes.txt"]),
    (6, "old.jsonl", ["--file", "q.jsonl", "--output", "old.jsonl"]),
]


@pytest.mark.parametrize(("code", "said", "arguments"), REFUSALS, ids=lambda value: ascii(value)[:60])
def test_a_refusal_has_the_exit_code_of_its_kind(
    code: int,
    said: str,
    arguments: list[str],
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Which organ?"}\n')
    (tmp_path / "old.jsonl").write_text(OLD_ANSWERS)
    (tmp_path / "notes.txt").write_text("These are notes.\n")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    before = sorted(tmp_path.rglob("*"))
    given = arguments if "--model" in arguments else ["--model", model, *arguments]
    found, message = refuse(capsys, "--device", "cpu", *given)
    assert (found, said in message) == (code, True), message
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "notes.txt").read_text() == "These are notes.\n"
    assert (tmp_path / "old.jsonl").read_text() == OLD_ANSWERS


def test_a_home_folder_in_the_environment_is_found(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Which organ?"}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BIOMEDLLAMA_QUESTIONS__FILE", "~/q.jsonl")
    monkeypatch.setenv("BIOMEDLLAMA_QUESTIONS__OUTPUT", "~/a.jsonl")
    home = tmp_path.resolve()
    told = plan(capsys, "--model", model)
    assert told["asks"] == f"1 question of {home}/q.jsonl, answers to {home}/a.jsonl"


def test_a_conversation_is_saved_in_the_home_folder_that_the_environment_names(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BIOMEDLLAMA_TRANSCRIPT__SAVE", "~/talks.jsonl")
    line = ["chat", "--model", model, "--device", "cpu", "--prompt", "a", "--max-new-tokens", "4"]
    assert run([*line, "--json"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (tmp_path / "home" / "talks.jsonl").exists()


def test_an_empty_workspace_has_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refuse(capsys, "--prompt", "a")
    assert (code, "holds no checkpoint" in message) == (4, True)


def test_a_device_that_is_missing_is_not_to_be_had(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has what is asked for")
    code, message = refuse(capsys, "--prompt", "a", "--model", model, "--device", "cuda")
    assert (code, "CUDA" in message) == (5, True), message


def test_closed_streams_are_no_crash(model: str, repository: Path) -> None:
    """The shell's `<&-`: Python has no stdin then, or one that another file took the place of."""
    line = [sys.executable, "-m", "biomedllama_cli", "chat", "--model", model]
    script = '"$@" <&-'
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        ["sh", "-c", script, "sh", *line], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr.startswith("Error: nothing is asked: stdin")) == (2, True), (
        done.stderr
    )


def test_a_dry_run_loads_no_torch_and_writes_nothing(model: str, tmp_path: Path, repository: Path) -> None:
    code = (
        "import sys; from biomedllama_cli.cli.app import run\n"
        f"assert run(['chat', '--model', {model!r}, '--prompt', 'Which organ?', '--dry-run']) == 0\n"
        "print([name for name in ('torch', 'transformers', 'bm25s', 'prompt_toolkit') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("biomedllama ch", ["chat"]),
        ("biomedllama chat --template c", ["chat", "completion"]),
        ("biomedllama chat --quantize ", ["none", "int8", "nf4"]),
        ("biomedllama chat --no-rep", ["--no-repetition-guard"]),
    ],
)
def test_bash_completes_chat(process: Any, words: str, expected: list[str]) -> None:
    asked = {"_BIOMEDLLAMA_COMPLETE": "complete_bash", "COMP_WORDS": words}
    done = process(environment={**asked, "COMP_CWORD": str(len(words.split(" ")) - 1)})
    assert (done.stdout.split(), done.stderr) == (expected, "")
