"""What a user can get wrong in `finetune` and `instruct`: said with its exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from gguf_writing import write_gguf
from tuning_runs import list_files, make_question, write_lines, write_questions

import biomedllama_cli
from biomedllama_cli.cli.app import run
from biomedllama_cli.errors import ModelError
from biomedllama_cli.recipes.tuning_plan import find_base

CPU = [
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--max-steps",
    "1",
    "--no-evaluate",
    "--decontaminate",
    "off",
]
MEDMCQA = {"question": "Which?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 1, "id": "x"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refuse(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> Callable[[list[str]], tuple[int, str, str]]:
    """Return a function that runs a command line, and gives its exit code, sentence and hint."""

    def call(arguments: list[str]) -> tuple[int, str, str]:
        write_questions(tmp_path / "task.jsonl", 8)
        broken = [make_question(0), {**make_question(1), "answer_index": 7}, {"question": "Why?"}]
        write_lines(tmp_path / "broken.jsonl", broken)
        write_lines(tmp_path / "medmcqa.jsonl", [MEDMCQA] * 3)
        (tmp_path / "model.gguf").write_bytes(b"GGUF")
        before = list_files(tmp_path)
        chosen = [] if "--model" in arguments else ["--model", str(model)]
        code = run([arguments[0], *CPU_OF[arguments[0]], *chosen, *arguments[1:]])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert list_files(tmp_path) == before
        assert "Traceback" not in captured.err
        assert captured.err.count("Error: ") == 1
        message, _, hint = captured.err.partition("Error: ")[2].partition("Hint: ")
        return code, message, hint

    return call


CPU_OF = {"finetune": CPU, "instruct": [each for each in CPU if each != "--no-evaluate"]}

FINETUNE: dict[str, tuple[list[str], int, str]] = {
    "unknown task": (["--task", "medqaa"], 2, "medqaa: there is no such task and no such file"),
    "missing file": (["--task", "missing.jsonl"], 3, "missing.jsonl"),
    "missing test file": (["--task", "task.jsonl", "--test", "gone.jsonl"], 3, "gone.jsonl"),
    "own questions": (["--task", "broken.jsonl"], 3, "broken.jsonl line 2"),
    "another task's data": (
        ["--task", "pubmedqa", "--data", "medqa=task.jsonl"],
        2,
        "data is 'medqa=task.jsonl'",
    ),
    "another task's file": (["--task", "medqa", "--data", "medqa.train=medmcqa.jsonl"], 3, "medmcqa"),
    "data of a file": (
        ["--task", "task.jsonl", "--data", "task.jsonl=x.jsonl"],
        2,
        "which is a file of your own",
    ),
    "test of a known task": (["--task", "medqa", "--test", "task.jsonl"], 2, "has a test set of its own"),
    "no chat template": (["--task", "task.jsonl", "--template", "chat"], 2, "has no chat template"),
    "rows too short": (["--task", "task.jsonl", "--sequence-length", "8"], 3, "8"),
    "patience": (
        ["--task", "task.jsonl", "--patience", "2", "--validation-fraction", "0"],
        2,
        "duration.patience = 2 needs held-out examples",
    ),
    "scratch model": (["--task", "task.jsonl", "--model", "scratch:tiny"], 4, "nothing to tune"),
    "missing model": (["--task", "task.jsonl", "--model", "./nowhere"], 4, "nowhere"),
    "GGUF file": (["--task", "task.jsonl", "--model", "model.gguf"], 4, "it is not trained further"),
    "missing GGUF file": (
        ["--task", "task.jsonl", "--model", "gone.gguf"],
        4,
        "the file gone.gguf does not exist",
    ),
    "quantised on a CPU": (["--task", "task.jsonl", "--method", "qlora"], 5, "qlora"),
    "no such module": (
        ["--task", "task.jsonl", "--method", "lora", "--target-modules", "w_pack"],
        2,
        "w_pack",
    ),
    "rank": (["--task", "task.jsonl", "--method", "lora", "--rank", "0"], 2, "--rank is '0'"),
    "merging no adapter": (
        ["--task", "task.jsonl", "--merge"],
        2,
        "--merge needs --method lora, dora or qlora: the method is full",
    ),
    "shape of no adapter": (
        ["--task", "task.jsonl", "--preset", "published", "--rank", "4", "--target-modules", "q_proj"],
        2,
        "--rank and --target-modules need --method lora",
    ),
    "rows longer than the positions": (
        ["--task", "task.jsonl", "--sequence-length", "1024"],
        2,
        "batch.sequence_length = 1024 must be at most 512, the positions of ",
    ),
    "seeds": (["--task", "task.jsonl", "--seeds", "0;1"], 2, "seeds is '0;1'"),
    "folder in use": (["--task", "task.jsonl", "--output-dir", "."], 6, "is not empty and is no run folder"),
}


@pytest.mark.parametrize("name", FINETUNE)
def test_finetune_refuses_in_one_sentence(refuse: Callable[..., Any], name: str) -> None:
    arguments, code, sentence = FINETUNE[name]
    found, message, _ = refuse(["finetune", *arguments])
    assert found == code, message
    assert sentence in message


def test_a_gguf_file_that_can_be_loaded_is_not_tuned_either(tmp_path: Path, model: Path) -> None:
    file = write_gguf(model, tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="it is not trained further"):
        find_base(str(file), tmp_path, "finetune")


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["finetune", "--task", "gone.jsonl"], 3, "--task FILE the path of an existing file"),
        (["finetune", "--task", "medqaa"], 2, "medqa"),
        (["finetune", "--task", "medqa", "--data", "medqa.train=gone.jsonl"], 3, "--data medqa.train=FILE"),
        (["finetune", "--model", "adapter"], 4, "base_model_name_or_path"),
        (["finetune", "--model", "runs"], 4, "Give one of them: runs/seed-2, runs/seed-10."),
        (["instruct", "--model", "./gone"], 4, "a model folder"),
    ],
)
def test_what_is_not_there_is_told_before_the_seconds_of_the_imports(
    tmp_path: Path, arguments: list[str], code: int, hint: str
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "./moved"}))
    for seed in (2, 10):
        (tmp_path / "runs" / f"seed-{seed}" / "checkpoints").mkdir(parents=True)
    program = (
        "import sys; from biomedllama_cli.cli.app import run; code = run(sys.argv[1:]); "
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--device", "cpu"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(biomedllama_cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(code), "False"], done.stderr
    assert hint in " ".join(done.stderr.partition("Hint: ")[2].split())


MIXTURES: dict[str, tuple[str, int, list[str]]] = {
    "missing sources": (
        "sources:\n- {source: notes, format: messages, path: gone.jsonl}\n"
        "- {source: exams, format: questions, path: task.jsonl}\n"
        "- {source: more, format: alpaca, path: away.json, how_to_get: ask the library}\n",
        5,
        ["notes", "gone.jsonl", "more", "away.json", "ask the library"],
    ),
    "unknown format": ("sources:\n- {source: notes, format: messagez, path: x}\n", 2, ["format", "messagez"]),
    "broken source": (
        "sources:\n- {source: exams, format: questions, path: broken.jsonl}\n",
        3,
        ["broken.jsonl line 2"],
    ),
    "another format": (
        "sources:\n- {source: exams, format: messages, path: task.jsonl}\n",
        3,
        ["task.jsonl line 1", "messages"],
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_instruct_refuses_a_mixture_in_one_sentence(
    refuse: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    text, code, said = MIXTURES[name]
    (tmp_path / "mine.yaml").write_text(text)
    found, message, _ = refuse(["instruct", "--mixture", "mine.yaml"])
    assert found == code, message
    assert [word for word in said if word not in message] == []


INSTRUCT: dict[str, tuple[list[str], int, str]] = {
    "unknown mixture": (["--mixture", "papr"], 2, "papr"),
    "missing file": (["--mixture", "mine.yaml"], 2, "no such file"),
    "GGUF file": (["--mixture", "good.yaml", "--model", "model.gguf"], 4, "it is not trained further"),
    "malformed source": (["--source", "medqa"], 2, "must be NAME=FILE"),
    "unknown source": (["--source", "medqua=task.jsonl"], 2, "medqua"),
    "source twice": (["--source", "medqa=a", "--source", "medqa=b"], 2, "names medqa twice"),
    "patience": (
        ["--mixture", "good.yaml", "--patience", "2", "--validation-fraction", "0"],
        2,
        "needs held-out examples",
    ),
    "chat template": (["--mixture", "good.yaml", "--template", "chat"], 2, "has no chat template"),
    "rows longer than the positions": (
        ["--mixture", "good.yaml", "--preset", "published"],
        2,
        "batch.sequence_length = 2048 must be at most 512, the positions of ",
    ),
    "rank of no adapter": (
        ["--mixture", "good.yaml", "--dry-run", "--rank", "4"],
        2,
        "--rank needs --method",
    ),
    "scratch model": (["--mixture", "good.yaml", "--model", "scratch:tiny"], 4, "nothing to tune"),
}


@pytest.mark.parametrize("name", INSTRUCT)
def test_instruct_refuses_in_one_sentence(refuse: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / "good.yaml").write_text("sources:\n- {source: own, format: questions, path: task.jsonl}\n")
    arguments, code, sentence = INSTRUCT[name]
    found, message, _ = refuse(["instruct", *arguments])
    assert found == code, message
    assert sentence in message


@pytest.mark.parametrize("command", ["finetune", "instruct"])
def test_a_refusal_with_json_is_one_document(
    capsys: pytest.CaptureFixture[str], model: Path, command: str
) -> None:
    wrong = {"finetune": ["--task", "medqaa"], "instruct": ["--mixture", "papr"]}[command]
    assert run([command, "--model", str(model), "--json", *wrong]) == 2
    content = json.loads(capsys.readouterr().out)["error"]
    assert (content["kind"], content["exit_code"]) == ("SettingsError", 2)
