"""Profiles of `evaluate`: what they share, what each scores, and everything else asked of the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from evaluation_runs import cell_of, read_results, read_samples, run, write_medqa, write_pubmedqa

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer
from biomedllama_cli.tasks.pubmedqa_split import is_official_test


@dataclass
class Counted:
    """The passes of a run: groups of each, and sequences."""

    groups: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)


@pytest.fixture
def counted(monkeypatch) -> Counted:
    """Count what the scorer is given."""
    counts, score = Counted(), SharedPrefixScorer.score

    def counting(self, groups: Sequence, **options):
        counts.groups.append(len(groups))
        counts.sequences.append(sum(map(len, groups)))
        return score(self, groups, **options)

    monkeypatch.setattr(SharedPrefixScorer, "score", counting)
    return counts


def test_profiles_that_ask_the_same_share_one_pass(tmp_path, tiny_models, counted):
    run(tmp_path / "one", tiny_models.plain, task=["sample-questions"])
    report = run(tmp_path / "two", tiny_models.plain, task=["sample-questions"], profile=["paper", "clean"])
    # Without BOS both ask the same 40 questions and the same 40 sets of options without a question.
    assert counted.groups == [80, 80]
    assert counted.sequences == [320, 320]
    paper, clean = (cell_of(report, "sample-questions", name) for name in ("paper", "clean"))
    assert paper.metrics == clean.metrics
    (table,) = report.protocols
    assert "0 of 40 answers change" in "\n".join(table.lines())


def test_with_bos_the_profiles_differ_and_bos_is_named(tmp_path, tiny_models, counted):
    report = run(
        tmp_path, tiny_models.with_bos, task=["sample-questions"], profile=["paper", "clean"], limit=6
    )
    # The questions' groups hold both ways of asking; the options without question are other sequences.
    assert (counted.groups, counted.sequences) == ([6 + 6 + 6], [6 * 8 + 12 * 4])
    paper, clean = (cell_of(report, "sample-questions", name) for name in ("paper", "clean"))
    assert (paper.facts.bos, clean.facts.bos) == ("none", "BOS (id 0)")
    values = [
        read_samples(tmp_path, "sample-questions", name)[0]["log_likelihoods"] for name in ("paper", "clean")
    ]
    assert values[0] != pytest.approx(values[1], abs=1e-3)
    assert "BOS (id 0)" in "\n".join(report.lines())


def test_running_text_begins_after_bos_in_clean_alone(tmp_path, tiny_models, counted):
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "Iron is carried by transferrin in the blood."}\n')
    report = run(
        tmp_path, tiny_models.plain, task=["text"], data=[f"text={file}"], profile=["paper", "clean"]
    )
    paper, clean = report.evaluations[0].results.texts
    assert (paper.prefix, clean.prefix) == ("EOS (id 1)", "BOS (id 0)")
    assert paper.metrics.log_likelihood != clean.metrics.log_likelihood
    assert paper.metrics.tokens == clean.metrics.tokens
    assert counted.groups == [1, 1]


def test_clean_scores_the_official_test_items_with_examples_from_the_others(tmp_path, model):
    file = write_pubmedqa(tmp_path / "ori_pqal.json", test=9, other=7)
    report = run(
        tmp_path, model, task=["pubmedqa"], data=[f"pubmedqa={file}"], profile=["paper", "clean"], shots=2
    )
    paper, clean = (cell_of(report, "pubmedqa", name) for name in ("paper", "clean"))
    assert (paper.metrics.n_all, clean.metrics.n_all) == (16, 9)
    samples = read_samples(tmp_path, "pubmedqa", "clean")
    assert all(is_official_test(sample["id"]) for sample in samples)
    assert not any(is_official_test(name) for sample in samples for name in sample["example_ids"])
    assert clean.facts.draw_rule == "per question, from the items outside the official test part"
    shown = {name for sample in read_samples(tmp_path, "pubmedqa") for name in sample["example_ids"]}
    assert {is_official_test(name) for name in shown} == {True, False}  # the published leak
    assert clean.metrics.answer_labels == {"Yes": 3, "No": 3, "Maybe": 3}
    assert set(clean.metrics.groups["answer"]) == {"Yes", "No", "Maybe"}
    assert clean.metrics.macro_f1 is not None


def test_a_part_of_the_published_items_is_told_beside_the_table_and_aloud(tmp_path, model, caplog):
    file = write_pubmedqa(tmp_path / "part.json", test=9, other=7)
    report = run(
        tmp_path,
        model,
        task=["pubmedqa", "sample-questions"],
        data=[f"pubmedqa={file}"],
        profile=["paper", "clean"],
        limit=2,
    )
    paper, clean = (cell_of(report, "pubmedqa", name).facts for name in ("paper", "clean"))
    assert (paper.published_items, clean.published_items) == (1000, 500)
    text = "\n".join(report.lines())
    assert "pubmedqa, paper/1, 0 shots: 16 of the 1,000 items of the published test set" in text
    assert "pubmedqa, clean/1, 0 shots: 9 of the 500 items of the published test set" in text
    assert text.count("of the published test set") == 2
    assert "profile clean has 9 of the 500 items" in caplog.text


def test_clean_refuses_a_file_without_official_test_items(tmp_path, model):
    file = write_pubmedqa(tmp_path / "nontest.json", test=0, other=5)
    with pytest.raises(DataError, match="none of its 5 items is in PubMedQA's official test part"):
        run(tmp_path, model, task=["pubmedqa"], data=[f"pubmedqa={file}"], profile=["clean"])
    assert not (tmp_path / "out").exists()


def test_clean_refuses_examples_from_the_scored_items(tmp_path, model, caplog):
    file = write_medqa(tmp_path / "test.jsonl", 5)
    with pytest.raises(DataError, match="draws no examples from the scored items") as error:
        run(tmp_path, model, task=["medqa"], data=[f"medqa={file}"], profile=["clean"], shots=1)
    assert "medqa.train=FILE" in error.value.hint
    assert "no training file was given" not in caplog.text


def test_fixed_examples_are_the_same_for_all_and_read_once(tmp_path, model):
    data = [
        f"medqa={write_medqa(tmp_path / 'test.jsonl', 6)}",
        f"medqa.train={write_medqa(tmp_path / 'train.jsonl', 9, start=50)}",
    ]
    report = run(tmp_path, model, task=["medqa"], data=data, shots=2, draw="fixed", compute={"self_check": 6})
    assert len({tuple(sample["example_ids"]) for sample in read_samples(tmp_path, "medqa")}) == 1
    assert cell_of(report, "medqa").facts.draw_rule == "fixed, from the training items"
    assert report.evaluations[0].results.self_check < 1e-4


def test_the_matrix_names_every_score(tmp_path, model):
    report = run(tmp_path, model, task=["sample-questions"], limit=4, matrix=True)
    scores = cell_of(report, "sample-questions").metrics.scores
    rules = ("sum", "per_token", "per_character", "per_byte", "domain_conditional")
    forms = [f"{text}_{space}" for text in ("text", "letter") for space in ("space", "nospace")]
    assert {f"{form}_{rule}" for form in forms for rule in rules} <= set(scores)
    assert scores["text_space_sum"] == scores["acc"]
    assert scores["text_space_per_character"] == scores["acc_norm"]
    assert "scoring matrix" in "\n".join(report.lines())


def test_orders_of_the_options_say_how_often_the_choice_stays(tmp_path, model):
    report = run(tmp_path, model, task=["sample-questions"], limit=5, matrix=True, permutations=3)
    found = cell_of(report, "sample-questions").metrics.permutations
    assert (found.count, found.n, sum(found.chosen_positions)) == (3, 5, 15)
    assert found.lowest <= found.mean_accuracy <= found.highest


def test_orders_of_options_that_no_prompt_shows_are_said_to_have_no_effect(tmp_path, model, caplog):
    report = run(tmp_path, model, task=["sample-questions"], limit=2, permutations=3)
    assert cell_of(report, "sample-questions").metrics.permutations is None
    assert "3 orders of them are not scored; --matrix" in caplog.text


def test_defects_are_listed_and_dropped_only_when_asked(tmp_path, model):
    data = [f"medqa={write_medqa(tmp_path / 'test.jsonl', 8, repeated=[2, 5])}"]
    kept = cell_of(run(tmp_path / "kept", model, task=["medqa"], data=data), "medqa")
    left = cell_of(run(tmp_path / "left", model, task=["medqa"], data=data, drop_defective=True), "medqa")
    assert (kept.metrics.n, kept.facts.dropped_defective) == (8, 0)
    assert (left.metrics.n, left.metrics.n_all, left.facts.dropped_defective) == (6, 6, 2)
    assert [defect.kind for defect in left.facts.defects] == ["answer_repeated"] * 2
    assert left.facts.defects == kept.facts.defects
    ids = {sample["id"] for sample in read_samples(tmp_path / "left", "medqa")}
    assert ids.isdisjoint(defect.id for defect in left.facts.defects)


def test_a_file_of_defective_items_alone_leaves_nothing(tmp_path, model):
    data = [f"medqa={write_medqa(tmp_path / 'test.jsonl', 2, repeated=[0, 1])}"]
    with pytest.raises(DataError, match="drop_defective leaves none"):
        run(tmp_path, model, task=["medqa"], data=data, drop_defective=True)


def test_results_by_step(tmp_path, model):
    data = [f"medqa={write_medqa(tmp_path / 'test.jsonl', 9)}"]
    metrics = cell_of(run(tmp_path, model, task=["medqa"], data=data), "medqa").metrics
    steps = metrics.groups["step"]
    assert {name: step.n for name, step in steps.items()} == {"step1": 6, "step2&3": 3}
    assert sum(step.correct for step in steps.values()) == metrics.scores["acc"].correct


def test_the_self_check_is_in_results_and_summary(tmp_path, model):
    report = run(tmp_path, model, task=["sample-questions"], limit=8, compute={"self_check": 3})
    assert 0 <= read_results(tmp_path).self_check < 1e-4
    assert "Self-check" in "\n".join(report.lines())


def test_sharing_changes_no_likelihood_beyond_rounding(tmp_path, model):
    options = {"task": ["sample-questions"], "limit": 6, "shots": 1}
    run(tmp_path / "shared", model, **options)
    run(tmp_path / "alone", model, **options, compute={"sharing": "off"})
    shared, alone = (read_samples(tmp_path / name, "sample-questions") for name in ("shared", "alone"))
    for one, other in zip(shared, alone, strict=True):
        assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=1e-4)
    assert "each option by itself" in read_results(tmp_path / "alone").model.sharing
