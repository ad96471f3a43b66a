"""Benchmark items are found in training text however they were copied, and clean text is left alone."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from biomedllama_cli.corpus.decontamination import grams, matching
from biomedllama_cli.corpus.decontamination.build import build_index
from biomedllama_cli.corpus.decontamination.index import BenchmarkIndex, load_index
from biomedllama_cli.corpus.decontamination.items import Benchmark, BenchmarkItem, load_items
from biomedllama_cli.corpus.decontamination.matching import find_overlaps
from biomedllama_cli.corpus.decontamination.screening import find_all_overlaps
from biomedllama_cli.corpus.document import Metadata
from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.records import iter_records

EXACT = ("verbatim", "case", "punctuation", "unicode")


def load_leaks() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "biomedllama_tests_leaks", Path(__file__).with_name("leaks.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


leaks = load_leaks()

VIGNETTE = BenchmarkItem(
    "medqa",
    "0",
    None,
    "A 52-year-old beekeeper from Oslo presents with blue fingertips after drinking well water near a tannery. "
    "Her methaemoglobin level is 31 %. Which antidote should she be given first?",
    ("Hydroxocobalamin", "Methylene blue (1-2 mg/kg)", "Dimercaprol", "Fomepizole"),
    "Methylene blue (1-2 mg/kg)",
)
SHORT = BenchmarkItem(
    "medmcqa",
    "short",
    None,
    "Which of the following follow-up tests best detects beekeeper's lung?",
    ("Spirometry", "Specific IgG", "Sweat test", "D-dimer"),
    "Specific IgG",
)
ABSTRACT = BenchmarkItem(
    "pubmedqa",
    "123",
    123,
    "Does honey shorten nocturnal cough in children of beekeepers?",
    ("yes", "no", "maybe"),
    "yes",
    (
        "We asked the parents of 212 children living within 2 km of an apiary to record cough for three nights, with "
        "buckwheat honey given on the second night and nothing on the others.",
        "Two-arm trial.",
        "Honey before bedtime shortened coughing by 41 minutes (95 % CI 30-52), and parents slept better.",
    ),
)
TOO_SHORT = BenchmarkItem("medmcqa", "tiny", None, "True about bees is:", ("a", "b"), "a")
CLEAN = (
    "Bees were kept in 14 hives on the roof of the institute. Samples were taken every second week and frozen at "
    "-80 °C until analysis. Which of the following factors mattered was not known before. Specific IgG was measured "
    "by ELISA in all keepers. The aim of this study was to determine whether altitude changes the yield."
)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> BenchmarkIndex:
    folder = tmp_path_factory.mktemp("index")
    build_index([VIGNETTE, SHORT, ABSTRACT, TOO_SHORT], [], folder)
    return load_index(folder)


@pytest.fixture(scope="module")
def real(shared_data) -> BenchmarkIndex:
    items, sources = load_items(
        [
            Benchmark("pubmedqa", shared_data / "pubmedqa" / "ori_pqal_nontest500.json"),
            Benchmark("medqa-5", shared_data / "medqa" / "test_5options_first640.jsonl"),
            Benchmark("medmcqa", shared_data / "medmcqa" / "validation_first120.jsonl"),
        ]
    )
    return build_index(items, sources)


@pytest.fixture(scope="module")
def clean_abstracts(shared_data) -> list[str]:
    files = sorted((shared_data / "pile").glob("*.zst"))
    return [record.fields["text"] for file in files for record in iter_records(file)]


def write_leak(item: BenchmarkItem) -> str:
    return leaks.write_leak(item.question, item.options, item.answer, item.passages)


def find_kinds(index: BenchmarkIndex, text: str, metadata: Metadata | None = None) -> dict[str, str]:
    return {overlap.item_id: overlap.kind for overlap in find_overlaps(index, text, metadata)}


@pytest.mark.parametrize("change", EXACT)
@pytest.mark.parametrize("item", [VIGNETTE, SHORT, ABSTRACT], ids=lambda item: item.benchmark)
def test_planted_items_are_found_whatever_the_spelling(made_up, item, change):
    kind = "question_and_answer" if item is SHORT else "13-gram"
    for seed in range(12):
        draw = random.Random(seed)
        text = leaks.plant(leaks.CHANGES[change](write_leak(item), draw), CLEAN, draw)
        assert find_kinds(made_up, text) == {item.item_id: kind}


def test_an_item_with_every_tenth_word_changed_is_a_near_duplicate(made_up):
    words = VIGNETTE.question.split()
    words[6::7] = ["xq"] * len(words[6::7])  # no 13 words in a row are left
    (overlap,) = find_overlaps(made_up, f"{CLEAN} {' '.join(words)}")
    assert (overlap.item_id, overlap.kind) == ("0", "near-duplicate")
    assert 0.8 < overlap.share < 0.9


def test_clean_text_is_left_alone(made_up):
    assert find_overlaps(made_up, CLEAN) == []
    assert find_overlaps(made_up, "") == []


def test_a_short_question_needs_its_answer_nearby(made_up):
    filler = "and so on " * 40
    assert find_kinds(made_up, f"{SHORT.question} {SHORT.answer}") == {"short": "question_and_answer"}
    assert find_kinds(made_up, f"{SHORT.answer}. {SHORT.question}") == {"short": "question_and_answer"}
    assert find_kinds(made_up, f"{SHORT.question} Sweat test") == {}
    assert find_kinds(made_up, f"{SHORT.question} {filler} {SHORT.answer}") == {}


def test_an_abstract_is_found_by_its_pmid_and_by_its_words(made_up):
    assert find_kinds(made_up, CLEAN, Metadata(pmid=123)) == {"123": "pmid"}
    assert find_kinds(made_up, CLEAN, Metadata(pmid=1230)) == {}
    assert find_kinds(made_up, ABSTRACT.question, None) == {}  # others cite the title
    both = find_overlaps(made_up, ABSTRACT.passages[2], Metadata(pmid=123))
    assert [overlap.kind for overlap in both] == ["pmid", "13-gram"]


def test_items_too_short_to_be_told_from_other_text_are_listed(made_up):
    nameless = BenchmarkItem("pubmedqa", "x", None, "Does it?", ("yes",), "yes", ("Two-arm trial.",))
    wordless = BenchmarkItem("medmcqa", "y", None, "one two three four five six seven eight", ("+",), "+")
    index = build_index([TOO_SHORT, nameless, wordless, SHORT], [])
    assert [(entry.item, entry.reason) for entry in index.untestable] == [
        (0, "question_under_8_words"),
        (1, "no_pmid_and_no_passage_of_13_words"),
        (2, "question_under_13_words_and_answer_without_words"),
    ]
    assert [(made_up.items[entry.item].item_id) for entry in made_up.untestable] == ["tiny"]


def test_wording_that_many_items_share_proves_nothing():
    common = "Which of the following is the most appropriate next step in the management of this patient?"
    begins = (
        "Fever and a rash appeared after eating 40 raw turnips.",
        "Her left knee swelled overnight while she was sailing to Madeira.",
        "Two dogs bit a lighthouse keeper who kept no vaccination card.",
        "Nobody in his choir slept well since the organ was tuned to 415 Hz.",
    )
    items = [
        BenchmarkItem("medqa", str(number), None, f"{begin} {common}", ("a", "b"), "a")
        for number, begin in enumerate(begins)
    ]
    index = build_index([*items, BenchmarkItem("medqa", "dull", None, common, ("A scan", "b"), "A scan")], [])
    assert find_overlaps(index, f"A man came. {common} Admit him.") == []
    assert find_kinds(index, f"{common} A scan") == {"dull": "question_and_answer"}
    assert find_kinds(index, f"A man came. {items[2].question}") == {"2": "13-gram"}


def test_equal_hashes_of_different_words_are_no_overlap(made_up, monkeypatch):
    monkeypatch.setattr(matching, "_word_values", lambda words: np.zeros(words + 1, np.uint64))
    table = grams.restore_table(13, np.zeros(1, np.uint64), np.array([0, 1]), (np.array([0]), np.array([0])))
    collided = BenchmarkIndex(**{**vars(made_up), "runs": table})
    known = " ".join(word.decode() for word in list(made_up.vocabulary)[::-1])
    assert len(table.find(np.zeros(5, np.uint64))[0]) == 5  # every hash is found ...
    assert find_overlaps(collided, known) == []  # ... and no words are equal
    assert find_kinds(collided, VIGNETTE.question) == {"0": "13-gram"}


def test_an_item_deep_inside_a_long_document_is_found(made_up):
    for before in (262_100, 245_700, 700_000):
        text = ("word " * 200_000)[:before] + write_leak(VIGNETTE) + " end" * 50_000
        assert find_kinds(made_up, text) == {"0": "13-gram"}


def test_documents_searched_together_give_what_each_gives_alone(made_up):
    draw = random.Random(7)
    documents = [
        (leaks.plant(change(write_leak(item), draw), CLEAN, draw), Metadata(pmid=123) if draw.random() < 0.2 else None)
        for change in leaks.CHANGES.values()
        for item in (VIGNETTE, SHORT, ABSTRACT, TOO_SHORT)
        for _ in range(3)
    ]  # fmt: skip
    # A question cut in two by the border of two documents is in neither.
    half = len(VIGNETTE.question) // 2
    documents += [(VIGNETTE.question[:half][-40:], None), (VIGNETTE.question[half:][:40], None), ("", None)]
    draw.shuffle(documents)
    documents *= 20  # several batches
    alone = [find_overlaps(made_up, text, metadata) for text, metadata in documents]
    assert find_all_overlaps(made_up, documents) == alone
    assert any(alone)
    assert not all(alone)


def test_an_index_is_the_same_bytes_every_time_and_loads_as_it_was(tmp_path, made_up):
    for name in ("a", "b"):
        build_index([VIGNETTE, SHORT, ABSTRACT, TOO_SHORT], [], tmp_path / name)
    for file in ("items.json", "index.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    loaded = load_index(tmp_path / "a")
    assert loaded.items == made_up.items
    assert loaded.sha256 == made_up.sha256 != build_index([VIGNETTE], []).sha256
    (tmp_path / "a" / "items.json").write_text(json.dumps({"format": "other/1"}))
    with pytest.raises(DataError, match="format 'other/1'"):
        load_index(tmp_path / "a")
    with pytest.raises(DataError, match="no index"):
        load_index(tmp_path / "missing")


@pytest.mark.parametrize("change", EXACT)
def test_every_testable_real_item_is_found(real, clean_abstracts, change):
    draw = random.Random(change)
    untestable = {entry.item for entry in real.untestable}
    tested = [number for number in range(len(real.items)) if number not in untestable][::4]
    missed = []
    for number in tested:
        item = real.items[number]
        text = leaks.plant(leaks.CHANGES[change](write_leak(item), draw), draw.choice(clean_abstracts), draw)
        if not any(
            (o.benchmark, o.item_id) == (item.benchmark, item.item_id) for o in find_overlaps(real, text)
        ):
            missed.append((item.benchmark, item.item_id))
    assert missed == []
    assert len(tested) > 300


def test_nearly_every_real_item_is_found_with_a_tenth_of_its_words_changed(real, clean_abstracts):
    draw = random.Random(0)
    untestable = {entry.item for entry in real.untestable}
    tested = [item for number, item in enumerate(real.items) if number not in untestable][::4]
    found = 0
    for item in tested:
        text = leaks.plant(leaks.change_words(write_leak(item), draw), draw.choice(clean_abstracts), draw)
        found += any(overlap.item_id == item.item_id for overlap in find_overlaps(real, text))
    assert found / len(tested) >= 0.98


def test_real_clean_abstracts_are_left_alone(real, clean_abstracts):
    assert not any(find_all_overlaps(real, [(text, None) for text in clean_abstracts]))


def test_one_real_abstract_is_not_taken_for_another(real):
    items = [item for item in real.items if item.benchmark == "pubmedqa"]
    for item in items:
        assert find_kinds(real, "\n".join(item.passages)) == {item.item_id: "13-gram"}
