"""`evaluate` from settings to the results folder, on a tiny random model."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biomedllama_cli.errors import DataError, ModelError, OutputError, SettingsError, UnavailableError
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.recipes.evaluate import evaluate
from biomedllama_cli.settings.evaluate import EvaluateSettings


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, repository) -> Path:
    """A tiny random LLaMA with its tokenizer."""
    path = repository / "tests" / "evaluation" / "conftest.py"
    spec = importlib.util.spec_from_file_location("evaluation_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    fixtures = importlib.util.module_from_spec(spec)

    sys.modules[spec.name] = fixtures
    spec.loader.exec_module(fixtures)
    return fixtures.build_tiny_model(tmp_path_factory.mktemp("model"), adds_bos=False).folder


def build_settings(tmp_path, model, *, protocol=None, **top) -> EvaluateSettings:
    values = {
        "workspace": tmp_path,
        "model": str(model) if model else None,
        "protocol": protocol or {},
        **top,
    }
    return EvaluateSettings.model_validate(values)


def run(tmp_path, model, *, dry_run=False, **protocol):
    settings = build_settings(tmp_path, model, protocol=protocol, output_dir=tmp_path / "out")
    return evaluate(settings, dry_run=dry_run)


def read_samples(tmp_path, task):
    return [json.loads(line) for line in (tmp_path / "out" / f"samples-{task}.jsonl").open(encoding="utf-8")]


def test_results_hold_what_it_takes_to_repeat_them(tmp_path, model_folder):
    report = run(tmp_path, model_folder, task=["sample-questions"], shots=2)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results == report.model_dump(mode="json")
    assert results["schema_version"] == "biomedllama.evaluate/1"
    assert results["model"]["weights_sha256"]
    assert results["model"]["tokenizer_fingerprint"]
    assert results["protocol"] == {
        "name": "paper",
        "scorer": "lm-eval",
        "bos": "none",
        "truncation": "left",
        "log_softmax_dtype": "fp32",
        "seed": 42,
        "context_length": 512,
        "asked_context_length": 2048,
        "rolling_prefix_id": load_tokenizer(str(model_folder)).eos_id,
    }
    task = results["questions"]["sample-questions"]
    assert task["prompt"]["template"] == "Question: {question}\nAnswer:"
    assert task["prompt"]["option_prefix"] == " "
    assert len(task["draws_sha256"]) == len(task["items_sha256"]) == len(task["source"]["sha256"]) == 64
    assert task["draw_rule"] == "the test items without the item itself"
    assert results["versions"]["lm-eval"]

    metrics, samples = task["metrics"], read_samples(tmp_path, "sample-questions")
    assert metrics["n"] == metrics["n_all"] == len(samples) == 40
    assert metrics["random"] == 0.25
    right = 0
    for sample in samples:
        values = sample["log_likelihoods"]
        assert sample["prediction"] == values.index(max(values))
        assert sample["correct"] == (sample["prediction"] == sample["answer_index"])
        assert len(sample["example_ids"]) == 2
        assert sample["id"] not in sample["example_ids"]
        lengths = [len(option) for option in sample["options"]]
        rates = [value / length for value, length in zip(values, lengths, strict=True)]
        right += rates.index(max(rates)) == sample["answer_index"]
    assert metrics["acc"]["correct"] == sum(sample["correct"] for sample in samples)
    assert metrics["acc_norm"]["correct"] == right
    low, high = metrics["acc"]["interval"]
    assert low < metrics["acc"]["value"] < high


def test_summary_names_bos_n_and_intervals(tmp_path, model_folder):
    text = "\n".join(run(tmp_path, model_folder, task=["sample-questions"], limit=3).lines())
    assert "BOS: none" in text
    assert "3 of 40" in text
    assert "95 % interval" in text
    assert "lowered from 2048" in text
    assert str(tmp_path / "out") in text


def test_limit_takes_the_first_items_and_changes_no_number(tmp_path, model_folder):
    run(tmp_path, model_folder, task=["sample-questions"], shots=3)
    whole = read_samples(tmp_path, "sample-questions")
    shutil.rmtree(tmp_path / "out")
    report = run(tmp_path, model_folder, task=["sample-questions"], shots=3, limit=5)
    limited = read_samples(tmp_path, "sample-questions")
    assert [(item["id"], item["example_ids"]) for item in limited] == [
        (item["id"], item["example_ids"]) for item in whole[:5]
    ]
    for short, long in zip(limited, whole, strict=False):
        assert short["log_likelihoods"] == pytest.approx(long["log_likelihoods"], abs=1e-4)
    assert report.questions["sample-questions"].metrics.n == 5


def test_real_files_in_their_original_schemas(tmp_path, model_folder, shared_data, caplog):
    report = run(
        tmp_path,
        model_folder,
        task=["medqa-5", "medmcqa", "pubmedqa"],
        data=[
            f"medqa-5={shared_data / 'medqa' / 'test_5options_first640.jsonl'}",
            f"medmcqa={shared_data / 'medmcqa' / 'validation_first120.jsonl'}",
            f"pubmedqa={shared_data / 'pubmedqa' / 'ori_pqal_nontest500.json'}",
        ],
        shots=1,
        limit=3,
        context_length=256,
    )
    five, four, labels = (report.questions[name] for name in ("medqa-5", "medmcqa", "pubmedqa"))
    assert [task.metrics.n_all for task in (five, four, labels)] == [640, 120, 500]
    assert (five.metrics.random, four.metrics.random) == (0.2, 0.25)
    assert labels.metrics.acc_norm is None
    assert sum(labels.metrics.predicted_labels.values()) == 3
    assert labels.metrics.truncated_inputs > 0
    assert labels.prompt["scored_options"] == ("Yes", "No", "Maybe")
    assert [sample["options"] for sample in read_samples(tmp_path, "pubmedqa")] == [
        ["Yes", "No", "Maybe"]
    ] * 3
    # Without a training file the draw is not the published one, and that is said loudly; PubMedQA's is.
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("medqa-5.train=FILE" in message for message in warned)
    assert not any("pubmedqa.train" in message for message in warned)
    assert five.draw_rule == "the test items without the item itself"


def test_train_file_is_the_pool_of_the_examples(tmp_path, model_folder, shared_data):
    lines = (shared_data / "medmcqa" / "validation_first120.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(lines[:40]), encoding="utf-8")
    (tmp_path / "train.jsonl").write_text("\n".join(lines[40:]), encoding="utf-8")
    report = run(
        tmp_path,
        model_folder,
        task=["medmcqa"],
        data=[f"medmcqa={tmp_path / 'test.jsonl'}", f"medmcqa.train={tmp_path / 'train.jsonl'}"],
        shots=2,
        limit=4,
    )
    assert report.questions["medmcqa"].draw_rule == "train file"
    assert report.questions["medmcqa"].pool_source.rows == 80
    pool = {json.loads(line)["id"] for line in lines[40:]}
    for sample in read_samples(tmp_path, "medmcqa"):
        assert set(sample["example_ids"]) <= pool


def test_running_text_of_a_pile_shard(tmp_path, model_folder, shared_data):
    shard = shared_data / "pile" / "00.jsonl.zst"
    report = run(
        tmp_path,
        model_folder,
        task=["pubmed-abstracts", "sample-questions"],
        data=[f"pubmed-abstracts={shard}"],
        limit=4,
        context_length=128,
    )
    metrics, samples = report.texts["pubmed-abstracts"].metrics, read_samples(tmp_path, "pubmed-abstracts")
    total = sum(sample["log_likelihood"] for sample in samples)
    assert metrics.n == len(samples) == 4
    assert metrics.log_likelihood == pytest.approx(total)
    assert metrics.word_perplexity.value == pytest.approx(math.exp(-total / sum(s["words"] for s in samples)))
    bits = -total / math.log(2) / sum(s["utf8_bytes"] for s in samples)
    assert metrics.bits_per_byte.value == pytest.approx(bits)
    low, high = metrics.bits_per_byte.interval
    assert low < bits < high
    assert set(report.questions) == {"sample-questions"}


def test_dry_run_counts_rows_and_writes_nothing(tmp_path, shared_data):
    data = f"medmcqa={shared_data / 'medmcqa' / 'validation_first120.jsonl'}"
    report = run(tmp_path, "no/such/model", dry_run=True, task=["medmcqa", "medqa"], data=[data])
    assert report.planned["medmcqa"][1] == 120
    assert report.planned["medqa"] == ("hub: GBaker/MedQA-USMLE-4-options, test split", None)
    assert list(tmp_path.iterdir()) == []
    assert "nothing is loaded or written" in report.lines()[0]


def test_without_a_model_the_newest_checkpoint_is_taken(tmp_path, model_folder, monkeypatch, caplog):
    from biomedllama_cli.engine import checkpoint

    monkeypatch.setattr(checkpoint, "find_newest_checkpoint", lambda workspace: model_folder)
    with caplog.at_level(logging.INFO):
        report = run(tmp_path, None, task=["sample-questions"], limit=1)
    assert report.model_source == str(model_folder)
    assert "newest checkpoint" in caplog.text


def test_without_model_and_checkpoint_it_explains(tmp_path):
    with pytest.raises(ModelError, match="no model was given") as error:
        run(tmp_path, None, task=["sample-questions"])
    assert "biomedllama pretrain" in error.value.hint


def test_results_are_not_overwritten_unasked(tmp_path, model_folder):
    run(tmp_path, model_folder, task=["sample-questions"], limit=1)
    with pytest.raises(OutputError, match="holds results already"):
        run(tmp_path, model_folder, task=["sample-questions"], limit=2)
    settings = build_settings(
        tmp_path,
        model_folder,
        protocol={"task": ["sample-questions"], "limit": 2},
        output_dir=tmp_path / "out",
        overwrite=True,
    )
    evaluate(settings)
    assert len(read_samples(tmp_path, "sample-questions")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path, model_folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    settings = build_settings(tmp_path, model_folder, output_dir=tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match=r"holds no results\.json"):
        evaluate(settings)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_five_options_for_medqa_name_file_line_and_rule(tmp_path, model_folder, shared_data):
    file = shared_data / "medqa" / "test_5options_first640.jsonl"
    with pytest.raises(DataError, match=r"first640\.jsonl line 1: .*5 options where 4 are expected") as error:
        run(tmp_path, model_folder, task=["medqa"], data=[f"medqa={file}"])
    assert "medqa-5" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_offline_hub_names_the_local_way(tmp_path, model_folder):
    with pytest.raises(UnavailableError) as error:
        run(tmp_path, model_folder, task=["medqa"])
    assert "--data medqa=FILE" in error.value.hint


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"data": ["medqa"]}, "TASK=FILE"),
        ({"data": ["medka=x.jsonl"]}, "'medka'"),
        ({"task": ["medqa"], "data": ["medmcqa=x.jsonl"]}, "not among the tasks"),
        ({"task": ["pubmed-central"], "data": ["pubmed-central.train=x"]}, "no few-shot"),
        ({"task": ["pubmed-central"], "shots": 2}, "no few-shot"),
    ],
)
def test_contradicting_settings_are_refused(tmp_path, model_folder, protocol, message):
    with pytest.raises(SettingsError, match=message):
        run(tmp_path, model_folder, **protocol)


def test_missing_data_file_is_named(tmp_path, model_folder):
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        run(tmp_path, model_folder, task=["medqa"], data=["medqa=absent.jsonl"])


def test_a_plan_is_made_without_the_heavy_libraries(tmp_path):
    code = (
        "import sys\n"
        "from biomedllama_cli.recipes.evaluate import evaluate\n"
        "from biomedllama_cli.settings.evaluate import EvaluateSettings\n"
        f"evaluate(EvaluateSettings(workspace={str(tmp_path)!r}, model='some/model'), dry_run=True)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path, model_folder):
    for step in ("step-00000002", "step-00000010"):
        checkpoint = tmp_path / "run" / "checkpoints" / step
        shutil.copytree(model_folder, checkpoint)
        (checkpoint / "COMPLETE").touch()
    report = run(tmp_path, tmp_path / "run", task=["sample-questions"], limit=1)
    assert report.model_source == str(tmp_path / "run" / "checkpoints" / "step-00000010")


def test_text_without_spaces_has_no_finite_word_perplexity(tmp_path, model_folder):
    data = tmp_path / "sequence.jsonl"
    data.write_text(json.dumps({"text": "ACGT" * 400}) + "\n", encoding="utf-8")
    report = run(tmp_path, model_folder, task=["pubmed-abstracts"], data=[f"pubmed-abstracts={data}"])
    metrics = report.texts["pubmed-abstracts"].metrics
    assert metrics.word_perplexity.value == math.inf
    assert math.isfinite(metrics.bits_per_byte.value)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["texts"]["pubmed-abstracts"]["metrics"]["word_perplexity"]["value"] is None


def test_a_pool_without_shots_is_refused(tmp_path, shared_data):
    data = f"medqa-5.train={shared_data / 'medqa' / 'test_5options_first640.jsonl'}"
    with pytest.raises(SettingsError, match="shots is 0"):
        run(tmp_path, "no/such/model", task=["medqa-5"], data=[data])
