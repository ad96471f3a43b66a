"""Prompts to the character, and few-shot draws as the original harness makes them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.answer_parsing import trim_answer
from biomedllama_cli.tasks import prompts
from biomedllama_cli.tasks.catalogue import TASKS
from biomedllama_cli.tasks.fewshot import draw_examples, hash_draws, shuffle_items
from biomedllama_cli.tasks.prompts import kind_of, show_options
from biomedllama_cli.tasks.question import Question

KNOWLEDGE = Question("1", "Which {metal}?", ("Zinc", "Iron"), 1)
ABSTRACT = Question("2", "Does it?", ("yes", "no", "maybe"), 0, "Part one.\nPart two.")


def make_questions(count, prefix="q"):
    return [
        Question(f"{prefix}{row}", f"{prefix}{row}?", ("a", "b", "c", "d"), row % 4) for row in range(count)
    ]


@pytest.mark.parametrize("task", ["medqa", "medqa-5", "medmcqa", "sample-questions"])
def test_knowledge_prompt_shows_no_options_and_scores_them_after_a_space(task):
    prompt = TASKS[task].prompt
    assert prompt.ask(KNOWLEDGE) == "Question: Which {metal}?\nAnswer:"
    assert prompt.continuations(KNOWLEDGE) == (" Zinc", " Iron")
    assert prompt.ask(KNOWLEDGE, [KNOWLEDGE]) == (
        "Question: Which {metal}?\nAnswer: Iron\n\nQuestion: Which {metal}?\nAnswer:"
    )


def test_pubmedqa_scores_capitals_without_space_after_examples_in_lower_case():
    prompt = TASKS["pubmedqa"].prompt
    whole = "Abstract: Part one.\nPart two.\nQuestion: Does it?\nAnswer:"
    assert prompt.ask(ABSTRACT) == whole
    assert prompt.ask(ABSTRACT, [ABSTRACT]) == f"{whole} yes\n\n{whole}"
    assert prompt.continuations(ABSTRACT) == ("Yes", "No", "Maybe")
    assert not prompt.normalizes_by_length


def test_finetuned_source_text_is_the_published_one():
    assert prompts.FINETUNED_QUESTION.ask(KNOWLEDGE) == (
        "### Question: Which {metal}?\n### Options: (A) Zinc (B) Iron\n### Answer:"
    )
    assert prompts.FINETUNED_QUESTION.continuations(KNOWLEDGE) == (" Zinc", " Iron")
    assert prompts.FINETUNED_ABSTRACT.ask(ABSTRACT) == (
        "### Context: Part one.\nPart two.\n### Question: Does it?\n"
        "### Options: (A) yes (B) no (C) maybe\n### Answer:"
    )
    assert prompts.FINETUNED_ABSTRACT.continuations(ABSTRACT) == (" yes", " no", " maybe")


def test_instructed_prompt_of_medqa_is_the_published_one():
    prompt = prompts.INSTRUCTED_QUESTION
    assert prompt.ask(KNOWLEDGE) == (
        "The following is a multiple-choice question (with options) about medical knowledge. Please select the "
        "most appropriate one from the following answer candidates as the final answer.\n\n"
        "### Question: Which {metal}?\n\n### Options:\n(A) Zinc\n(B) Iron\n\n### Answer:("
    )
    assert prompt.continuations(KNOWLEDGE) == ("A) Zinc", "B) Iron")
    assert prompt.ask(KNOWLEDGE, [KNOWLEDGE]) == f"{prompt.ask(KNOWLEDGE)}B) Iron\n\n{prompt.ask(KNOWLEDGE)}"


def test_instructed_prompt_of_pubmedqa_is_the_published_one():
    prompt = prompts.INSTRUCTED_ABSTRACT
    whole = (
        "The following is a medical question paired with an abstract from PubMed. Please answer Yes / No / Maybe "
        "to the question given the scientific evidence as the final answer.\n\n"
        "### Abstract: Part one.\nPart two.\n\n### Question: Does it?\n\n### Answer:"
    )
    assert prompt.ask(ABSTRACT) == whole
    assert [trim_answer(text) for text in prompt.continuations(ABSTRACT)] == ["Yes", "No", "Maybe"]
    assert prompt.ask(ABSTRACT, [ABSTRACT]) == f"{whole} Yes\n\n{whole}"


@pytest.mark.parametrize("answer", ["Iron", "Vitamin B1 (thiamine)", "(R)-warfarin", " Both "])
def test_scored_continuation_is_what_the_published_trimming_wants(answer):
    item = Question("1", "?", ("Zinc", answer), 1)
    gold = f"(B) {answer}"
    assert trim_answer(prompts.INSTRUCTED_QUESTION.continuations(item)[1]) == trim_answer(gold)
    assert trim_answer(prompts.FINETUNED_QUESTION.continuations(item)[1]) == trim_answer(f" {answer}")


def test_trimming_removes_brackets_and_spaces_of_the_ends_only():
    assert trim_answer("( (A) Iron (II) ) ") == "A) Iron (II"
    assert trim_answer(") Iron") == "Iron"
    assert trim_answer("Iron(") == "Iron("


def test_chain_prompt_is_the_instructed_one_with_a_cue_and_ends_examples_with_their_answer():
    chain, instructed = prompts.CHAIN_QUESTION, prompts.INSTRUCTED_QUESTION
    whole = instructed.ask(KNOWLEDGE).removesuffix("(") + " Let's think step by step."
    assert chain.ask(KNOWLEDGE) == whole
    assert chain.ask(KNOWLEDGE, [KNOWLEDGE]) == f"{whole}\nTherefore, the answer is (B) Iron\n\n{whole}"
    assert chain.closing == "\nTherefore, the answer is ("
    assert chain.bare_cue == "Therefore, the answer is ("


def test_shown_options_follow_the_order_asked_for_and_continuations_do_not():
    item = Question("3", "Which?", ("red", "green", "blue"), 0)
    letters = show_options(prompts.KNOWLEDGE_QUESTION)
    assert letters.ask(item) == "Question: Which?\nA. red\nB. green\nC. blue\nAnswer:"
    assert letters.ask(item, [item], order=(2, 0, 1)) == (
        "Question: Which?\nA. red\nB. green\nC. blue\nAnswer: A\n\n"
        "Question: Which?\nA. blue\nB. red\nC. green\nAnswer:"
    )
    assert letters.continuations(item, (2, 0, 1)) == (" B", " C", " A")
    assert prompts.INSTRUCTED_QUESTION.continuations(item, (2, 0, 1)) == ("B) red", "C) green", "A) blue")
    assert prompts.FINETUNED_QUESTION.continuations(item, (2, 0, 1)) == (" red", " green", " blue")


def test_kind_is_told_by_exact_labels_and_the_context():
    assert kind_of(KNOWLEDGE) == "options"
    assert kind_of(ABSTRACT) == "abstract"
    assert kind_of(Question("4", "?", ("yes", "no"), 0)) == "label"
    assert kind_of(Question("5", "?", ("Yes", "No", "Maybe"), 0)) == "options"


def test_braces_and_format_marks_of_the_data_stay_as_they_are():
    item = Question("6", "{question} {0}?", ("{letter}", "a}{b", "{{option}}"), 0, "{abstract")
    for prompt in (prompts.FINETUNED_ABSTRACT, show_options(prompts.KNOWLEDGE_QUESTION)):
        assert "{question} {0}?" in prompt.ask(item)
        assert "a}{b" in prompt.ask(item)
    assert prompts.FINETUNED_QUESTION.continuations(item) == (" {letter}", " a}{b", " {{option}}")


def test_draws_follow_the_original_with_a_training_pool():
    items, train = make_questions(30), make_questions(200, "t")
    rnd = random.Random()
    rnd.seed(42)
    docs = list(items)
    rnd.shuffle(docs)
    expected = [(doc, tuple(rnd.sample(train, 3))) for doc in docs]
    assert draw_examples(items, train, 3, 42) == expected


def test_draws_follow_the_original_without_a_training_pool():
    items = make_questions(30)
    rnd = random.Random()
    rnd.seed(42)
    docs = list(items)
    rnd.shuffle(docs)
    expected = []
    for doc in docs:
        drawn = rnd.sample(items, 4 + 1)
        expected.append((doc, tuple([other for other in drawn if other != doc][:4])))
    drawn = draw_examples(items, None, 4, 42)
    assert drawn == expected
    assert all(len(examples) == 4 and item not in examples for item, examples in drawn)
    assert sum(len({item, *examples}) == 5 for item, examples in drawn) == 30


def test_draws_are_hashed_and_depend_on_seed_and_list():
    items = make_questions(30)
    first = hash_draws(draw_examples(items, None, 2, 42))
    assert first == hash_draws(draw_examples(list(items), None, 2, 42))
    assert first != hash_draws(draw_examples(items, None, 2, 43))
    assert first != hash_draws(draw_examples(items[:-1], None, 2, 42))


def test_order_is_the_same_with_and_without_shots():
    items = make_questions(20)
    assert shuffle_items(items, 42) == [item for item, _ in draw_examples(items, None, 0, 42)]
    assert shuffle_items(items, 42) == [item for item, _ in draw_examples(items, None, 3, 42)]


def test_more_shots_than_questions_are_refused():
    items = make_questions(4)
    assert len(draw_examples(items, None, 3, 42)[0][1]) == 3
    with pytest.raises(DataError, match="only 3 questions"):
        draw_examples(items, None, 4, 42)
    with pytest.raises(DataError, match="only 4 questions"):
        draw_examples(items, items, 5, 42)


def test_fixed_draw_shows_the_same_examples_everywhere_and_never_the_item_itself():
    items = make_questions(30)
    drawn = draw_examples(items, None, 3, 42, draw="fixed")
    assert [item for item, _ in drawn] == shuffle_items(items, 42)
    common = max((examples for _, examples in drawn), key=[examples for _, examples in drawn].count)
    others = [(item, examples) for item, examples in drawn if examples != common]
    assert {item for item, _ in others} == set(common)
    for item, examples in others:
        assert item not in examples
        assert len(set(examples)) == 3
        assert len(set(examples) - set(common)) == 1  # the spare one, the same for each
    assert len({spare for _, examples in others for spare in set(examples) - set(common)}) == 1


def test_fixed_draw_from_a_training_pool_is_one_draw():
    items, train = make_questions(30), make_questions(200, "t")
    drawn = draw_examples(items, train, 3, 42, draw="fixed")
    assert len({examples for _, examples in drawn}) == 1
    assert set(drawn[0][1]) <= set(train)
    assert set(draw_examples(items, train[:3], 3, 42, draw="fixed")[0][1]) == set(train[:3])
    assert drawn != draw_examples(items, train, 3, 43, draw="fixed")
    overlapping = draw_examples(items, [*items[:4], *train[:2]], 4, 42, draw="fixed")
    assert all(item not in examples and len(examples) == 4 for item, examples in overlapping)


@given(
    count=st.integers(6, 25),
    shots=st.integers(0, 4),
    seed=st.integers(0, 2**32),
    draw=st.sampled_from(["per question", "fixed"]),
    pooled=st.booleans(),
)
def test_draws_have_distinct_examples_never_the_item_and_every_item_once(count, shots, seed, draw, pooled):
    items = make_questions(count)
    pool = make_questions(7, "t") if pooled else None
    drawn = draw_examples(items, pool, shots, seed, draw=draw)
    assert sorted(item.id for item, _ in drawn) == sorted(item.id for item in items)
    assert [item for item, _ in drawn] == shuffle_items(items, seed)
    for item, examples in drawn:
        assert len({item, *examples}) == shots + 1
        assert set(examples) <= set(pool or items)


def test_splits_are_those_of_the_publication():
    published = ("medqa", "medqa-5", "medmcqa", "pubmedqa", "pubmed-abstracts", "pubmed-central")
    assert {name: str(TASKS[name].test) for name in published} == {
        "medqa": "GBaker/MedQA-USMLE-4-options, test split",
        "medqa-5": "bigbio/med_qa (med_qa_en_bigbio_qa), test split",
        "medmcqa": "medmcqa, validation split",
        "pubmedqa": "pubmed_qa (pqa_labeled), train split",
        "pubmed-abstracts": "monology/pile-uncopyrighted, test split",
        "pubmed-central": "monology/pile-uncopyrighted, test split",
    }
    assert TASKS["pubmedqa"].train is None
