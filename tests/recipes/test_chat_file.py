"""`chat --file`: answers that appear whole, go on after a kill, and are not given twice."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_file_runs import build_settings, list_files, load, read, run
from tiny_llama import TinyModel, build_tiny_model

from biomedllama_cli.chat.conversation import Passage
from biomedllama_cli.errors import DataError, ModelError, OutputError, Resumable
from biomedllama_cli.evaluation.journal import Journal
from biomedllama_cli.instructions.sources.catalogue import read_source
from biomedllama_cli.recipes.chat_file import answer_file, find_answers
from biomedllama_cli.recipes.chat_file_run import FileRun


def test_answers_stand_in_the_order_of_the_questions_with_what_the_model_was_given(
    tmp_path: Path, chatty: TinyModel, questions: Path
) -> None:
    output = tmp_path / "out" / "answers.jsonl"
    report = run(build_settings(chatty, questions, output))
    lines = read(output)
    assert [line["id"] for line in lines] == [f"q{number}" for number in range(14)]
    for line, record in zip(lines, read(questions), strict=True):
        assert line["question"] == record["question"].strip()
        assert line["messages"] == [
            {"role": "user", "content": line["question"]},
            {"role": "assistant", "content": line["answer"]}
            | ({} if line["finish"] == "end" else {"weight": 0}),
        ]
        assert line["new_tokens"] <= 12
    assert len({line["noise_seed"] for line in lines}) == 14
    assert "sources" not in lines[0]
    assert list_files(output.parent) == ["answers.jsonl", "answers.jsonl.run.json"]
    for path in output.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (report.questions, report.found, report.output) == (14, 0, str(output))
    assert report.new_tokens == sum(line["new_tokens"] for line in lines)
    assert sum(report.counts[0].finish.values()) == 14
    assert json.loads(json.dumps(report.model_dump(mode="json")))["seed"] == 0
    text = "\n".join(report.lines())
    assert "14 answers" in text
    assert "tokens/s" in text


def test_the_size_of_a_batch_changes_no_answer(tmp_path: Path, chatty: TinyModel, questions: Path) -> None:
    for size in (1, 3, 16):
        output = tmp_path / f"{size}.jsonl"
        run(build_settings(chatty, questions, output, questions={"batch_size": size}))
    assert (
        (tmp_path / "1.jsonl").read_bytes()
        == (tmp_path / "3.jsonl").read_bytes()
        == (tmp_path / "16.jsonl").read_bytes()
    )


def test_answers_feed_instruct(tmp_path: Path, chatty: TinyModel, questions: Path) -> None:
    output = tmp_path / "answers.jsonl"
    run(build_settings(chatty, questions, output, style={"system": "Be brief."}))
    examples = read_source("messages", output, "answers")
    assert [example.id for example in examples] == [f"q{number}" for number in range(14)]
    assert [turn.role for turn in examples[0].turns] == ["system", "user", "assistant"]
    assert examples[3].turns[-1].text == read(output)[3]["answer"].strip()
    learnt = [example.turns[-1].learnt for example in examples]
    assert learnt == [line["finish"] in ("end", "stop") for line in read(output)]


def test_the_other_model_answers_beside(tmp_path: Path, chatty: TinyModel, questions: Path) -> None:
    other = build_tiny_model(tmp_path / "other", adds_bos=False, seed=9)
    alone, both = tmp_path / "alone.jsonl", tmp_path / "both.jsonl"
    run(build_settings(chatty, questions, alone))
    report = run(build_settings(chatty, questions, both, compare=str(other.folder)))
    pairs = list(zip(read(alone), read(both), strict=True))
    for one, two in pairs:
        beside = two.pop("other")
        assert one == two
        assert set(beside) == {"answer", "finish", "prompt_tokens", "new_tokens", "dropped_turns"}
        assert beside["answer"] != one["answer"]
    assert len(report.models) == len(report.counts) == 2


class Shelf:
    """A library of one document."""

    corpus, identity = Path("corpus"), "0" * 64

    def search(self, question: str, count: int) -> tuple[Passage, ...]:
        passage = Passage(
            "Iron rusts.", "pmid:7.1", pmid=7, title="On rust", flags=("retracted",), score=1.23456
        )
        return (passage,) * count


def test_sources_of_an_answer_are_told(tmp_path: Path, chatty: TinyModel, questions: Path) -> None:
    output = tmp_path / "answers.jsonl"
    settings = build_settings(chatty, questions, output, sources={"corpus": tmp_path, "passages": 1})
    report = run(settings, Shelf())
    line = read(output)[0]
    assert [(each["number"], each["pmid"], each["flags"], each["score"]) for each in line["sources"]] == [
        (1, 7, ["retracted"], 1.2346)
    ]
    assert "Iron rusts." in line["messages"][0]["content"]
    assert line["question"] not in ("", line["messages"][0]["content"])
    assert report.corpus == "corpus"


def test_files_that_must_not_be_written_are_refused_before_anything_is_answered(
    tmp_path: Path, chatty: TinyModel, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for output, told in ((questions, "the file of the questions itself"), (tmp_path, "no ordinary file")):
        settings = build_settings(chatty, questions, output, overwrite=True)
        with pytest.raises(OutputError, match=told):
            find_answers(settings, [settings.model], None)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    settings = build_settings(chatty, questions, tmp_path / "link")
    with pytest.raises(OutputError, match="symbolic link"):
        find_answers(settings, [settings.model], None)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    settings = build_settings(chatty, questions, tmp_path / "below" / "answers.jsonl")
    with pytest.raises(OutputError, match="Files cannot be made in"):
        find_answers(settings, [settings.model], None)
    assert not (tmp_path / "below").exists()


def test_questions_that_do_not_fit_are_refused_before_any_is_answered(
    tmp_path: Path, chatty: TinyModel, questions: Path
) -> None:
    settings = build_settings(chatty, questions, tmp_path / "answers.jsonl", compute={"context_length": 48})
    with pytest.raises(DataError, match=r"questions cannot be asked:\n  id 'q"):
        run(settings)
    assert list_files(tmp_path) == [questions.name]


def test_the_same_command_twice_at_once_is_refused(
    tmp_path: Path, chatty: TinyModel, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = build_settings(chatty, questions, tmp_path / "answers.jsonl")
    voices = load(settings)
    arguments = (settings, [voice.speaker for voice in voices], [voice.facts for voice in voices])
    answer = FileRun.answer

    def start_again(self: FileRun) -> None:
        monkeypatch.setattr(FileRun, "answer", answer)
        with pytest.raises(OutputError, match="the same command is running already"):
            answer_file(*arguments)
        answer(self)

    monkeypatch.setattr(FileRun, "answer", start_again)
    assert answer_file(*arguments).questions == 14


def test_a_model_without_numbers_is_told(tmp_path: Path, chatty: TinyModel, questions: Path) -> None:
    settings = build_settings(chatty, questions, tmp_path / "answers.jsonl")
    voices = load(settings)
    with torch.no_grad():
        voices[0].speaker.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="no numbers") as error:
        answer_file(settings, [voices[0].speaker], [voices[0].facts])
    assert "fp32" in error.value.hint


def test_a_signal_keeps_what_is_answered_and_the_same_command_continues(
    tmp_path: Path, chatty: TinyModel, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "stopped" / "answers.jsonl"
    run(build_settings(chatty, questions, whole))
    settings = build_settings(chatty, questions, output)
    voices = load(settings)
    arguments = (settings, [voice.speaker for voice in voices], [voice.facts for voice in voices])
    steps = iter(range(1000))
    forward = type(chatty.model).forward

    def interrupt(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(steps) == 70:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(chatty.model), "forward", interrupt)
    with pytest.raises(Resumable, match=r"Stopped by SIGTERM with [1-9]"):
        answer_file(*arguments)
    (work,) = output.parent.iterdir()
    assert stat.S_IMODE(work.stat().st_mode) == 0o700
    report = answer_file(*arguments)
    assert 0 < report.found < 14
    assert output.read_bytes() == whole.read_bytes()
    assert list_files(output.parent) == ["answers.jsonl", "answers.jsonl.run.json"]


def test_what_one_of_two_models_has_answered_is_no_answered_question(
    tmp_path: Path, chatty: TinyModel, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = build_settings(chatty, questions, tmp_path / "answers.jsonl", compare=str(chatty.folder))
    append, left = Journal.append, iter(range(10, 0, -1))

    def stop(self: Journal, *arguments: Any) -> None:
        append(self, *arguments)
        if next(left) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stop)
        with pytest.raises(Resumable):
            run(settings)
    assert run(settings).found == 0  # of fourteen, the first model had answered ten and the second none


KILLED = """
import os, runpy, signal
from biomedllama_cli.evaluation.journal import Journal
append, left = Journal.append, iter(range(5, 0, -1))
def die(self, *arguments):
    append(self, *arguments)
    if next(left) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.append = die
runpy.run_module("biomedllama_cli", run_name="__main__")
"""


def test_a_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, chatty: TinyModel, questions: Path, repository: Path
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "killed" / "answers.jsonl"
    run(build_settings(chatty, questions, whole))
    line = ["chat", "--model", str(chatty.folder), "--device", "cpu", "--batch-size", "2"]
    line += [
        "--file",
        str(questions),
        "--output",
        str(output),
        "--max-new-tokens",
        "12",
        "--temperature",
        "0.8",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository / "src")}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *line], env=environment, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name[:6] for path in output.parent.iterdir()] == [".chat-"]
    report = run(build_settings(chatty, questions, output))
    assert report.found == 5
    assert output.read_bytes() == whole.read_bytes()
    assert list_files(output.parent) == ["answers.jsonl", "answers.jsonl.run.json"]
