"""`/mc` shows the numbers of `evaluate`, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from evaluation_runs import read_samples, run, write_pubmedqa
from tiny_llama import POSITIONS, TinyModel, build_tiny_model

from biomedllama_cli.chat.exam import Exam
from biomedllama_cli.chat.exam_answer import ExamAnswer
from biomedllama_cli.chat.exam_text import parse_exam
from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation import scores
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.tokenizer import load_tokenizer

PLAIN = {
    "question": "Which metal rusts in the rain?",
    "options": ["tin", "iron ore", "gold leaf"],
    "answer_index": 1,
}
LABELLED = {
    "question": "Does tin help against rust?",
    "options": ["yes", "no", "maybe"],
    "answer_index": 2,
    "context": "We plated iron with tin.\nHalf of it got none.",
}
OWN_CONTEXT = {**PLAIN, "context": "Iron was left in the rain, and tin."}
ODD = {
    "question": "Welches  Metall rostet — 哪个?",
    "options": [" Zinn", "Eisen ", "Eisen ", "β‑Messing 铜", "金"],
    "answer_index": 3,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build_tiny_model(tmp_path_factory.mktemp("exam"), adds_bos=False)


@pytest.fixture(scope="module")
def tiny_with_bos(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build_tiny_model(tmp_path_factory.mktemp("exam-bos"), adds_bos=True)


def open_exam(tiny: TinyModel, context_length: int | None = None) -> Exam:
    tokenizer = load_tokenizer(str(tiny.folder))
    model = load_model(
        str(tiny.folder), dtype=torch.float32, attention="sdpa", vocabulary_size=tokenizer.vocabulary_size
    )
    return Exam(model, tokenizer, context_length)


def write_questions(folder: Path, *records: dict[str, object]) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, list[float]]]:
    """Every option's value under every score, by question, as `evaluate` computes them on its way."""
    kept: dict[str, dict[str, list[float]]] = {}
    original: Callable[..., dict[str, list[float]]] = scores.score_options

    def keep(profile, asked, scored):
        kept[asked.question.id] = original(profile, asked, scored)
        return kept[asked.question.id]

    monkeypatch.setattr(scores, "score_options", keep)
    return kept


def assert_equal(
    answer: ExamAnswer, sample: dict, values: dict[str, list[float]], *, close: bool = False
) -> None:
    """Compare with what `evaluate` computed and wrote: equal to the bit, or as close as another row allows."""
    dumped = answer.dump()
    for key in ("question", "options", "tokens"):
        assert dumped[key] == sample[key], key
    assert answer.scores.keys() == values.keys()
    pairs = [(answer.scores[name], tuple(row)) for name, row in values.items()]
    for ours, theirs in [(tuple(dumped["log_likelihoods"]), tuple(sample["log_likelihoods"])), *pairs]:
        assert ours == (pytest.approx(theirs, rel=0, abs=1e-5) if close else theirs)
    # What is read from generated text is not there.
    assert dumped["scores"] == {
        name: choice for name, choice in sample["scores"].items() if name in answer.scores
    }
    if not answer.generates:
        assert sample["prediction"] == dumped["scores"]["acc"]


@pytest.mark.parametrize("profile", ["paper", "clean", "instructed", "finetuned"])
@pytest.mark.parametrize(
    "record", [PLAIN, LABELLED, OWN_CONTEXT, ODD], ids=["plain", "labelled", "context", "odd"]
)
def test_one_question_has_the_numbers_of_evaluate_to_the_bit(tmp_path, tiny_with_bos, seen, profile, record):
    file = write_questions(tmp_path, record)
    run(
        tmp_path,
        tiny_with_bos.folder,
        task=["questions"],
        data=[f"questions={file}"],
        profile=[profile],
        matrix=True,
        generation={"max_new_tokens": 2},
    )
    (sample,) = read_samples(tmp_path, "questions", profile)
    (values,) = seen.values()
    assert len(values) >= 6  # the profile's own and a form in every normalisation
    seen.clear()
    answer = open_exam(tiny_with_bos).ask(parse_exam(str(file)), profile)
    assert_equal(answer, sample, values)
    assert answer.bos == (profile != "paper")


@pytest.mark.parametrize("profile", ["paper", "clean"])
def test_questions_of_a_file_have_the_numbers_of_evaluate(tmp_path, tiny, seen, profile):
    # Short options: at -64 nats the floats of 32 bits themselves are 8e-6 apart.
    short = {**PLAIN, "options": ["tin", "iron", "gold"]}
    records = [{**short, "question": f"Which of {n} metals rusts?", "id": f"q{n}"} for n in range(6)]
    file = write_questions(tmp_path, *records)
    run(tmp_path, tiny.folder, task=["questions"], data=[f"questions={file}"], profile=[profile], matrix=True)
    samples = {sample["id"]: sample for sample in read_samples(tmp_path, "questions", profile)}
    values = dict(seen)
    exam = open_exam(tiny)
    for number in range(6):
        answer = exam.ask(parse_exam(f"{file}:{number + 1}"), profile)
        assert_equal(answer, samples[f"q{number}"], values[f"q{number}"], close=True)


