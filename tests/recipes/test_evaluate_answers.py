"""What `evaluate` answers on the command line: lists, comparisons, tables, exit codes, one JSON document."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_runs import run, write_medqa

from biomedllama_cli.cli.app import run as run_command
from biomedllama_cli.errors import ExitCode
from biomedllama_cli.evaluation.published import list_rows
from biomedllama_cli.tasks.catalogue import TASKS


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """Leave out what this shell sets, and work in an empty folder."""
    for name in [name for name in os.environ if name.startswith("BIOMEDLLAMA_")] + ["RANK"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(capsys):
    """Return a function that runs `biomedllama evaluate ARGUMENTS`: its exit code, stdout and stderr."""

    def start(*arguments):
        code = run_command(["evaluate", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, tiny_models):
    """Results folders of two models."""
    folder = tmp_path_factory.mktemp("earlier")
    run(folder, [tiny_models.plain, tiny_models.other], task=["sample-questions"])
    return folder / "out"


def test_a_run_is_one_json_document(command, tmp_path, model):
    arguments = ["--model", model, "--task", "sample-questions", "--limit", 2, "--output-dir", "out"]
    code, out, _ = command(*arguments, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["schema_version"] == "biomedllama.evaluate/2"
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert document["evaluations"] == [{"output_dir": "out", "results": written}]


def test_a_result_below_its_threshold_ends_with_code_8_after_the_report(command, tmp_path, model):
    arguments = ["--model", model, "--task", "sample-questions", "--limit", 4, "--fail-under"]
    code, out, err = command(*arguments, "sample-questions=1", "--output-dir", "out")
    assert code == ExitCode.BELOW_THRESHOLD == 8
    assert "paper/1" in out
    assert "Error: " in err
    assert (tmp_path / "out" / "results.json").is_file()
    code, out, _ = command(*arguments, "sample-questions=1", "--output-dir", "again", "--json")
    assert code == 8
    assert len(json.loads(out)["failed_thresholds"]) == 1


def test_all_tasks_and_profiles_are_listed(command):
    code, out, _ = command("--task", "list", "--json")
    document = json.loads(out)
    names = [task["name"] for task in document["tasks"]]
    assert code == 0
    assert names[: len(TASKS)] == list(TASKS)
    assert {"multimedqa", "mmlu-pro-health", "careqa", "headqa", "lm-eval:NAME"} <= set(names)
    assert list(document["profiles"]) == [
        f"{name}/1" for name in ("paper", "clean", "harness", "instructed", "finetuned", "cot")
    ]
    assert "bioasq-yesno" in command("--task", "list")[1]


def test_all_published_rows_are_listed(command):
    code, out, _ = command("--reproduce", "list")
    assert code == 0
    assert all(row.name in out.splitlines() for row in list_rows().rows)
    assert len(json.loads(command("--reproduce", "list", "--json")[1])["rows"]) == len(list_rows().rows)


def test_earlier_results_are_compared(command, tmp_path, earlier):
    folders = ["--compare", earlier / "plain", "--compare", earlier / "other"]
    code, out, _ = command(*folders, "--plot", "both.svg")
    assert code == 0
    assert "McNemar" in out
    assert (tmp_path / "both.svg").is_file()
    assert out.splitlines()[-1] == "Plot: both.svg"
    assert json.loads(command(*folders, "--json")[1])["schema_version"] == "biomedllama.comparison/1"


def test_compared_results_are_written_in_the_form_that_was_asked_for(command, earlier):
    folders = ["--compare", earlier / "plain", "--compare", earlier / "other"]
    (cell,) = json.loads(command(*folders, "--json")[1])["questions"]
    code, out, _ = command(*folders, "--format", "csv")
    (record,) = csv.DictReader(io.StringIO(out), strict=True)
    assert code == 0
    assert (record["first"], record["task"], record["score"]) == ("plain", "sample-questions", "acc")
    assert int(record["n"]) == cell["paired"]["n"]
    assert float(record["difference"]) == cell["paired"]["difference"]["value"]
    assert float(record["p holm"]) == cell["p_holm"]
    markdown = command(*folders, "--format", "markdown")[1].splitlines()
    assert (markdown[0], markdown[-1]) == ("```text", "```")
    assert all(line.startswith("%") for line in command(*folders, "--format", "latex")[1].splitlines())


@pytest.mark.parametrize(
    ("form", "mark"), [("terminal", "plain"), ("markdown", "|"), ("latex", "\\begin{tabular}"), ("csv", ",")]
)
def test_earlier_results_are_tabulated(command, earlier, form, mark):
    code, out, _ = command("--leaderboard", earlier, "--format", form)
    assert code == 0
    assert mark in out
    assert "other" in out


def test_a_leaderboard_is_drawn(command, tmp_path, earlier):
    assert command("--leaderboard", earlier, "--plot", "board.png")[0] == 0
    assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--task", "medqaa"], 2, "Did you mean medqa?"),
        (["--profile", "papper"], 2, "Did you mean paper?"),
        (["--task", "list", "--reproduce", "list"], 2, "at once"),
        (["--task", "list", "--task", "medqa"], 2, "--task list alone"),
        (["--compare", "absent", "--compare", "gone"], 3, "absent"),
        (["--compare", "absent"], 2, "two or more"),
        (["--leaderboard", "absent"], 3, "absent"),
        (
            ["--leaderboard", "absent", "--fail-under", "medqa=0.3"],
            2,
            "fail_under is given with --leaderboard",
        ),
        (["--compare", "a", "--compare", "b", "--fail-under", "medqa=0.3"], 2, "given with --compare"),
        (["--reproduce", "BioMed-LLaMA-7B 0 shots"], 2, "BioMed-LLaMA-7B 0-shot"),
        (["--plot", "out.pdf", "--model", "m"], 2, ".png or .svg"),
    ],
)
def test_what_cannot_be_answered_is_told_in_two_lines(command, tmp_path, arguments, code, said):
    ended, out, err = command(*arguments)
    assert ended == code
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith(("Error: ", "Hint: "))]
    assert said in "\n".join(lines)
    assert list(tmp_path.iterdir()) == []


def test_lists_need_no_heavy_library(tmp_path):
    file = write_medqa(tmp_path / "test.jsonl", 3)
    calls = [
        ["--task", "list"],
        ["--reproduce", "list"],
        ["--dry-run", "--model", "m", "--task", "medqa", "--data", f"medqa={file}"],
    ]
    code = (
        "import json, sys\n"
        "from biomedllama_cli.cli.app import run\n"
        "codes = [run(['evaluate', *arguments]) for arguments in json.loads(sys.argv[1])]\n"
        "assert codes == [0, 0, 0], codes\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval', 'matplotlib', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    source = str(Path(sys.modules["biomedllama_cli"].__file__).resolve().parent.parent)
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": source},
    )
