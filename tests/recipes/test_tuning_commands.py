"""`finetune` and `instruct` on the command line, and their models in `evaluate`: asked as they were taught."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tuning_runs import (
    finetune_settings,
    make_question,
    run_finetune,
    run_instruct,
    write_lines,
    write_questions,
)

from biomedllama_cli.cli.app import run
from biomedllama_cli.engine.run_folder import list_changes
from biomedllama_cli.errors import Resumable, SettingsError
from biomedllama_cli.instructions.example import make_pair
from biomedllama_cli.recipes.finetune import load_lessons
from biomedllama_cli.recipes.tuning import average_ends, share_report
from biomedllama_cli.recipes.tuning_inputs import encode_lessons
from biomedllama_cli.recipes.tuning_plan import describe_job, load_pupil
from biomedllama_cli.recipes.tuning_report import SeedRun


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that scores a model by the command line, and gives the generation's facts."""

    def score(model: Path, profile: str, *options: str) -> Any:
        test = write_questions(tmp_path / "test.jsonl", 3, seed=9)
        arguments = ["evaluate", "--model", str(model), "--profile", profile, "--json", "--device", "cpu"]
        arguments += ["--task", "questions", "--data", f"questions={test}", "--max-new-tokens", "8"]
        code = run([*arguments, "--output-dir", str(tmp_path / "out"), "--overwrite", *options])
        output = capsys.readouterr().out
        assert code == 0, output
        (cell,) = json.loads((tmp_path / "out" / "results.json").read_text())["questions"]
        return cell["facts"]["generation"]

    return score


def test_what_was_tuned_in_a_template_is_asked_in_it(
    tmp_path: Path, chat_model: Path, mixture: Path, evaluate: Callable[..., Any]
) -> None:
    report = run_instruct(tmp_path, chat_model, mixture, duration={"max_steps": 1})
    checkpoint = report.runs[0].checkpoint
    assert json.loads((checkpoint / "tuning.json").read_text())["template"] == "chat"
    assert evaluate(checkpoint, "instructed")["template"] == "chat"
    assert evaluate(checkpoint, "instructed", "--template", "plain")["template"] == "plain"


def test_adapter_and_merged_folder_are_asked_alike(
    tmp_path: Path, chat_model: Path, mixture: Path, evaluate: Callable[..., Any]
) -> None:
    report = run_instruct(
        tmp_path, chat_model, mixture, adapter={"method": "lora", "merge": True}, duration={"max_steps": 2}
    )
    (tuned,) = report.runs
    assert (tuned.checkpoint / "adapter_config.json").exists()
    assert not (tuned.merged / "adapter_config.json").exists()
    for folder, library in ((tuned.checkpoint, "peft"), (tuned.merged, "transformers")):
        header = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
        assert (header["license"], header["library_name"]) == ("cc-by-nc-4.0", library)
    for folder in (tuned.checkpoint, tuned.merged):
        assert evaluate(folder, "instructed")["template"] == "chat"
    assert evaluate(tuned.merged, "finetuned")["template"] == "chat"


