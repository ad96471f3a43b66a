"""Prompts to the character, and few-shot draws as the original harness makes them."""

from __future__ import annotations

import random

import pytest

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.catalogue import TASKS
from biomedllama_cli.tasks.fewshot import draw_examples, hash_draws, shuffle_items
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
    assert [prompt.option_prefix + option for option in prompt.options_of(KNOWLEDGE)] == [" Zinc", " Iron"]
    assert prompt.ask(KNOWLEDGE, [KNOWLEDGE]) == (
        "Question: Which {metal}?\nAnswer: Iron\n\nQuestion: Which {metal}?\nAnswer:"
    )


def test_pubmedqa_scores_capitals_without_space_after_examples_in_lower_case():
    prompt = TASKS["pubmedqa"].prompt
    whole = "Abstract: Part one.\nPart two.\nQuestion: Does it?\nAnswer:"
    assert prompt.ask(ABSTRACT) == whole
    assert prompt.ask(ABSTRACT, [ABSTRACT]) == f"{whole} yes\n\n{whole}"
    assert [prompt.option_prefix + option for option in prompt.options_of(ABSTRACT)] == ["Yes", "No", "Maybe"]
    assert not prompt.normalizes_by_length


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
