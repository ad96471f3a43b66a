"""Verdicts on published values, from planted samples whose counts and margins are known."""

from __future__ import annotations

import math
from typing import Any

import pytest

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.cells import (
    Accuracy,
    CellFacts,
    Estimate,
    ModelFacts,
    QuestionCell,
    QuestionMetrics,
    Results,
    SourceFacts,
    TextCell,
    TextMetrics,
)
from biomedllama_cli.evaluation.published import PublishedRow, find_row, list_rows
from biomedllama_cli.evaluation.reproduction import judge, settings_of
from biomedllama_cli.evaluation.reproduction_report import CellReproduction, Reproduction
from biomedllama_cli.evaluation.statistics import choose_option, normalize_by_length, wilson_interval
from biomedllama_cli.evaluation.verdicts import find_near_ties

ROW = find_row("BioMed-LLaMA-7B 0-shot")
ERROR = 1e-3
HUB = SourceFacts(kind="hub", location="a hub data set", rows=1273, sha256=None)
RIGHT, WRONG = [-1.0, -5.0, -5.0, -5.0], [-5.0, -1.0, -5.0, -5.0]
RIGHT_BY_A_HAIR = [-1.0, -1.0 - 1.9 * ERROR, -5.0, -5.0]  # closer than 2 * ERROR
RIGHT_BY_MORE = [-1.0, -1.0 - 2.1 * ERROR, -5.0, -5.0]


def plant(*kinds: tuple[list[float], int], options: tuple[str, ...] = ("aa", "bb", "cc", "dd")) -> list[dict]:
    """Make samples whose right answer is the first option: so many of each kind of log-likelihoods."""
    values = [value for value, count in kinds for _ in range(count)]
    return [
        {"id": f"q{index}", "options": list(options), "answer_index": 0, "log_likelihoods": value}
        for index, value in enumerate(values)
    ]


def accuracy(correct: int, n: int) -> Accuracy:
    return Accuracy(value=correct / n, correct=correct, n=n, interval=wilson_interval(correct, n))


def question_cell(
    samples: list[dict], task: str = "medqa", *, scores: dict[str, int] | None = None, **changes: Any
) -> QuestionCell:
    n = len(samples)
    if scores is None:
        norms = [normalize_by_length(each["log_likelihoods"], each["options"]) for each in samples]
        scores = {
            "acc": sum(choose_option(each["log_likelihoods"]) == 0 for each in samples),
            "acc_norm": sum(choose_option(norm) == 0 for norm in norms),
        }
    facts = {
        "prompt": {},
        "bos": "none",
        "context_length": 2048,
        "shots": 0,
        "draw_rule": None,
        "draws_sha256": "0",
        "items_sha256": "0",
        "pool_sha256": None,
        "source": HUB,
        "pool_source": None,
    }
    given = {key: changes.pop(key) for key in list(changes) if key in facts}
    metrics = {
        "n": n,
        "n_all": changes.pop("n_all", n),
        "headline": next(iter(scores)),
        "scores": {name: accuracy(correct, n) for name, correct in scores.items()},
        "random": 0.25,
    }
    extra = {key: changes.pop(key) for key in list(changes) if key in QuestionMetrics.model_fields}
    profile = changes.pop("profile", "paper/1")
    assert not changes
    return QuestionCell(
        profile=profile,
        task=task,
        method="likelihood",
        metrics=QuestionMetrics(**metrics, **extra),
        facts=CellFacts(**{**facts, **given}),
        samples_file=f"samples-{profile.split('/')[0]}-{task}.jsonl",
    )


def text_cell(perplexity: float, *, words: int = 200_000, n_all: int = 1000, **changes: Any) -> TextCell:
    value = Estimate(value=perplexity, interval=(perplexity - 1, perplexity + 1))
    metrics = TextMetrics(
        n=1000,
        n_all=n_all,
        words=words,
        tokens=300_000,
        utf8_bytes=1_200_000,
        log_likelihood=-words * math.log(perplexity) if math.isfinite(perplexity) else -1e12,
        word_perplexity=value,
        byte_perplexity=value,
        token_perplexity=value,
        bits_per_byte=value,
        text_sha256="0",
    )
    facts = {"profile": "paper/1", "prefix": "EOS (id 2)", "context_length": 2048, "source": HUB, **changes}
    return TextCell(
        task="pubmed-abstracts",
        metrics=metrics,
        items_sha256="0",
        samples_file="samples-paper-pubmed-abstracts.jsonl",
        **facts,
    )


