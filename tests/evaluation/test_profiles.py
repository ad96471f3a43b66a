"""Profiles: what each scores, where its examples come from, and that it stays as it is numbered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.evaluation.answer_parsing import trim_answer
from biomedllama_cli.evaluation.profiles import PROFILES, draw_task, find_profile
from biomedllama_cli.evaluation.variants import build_asked
from biomedllama_cli.tasks.fewshot import draw_examples
from biomedllama_cli.tasks.pubmedqa_split import NON_TEST_PMIDS
from biomedllama_cli.tasks.question import Question

KNOWLEDGE = Question("k", "Which metal?", ("Zinc", "Iron"), 1)
ABSTRACT = Question("a", "Does it?", ("yes", "no", "maybe"), 2, "Part one.")


def make_questions(count, prefix="q"):
    return [Question(f"{prefix}{row}", f"{prefix}{row}?", ("a", "b"), row % 2) for row in range(count)]


def make_labelled():
    """Ten items of the official test part between ten others, as they stand in the whole file."""
    pmids = [
        pmid for pair in zip(sorted(NON_TEST_PMIDS)[:10], map(str, range(10)), strict=True) for pmid in pair
    ]
    return [
        Question(pmid, f"{pmid}?", ("yes", "no", "maybe"), row % 3, f"Abstract {pmid}.")
        for row, pmid in enumerate(pmids)
    ]


def test_names_and_versions_are_those_printed():
    assert [str(profile) for profile in PROFILES.values()] == [
        "paper/1",
        "clean/1",
        "harness/1",
        "instructed/1",
        "finetuned/1",
        "cot/1",
    ]


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("paper", "be84a876d252ea60"),
        ("clean", "7a03c118b5ec70f7"),
        ("instructed", "c79badb023e8a60d"),
        ("finetuned", "7530940aa6483021"),
        ("cot", "70451f2c7dcd7728"),
    ],
)
def test_whatever_a_profile_asks_is_frozen_under_its_version(name, digest):
    # A change of what is asked must raise the profile's version, and only then the digest.
    profile = PROFILES[name]
    items = [KNOWLEDGE, ABSTRACT, dataclasses.replace(ABSTRACT, context=None)]
    drawn = [(item, (item,)) for item in items]
    asked = build_asked(profile, "x", drawn, adds_bos=True, matrix=True, permutations=2, seed=42)
    variants = [dataclasses.astuple(variant) for one in asked for variant in one.variants]
    examples = [profile.prompt_of(item, [item]) for item in items]
    rules = [profile.headline_score, profile.rolling_prefix, profile.official_test, profile.leaks]
    facts = json.dumps([profile.version, variants, examples, rules])
    assert hashlib.sha256(facts.encode()).hexdigest()[:16] == digest


def test_unknown_profile_is_named_with_the_nearest():
    assert find_profile("clean") is PROFILES["clean"]
    with pytest.raises(SettingsError, match="profile is 'papper'") as caught:
        find_profile("papper")
    assert caught.value.hint == "Did you mean paper?"


def test_paper_has_no_bos_and_begins_running_text_after_eos():
    paper, clean = PROFILES["paper"], PROFILES["clean"]
    assert [paper.puts_bos(adds) for adds in (False, True)] == [False, False]
    assert [clean.puts_bos(adds) for adds in (False, True)] == [False, True]
    assert paper.choose_rolling_prefix(1, 2) == ("EOS", 2)
    assert clean.choose_rolling_prefix(1, 2) == ("BOS", 1)
    assert clean.choose_rolling_prefix(0, 2) == ("BOS", 0)
    assert clean.choose_rolling_prefix(None, 2) == ("EOS", 2)


def test_only_likelihood_profiles_score_running_text():
    assert [name for name, profile in PROFILES.items() if profile.supports("pubmed-central")] == [
        "paper",
        "clean",
    ]
    assert [name for name, profile in PROFILES.items() if not profile.supports("medqa")] == ["harness"]


def test_clean_pubmedqa_examples_end_in_the_scored_form():
    clean = PROFILES["clean"].prompt_for(ABSTRACT)
    assert clean.continuations(ABSTRACT) == (" Yes", " No", " Maybe")
    whole = "Abstract: Part one.\nQuestion: Does it?\nAnswer:"
    assert clean.ask(ABSTRACT, [ABSTRACT]) == f"{whole} Maybe\n\n{whole}"
    assert PROFILES["clean"].prompt_for(KNOWLEDGE) == PROFILES["paper"].prompt_for(KNOWLEDGE)


def test_gold_texts_are_the_published_ones_after_trimming():
    gold = {name: [trim_answer(PROFILES[name].gold_of(item)) for item in (KNOWLEDGE, ABSTRACT)] for name in PROFILES
            if PROFILES[name].method == "generation"}  # fmt: skip
    assert gold == {
        "instructed": ["B) Iron", "Maybe"],
        "finetuned": ["Iron", "maybe"],
        "cot": ["B) Iron", "Maybe"],
    }


def test_paper_scores_all_of_pubmedqa_and_draws_from_it():
    items = make_labelled()
    drawn = draw_task(PROFILES["paper"], "pubmedqa", items, shots=1, seed=42)
    assert list(drawn.questions) == draw_examples(items, None, 1, 42)
    assert drawn.pool is None
    assert drawn.rule == "per question, from the scored items, without the item itself"


@pytest.mark.parametrize("draw", ["per question", "fixed"])
@pytest.mark.parametrize("task", ["pubmedqa", "pubmedqa-no-context"])
def test_clean_scores_the_official_test_part_with_examples_from_the_rest(draw, task):
    drawn = draw_task(PROFILES["clean"], task, make_labelled(), shots=2, seed=42, draw=draw)
    assert sorted(item.id for item, _ in drawn.questions) == [str(row) for row in range(10)]
    assert {example.id for _, examples in drawn.questions for example in examples} <= NON_TEST_PMIDS
    assert len(drawn.pool) == 10
    assert drawn.rule == f"{draw}, from the items outside the official test part"


def test_published_items_are_counted_by_what_a_profile_scores():
    counts = {task: PROFILES["clean"].count_published_items(task) for task in ("medqa-5", "medmcqa", "text")}
    assert counts == {"medqa-5": 1273, "medmcqa": 4183, "text": None}
    assert PROFILES["clean"].count_published_items("pubmedqa-no-context") == 500
    assert PROFILES["paper"].count_published_items("pubmedqa") == 1000


def test_official_split_is_pubmedqa_s_alone():
    items = [dataclasses.replace(item, options=("yes", "no"), answer_index=0) for item in make_labelled()]
    drawn = draw_task(PROFILES["clean"], "bioasq-yesno", items, shots=0, seed=42)
    assert len(drawn.questions) == 20
    assert drawn.rule is None


def test_clean_refuses_data_without_official_test_items(shared_data):
    from biomedllama_cli.tasks.catalogue import TASKS, load_questions

    file = shared_data / "pubmedqa" / "ori_pqal_nontest500.json"
    items = load_questions(TASKS["pubmedqa"], shots=0, test_file=file).items
    with pytest.raises(DataError, match="none of its 500 items is in PubMedQA's official test part"):
        draw_task(PROFILES["clean"], "pubmedqa", items, shots=0, seed=42)
    assert len(draw_task(PROFILES["paper"], "pubmedqa", items, shots=1, seed=42).questions) == 500


@pytest.mark.parametrize("name", ["clean", "instructed", "finetuned", "cot"])
def test_examples_are_never_scored_items(name):
    items, train = make_questions(20), make_questions(30, "t")
    twins = [dataclasses.replace(item, id=f"copy of {item.id}") for item in items]
    drawn = draw_task(PROFILES[name], "medqa", items, [*twins, *train], shots=3, seed=42)
    assert {example.id[0] for _, examples in drawn.questions for example in examples} == {"t"}
    assert drawn.pool == tuple(train)
    for pool, found, hint in (
        (None, "and there are no others", "Give --data medqa.train=FILE"),
        (twins, "and all 20 items of the pool are among them", "not the scored ones again"),
    ):
        with pytest.raises(
            DataError, match=f"medqa: the profile {name} draws no examples from the scored items, {found}"
        ) as error:
            draw_task(PROFILES[name], "medqa", items, pool, shots=1, seed=42)
        assert hint in error.value.hint


def test_profiles_are_found_without_heavy_imports():
    code = (
        "import sys, biomedllama_cli.evaluation.results\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'lm_eval') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
