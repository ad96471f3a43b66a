"""The harness profile: lm-eval's own tasks on local rows, scored as plain lm-eval scores them, told as our cells."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from harness_tools import TOLERANCE, assert_equal_samples, build_pair
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from biomedllama_cli.errors import SettingsError, UnavailableError
from biomedllama_cli.evaluation import harness_stock
from biomedllama_cli.evaluation.cells import QuestionCell
from biomedllama_cli.evaluation.harness import wrap_model
from biomedllama_cli.evaluation.harness_cells import build_cell, is_question_task
from biomedllama_cli.evaluation.harness_profile import profile_name, run_harness_tasks
from biomedllama_cli.evaluation.harness_quiet import quiet_harness
from biomedllama_cli.evaluation.harness_stock import load_stock_tasks
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.tokenizer import load_tokenizer

METALS = ("iron", "zinc oxide", "tin", "a salt of copper", "lead", "mercury")
STOCK = {"medqa": "medqa_4options", "medmcqa": "medmcqa", "pubmedqa": "pubmedqa"}
# An item of PubMedQA's training part, and others that count as its test part.
TRAINING_PMID = "10808977"


def medqa_rows(count, start=0):
    for number in range(start, start + count):
        options = {letter: METALS[(number + place) % 6] for place, letter in enumerate("ABCD")}
        answer = "ABCD"[number % 4]
        yield {
            "question": f"Which metal has the made-up number {number}?",
            "options": options,
            "answer_idx": answer,
            "answer": options[answer],
            "meta_info": f"step{number % 2 + 1}",
        }


def medmcqa_rows(count, start=0):
    for number in range(start, start + count):
        texts = {f"op{letter}": METALS[(number + place) % 6] for place, letter in enumerate("abcd")}
        yield {
            "id": f"m{number}",
            "question": f"Which metal is made up, {number}?",
            "cop": number % 4,
            **texts,
        }


def pubmedqa_record(number):
    return {
        "QUESTION": f"Is metal {number} made up?",
        "CONTEXTS": [f"Metal {number} was weighed.", "It was heavy."],
        "LONG_ANSWER": "It may be so.",
        "final_decision": ("yes", "no", "maybe")[number % 3],
    }


@pytest.fixture
def files(tmp_path):
    def write(name, rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    pubmedqa = tmp_path / "pubmedqa.json"
    pubmedqa.write_text(json.dumps({str(number): pubmedqa_record(number) for number in range(1, 6)}))
    pool = tmp_path / "pubmedqa-train.json"
    pool.write_text(json.dumps({str(number): pubmedqa_record(number) for number in range(11, 15)}))
    return {
        "medqa": write("medqa", medqa_rows(6)),
        "medqa.train": write("medqa-train", medqa_rows(5, 100)),
        "medmcqa": write("medmcqa", medmcqa_rows(6)),
        "medmcqa.train": write("medmcqa-train", medmcqa_rows(5, 100)),
        "pubmedqa": pubmedqa,
        "pubmedqa.train": pool,
    }


@pytest.fixture
def ours(tiny_model_with_bos):
    folder = str(tiny_model_with_bos.folder)
    return wrap_model(load_model(folder), load_tokenizer(folder), context_length=512)


def run_plain(lm, name, files, folder, shots):
    with quiet_harness():
        loaded = load_stock_tasks(name, shots=shots, local_rows=files, folder=folder)
        (task,) = loaded["tasks"].values()
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=1234)
        outcome = evaluate(lm, loaded, bootstrap_iters=0)
    return outcome["results"][STOCK[name]], outcome["samples"][STOCK[name]]


@pytest.mark.parametrize("name", list(STOCK))
@pytest.mark.parametrize("shots", [0, 2])
def test_stock_task_on_local_rows_gives_what_plain_lm_eval_gives(
    tmp_path, tiny_model_with_bos, ours, files, name, shots
):
    plain, _ = build_pair(tiny_model_with_bos.folder)
    (tmp_path / "rows").mkdir()
    metrics, samples = run_plain(plain, name, files, tmp_path / "rows", shots)
    (result,) = run_harness_tasks(ours, [name], shots=shots, local_rows=files).tasks
    assert result.task == STOCK[name]
    assert result.metrics["acc,none"] == metrics["acc,none"]
    assert_equal_samples(list(result.samples), samples)
    prompt = samples[0]["arguments"][0][0]
    assert prompt.endswith("Answer:")
    assert len(re.findall(r"\nAnswer:", prompt)) == shots + 1
    assert (result.shots, result.n, result.n_all) == (shots, len(samples), len(samples))


def test_stock_wording_is_that_of_lm_eval(ours, files):
    run = run_harness_tasks(ours, ["medqa", "medmcqa", "pubmedqa"], limit=1, local_rows=files)
    first = {result.asked: result.samples[0]["arguments"] for result in run.tasks}
    assert first["medqa"][1] == (
        "Question: Which metal has the made-up number 0?\n"
        "A. iron\nB. zinc oxide\nC. tin\nD. a salt of copper\nAnswer:",
        " B",
    )
    assert first["medmcqa"][3] == (
        "Question: Which metal is made up, 0?\nChoices:\n"
        "A. iron\nB. zinc oxide\nC. tin\nD. a salt of copper\nAnswer:",
        " D",
    )
    assert first["pubmedqa"][2] == (
        "Abstract: Metal 1 was weighed.\nIt was heavy.\nQuestion: Is metal 1 made up?\nAnswer:",
        " maybe",
    )


def test_examples_come_from_the_training_file_or_else_never_from_the_question_itself(ours, files, caplog):
    (result,) = run_harness_tasks(ours, ["medqa"], shots=2, local_rows=files).tasks
    for sample in result.samples:
        numbers = re.findall(r"number (\d+)", sample["arguments"][0][0])
        assert all(int(number) >= 100 for number in numbers[:-1])
    assert caplog.text == ""
    (result,) = run_harness_tasks(ours, ["medqa"], shots=3, local_rows={"medqa": files["medqa"]}).tasks
    for sample in result.samples:
        *shown, asked = re.findall(r"number (\d+)", sample["arguments"][0][0])
        assert len(shown) == 3
        assert asked not in shown
    assert "--data medqa.train=FILE" in caplog.text


def test_draws_follow_the_seed(ours, files):
    def prompts(seed):
        (result,) = run_harness_tasks(ours, ["medqa"], shots=2, local_rows=files, seed=seed).tasks
        return [sample["arguments"][0][0] for sample in result.samples]

    assert prompts(1) == prompts(1) != prompts(2)


def test_pubmedqa_scores_the_official_test_part_of_a_whole_file(ours, tmp_path, caplog):
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({pmid: pubmedqa_record(int(pmid)) for pmid in ("1", TRAINING_PMID, "2")}))
    (result,) = run_harness_tasks(ours, ["pubmedqa"], shots=1, local_rows={"pubmedqa": path}).tasks
    assert [sample["doc"]["id"] for sample in result.samples] == ["1", "2"]
    assert all(f"Is metal {TRAINING_PMID} made up?" in one["arguments"][0][0] for one in result.samples)
    path.write_text(json.dumps({TRAINING_PMID: pubmedqa_record(0)}))
    (result,) = run_harness_tasks(ours, ["pubmedqa"], local_rows={"pubmedqa": path}).tasks
    assert result.n == 1
    assert "official test part" in caplog.text


def test_limit_and_numbers_of_documents_choose_what_is_scored(ours, files):
    (result,) = run_harness_tasks(ours, ["medmcqa"], limit=2, local_rows=files).tasks
    assert [sample["doc_id"] for sample in result.samples] == [0, 1]
    assert (result.n, result.n_all) == (2, 6)
    chosen = {"medmcqa": [4, 5]}
    (result,) = run_harness_tasks(ours, ["medmcqa"], samples=chosen, local_rows=files).tasks
    assert [sample["doc"]["id"] for sample in result.samples] == ["m4", "m5"]


def test_group_of_lm_eval_gives_its_members_and_their_aggregate(ours, files, tmp_path, monkeypatch):
    group = {
        "group": "made_up_group",
        "task": ["medqa_4options", "medmcqa"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
    }
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "made_up_group.yaml").write_text(yaml.safe_dump(group))
    folders = (str(tmp_path / "group"), "medqa", "medmcqa")
    monkeypatch.setitem(harness_stock._FOLDERS, "made_up_group", folders)
    run = run_harness_tasks(ours, ["lm-eval:made_up_group"], local_rows=files)
    assert [(result.task, result.groups) for result in run.tasks] == [
        ("medqa_4options", ("made_up_group",)),
        ("medmcqa", ("made_up_group",)),
    ]
    accuracies = [result.metrics["acc,none"] for result in run.tasks]
    assert run.groups["made_up_group"]["acc,none"] == pytest.approx(sum(accuracies) / 2)
    cell, _ = build_cell(run.tasks[0], profile_name(), bos="none", context_length=512)
    assert cell.task == "lm-eval:medqa_4options"


def test_named_tasks_exist_in_the_installed_lm_eval():
    for name, stock in harness_stock.NAMES.items():
        index = harness_stock._build_manager(stock, []).task_index
        assert set(stock) <= set(index), name
        members = index[stock[0]].cfg.get("task")
        for member in members if isinstance(members, list) else []:
            assert (member["task"] if isinstance(member, dict) else member) in index


def test_unknown_task_is_refused_with_the_nearest_names(ours, monkeypatch):
    # Indexing all of lm-eval takes 14 s: two folders stand for it.
    folders = [harness_stock._STOCK_ROOT / name for name in ("medqa", "headqa")]
    monkeypatch.setattr(
        harness_stock, "TaskManager", lambda **_: TaskManager(include_path=folders, include_defaults=False)
    )
    with pytest.raises(SettingsError, match="no task 'medqa_4option'") as caught:
        run_harness_tasks(ours, ["lm-eval:medqa_4option"])
    assert "medqa_4options" in caught.value.hint
    with pytest.raises(SettingsError, match="no task 'medical_tests'") as caught:
        run_harness_tasks(ours, ["lm-eval:medical_tests"])
    assert caught.value.hint == "`lm_eval ls tasks` lists them all."


def test_task_without_hub_and_file_says_how_to_give_one(ours):
    with pytest.raises(UnavailableError, match="medqa") as caught:
        run_harness_tasks(ours, ["medqa"])
    assert "--data medqa=FILE" in caught.value.hint
    with pytest.raises(UnavailableError, match="headqa"):
        run_harness_tasks(ours, ["headqa"])


def test_cell_holds_lm_evals_numbers_in_our_form(ours, files):
    (result,) = run_harness_tasks(ours, ["medqa"], shots=1, local_rows=files).tasks
    cell, samples = build_cell(result, "harness/1", bos="BOS (id 0)", context_length=512)
    assert QuestionCell.model_validate_json(cell.model_dump_json()) == cell
    assert (cell.method, cell.task, cell.facts.shots) == ("lm-eval", "medqa", 1)
    assert cell.metrics.scores["acc"].value == pytest.approx(result.metrics["acc,none"])
    assert cell.metrics.scores["acc_norm"].value == pytest.approx(result.metrics["acc_norm,none"])
    assert (cell.metrics.random, cell.metrics.majority) == (0.25, pytest.approx(1 / 3))
    assert cell.metrics.macro_f1 is None  # letters name places, not answers
    assert set(cell.metrics.groups["step"]) == {"step1", "step2"}
    assert cell.facts.source.sha256 is not None
    assert "0x" not in json.dumps(cell.facts.prompt)
    likelihood_fields = ["log_likelihoods", "prediction", "correct", "tokens", "scores", "groups"]
    assert list(samples[0])[:11] == [
        *("id", "question", "options", "answer_index", "example_ids"),
        *likelihood_fields,
    ]
    for sample, raw in zip(samples, result.samples, strict=True):
        assert sample["options"] == ["A", "B", "C", "D"]
        assert sample["log_likelihoods"] == [response[0][0] for response in raw["resps"]]
        assert sample["correct"] == (sample["prediction"] == sample["answer_index"]) == (raw["acc"] == 1)
        assert sample["tokens"] == [len(ours.tok_encode(f" {letter}", False)) for letter in "ABCD"]


def test_labels_that_mean_the_same_everywhere_are_counted(ours, files):
    (result,) = run_harness_tasks(ours, ["pubmedqa"], local_rows=files).tasks
    cell, samples = build_cell(result, "harness/1", bos="none", context_length=512)
    assert cell.metrics.answer_labels == {"yes": 1, "no": 2, "maybe": 2}
    assert sum(cell.metrics.predicted_labels.values()) == 5
    assert cell.metrics.macro_f1 is not None
    assert samples[0]["question"] == "Is metal 1 made up?"


def test_truncated_inputs_are_counted(tiny_model, files):
    folder = str(tiny_model.folder)
    short = wrap_model(load_model(folder), load_tokenizer(folder), context_length=24)
    (result,) = run_harness_tasks(short, ["medqa"], local_rows=files).tasks
    cell, _ = build_cell(result, "harness/1", bos="none", context_length=24)
    assert cell.metrics.truncated_inputs == 24


def test_generated_answers_become_a_cell_of_exact_matches(ours, tmp_path, monkeypatch):
    rows = [
        {"id": f"g{n}", "question": f"Which, {n}?", "options": ["iron", "tin"], "answer": "B"} for n in (0, 1)
    ]
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "made_up_generation",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "rows.json")},
            "cache_dir": str(tmp_path / "c"),
        },
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "made_up.yaml").write_text(yaml.safe_dump(task))
    monkeypatch.setitem(harness_stock._FOLDERS, "made_up_generation", (str(tmp_path / "task"),))
    (result,) = run_harness_tasks(ours, ["lm-eval:made_up_generation"]).tasks
    assert is_question_task(result)
    cell, samples = build_cell(result, "harness/1", bos="none", context_length=512)
    assert cell.metrics.headline == "exact_match"
    assert cell.metrics.scores["exact_match"].value == result.metrics["exact_match,none"] == 0
    assert cell.metrics.random == 0.5
    assert [sample["answer_index"] for sample in samples] == [1, 1]


def test_everything_stays_off_stdout_and_the_log(ours, files, capfd, caplog):
    run_harness_tasks(ours, ["medqa"], limit=1, local_rows=files)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Building contexts" not in captured.err
    assert caplog.text == ""


def test_numbers_of_a_second_run_are_those_of_the_first(ours, files):
    first, second = (run_harness_tasks(ours, ["medmcqa"], local_rows=files).tasks[0] for _ in range(2))
    assert first.items_sha256 == second.items_sha256
    assert first.prompt == second.prompt
    values = [
        [one[0][0] for sample in result.samples for one in sample["resps"]] for result in (first, second)
    ]
    assert values[0] == pytest.approx(values[1], abs=TOLERANCE)