def results(*cells: QuestionCell | TextCell, seed: int = 42, draw: str = "per-question") -> Results:
    model = ModelFacts(
        source="runs/mine",
        revision=None,
        weights_sha256=None,
        architecture="LlamaForCausalLM",
        parameters=6_738_415_616,
        dtype="bf16",
        device="cuda",
        attention="sdpa",
        tokenizer_kind="sentencepiece",
        tokenizer_fingerprint="0",
        tokenizer_adds_bos=True,
        sharing="prefixes are shared",
    )
    return Results(
        created="2025-01-01T00:00:00Z",
        model=model,
        seed=seed,
        settings={"protocol": {"draw": draw}},
        versions={},
        questions=tuple(cell for cell in cells if isinstance(cell, QuestionCell)),
        texts=tuple(cell for cell in cells if isinstance(cell, TextCell)),
    )


def verdict_on(
    cell: QuestionCell | TextCell,
    samples: list[dict] | None,
    *,
    error: float | None = ERROR,
    row: PublishedRow = ROW,
    **run: Any,
) -> CellReproduction:
    held = {} if samples is None else {cell.samples_file: samples}
    report = judge(row, results(cell, **run), held, error)
    return next(each for each in report.cells if each.published.task == cell.task)


def test_the_same_count_is_identical() -> None:
    samples = plant((RIGHT, 450), (WRONG, 823))
    found = verdict_on(question_cell(samples), samples)
    assert (found.verdict, found.metric, found.reason) == ("identical", "acc", "the same count")
    assert found.candidates[0].difference == 0
    assert found.departures == ()


@pytest.mark.parametrize("right", [449, 451])
def test_one_question_off_is_numerical_when_one_margin_is_below_the_error(right: int) -> None:
    samples = plant((RIGHT_BY_A_HAIR, 1), (RIGHT, right - 1), (WRONG, 1273 - right))
    found = verdict_on(question_cell(samples), samples)
    assert found.verdict == "numerical"
    assert found.candidates[0].difference == right - 450
    assert found.candidates[0].near_ties == ("q0",)


def test_one_question_off_without_a_near_tie_is_another_protocol_or_other_weights() -> None:
    samples = plant((RIGHT_BY_MORE, 30), (RIGHT, 421), (WRONG, 822))
    found = verdict_on(question_cell(samples), samples)
    assert found.verdict == "different protocol or weights"
    assert found.candidates[0].near_ties == ()
    assert found.reason == "1 question off, and no margins within what the precision error can turn"


def test_more_questions_off_than_near_ties_are_not_numerical() -> None:
    exact = plant((RIGHT_BY_A_HAIR, 3), (RIGHT, 450), (WRONG, 820))
    above = plant((RIGHT_BY_A_HAIR, 3), (RIGHT, 451), (WRONG, 819))
    assert verdict_on(question_cell(exact), exact).verdict == "numerical"
    assert verdict_on(question_cell(above), above).verdict == "different protocol or weights"


def test_a_large_difference_inside_the_interval_is_still_different() -> None:
    samples = plant((RIGHT, 460), (WRONG, 813))
    found = verdict_on(question_cell(samples), samples)
    low, high = found.candidates[0].interval
    assert low < 0.3535 < high
    assert found.verdict == "different protocol or weights"


def test_the_length_normalised_score_wins_where_it_alone_has_the_count() -> None:
    options = ("a long right option", "x", "y", "z")
    # Shorter wrong options win by their sum and lose by the character.
    samples = plant((RIGHT, 440), ([-2.0, -1.5, -5.0, -5.0], 10), (WRONG, 823), options=options)
    samples = [
        {**each, "options": ["aa", "bb", "cc", "dd"]} if each["log_likelihoods"] == WRONG else each
        for each in samples
    ]
    found = verdict_on(question_cell(samples), samples)
    assert [each.correct for each in found.candidates] == [440, 450]
    assert (found.verdict, found.metric) == ("identical", "acc_norm")
    assert [each.verdict for each in found.candidates] == ["different protocol or weights", "identical"]


def test_of_two_scores_that_differ_the_nearer_one_stands_for_the_cell() -> None:
    samples = plant((RIGHT, 455), (WRONG, 818))
    found = verdict_on(question_cell(samples, scores={"acc": 490, "acc_norm": 455}), samples)
    assert (found.verdict, found.metric) == ("different protocol or weights", "acc_norm")
    assert found.reason.startswith("5 questions off")