@pytest.mark.parametrize("command", ["finetune", "instruct"])
def test_with_json_the_report_is_the_one_document(
    command: str, tmp_path: Path, model: Path, mixture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "finetune": ["--task", str(mixture.parent / "exams.jsonl"), "--no-evaluate"],
        "instruct": ["--mixture", str(mixture), "--draws", "16"],
    }[command]
    common = [
        "--model",
        str(model),
        "--output-dir",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--max-steps",
        "1",
    ]
    common += ["--precision", "fp32", "--global-batch-size", "8", "--sequence-length", "256"]
    assert run([command, "--json", "--decontaminate", "off", *data, *common]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema_version"] == f"biomedllama.{command}/1"
    assert content["runs"][0]["status"] == "trained"
    assert None not in content["data"].values()
    assert not (tmp_path / "run" / "evaluation").exists()
    assert run([command, "--json", "--show-masks", "2", "--decontaminate", "off", *data, *common]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2


def test_the_mixtures_are_listed_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["instruct", "--mixture", "list", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(each["name"], len(each["sources"])) for each in content["mixtures"]] == [
        ("paper", 10),
        ("permissive", 4),
    ]
    code = (
        "import sys; from biomedllama_cli.cli.app import run\n"
        "assert run(['instruct', '--mixture', 'list']) == 0\n"
        "print([n for n in ('torch', 'transformers', 'datasets', 'numpy') if n in sys.modules], file=sys.stderr)"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stderr.strip() == "[]"
    assert "paper: 10 sources, strictest licence unknown" in listed.stdout
    assert "alpaca-cleaned" in listed.stdout
    assert "CC BY-NC 4.0" in listed.stdout


def test_adapters_are_merged_later_without_training_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = write_questions(tmp_path / "task.jsonl", 16)
    lora: dict[str, Any] = {"method": "lora", "rank": 2}
    first = run_finetune(tmp_path, model, task, adapter=lora, duration={"max_steps": 2})
    metrics = (first.runs[0].run_folder / "metrics.jsonl").read_bytes()
    monkeypatch.setattr("biomedllama_cli.recipes.finetune.tune", lambda *_: pytest.fail("it trained again"))
    later = run_finetune(tmp_path, model, task, adapter={**lora, "merge": True}, duration={"max_steps": 2})
    assert first.runs[0].merged is None
    assert later.lines()[-2].startswith("Seed 0: already trained, merged now, 2 of 2 steps, loss ")
    assert (later.runs[0].merged / "model.safetensors").is_file()
    assert (later.parameters, later.trainable_parameters) == (first.parameters, first.trainable_parameters)
    assert 0 < first.trainable_parameters < first.parameters
    assert later.runs[0].merged == tmp_path / "run" / "merged"
    assert later.runs[0].checkpoint == first.runs[0].checkpoint
    assert (later.runs[0].run_folder / "metrics.jsonl").read_bytes() == metrics
    again = run_finetune(tmp_path, model, task, adapter={**lora, "merge": True}, duration={"max_steps": 2})
    assert again.runs[0] == later.runs[0].model_copy(update={"status": "already trained"})


@pytest.mark.parametrize("wanted", ["chat", "auto"])
def test_a_model_tuned_in_its_template_was_asked_in_it_before_as_well(
    tmp_path: Path, chat_model: Path, wanted: str
) -> None:
    task, test = (write_questions(tmp_path / f"{name}.jsonl", 8, seed=seed) for seed, name in enumerate("ab"))
    report = run_finetune(
        tmp_path / "out",
        chat_model,
        task,
        rows={"template": wanted},
        questions={"test": str(test), "evaluate": True, "test_limit": 3},
        duration={"max_steps": 1},
    )
    (cell,) = report.gains.cells
    assert cell.n == 3
    for name in ("before", "seed-0"):
        (results,) = (tmp_path / "out").rglob(f"evaluation/{name}/results.json")
        (scored,) = json.loads(results.read_text())["questions"]
        assert scored["facts"]["generation"]["template"] == "chat"
        assert scored["metrics"]["truncated_prompts"] == 0
    # The options' likelihood is no text that could be read or not.
    (likelihood,) = report.likelihood_gains.cells
    assert likelihood.before.unparsed is None
    assert cell.before.unparsed is not None


def test_a_resumed_run_says_so(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = write_questions(tmp_path / "task.jsonl", 32)
    saving: dict[str, Any] = {"checkpoint": {"save_every_steps": 2, "keep_checkpoints": 2}}
    first = run_finetune(tmp_path, model, task, **saving)
    (first.runs[0].run_folder / "report.json").unlink()
    shutil.rmtree(first.runs[0].checkpoint)
    with caplog.at_level("INFO"):
        again = run_finetune(tmp_path, model, task, **saving)
    assert "seed 0 continues after step 2 of 4" in caplog.messages
    assert again.runs[0].line().startswith("Seed 0: trained (continued after step 2), 4 of 4 steps, loss ")
    assert "(continued" not in first.runs[0].line()


def test_a_stop_names_the_seed_and_those_that_wait(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Resumable("Stopped by a signal after step 1 of 4; saved it.", "The same command continues.")

    monkeypatch.setattr("biomedllama_cli.recipes.finetune.tune", stop)
    task = write_questions(tmp_path / "task.jsonl", 16)
    for seeds, message in {
        "0": "Stopped by a signal after step 1 of 4; saved it.",
        "0,1,2": "Seed 0: Stopped by a signal after step 1 of 4; saved it. Still to be trained: seeds 1, 2.",
    }.items():
        with pytest.raises(Resumable) as caught:
            run_finetune(tmp_path, model, task, seeds=seeds)
        assert (caught.value.message, caught.value.hint) == (message, "The same command continues.")


def test_the_loss_of_one_step_goes_from_nowhere_to_nowhere(tmp_path: Path, model: Path) -> None:
    task = write_questions(tmp_path / "task.jsonl", 16)
    (run_of_one,) = run_finetune(tmp_path, model, task, duration={"max_steps": 1}).runs
    assert (run_of_one.loss_first, run_of_one.loss_last) == (None, None)
    assert "1 of 1 step. Checkpoint: " in re.sub(r", [\d,]+ tokens/s", "", run_of_one.line())
    told = run_of_one.model_copy(update={"loss_first": 6.1434, "loss_last": 5.8}).line()
    assert ", loss 6.143 -> 5.800 (means of the first and last tenth of the steps)" in told
    losses = [float(number) for number in range(25)]
    assert average_ends(losses) == (0.5, 23.5)


def test_held_out_examples_that_do_not_fit_are_counted_and_named(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = {"options": ["yes", "no"], "answer_index": 0}
    questions = [
        make_question(number)
        if number % 2
        else {**long, "id": str(number), "question": f"Why {number}? " * 200}
        for number in range(40)
    ]
    task = write_lines(tmp_path / "task.jsonl", questions)
    with caplog.at_level("WARNING"):
        report = run_finetune(
            tmp_path,
            model,
            task,
            dry_run=True,
            questions={"validation_fraction": 0.5},
            rows={"max_refused": 1.0},
        )
    assert report.data.examples + report.data.held_out == 20
    assert sum(report.data.refused.values()) == 20
    told = [message for message in caplog.messages if " are left out: " in message]
    assert [" training examples " in told[0], " held-out examples " in told[1]] == [True, True]


def test_a_run_goes_without_held_out_examples_where_none_fits(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = finetune_settings(tmp_path, model, tmp_path / "task.jsonl")
    train, held_out = (
        [make_pair("1", "mine", question, " yes", exact=True)] for question in ("Why?", "Why? " * 300)
    )
    pupil = load_pupil(str(model), tmp_path, "finetune")
    lessons = encode_lessons(train, held_out, pupil, settings, tmp_path)
    assert (lessons.held_out, lessons.facts.held_out, lessons.facts.refused) == (None, 0, {"too_long": 1})
    assert "no held-out example is left: the last checkpoint is taken" in caplog.text


def test_a_job_names_what_decides_on_the_weights_that_are_kept(tmp_path: Path, model: Path) -> None:
    task = write_questions(tmp_path / "task.jsonl", 8)

    def list_differences(*, seed: int = 0, fraction: float = 0.0, **monitor: int) -> list[str]:
        jobs = []
        for own_seed, changes in ((0, {}), (seed, monitor)):
            questions = {"validation_fraction": fraction}
            settings = finetune_settings(tmp_path, model, task, questions=questions, monitor=changes)
            pupil = load_pupil(str(model), tmp_path, "finetune")
            lessons, _ = load_lessons(settings, pupil, None, tmp_path / "reports")
            order = np.zeros(3, np.int64)  # the same for every seed
            jobs.append(describe_job("finetune", settings, pupil, lessons, order, seed=own_seed).as_dict())
        return list_changes(*jobs)

    assert list_differences(seed=1) == ["seed was 0 and is 1"]
    # Where nothing is held out, nothing is looked at.
    assert list_differences(validate_every_steps=5, validation_sequences=2) == []
    assert list_differences(fraction=0.3, validate_every_steps=5, validation_sequences=2) == [
        "monitor.validate_every_steps was 100 and is 5",
        "monitor.validation_sequences was None and is 2",
    ]


def test_the_report_of_rank_0_reaches_ranks_that_cannot_see_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = SeedRun(seed=0, status="trained", run_folder=tmp_path, steps=1)

    def receive(objects: list[Any]) -> None:
        objects[:] = [report]

    monkeypatch.setattr("biomedllama_cli.recipes.tuning.broadcast_object_list", receive)
    rank: Any = SimpleNamespace(is_main_process=False)
    assert share_report(rank, tmp_path / "of another node") == report


def test_a_dry_run_knows_the_names_of_the_models_layers(tmp_path: Path, model: Path) -> None:
    task = write_questions(tmp_path / "task.jsonl", 16)
    wrong: dict[str, Any] = {"method": "lora", "target_modules": ("q_proj", "foo")}
    with pytest.raises(SettingsError, match="'foo' is not a linear layer") as caught:
        run_finetune(tmp_path, model, task, dry_run=True, adapter=wrong)
    assert "q_proj" in caught.value.hint
    run_finetune(tmp_path, model, task, dry_run=True, adapter={**wrong, "target_modules": ("q_proj",)})


@pytest.mark.parametrize("command", ["finetune", "instruct"])
def test_default_rows_are_no_longer_than_the_models_positions(
    command: str, tmp_path: Path, model: Path, mixture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"question": "Why so? " * 500, "options": ["yes", "no"], "answer_index": 0}
    task = write_lines(tmp_path / "task.jsonl", [make_question(1), make_question(2), long])
    data = {
        "finetune": ["--task", str(task), "--no-evaluate", "--validation-fraction", "0"],
        "instruct": ["--mixture", str(mixture)],
    }[command]
    common = ["--model", str(model), "--device", "cpu", "--decontaminate", "off", "--max-refused", "1"]
    assert run([command, "--json", "--dry-run", *data, *common]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content["sequence_length"] == content["settings"]["batch"]["sequence_length"] == 512
    assert (
        " ".join(captured.err.split()).count("sequence_length is lowered from its default of 2048 to 512")
        == 1
    )
    if command == "finetune":
        assert content["data"]["refused"] == {"too_long": 1}


@pytest.mark.parametrize("command", ["finetune", "instruct"])
def test_a_fraction_that_holds_out_nothing_is_told(
    command: str, tmp_path: Path, model: Path, mixture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [{**make_question(number), "context": "The one shelf."} for number in range(6)]
    task = write_lines(tmp_path / "task.jsonl", questions)
    for fraction in (0.0, 0.2):
        caplog.clear()
        if command == "finetune":
            changes: dict[str, Any] = {"questions": {"validation_fraction": fraction}}
            report = run_finetune(tmp_path, model, task, dry_run=True, **changes)
        else:
            report = run_instruct(
                tmp_path, model, mixture, dry_run=True, draw={"validation_fraction": fraction}
            )
        assert report.data.held_out == 0
        told = [
            message
            for message in caplog.messages
            if message.startswith("validation_fraction = 0.2 holds out no ")
        ]
        assert len(told) == (fraction > 0)