def test_a_question_of_pubmedqa_has_the_numbers_of_its_task(tmp_path, tiny, seen):
    file = write_pubmedqa(tmp_path / "ori_pqal.json", test=1, other=0)
    run(tmp_path, tiny.folder, task=["pubmedqa"], data=[f"pubmedqa={file}"], profile=["paper"], matrix=True)
    (sample,) = read_samples(tmp_path, "pubmedqa", "paper")
    (values,) = seen.values()
    answer = open_exam(tiny).ask(parse_exam(f"pubmedqa={file}:1"))
    assert_equal(answer, sample, values)
    assert answer.question.options == ("Yes", "No", "Maybe")  # as they are scored
    assert answer.own_scores == ("acc",)


def test_what_is_typed_has_the_numbers_of_the_same_file(tmp_path, tiny):
    exam = open_exam(tiny)
    typed = exam.ask(parse_exam("Which metal rusts in the rain? | tin | iron ore | gold leaf | Answer: B"))
    assert typed.scores == exam.ask(parse_exam(str(write_questions(tmp_path, PLAIN)))).scores


def test_an_unknown_answer_changes_no_number_and_is_told_as_unknown(tiny):
    exam, text = open_exam(tiny), "Which metal rusts? | tin | iron ore | gold"
    unknown, known = exam.ask(parse_exam(text)), exam.ask(parse_exam(text + " | Answer: C"))
    assert unknown.scores == known.scores
    assert unknown.dump()["answer_index"] is None
    assert {row["right"] for row in unknown.rows()} == {row["right"] for row in unknown.matrix()} == {None}
    assert [row["right"] for row in known.rows()] == [False, False, True]
    assert "right" not in unknown.verdict()
    assert known.verdict().endswith("(right: C)")


def test_an_independent_loop_finds_the_same_log_likelihoods(tiny):
    answer = open_exam(tiny).ask(parse_exam("Which metal rusts? | tin | iron ore | gold"))
    assert [form.name for form in answer.forms] == [
        "text_space",
        "text_nospace",
        "letter_space",
        "letter_nospace",
    ]
    for form in answer.forms:
        for continuation, likelihood in zip(form.continuations, form.likelihoods, strict=True):
            alone = tiny.score_option(form.prompt, continuation, POSITIONS)
            assert likelihood.value == pytest.approx(alone, abs=1e-4)
    assert answer.own.prompt == "Question: Which metal rusts?\nAnswer:"
    assert answer.own.continuations == (" tin", " iron ore", " gold")
    assert "\nC. gold\nAnswer:" in answer.forms[2].prompt


def test_a_cut_input_is_told_and_scored_as_evaluate_does(tmp_path, tiny, seen):
    file = write_questions(tmp_path, {**LABELLED, "context": "We plated iron with tin. " * 200})
    run(tmp_path, tiny.folder, task=["questions"], data=[f"questions={file}"], matrix=True)
    (sample,) = read_samples(tmp_path, "questions")
    (values,) = seen.values()
    answer = open_exam(tiny).ask(parse_exam(str(file)))
    assert_equal(answer, sample, values)
    assert answer.context_length == POSITIONS  # the model's own limit
    assert answer.truncated
    assert any("512 tokens: the prompt lost its left end" in note for note in answer.notes())


def test_an_option_longer_than_the_context_is_refused(tiny):
    exam = open_exam(tiny, context_length=3)
    with pytest.raises(
        DataError, match=r"an option of the question typed has .* tokens, and the context holds 3"
    ):
        exam.ask(parse_exam("Which metal rusts? | tin | iron ore that lay in the rain for years"))


def test_equal_options_have_equal_numbers_and_the_first_of_them_counts(tiny):
    answer = open_exam(tiny).ask(parse_exam("Which rusts? | iron | tin | iron | tin"))
    first, second, third, fourth = answer.own.likelihoods
    assert (first, second) == (third, fourth)
    assert answer.chosen["acc"] in (0, 1)
    assert sum(answer.probabilities) == pytest.approx(1)
    assert "Options A and C are the same text." in answer.notes()
    assert any("closer than 0.002 nats" in note for note in answer.notes())


def test_asking_again_gives_the_same_and_examines_the_model_once(tiny, monkeypatch):
    from biomedllama_cli.evaluation import scorer

    examined = []
    original = scorer.examine_model
    monkeypatch.setattr(scorer, "examine_model", lambda *a, **k: examined.append(1) or original(*a, **k))
    exam, question = open_exam(tiny), parse_exam("Which rusts? | tin | iron")
    before = exam.ask(question)
    exam.ask(question, "instructed")
    assert exam.ask(question) == before
    assert len(examined) == 1


def test_nothing_that_is_typed_is_written_anywhere(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_exam(tiny).ask(parse_exam("Which rusts? | tin | iron"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("harness", "profile harness is asked by lm-eval itself"),
        ("cot", "profile cot reads its answers from chains of thought"),
        ("papre", "profile is 'papre'; it must be one of"),
    ],
)
def test_profiles_that_score_no_options_are_refused(tiny, profile, message):
    with pytest.raises(SettingsError, match=message) as error:
        open_exam(tiny).ask(parse_exam("Which rusts? | tin | iron"), profile)
    assert error.value.hint