def test_margins_of_the_length_normalised_score_are_on_its_own_scale() -> None:
    # Per character 0.1 nats and 0.1005: each of ten characters carries a tenth of the error.
    close = [-1.0, -1.0 - 5e-3, -5.0, -5.0]
    samples = plant((close, 1), (RIGHT, 450), (WRONG, 822), options=("a" * 10, "b" * 10, "c" * 10, "d" * 10))
    found = verdict_on(question_cell(samples), samples, error=2.6e-3)
    assert [each.near_ties for each in found.candidates] == [("q0",), ("q0",)]
    tight = verdict_on(question_cell(samples), samples, error=2.4e-3)
    assert [each.near_ties for each in tight.candidates] == [(), ()]
    # The error of an option of one character is not divided: 3e-3 apart, errors of 1.1 * 2.8e-3 together.
    short = plant(([-1.0, -0.103, -5.0, -5.0], 1), options=("a" * 10, "b", "c", "d"))
    assert find_near_ties(short, "acc_norm", 2.8e-3) == ("q0",)
    assert find_near_ties(short, "acc_norm", 2.7e-3) == ()
    assert find_near_ties(short, "acc", 2.8e-3) == ()


def test_a_third_option_close_to_the_best_counts_as_one_near_tie() -> None:
    samples = plant(([-1.0, -1.0, -1.0, -5.0], 1), (RIGHT, 450), (WRONG, 822))
    assert verdict_on(question_cell(samples), samples).candidates[0].near_ties == ("q0",)


def test_a_limited_run_is_incomplete_even_with_the_right_share() -> None:
    samples = plant((RIGHT, 35), (WRONG, 65))
    found = verdict_on(question_cell(samples, n_all=1273), samples)
    assert (found.verdict, found.reason) == ("incomplete", "100 of 1273 questions were scored")


def test_a_file_with_fewer_questions_than_published_is_incomplete() -> None:
    samples = plant((RIGHT, 450), (WRONG, 190))
    found = verdict_on(question_cell(samples), samples)
    assert found.verdict == "incomplete"
    assert found.reason == "640 questions were scored, and the published value is over 1273"


def test_without_a_precision_error_numerical_is_not_given_and_the_text_says_why() -> None:
    samples = plant((RIGHT_BY_A_HAIR, 5), (RIGHT, 446), (WRONG, 822))
    found = verdict_on(question_cell(samples), samples, error=None)
    assert found.verdict == "different protocol or weights"
    assert found.reason == "1 question off; numerical cannot be given: no precision error was measured"
    assert found.candidates[0].near_ties is None
    report = judge(ROW, results(question_cell(samples)), {"samples-paper-medqa.jsonl": samples}, None)
    assert any("Precision error: not measured" in line for line in report.lines())


def test_without_samples_numerical_is_not_given() -> None:
    samples = plant((RIGHT_BY_A_HAIR, 5), (RIGHT, 446), (WRONG, 822))
    found = verdict_on(question_cell(samples), None)
    assert found.verdict == "different protocol or weights"
    assert "samples are not at hand" in found.reason


@pytest.mark.parametrize(
    ("changes", "departure"),
    [
        ({"bos": "BOS (id 1)"}, "BOS (id 1) stands first, published without BOS"),
        ({"context_length": 512}, "context of 512 tokens, published 2048"),
        ({"dropped_defective": 2}, "2 defective questions were left out"),
    ],
)
def test_a_known_departure_from_the_protocol_is_named_and_rules_numerical_out(
    changes: dict[str, Any], departure: str
) -> None:
    samples = plant((RIGHT_BY_A_HAIR, 5), (RIGHT, 446), (WRONG, 822))
    extra = {"dropped_defective": changes.pop("dropped_defective", 0)}
    cell = question_cell(samples, **changes)
    cell = cell.model_copy(update={"facts": cell.facts.model_copy(update=extra)})
    found = verdict_on(cell, samples)
    assert found.departures == (departure,)
    assert found.verdict == "different protocol or weights"
    assert "the protocol departs" in found.reason


def test_few_shot_draws_of_another_seed_or_pool_are_departures() -> None:
    row = find_row("BioMed-LLaMA-7B few-shot")
    samples = plant((RIGHT, 467), (WRONG, 806))
    pooled = question_cell(samples, shots=3, pool_source=HUB)
    assert verdict_on(pooled, samples, row=row).departures == ()
    assert "seed 1" in verdict_on(pooled, samples, row=row, seed=1).departures[0]
    assert "same examples" in verdict_on(pooled, samples, row=row, draw="fixed").departures[0]
    leaking = question_cell(samples, shots=3)
    assert "scored questions" in verdict_on(leaking, samples, row=row).departures[0]
    pubmedqa = plant((RIGHT, 702), (WRONG, 298))
    cell = question_cell(pubmedqa, "pubmedqa", shots=1)
    assert verdict_on(cell, pubmedqa, row=row).departures == ()  # the published draw is from the scored items


