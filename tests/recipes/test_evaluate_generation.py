"""Profiles of `evaluate` in which the model writes its answers, and those in which lm-eval asks."""

from __future__ import annotations

import json

import pytest
import torch
from evaluation_runs import cell_of, read_samples, run, write_medqa, write_pubmedqa

from biomedllama_cli.errors import SettingsError, UnavailableError
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer

FEW = {"max_new_tokens": 6, "chains": 3}


@pytest.fixture
def questions(tmp_path) -> list[str]:
    return [f"medqa={write_medqa(tmp_path / 'test.jsonl', 5)}"]


@pytest.mark.parametrize("profile", ["instructed", "finetuned"])
def test_written_answers_are_matched_read_and_scored(tmp_path, tiny_models, questions, profile):
    report = run(
        tmp_path, tiny_models.with_bos, task=["medqa"], data=questions, profile=[profile], generation=FEW
    )
    cell = cell_of(report, "medqa", profile)
    assert (cell.method, cell.metrics.headline, cell.facts.bos) == (
        "generation",
        "exact_match",
        "BOS (id 0)",
    )
    assert {"exact_match", "parsed", "option_likelihood"} <= set(cell.metrics.scores)
    samples = read_samples(tmp_path, "medqa", profile)
    assert cell.metrics.unparsed == sum(sample["scores"]["parsed"] is None for sample in samples)
    assert len(samples) == 5
    assert all(len(sample["texts"]) == 1 and len(sample["log_likelihoods"]) == 4 for sample in samples)


def test_greedy_answers_are_the_same_again(tmp_path, model, questions):
    options = {"task": ["medqa"], "data": questions, "profile": ["instructed"], "generation": FEW}
    run(tmp_path / "one", model, **options)
    run(tmp_path / "two", model, **options)
    first, again = (read_samples(tmp_path / name, "medqa", "instructed") for name in ("one", "two"))
    assert first == again


def test_chains_of_thought_vote(tmp_path, model, questions):
    report = run(tmp_path, model, task=["medqa"], data=questions, profile=["cot"], generation=FEW, limit=3)
    metrics = cell_of(report, "medqa", "cot").metrics
    generation = cell_of(report, "medqa", "cot").facts.generation
    assert generation == {
        "max_new_tokens": FEW["max_new_tokens"],
        "temperature": 0.7,
        "top_p": 1.0,
        "chains": 3,
        "backend": "hf",
        "template": "plain",
    }
    assert metrics.headline == "majority_vote"
    assert set(metrics.vote_curve) == {1, 2, 3}
    assert metrics.vote_curve[3] == pytest.approx(metrics.scores["majority_vote"].value)
    samples = read_samples(tmp_path, "medqa", "cot")
    assert [len(sample["texts"]) for sample in samples] == [3, 3, 3]
    assert any(len(set(sample["texts"])) > 1 for sample in samples)
    assert "majority vote" in "\n".join(report.lines())


def test_generation_stands_beside_likelihood_in_one_run(tmp_path, model):
    data = [f"pubmedqa={write_pubmedqa(tmp_path / 'ori_pqal.json', test=6, other=2)}"]
    report = run(
        tmp_path,
        model,
        task=["pubmedqa"],
        data=data,
        profile=["paper", "instructed"],
        generation=FEW,
        limit=4,
    )
    assert [cell.profile for cell in report.evaluations[0].results.questions] == ["paper/1", "instructed/1"]
    assert len(report.protocols) == 1


def test_lm_eval_asks_local_rows(tmp_path, model, questions):
    report = run(tmp_path, model, task=["medqa"], data=questions, profile=["paper", "harness"], limit=4)
    cell = cell_of(report, "medqa", "harness")
    assert (cell.method, cell.metrics.n, cell.metrics.n_all) == ("lm-eval", 4, 5)
    assert cell.facts.source.kind == "file"
    assert cell.facts.published_items == 1273
    samples = [
        json.loads(line)
        for line in (tmp_path / "out" / cell.samples_file).read_text(encoding="utf-8").splitlines()
    ]
    assert [len(sample["log_likelihoods"]) for sample in samples] == [4] * 4
    assert [each.profile.split("/")[0] for each in report.evaluations[0].results.questions] == [
        "paper",
        "harness",
    ]


def test_a_task_that_lm_eval_lacks_is_refused_before_anything_is_scored(tmp_path, model, monkeypatch):
    monkeypatch.setattr(SharedPrefixScorer, "score", lambda *_, **__: pytest.fail("something was scored"))
    with pytest.raises(SettingsError, match="has no task 'medqa_4option'") as error:
        run(tmp_path, model, task=["sample-questions", "lm-eval:medqa_4option"])
    assert "medqa_4options" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_a_backend_that_is_not_there_is_told_before_anything_is_scored(tmp_path, model, monkeypatch):
    monkeypatch.setattr(SharedPrefixScorer, "score", lambda *_, **__: pytest.fail("something was scored"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="vllm needs a CUDA device"):
        run(
            tmp_path,
            model,
            task=["sample-questions"],
            profile=["paper", "instructed"],
            generation={"backend": "vllm"},
        )
