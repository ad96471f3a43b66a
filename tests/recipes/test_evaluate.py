"""`evaluate` from settings to the results folder, on tiny random models."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from evaluation_runs import build_settings, cell_of, read_results, read_samples, run, write_medqa
from gguf_writing import write_gguf

from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.errors import DataError, ModelError, OutputError, SettingsError, UnavailableError
from biomedllama_cli.evaluation.output import load_results
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.recipes import evaluate_sources
from biomedllama_cli.recipes.evaluate import evaluate


def test_results_hold_what_it_takes_to_repeat_them(tmp_path, model):
    report = run(tmp_path, model, task=["sample-questions"], shots=2)
    results = report.evaluations[0].results
    assert load_results(tmp_path / "out") == results
    assert results.schema_version == report.schema_version == "biomedllama.evaluate/2"
    assert results.seed == 42
    assert len(results.model.weights_sha256) == 64
    assert results.model.tokenizer_fingerprint == load_tokenizer(str(model)).fingerprint
    assert (results.model.dtype, results.model.tokenizer_adds_bos) == ("fp32", False)
    assert results.settings["protocol"]["context_length"] == 2048
    assert {"biomedllama-cli", "torch", "transformers", "tokenizers"} <= set(results.versions)

    cell = cell_of(report, "sample-questions")
    facts = cell.facts
    assert (cell.profile, cell.method) == ("paper/1", "likelihood")
    assert facts.prompt["template"] == "Question: {question}\nAnswer:"
    assert (facts.bos, facts.context_length, facts.shots) == ("none", 512, 2)
    assert len(facts.draws_sha256) == len(facts.items_sha256) == len(facts.source.sha256) == 64
    assert facts.draw_rule == "per question, from the scored items, without the item itself"
    assert facts.pool_sha256 is None
    assert not list(tmp_path.glob(".evaluate-*"))  # the journal goes once the results are there


def test_samples_and_metrics_tell_the_same(tmp_path, model):
    metrics = cell_of(run(tmp_path, model, task=["sample-questions"], shots=2), "sample-questions").metrics
    samples = read_samples(tmp_path, "sample-questions")
    assert metrics.n == metrics.n_all == len(samples) == 40
    assert metrics.random == 0.25
    right = 0
    for sample in samples:
        values = sample["log_likelihoods"]
        assert sample["prediction"] == values.index(max(values)) == sample["scores"]["acc"]
        assert sample["correct"] == (sample["prediction"] == sample["answer_index"])
        assert len(sample["example_ids"]) == 2
        assert sample["id"] not in sample["example_ids"]
        lengths = [len(option) for option in sample["options"]]
        rates = [value / length for value, length in zip(values, lengths, strict=True)]
        assert sample["scores"]["acc_norm"] == rates.index(max(rates))
        right += rates.index(max(rates)) == sample["answer_index"]
    acc = metrics.scores["acc"]
    assert acc.correct == sum(sample["correct"] for sample in samples)
    assert metrics.scores["acc_norm"].correct == right
    assert acc.interval[0] < acc.value < acc.interval[1]


def test_the_summary_names_bos_n_intervals_and_the_context_length(tmp_path, model):
    text = "\n".join(run(tmp_path, model, task=["sample-questions"], limit=3).lines())
    assert "BOS: none" in text
    assert "3 of 40" in text
    assert "95 % interval" in text
    assert "Context length: 512 tokens" in text
    assert str(tmp_path / "out") in text


def test_a_gguf_file_is_scored_like_the_folder_it_was_made_from(tmp_path, model, caplog):
    file = write_gguf(model, tmp_path / "tiny.gguf")
    scores = []
    with caplog.at_level(logging.INFO):
        for number, source in enumerate((model, file)):
            run(tmp_path / str(number), source, task=["sample-questions"], limit=5)
            samples = read_samples(tmp_path / str(number), "sample-questions")
            scores.append([sample["log_likelihoods"] for sample in samples])
    assert len(scores[0]) == 5
    for plain, unpacked in zip(*scores, strict=True):
        assert unpacked == pytest.approx(plain, abs=1e-5)
    facts = read_results(tmp_path / "1").model
    assert facts.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts.source == str(file)
    assert "taken as a hub id" not in caplog.text


def test_a_broken_gguf_file_is_refused_by_a_dry_run(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"PK" + bytes(40))
    with pytest.raises(ModelError, match="no GGUF file that can be read"):
        run(tmp_path, tmp_path / "broken.gguf", dry_run=True, task=["sample-questions"])


def test_a_context_longer_than_the_models_have_is_lowered_aloud_and_once(tmp_path, tiny_models, caplog):
    run(tmp_path, [tiny_models.plain, tiny_models.other], task=["sample-questions"], limit=1)
    assert caplog.text.count("lowered from 2048 to 512 tokens") == 1


def test_an_option_longer_than_the_context_ends_the_run_with_its_question(tmp_path, model):
    file = write_medqa(tmp_path / "test.jsonl", 3)
    with pytest.raises(DataError, match=r"medqa: an option of the question \d has .* holds 2 "):
        run(tmp_path, model, task=["medqa"], data=[f"medqa={file}"], context_length=2)


def test_the_threads_of_a_cpu_are_counted_in_words(monkeypatch):
    from biomedllama_cli.recipes import evaluate_subject

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert evaluate_subject.name_device(torch.device("cpu")) == "cpu: 1 thread of 2 cores"


def test_a_signal_is_told_in_words_of_what_is_done(caplog):
    with StopRequest("the questions at hand") as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    assert "SIGTERM: finishing the questions at hand and saving" in caplog.text


def test_a_limit_takes_the_first_items_and_changes_no_number(tmp_path, model):
    run(tmp_path, model, task=["sample-questions"], shots=3)
    whole = read_samples(tmp_path, "sample-questions")
    draws = read_results(tmp_path).questions[0].facts.draws_sha256
    shutil.rmtree(tmp_path / "out")
    cell = cell_of(run(tmp_path, model, task=["sample-questions"], shots=3, limit=5), "sample-questions")
    limited = read_samples(tmp_path, "sample-questions")
    assert [(item["id"], item["example_ids"]) for item in limited] == [
        (item["id"], item["example_ids"]) for item in whole[:5]
    ]
    for short, long in zip(limited, whole, strict=False):
        assert short["log_likelihoods"] == pytest.approx(long["log_likelihoods"], abs=1e-4)
    assert (cell.metrics.n, cell.metrics.n_all, cell.facts.draws_sha256) == (5, 40, draws)


def test_real_files_in_their_original_schemas(tmp_path, model, shared_data, caplog):
    data = [
        f"medqa-5={shared_data / 'medqa' / 'test_5options_first640.jsonl'}",
        f"medmcqa={shared_data / 'medmcqa' / 'validation_first120.jsonl'}",
        f"pubmedqa={shared_data / 'pubmedqa' / 'ori_pqal_nontest500.json'}",
    ]
    tasks = ["medqa-5", "medmcqa", "pubmedqa"]
    report = run(tmp_path, model, task=tasks, data=data, shots=1, limit=3, context_length=256)
    five, four, labels = (cell_of(report, name) for name in tasks)
    assert [cell.metrics.n_all for cell in (five, four, labels)] == [640, 120, 500]
    assert (five.metrics.random, four.metrics.random) == (0.2, 0.25)
    assert "acc_norm" in five.metrics.scores
    assert set(five.metrics.groups) == {"step"}
    assert sum(labels.metrics.predicted_labels.values()) == 3
    assert labels.metrics.truncated_inputs > 0
    samples = read_samples(tmp_path, "pubmedqa")
    assert [sample["options"] for sample in samples] == [["Yes", "No", "Maybe"]] * 3
    # Without a training file the draw is not the published one, and that is said loudly; PubMedQA's is.
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("medqa-5.train=FILE" in message for message in warned)
    assert not any("pubmedqa.train" in message for message in warned)


def test_a_train_file_is_the_pool_of_the_examples(tmp_path, model):
    data = [
        f"medqa={write_medqa(tmp_path / 'test.jsonl', 8)}",
        f"medqa.train={write_medqa(tmp_path / 'train.jsonl', 12, start=100)}",
    ]
    cell = cell_of(run(tmp_path, model, task=["medqa"], data=data, shots=2, limit=4), "medqa")
    assert cell.facts.draw_rule == "per question, from the training items"
    assert (cell.facts.pool_source.rows, cell.facts.pool_source.location) == (
        12,
        str(tmp_path / "train.jsonl"),
    )
    assert cell.facts.pool_sha256 not in (None, cell.facts.items_sha256)
    scored = {sample["id"]: sample["example_ids"] for sample in read_samples(tmp_path, "medqa")}
    assert all(len(examples) == 2 for examples in scored.values())
    assert len({tuple(examples) for examples in scored.values()}) > 1


def test_running_text_of_a_pile_shard(tmp_path, model, shared_data):
    data = [f"pubmed-abstracts={shared_data / 'pile' / '00.jsonl.zst'}"]
    tasks = ["pubmed-abstracts", "sample-questions"]
    results = run(tmp_path, model, task=tasks, data=data, limit=4, context_length=128).evaluations[0].results
    (cell,), samples = results.texts, read_samples(tmp_path, "pubmed-abstracts")
    metrics = cell.metrics
    total = sum(sample["log_likelihood"] for sample in samples)
    assert metrics.n == len(samples) == 4
    assert metrics.log_likelihood == pytest.approx(total)
    words = sum(sample["words"] for sample in samples)
    assert metrics.word_perplexity.value == pytest.approx(math.exp(-total / words))
    bits = -total / math.log(2) / sum(sample["utf8_bytes"] for sample in samples)
    assert metrics.bits_per_byte.value == pytest.approx(bits)
    low, high = metrics.bits_per_byte.interval
    assert low < bits < high
    assert (cell.prefix, cell.context_length) == ("EOS (id 1)", 128)
    assert [cell.task for cell in results.questions] == ["sample-questions"]


def test_text_without_spaces_has_no_finite_word_perplexity(tmp_path, model):
    data = tmp_path / "sequence.jsonl"
    data.write_text(json.dumps({"text": "ACGT" * 400}) + "\n", encoding="utf-8")
    report = run(tmp_path, model, task=["text"], data=[f"text={data}"])
    metrics = report.evaluations[0].results.texts[0].metrics
    assert metrics.word_perplexity.value == math.inf
    assert math.isfinite(metrics.bits_per_byte.value)
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert content["texts"][0]["metrics"]["word_perplexity"]["value"] is None
    assert load_results(tmp_path / "out").texts[0].metrics.word_perplexity.value == math.inf


def test_a_dry_run_counts_rows_and_writes_nothing(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    data = [f"medqa-5={write_medqa(tmp_path / 'data' / 'five.jsonl', 9, options=5)}"]
    report = run(tmp_path, "no-such/model", dry_run=True, task=["medqa-5", "medqa"], data=data, limit=4)
    five, four = report.planned
    assert (five.records, five.profiles) == (9, ("paper/1",))
    assert (four.place, four.records) == ("hub: GBaker/MedQA-USMLE-4-options, test split", None)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert "profile paper has 9 of the 1,273 items" in caplog.text
    run(tmp_path, "other/model", dry_run=True, task=["medqa-5"], data=data)
    assert caplog.text.count("profile paper has 9 of the 1,273 items") == 1  # once in a process
    lines = report.lines()
    assert "nothing is loaded or written" in lines[0]
    assert "(9 records, 4 of them scored)" in lines[1]
    assert "(not looked up, 4 of them scored)" in lines[2]
    assert lines[-1] == f"Results would go to {tmp_path / 'out'}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nosuchfolder/", "the folder nosuchfolder/ does not exist"),
        ("./nosuch/folder", "the folder ./nosuch/folder does not exist"),
        ("a/b/c", "the folder a/b/c does not exist"),
        ("owner/name/absent.gguf", r"the file owner/name/absent\.gguf does not exist"),
        (__file__, "test_evaluate.py is a file, not a folder"),
        ("scratch:tiny", "scratch:tiny has random weights and no tokenizer"),
    ],
)
def test_a_dry_run_refuses_what_can_be_no_model(tmp_path, source, message):
    with pytest.raises(ModelError, match=message):
        run(tmp_path, source, dry_run=True, task=["sample-questions"])


def test_a_model_that_is_no_folder_here_is_said_to_be_taken_as_a_hub_id(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(tmp_path, "nosuch/folder", dry_run=True, task=["sample-questions"])
    assert "nosuch/folder is no folder here: it is taken as a hub id" in caplog.text


def test_a_plan_is_made_without_the_heavy_libraries(tmp_path):
    code = (
        "import sys\n"
        "from biomedllama_cli.recipes.evaluate import evaluate\n"
        "from biomedllama_cli.settings.evaluate import EvaluateSettings\n"
        f"evaluate(EvaluateSettings(workspace={str(tmp_path)!r}, model=['some/model']), dry_run=True)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval', 'matplotlib', 'statsmodels'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_model_the_newest_checkpoint_is_taken(tmp_path, model, monkeypatch, caplog):
    monkeypatch.setattr(evaluate_sources, "find_newest_result", lambda workspace: model)
    with caplog.at_level(logging.INFO):
        report = run(tmp_path, None, task=["sample-questions"], limit=1)
    assert report.models == (str(model),)
    assert "newest checkpoint" in caplog.text


def test_without_model_and_checkpoint_it_explains(tmp_path):
    with pytest.raises(ModelError, match="no model was given") as error:
        run(tmp_path, None, task=["sample-questions"])
    assert "biomedllama pretrain" in error.value.hint


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path, model):
    for step in ("step-00000002", "step-00000010"):
        checkpoint = tmp_path / "run" / "checkpoints" / step
        shutil.copytree(model, checkpoint)
        (checkpoint / "COMPLETE").touch()
    report = run(tmp_path, tmp_path / "run", task=["sample-questions"], limit=1)
    newest = str(tmp_path / "run" / "checkpoints" / "step-00000010")
    assert report.models == (newest,)
    assert report.evaluations[0].results.model.source == newest


def test_results_are_not_overwritten_unasked(tmp_path, model):
    run(tmp_path, model, task=["sample-questions"], limit=1)
    with pytest.raises(OutputError, match="holds results already"):
        run(tmp_path, model, task=["sample-questions"], limit=2)
    run(tmp_path, model, task=["sample-questions"], limit=2, overwrite=True)
    assert len(read_samples(tmp_path, "sample-questions")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds no results\.json"):
        evaluate(build_settings(tmp_path, model, overwrite=True))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_five_options_for_medqa_name_file_line_and_rule(tmp_path, model):
    file = write_medqa(tmp_path / "five.jsonl", 3, options=5)
    with pytest.raises(DataError, match=r"five\.jsonl line 1: .*5 options where 4 are expected") as error:
        run(tmp_path, model, task=["medqa"], data=[f"medqa={file}"])
    assert "medqa-5" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_an_offline_hub_names_the_local_way(tmp_path, model):
    with pytest.raises(UnavailableError) as error:
        run(tmp_path, model, task=["medqa"])
    assert "--data medqa=FILE" in error.value.hint


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"data": ["medqa"]}, "TASK=FILE"),
        ({"data": ["medka=x.jsonl"]}, "'medka'"),
        (
            {"profile": ["harness"], "shots": 1, "data": [f"medqa.train={__file__}"]},
            "medqa.train without medqa, and lm-eval",
        ),
        ({"task": ["medqa"], "data": ["medmcqa=x.jsonl"]}, "not among the tasks"),
        ({"task": ["pubmed-central"], "data": ["pubmed-central.train=x"]}, "no few-shot"),
        ({"task": ["pubmed-central"], "shots": 2}, "no few-shot"),
        ({"task": ["medqa-5"], "data": ["medqa-5.train=x"]}, "shots is 0"),
        ({"task": ["medqaa"]}, "'medqaa', which does not exist"),
        ({"task": ["text"], "profile": ["instructed"]}, "does not score the task text"),
        ({"task": ["bioasq-yesno"], "profile": ["harness"]}, "harness has no task bioasq-yesno"),
    ],
)
def test_contradicting_settings_are_refused(tmp_path, model, protocol, message):
    with pytest.raises(SettingsError, match=message):
        run(tmp_path, model, **protocol)


def test_a_misspelt_task_of_a_data_file_gets_the_nearest_name(tmp_path, model):
    with pytest.raises(SettingsError, match="'medqa5', which does not exist") as error:
        run(tmp_path, model, task=["medqa-5"], data=["medqa5=x.jsonl"])
    assert "Did you mean medqa-5?" in error.value.hint


def test_a_file_given_as_a_task_is_told_how_it_goes_in(tmp_path, model):
    file = write_medqa(tmp_path / "own.jsonl", 1)
    with pytest.raises(SettingsError, match=r"own\.jsonl', a file and not a task") as error:
        run(tmp_path, model, task=[str(file)])
    assert error.value.hint == f"A file of your own goes in as --task questions --data questions={file}."


def test_what_a_profile_cannot_do_is_told(tmp_path, model, caplog):
    file = tmp_path / "text.jsonl"
    file.write_text(json.dumps({"text": "Iron."}) + "\n", encoding="utf-8")
    options = {"data": [f"text={file}"], "task": ["text"], "dry_run": True}
    run(tmp_path, model, **options, profile=["clean", "instructed"])
    assert "profile instructed does not score the task text and is left out there" in caplog.text
    caplog.clear()
    run(tmp_path, model, **options, profile=["clean", "harness"])
    assert "profile harness does not score the task text" in caplog.text
    caplog.clear()
    run(tmp_path, model, **options, profile=["clean", "paper"])
    assert caplog.text == ""
    run(tmp_path, model, dry_run=True, profile=["harness"], matrix=True, permutations=3)
    told = "protocol.permutations and protocol.matrix: lm-eval asks medqa in its own way; neither changes anything"
    assert told in caplog.text


def test_a_missing_data_file_is_named(tmp_path, model):
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        run(tmp_path, model, task=["medqa"], data=["medqa=absent.jsonl"])