def test_a_task_that_ran_otherwise_or_not_at_all_is_not_run_with_the_reason() -> None:
    samples = plant((RIGHT, 450), (WRONG, 823))
    clean = question_cell(samples, profile="clean/1")
    shots = question_cell(samples, "medqa-5", shots=3)
    reasons = {"pubmedqa": "the hub cannot be reached"}
    report = judge(ROW, results(clean, shots), {}, ERROR, reasons=reasons)
    assert {cell.verdict for cell in report.cells} == {"not run"}
    text = {cell.published.task: cell.reason for cell in report.cells}
    assert "ran as profile clean/1 with 0 shots; the row needs profile paper" in text["medqa"]
    assert "profile paper/1 with 3 shots" in text["medqa-5"]
    assert text["medmcqa"] == "the results do not hold this task"
    assert text["pubmedqa"] == "the hub cannot be reached"


def test_generated_answers_are_identical_or_different_and_never_numerical() -> None:
    row = find_row("LLaMA-7B instructed")
    samples = plant((RIGHT, 559), (WRONG, 714))
    start = {"profile": "instructed/1", "bos": "BOS (id 1)"}
    same = question_cell(samples, scores={"exact_match": 559, "parsed": 600}, **start)
    assert verdict_on(same, samples, row=row).verdict == "identical"
    assert verdict_on(same, samples, row=row).departures == ()
    off = verdict_on(question_cell(samples, scores={"exact_match": 560}, **start), samples, row=row)
    assert off.verdict == "different protocol or weights"
    assert "generated answers have no margin" in off.reason
    without = question_cell(samples, scores={"exact_match": 559}, profile="instructed/1")
    assert verdict_on(without, samples, row=row).departures == ("no BOS, published with the tokenizer's",)


@pytest.mark.parametrize(("correct", "place"), [(503, "inside"), (515, "outside")])
def test_a_mean_with_an_unexplained_spread_is_not_comparable(correct: int, place: str) -> None:
    samples = plant((RIGHT, correct), (WRONG, 1273 - correct))
    cell = question_cell(samples, scores={"exact_match": correct}, profile="finetuned/1", bos="BOS (id 1)")
    found = verdict_on(cell, samples, row=find_row("LLaMA-7B fine-tuned"))
    assert found.verdict == "not comparable"
    assert f"lies {place} its unexplained ±" in found.reason


@pytest.mark.parametrize("value", [15.7774, 15.77744, 15.77736])
def test_a_perplexity_that_rounds_to_the_printed_digits_is_identical(value: float) -> None:
    assert verdict_on(text_cell(value), None, error=None).verdict == "identical"


def test_a_perplexity_is_numerical_within_what_the_precision_explains() -> None:
    samples = [{"id": str(index), "tokens": 300} for index in range(1000)]
    # 1000 windows off by 1e-3 nats over 200,000 words: 15.7774 * 5e-6 = 7.9e-5, and half a digit of rounding.
    near = verdict_on(text_cell(15.77752), samples)
    assert near.verdict == "numerical"
    assert near.candidates[0].tolerance == pytest.approx(15.7775 * 5e-6, rel=1e-3)
    assert verdict_on(text_cell(15.77754), samples).verdict == "different protocol or weights"
    assert verdict_on(text_cell(15.77752), samples, error=None).verdict == "different protocol or weights"


def test_long_documents_count_once_per_window() -> None:
    samples = [{"id": str(index), "tokens": 5000} for index in range(1000)]
    found = verdict_on(text_cell(15.7776), samples)
    assert found.candidates[0].tolerance == pytest.approx(15.7776 * 3 * 5e-6, rel=1e-3)
    assert found.verdict == "numerical"


def test_perplexities_of_a_part_or_of_another_window_are_told() -> None:
    part = verdict_on(text_cell(15.7774, n_all=5000), None)
    assert (part.verdict, part.reason) == ("incomplete", "1000 of 5000 documents were scored")
    short = verdict_on(text_cell(16.5, context_length=1024), [])
    assert short.departures == ("context of 1024 tokens, published 2048",)
    local = verdict_on(text_cell(16.5, source=HUB.model_copy(update={"kind": "file"})), [])
    assert "local file" in (local.beside or "")
    assert verdict_on(text_cell(math.inf), []).verdict == "different protocol or weights"


