"""Several models in one `evaluate`, thresholds, forms of the tables, plots, and corpora that hold the questions."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil

import pytest
from evaluation_runs import cell_of, read_results, read_samples, run, write_medqa

from biomedllama_cli.errors import DataError, ExitCode, ModelError, SettingsError
from biomedllama_cli.evaluation.contamination import Contamination
from biomedllama_cli.evaluation.output import load_results
from biomedllama_cli.recipes import evaluate_inputs
from biomedllama_cli.recipes.prepare import prepare
from biomedllama_cli.settings.prepare import PrepareSettings
from biomedllama_cli.tasks.catalogue import TASKS, load_questions


def test_models_are_compared_on_the_same_items(tmp_path, tiny_models):
    report = run(tmp_path, [tiny_models.plain, tiny_models.other], task=["sample-questions"])
    folders = [tmp_path / "out" / "plain", tmp_path / "out" / "other"]
    assert report.output_dirs == tuple(map(str, folders))
    for folder, one in zip(folders, report.evaluations, strict=True):
        assert load_results(folder) == one.results
    text = "\n".join(report.comparison.lines())
    assert "McNemar" in text
    assert text in "\n".join(report.lines())


def test_models_of_one_name_have_folders_of_their_own(tmp_path, tiny_models):
    same = tmp_path / "models" / "plain"
    same.parent.mkdir()
    same.symlink_to(tiny_models.plain)
    report = run(tmp_path, [tiny_models.plain, same], task=["sample-questions"], dry_run=True)
    assert [path.rsplit("/", 1)[1] for path in report.output_dirs] == ["plain", "plain-2"]


def test_a_refused_comparison_costs_no_results(tmp_path, model, caplog):
    short = tmp_path / "short"
    shutil.copytree(model, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "Iron is carried by transferrin. " * 60}) + "\n")
    report = run(tmp_path, [model, short], task=["text"], data=[f"text={text}"])
    assert report.comparison is None
    assert "the models are not compared" in caplog.text
    for name, one in zip((model.name, "short"), report.evaluations, strict=True):
        assert load_results(tmp_path / "out" / name) == one.results


def test_bos_as_each_tokenizer_has_it_is_said_of_a_comparison(tmp_path, tiny_models):
    models = [tiny_models.plain, tiny_models.with_bos]
    report = run(tmp_path, models, task=["sample-questions"], profile=["clean"], limit=3)
    assert "plain none, with-bos BOS (id 0)" in "\n".join(report.comparison.lines())


def test_a_missing_second_model_ends_the_run_with_its_name(tmp_path, model):
    with pytest.raises(ModelError, match="absent"):
        run(tmp_path, [model, tmp_path / "absent"], task=["sample-questions"], limit=2)


def test_a_run_of_several_seeds_names_them(tmp_path):
    runs = tmp_path / "tuned"
    for seed in (0, 1, 10):
        (runs / f"seed-{seed}" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ModelError, match="holds the runs of 3 seeds") as caught:
        run(tmp_path, [runs], task=["sample-questions"])
    assert caught.value.hint == f"Give one of them: {runs}/seed-0, {runs}/seed-1, {runs}/seed-10."


def test_a_result_below_its_threshold_is_a_problem_of_the_report(tmp_path, model):
    options = {"task": ["sample-questions"], "limit": 4}
    good = run(tmp_path / "good", model, **options, output={"fail_under": ["sample-questions=0"]})
    assert (good.problem, good.failed_thresholds) == (None, ())
    bad = run(tmp_path / "bad", model, **options, output={"fail_under": ["paper:sample-questions=1.0"]})
    assert bad.problem.exit_code == ExitCode.BELOW_THRESHOLD
    assert "sample-questions" in bad.problem.message
    assert (tmp_path / "bad" / "out" / "results.json").is_file()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"fail_under": ["medqa=0.3"]}, "medqa is not evaluated"),
        ({"fail_under": ["sample-questions=30"]}, "fraction"),
        ({"plot": "out.pdf"}, "plot is 'out.pdf'"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_the_work(tmp_path, output, message):
    with pytest.raises(SettingsError, match=message):
        run(tmp_path, "no-such/model", task=["sample-questions"], output=output)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_results_are_drawn(tmp_path, tiny_models, suffix):
    file = tmp_path / f"results.{suffix}"
    models = [tiny_models.plain, tiny_models.other]
    report = run(tmp_path, models, task=["sample-questions"], limit=5, output={"plot": str(file)})
    assert file.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])
    assert report.lines()[-1] == f"Plot: {file}"


def test_tables_can_be_pasted(tmp_path, model):
    def lines(form):
        options = {"task": ["sample-questions"], "limit": 4, "overwrite": True, "output": {"format": form}}
        return run(tmp_path, model, profile=["paper", "clean"], **options).lines()

    rows = list(csv.DictReader(io.StringIO("\n".join(lines("csv")))))
    assert {row["profile"] for row in rows} == {"paper/1", "clean/1"}
    assert {row["task"] for row in rows} == {"sample-questions"}
    markdown = "\n".join(lines("markdown"))
    assert "| paper/1 |" in markdown
    assert markdown.count("```") == 4  # what is no table stands in blocks: the difference, and the folder
    latex = lines("latex")
    assert any("\\begin{tabular}" in line for line in latex)
    assert f"% Results: {tmp_path / 'out'}" in latex


def test_questions_of_the_corpus_are_left_out_of_clean_alone(tmp_path, model):
    file = tmp_path / "test.jsonl"
    long = "In an invented trial of forty trays of cress which of these was hummed to the seedlings every morning"
    write_medqa(file, 5)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    records[1]["question"] = f"{long} before noon?"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    corpus = _make_corpus(
        tmp_path, model, f"A page of answers. {records[1]['question']} {records[1]['answer']}"
    )
    report = run(
        tmp_path,
        model,
        task=["medqa"],
        data=[f"medqa={file}"],
        profile=["paper", "clean"],
        corpus=str(corpus),
    )
    paper, clean = (cell_of(report, "medqa", name) for name in ("paper", "clean"))
    (held,) = paper.facts.contaminated
    assert paper.facts.contaminated == clean.facts.contaminated
    manifest = hashlib.sha256((corpus / "manifest.json").read_bytes()).hexdigest()
    assert read_results(tmp_path).questions[1].facts.corpus == {
        "path": str(corpus),
        "manifest_sha256": manifest,
        "documents": 13,
        "listed": 0,
        "searched": 5,
        "untestable": paper.metrics.groups["contamination"]["not testable"].n,
    }
    left_out = [line for line in report.lines() if line.endswith("left out")]
    assert ["clean/1" in line and held in line for line in left_out] == [True]
    assert (paper.metrics.n, clean.metrics.n, clean.metrics.n_all) == (5, 4, 5)
    assert held in {sample["id"] for sample in read_samples(tmp_path, "medqa")}
    assert held not in {sample["id"] for sample in read_samples(tmp_path, "medqa", "clean")}


def test_a_corpus_of_all_questions_leaves_clean_nothing_to_ask(tmp_path, model, monkeypatch):
    file = write_medqa(tmp_path / "test.jsonl", 2)
    ids = [item.id for item in load_questions(TASKS["medqa"], shots=0, test_file=file).items]
    everything = Contamination(tuple(ids), (), 2, 0, 0, corpus="c", manifest_sha256="0")
    monkeypatch.setattr(evaluate_inputs, "find_contaminated", lambda *_: everything)
    options = {"task": ["medqa"], "data": [f"medqa={file}"], "corpus": str(tmp_path)}
    with pytest.raises(DataError, match="the corpus holds all 2 questions"):
        run(tmp_path, model, **options, profile=["paper", "clean"])
    assert cell_of(run(tmp_path, model, **options), "medqa").metrics.n == 2


def _make_corpus(tmp_path, tokenizer, leak):
    lines = [f"Page {number} tells of the weather and of boats on lake {number}." for number in range(12)]
    inputs = tmp_path / "input.jsonl"
    inputs.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*lines, leak]))
    values = {
        "output_dir": tmp_path / "corpus",
        "source": {"input": (str(inputs),)},
        "tokenization": {"tokenizer": str(tokenizer)},
        "output": {"validation_fraction": 0.0},
    }
    prepare(PrepareSettings.model_validate(values))
    return tmp_path / "corpus"
