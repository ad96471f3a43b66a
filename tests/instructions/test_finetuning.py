"""What is learnt is, to the character, what the tuned model is asked and what its answer is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.evaluation.answer_parsing import parse_answer
from biomedllama_cli.evaluation.profiles import find_profile
from biomedllama_cli.instructions.finetuning import Form, chain_example, question_example
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, load_questions
from biomedllama_cli.tasks.question import Question

METAL = Question("m1", "Which metal does haemoglobin hold?", ("Zinc", "Iron", "Lead", "Tin"), 1)
ABSTRACT = Question(
    "p1", "Does tin help?", ("yes", "no", "maybe"), 2, "We gave tin.\nTen {patients} took it.", "It may."
)
LABEL = replace(ABSTRACT, id="l1", context=None)
PASSAGE = replace(METAL, id="c1", context="A note about blood.")
ALL = (METAL, ABSTRACT, LABEL, PASSAGE)


def test_fine_tuning_text_is_the_published_one() -> None:
    prompt, answer = question_example(METAL, "medqa", "finetuned").turns
    assert prompt.text == (
        "### Question: Which metal does haemoglobin hold?\n### Options: (A) Zinc (B) Iron (C) Lead (D) Tin\n### Answer:"
    )
    assert answer.text == " Iron"
    prompt, answer = question_example(ABSTRACT, "pubmedqa", "finetuned").turns
    assert prompt.text == (
        "### Context: We gave tin.\nTen {patients} took it.\n### Question: Does tin help?\n"
        "### Options: (A) yes (B) no (C) maybe\n### Answer:"
    )
    assert answer.text == " maybe"


def test_instructed_text_ends_before_the_bracket_and_the_answer_brings_it() -> None:
    prompt, answer = question_example(METAL, "medqa", "instructed").turns
    assert prompt.text.endswith(
        "as the final answer.\n\n### Question: Which metal does haemoglobin hold?\n\n"
        "### Options:\n(A) Zinc\n(B) Iron\n(C) Lead\n(D) Tin\n\n### Answer:"
    )
    assert answer.text == " (B) Iron"
    prompt, answer = question_example(ABSTRACT, "pubmedqa", "instructed").turns
    assert prompt.text.endswith(
        "### Abstract: We gave tin.\nTen {patients} took it.\n\n### Question: Does tin help?\n\n### Answer:"
    )
    assert answer.text == " Maybe"
    assert question_example(LABEL, "mine", "instructed").turns[1].text == " Maybe"


@pytest.mark.parametrize("question", ALL, ids=lambda question: question.id)
def test_fine_tuned_models_are_tested_on_what_they_learnt(question: Question) -> None:
    profile = find_profile("finetuned")
    prompt, answer = question_example(question, "mine", "finetuned").turns
    assert (prompt.text, answer.text) == (profile.prompt_of(question), profile.gold_of(question))


@pytest.mark.parametrize("question", [ABSTRACT, LABEL], ids=lambda question: question.id)
def test_instructed_models_are_tested_on_the_abstracts_they_learnt(question: Question) -> None:
    profile = find_profile("instructed")
    prompt, answer = question_example(question, "mine", "instructed").turns
    assert (prompt.text, answer.text) == (profile.prompt_of(question), profile.gold_of(question))


@pytest.mark.parametrize("question", [METAL, PASSAGE], ids=lambda question: question.id)
def test_instructed_options_differ_from_the_test_by_the_space_before_the_bracket_alone(
    question: Question,
) -> None:
    profile = find_profile("instructed")
    prompt, answer = question_example(question, "mine", "instructed").turns
    assert profile.prompt_of(question) == prompt.text + "("
    assert answer.text == " (" + profile.gold_of(question)
    assert prompt.text + answer.text.lstrip(" ") == profile.prompt_of(question) + profile.gold_of(question)


@pytest.mark.parametrize("form", ["finetuned", "instructed"])
@pytest.mark.parametrize("question", ALL, ids=lambda question: question.id)
def test_only_the_abstract_may_be_cut(question: Question, form: Form) -> None:
    prompt, answer = question_example(question, "mine", form).turns
    assert answer.cuttable is None
    if question.context is None:
        assert prompt.cuttable is None
        return
    assert prompt.cuttable is not None
    first, end = prompt.cuttable
    assert prompt.text[first:end] == question.context
    assert question.question in prompt.text[end:]


@given(
    context=st.text(min_size=1, max_size=40),
    asked=st.text(min_size=1, max_size=20),
    option=st.text(max_size=9),
)
def test_the_cuttable_span_holds_for_any_text(context: str, asked: str, option: str) -> None:
    for options in (("yes", "no", "maybe"), (option, "other")):
        question = Question("1", asked, options, 0, context)
        for example in (
            question_example(question, "mine", "finetuned"),
            question_example(question, "mine", "instructed"),
            chain_example(question, "So.", "mine"),
        ):
            prompt = example.turns[0]
            assert prompt.cuttable is not None
            assert prompt.text[slice(*prompt.cuttable)] == context


def test_a_passage_of_ones_own_stands_under_a_heading_before_the_question() -> None:
    learnt = question_example(PASSAGE, "mine", "instructed").turns[0].text
    assert "\n\n### Context: A note about blood.\n\n### Question: Which metal" in learnt
    tuned = question_example(PASSAGE, "mine", "finetuned").turns[0].text
    assert tuned.startswith("### Context: A note about blood.\n### Question: Which metal")


def test_an_empty_context_leaves_nothing_to_cut() -> None:
    assert question_example(replace(ABSTRACT, context=""), "mine", "finetuned").turns[0].cuttable is None


@pytest.mark.parametrize("question", ALL, ids=lambda question: question.id)
def test_chains_are_learnt_as_they_are_asked_for_and_read(question: Question) -> None:
    example = chain_example(question, " One thing. Another thing.\n", "mine")
    prompt, answer = example.turns
    assert example.exact
    assert prompt.text == find_profile("cot").prompt_of(question)
    assert answer.text.startswith(" One thing. Another thing.\nTherefore, the answer is ")
    assert parse_answer(answer.text, question) == question.answer_index


@pytest.mark.parametrize(
    ("task_name", "file"),
    [
        ("medqa-5", "medqa/test_5options_first640.jsonl"),
        ("medmcqa", "medmcqa/validation_first120.jsonl"),
        ("pubmedqa", "pubmedqa/ori_pqal_nontest500.json"),
    ],
)
def test_real_questions_survive_llamas_tokenizer(shared_data: Path, task_name: str, file: str) -> None:
    from biomedllama_cli.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(shared_data / "tokenizer" / "llama" / "tokenizer.model"))
    task = TASKS[task_name]
    assert isinstance(task, QuestionTask)
    profile = find_profile("instructed")
    for question in load_questions(task, shots=0, test_file=shared_data / file).items[:50]:
        prompt, answer = question_example(question, task_name, "instructed").turns
        tested = profile.prompt_of(question) + profile.gold_of(question)
        learnt_ids, tested_ids = tokenizer.encode_batch([prompt.text + answer.text, tested])
        assert tokenizer.decode(learnt_ids) == prompt.text + answer.text
        if task_name == "pubmedqa":
            assert learnt_ids == tested_ids
            continue
        # `:` and ` (` are learnt, the published test prompt ends in the one piece `:(`: all before and behind is equal.
        cue = next(
            place
            for place, (left, right) in enumerate(zip(learnt_ids, tested_ids, strict=False))
            if left != right
        )
        assert tokenizer.decode(learnt_ids[:cue]) == prompt.text.removesuffix(":")
        assert learnt_ids[cue + 2 :] == tested_ids[cue + 1 :]