def full_report() -> Reproduction:
    medqa = plant((RIGHT, 450), (WRONG, 823))
    medmcqa = plant((RIGHT_BY_A_HAIR, 2), (RIGHT, 1221), (WRONG, 2960))
    pubmedqa = plant((RIGHT, 552), (WRONG, 448))
    labels = {"predicted_labels": {"Yes": 1000, "No": 0, "Maybe": 0}, "majority": 0.552, "macro_f1": 0.2371}
    cells = (
        text_cell(15.7774),
        question_cell(medqa),
        question_cell(medmcqa, "medmcqa"),
        question_cell(pubmedqa, "pubmedqa", scores={"acc": 552}, **labels),
    )
    samples = {
        cell.samples_file: records
        for cell, records in zip(cells, ([], medqa, medmcqa, pubmedqa), strict=True)
    }
    return judge(ROW, results(*cells), samples, ERROR)


def test_the_table_shows_counts_interval_protocol_and_verdict() -> None:
    lines = full_report().lines()
    text = "\n".join(lines)
    assert lines[0] == "Reproduction of the published row BioMed-LLaMA-7B 0-shot"
    assert "bf16 on cuda); published: forestai/biomed-llama-7b, fp16" in lines[1]
    assert "Precision error: 1.0e-03 nats" in text
    row = next(line for line in lines if line.startswith("medmcqa ") and " acc " in line)
    low, high = wilson_interval(1223, 4183)
    start = "medmcqa 0 paper/1 none 4183 acc 1222/4183 1223/4183 +1"
    assert row.split() == [*start.split(), f"{low:.4f}-{high:.4f}", "numerical"]
    assert "pubmedqa: different protocol or weights (acc): 64 questions off" in text
    assert "always the commonest answer 0.5520; macro-F1 0.2371; predicted Yes 1000, No 0, Maybe 0" in text
    assert "EOS (id 2)" in text
    assert "6 cells: 2 identical, 1 numerical, 1 different protocol or weights, 2 not run" in text
    assert "Identical by score: word_perplexity 1 of 1, acc 1 of 3, acc_norm 1 of 2" in text


def test_the_report_as_json_is_versioned_and_lists_the_near_ties() -> None:
    report = full_report().model_dump(mode="json")
    assert report["schema_version"] == "biomedllama.reproduction/1"
    medmcqa = report["cells"][4]
    assert medmcqa["published"]["counts"] == [1222]
    assert medmcqa["candidates"][0]["near_ties"] == ["q0", "q1"]
    infinite = judge(ROW, results(text_cell(math.inf)), {}, ERROR).model_dump(mode="json")
    assert infinite["cells"][0]["candidates"][0]["value"] is None


def test_a_zero_shot_row_is_one_run_of_all_its_tasks() -> None:
    (request,) = settings_of(ROW)
    assert request.model == "forestai/biomed-llama-7b"
    assert request.tasks == ("pubmed-abstracts", "pubmed-central", "medqa", "medqa-5", "medmcqa", "pubmedqa")
    assert set(request.shots.values()) == {0}
    assert (request.profile, request.context_length) == ("paper", 2048)


def test_a_few_shot_row_has_shots_of_its_own_per_task() -> None:
    (request,) = settings_of(find_row("LLaMA-7B few-shot"))
    assert request.shots == {"medqa": 3, "medqa-5": 3, "medmcqa": 10, "pubmedqa": 1}


def test_every_model_row_can_be_asked_for_with_given_weights() -> None:
    for row in list_rows().rows:
        if row.is_model:
            requests = settings_of(row, ["here", "there"])
            assert [request.model for request in requests] == ["here", "there"]
            assert requests[0].tasks == tuple(cell.task for cell in row.cells)
    assert settings_of(find_row("BioMedLM-2.7B 0-shot"))[0].context_length == 1024


def test_tasks_can_be_picked_and_foreign_ones_are_refused() -> None:
    tuned = find_row("LLaMA-7B fine-tuned")
    (request,) = settings_of(tuned, ["mine"], tasks=["medmcqa"])
    assert (request.tasks, request.profile) == (("medmcqa",), "finetuned")
    with pytest.raises(SettingsError, match="no value for the task 'medqa-5'"):
        settings_of(tuned, ["mine"], tasks=["medqa-5"])


def test_rows_that_cannot_be_run_say_why() -> None:
    with pytest.raises(SettingsError, match="chance"):
        settings_of(find_row("Random"))
    with pytest.raises(SettingsError, match="never published") as caught:
        settings_of(find_row("LLaMA-7B instructed"))
    assert "--model" in caught.value.hint
