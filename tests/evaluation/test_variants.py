"""Variants: every prompt and continuation of a profile, the scoring matrix, and orders of the shown options."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.profiles import PROFILES
from biomedllama_cli.evaluation.variants import build_asked, read_order, shuffle_options
from biomedllama_cli.tasks.question import Question

ITEM = Question("1", "Which?", ("Zinc", "Iron", "Lead"), 1)
EXAMPLE = Question("2", "Who?", ("Me", "You", "Both"), 2)
ABSTRACT = Question("3", "Does it?", ("yes", "no", "maybe"), 0, "Part one.")


def ask(profile, item=ITEM, examples=(), **options):
    options = {"adds_bos": False, "seed": 42, **options}
    (one,) = build_asked(PROFILES[profile], "medqa", [(item, tuple(examples))], **options)
    names = [variant.name for variant in one.variants]
    assert len(set(names)) == len(names)
    return {variant.name: variant for variant in one.variants}


def texts(variants):
    return {name: (variant.context, variant.continuations) for name, variant in variants.items()}


def test_without_a_matrix_the_own_form_and_its_baseline_are_asked():
    assert texts(ask("paper", examples=[EXAMPLE])) == {
        "text_space": (
            "Question: Who?\nAnswer: Both\n\nQuestion: Which?\nAnswer:",
            (" Zinc", " Iron", " Lead"),
        ),
        "context_free": ("Answer:", (" Zinc", " Iron", " Lead")),
    }
    assert texts(ask("paper", ABSTRACT)) == {
        "text_nospace": ("Abstract: Part one.\nQuestion: Does it?\nAnswer:", ("Yes", "No", "Maybe")),
        "context_free": ("Answer:", ("Yes", "No", "Maybe")),
    }


def test_matrix_asks_text_and_letter_with_and_without_space_and_every_premise():
    own = "Question: Who?\nAnswer: Both\n\nQuestion: Which?\nAnswer:"
    shown = (
        "Question: Who?\nA. Me\nB. You\nC. Both\nAnswer: C\n\n"
        "Question: Which?\nA. Zinc\nB. Iron\nC. Lead\nAnswer:"
    )
    forms = {
        "text_space": (own, (" Zinc", " Iron", " Lead")),
        "text_nospace": (own, ("Zinc", "Iron", "Lead")),
        "letter_space": (shown, (" A", " B", " C")),
        "letter_nospace": (shown, ("A", "B", "C")),
    }
    premises = {f"premise_{form}": ("Answer:", continuations) for form, (_, continuations) in forms.items()}
    assert texts(ask("paper", examples=[EXAMPLE], matrix=True)) == {
        **forms,
        "context_free": ("Answer:", (" Zinc", " Iron", " Lead")),
        **premises,
    }


def test_matrix_of_pubmedqa_shows_the_labels_as_letters_and_keeps_the_own_form_first():
    variants = ask("paper", ABSTRACT, matrix=True)
    assert next(iter(variants)) == "text_nospace"
    assert variants["text_space"].continuations == (" Yes", " No", " Maybe")
    assert variants["letter_space"].context == (
        "Abstract: Part one.\nQuestion: Does it?\nA. Yes\nB. No\nC. Maybe\nAnswer:"
    )


def test_context_free_text_depends_on_the_options_alone():
    same = Question("9", "Something else?", ITEM.options, 0)
    for profile in ("paper", "clean", "instructed", "finetuned", "cot"):
        first = ask(profile, examples=[EXAMPLE], matrix=True)["context_free"]
        assert first == ask(profile, same)["context_free"]
    assert texts(ask("cot")) == {
        "context_free": ("Therefore, the answer is (", ("A) Zinc", "B) Iron", "C) Lead"))
    }


@pytest.mark.parametrize(
    ("profile", "form", "cue"),
    [("instructed", "letter_text_nospace", "### Answer:("), ("finetuned", "text_space", "### Answer:")],
)
def test_generating_profiles_have_one_form_and_in_a_matrix_its_premise(profile, form, cue):
    assert list(ask(profile)) == [form, "context_free"]
    variants = ask(profile, matrix=True)
    assert list(variants) == [form, "context_free", f"premise_{form}"]
    assert variants["context_free"].context == variants[f"premise_{form}"].context == cue
    assert variants[form].context.endswith(f"\n{cue}")


def test_bos_stands_first_by_the_profile_s_rule_in_every_variant():
    for profile, expected in (("paper", False), ("clean", True), ("instructed", True)):
        variants = ask(profile, adds_bos=True, matrix=True, permutations=3)
        assert {variant.bos for variant in variants.values()} == {expected}
    assert not any(variant.bos for variant in ask("clean", matrix=True).values())


def test_order_has_no_effect_where_no_options_are_shown():
    assert ask("paper", permutations=4) == ask("paper")
    assert not any(map(read_order, ask("clean", permutations=4)))
    assert not any(map(read_order, ask("cot", permutations=4)))


PERMUTED_FORMS = {"paper": "letter_space", "instructed": "letter_text_nospace", "finetuned": "text_space"}


@pytest.mark.parametrize("profile", PERMUTED_FORMS)
def test_permuted_prompts_show_the_named_order_and_continuations_keep_the_own(profile):
    variants = ask(profile, matrix=profile == "paper", permutations=4)
    permuted = {name: read_order(name) for name in variants if read_order(name)}
    assert [number for _, number, _ in permuted.values()] == [1, 2, 3]
    for name, (form, _, order) in permuted.items():
        assert (
            form
            == {"paper": "letter_space", "instructed": "letter_text_nospace", "finetuned": "text_space"}[
                profile
            ]
        )
        context = variants[name].context
        places = sorted(range(3), key=lambda option: context.index(ITEM.options[option]))
        assert tuple(places) == order
        letters = ["ABC"[order.index(option)] for option in range(3)]
        expected = {
            "letter_space": [f" {letter}" for letter in letters],
            "letter_text_nospace": [
                f"{each}) {text}" for each, text in zip(letters, ITEM.options, strict=True)
            ],
            "text_space": [f" {text}" for text in ITEM.options],
        }[form]
        assert list(variants[name].continuations) == expected


@given(options=st.integers(1, 5), count=st.integers(1, 12), seed=st.integers(0, 9), name=st.text(max_size=5))
def test_orders_are_distinct_as_long_as_possible_and_do_not_depend_on_their_number(
    options, count, seed, name
):
    orders = shuffle_options(options, count, seed, name)
    assert len(orders) == count - 1
    own = tuple(range(options))
    assert all(tuple(sorted(order)) == own for order in orders)
    distinct = min(count, math.factorial(options))
    assert len({own, *orders}) == distinct
    assert len(set((own, *orders)[:distinct])) == distinct
    assert shuffle_options(options, count + 3, seed, name)[: count - 1] == orders


def test_orders_are_a_function_of_seed_and_question_alone():
    items = [(Question(str(row), f"{row}?", tuple("abcdef"), 0), ()) for row in range(6)]
    profile = PROFILES["instructed"]

    def orders(drawn, seed):
        asked = build_asked(profile, "medqa", drawn, adds_bos=False, permutations=3, seed=seed)
        return {
            one.question.id: [each.name for each in one.variants if read_order(each.name)] for one in asked
        }

    whole = orders(items, 42)
    assert orders(items[::-1], 42) == whole
    assert orders(items[2:4], 42) == {row: whole[row] for row in ("2", "3")}
    assert all(one != other for one, other in itertools.combinations(whole.values(), 2))
    assert orders(items, 43) != whole
    # Frozen: a run that continues, or another machine, must show the same orders.
    assert shuffle_options(4, 3, 42, "q1") == [(1, 3, 0, 2), (3, 1, 2, 0)]


def test_more_options_than_letters_are_refused():
    with pytest.raises(DataError, match="medqa: item 1 has 27 options"):
        ask("paper", Question("1", "?", tuple(map(str, range(27))), 0))
