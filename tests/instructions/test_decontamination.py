"""Test questions are found in training examples however they are spelt, and other examples are left alone."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from biomedllama_cli.corpus.decontamination.build import build_index
from biomedllama_cli.corpus.decontamination.items import BenchmarkItem, BenchmarkSource, build_item
from biomedllama_cli.corpus.decontamination.same_items import build_same_items
from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.benchmarks import LookedFor, gather_benchmarks
from biomedllama_cli.instructions.decontamination import Decontaminated, decontaminate
from biomedllama_cli.instructions.example import Example, Turn, make_pair
from biomedllama_cli.instructions.finetuning import question_example
from biomedllama_cli.tasks.catalogue import TASKS, LoadedQuestions, QuestionTask, Source, load_questions
from biomedllama_cli.tasks.question import Question

LONG = Question(
    "long",
    "A gardener of 41 years fell from a ladder last autumn and has had a blue, swollen thumb that does not bend "
    "since then. Which bone of her hand was most likely broken?",
    ("Scaphoid", "First metacarpal", "Hamate", "Capitate"),
    1,
)
SHORT = Question(
    "short",
    "Which made-up enzyme turns blue sugar into green sugar?",
    ("Azurase", "Viridase", "Rubrase", "Flavase"),
    0,
)
TINY = Question(
    "tiny", "Which vitamin prevents scurvy?", ("Vitamin C", "Vitamin D", "Biotin", "Vitamin K"), 0
)
ABSTRACT = Question(
    "1234567",
    "Do blue lamps shorten the sleep of night nurses?",
    ("yes", "no", "maybe"),
    0,
    "We asked ninety night nurses of two made-up clinics to sleep for a month under blue or under amber lamps.\n"
    "Those under the blue lamps slept for five hours and twenty minutes, which was forty minutes less than the others.",
    "Blue lamps shorten the sleep of nurses who work at night by more than half an hour.",
)
KNOWLEDGE = (LONG, SHORT, TINY)
VIGNETTE = (
    "A man of 57 years comes to the ward with a cough that began after he had cleaned a cellar full of old paper. He "
    "keeps two parrots and has smoked a pipe since he was twenty. {stock} The left lung is dull below the scapula and "
    "there is a rub over it, while the heart sounds are faint and the neck veins stand out. The sputum is the colour "
    "of rust and an old film of his chest shows a round shadow that nobody has followed. What should be done next?"
)
STOCK = (
    "His temperature is 38.1 C, pulse is 96/min, respirations are 22/min, and blood pressure is 131/84 mm Hg."
)


def load(items: Sequence[Question], task: str = "medqa", location: str = "test.jsonl") -> LoadedQuestions:
    known = TASKS[task]
    assert isinstance(known, QuestionTask)
    source = Source("file", location, len(items), f"hash of {location}")
    return LoadedQuestions(known, tuple(items), None, source, None, None)


def look_for(items: Sequence[Question], benchmark: str = "medqa") -> LookedFor:
    found: list[BenchmarkItem] = [build_item(benchmark, item) for item in items]
    return LookedFor(tuple(found), (BenchmarkSource(benchmark, "test.jsonl", len(found), "0"),))


def search(
    examples: Sequence[Example], looked_for: LookedFor, folder: Path, **options: float
) -> dict[str, list[str]]:
    """Return by example which items it holds and how they were found."""
    decontaminate(examples, looked_for, mode="report", folder=folder, **options)  # type: ignore[arg-type]
    found: dict[str, list[str]] = {}
    for line in map(json.loads, (folder / "contamination.jsonl").open(encoding="utf-8")):
        for document in line["documents"]:
            example = examples[document["document"]]
            assert document["where"] == f"{example.source} {example.id}"
            found.setdefault(example.id, []).append(f"{line['item']} {document['overlaps'][0]['kind']}")
    return found


def learn(question: Question, /, source: str = "own", **fields: object) -> Example:
    return question_example(replace(question, id="x", **fields), source, "instructed")  # type: ignore[arg-type]


EXACT_KINDS = {"long": "13-gram", "short": "question_and_answer", "tiny": "same_item"}
SPELLINGS: dict[str, Callable[[Question], Question]] = {
    "exact": lambda item: item,
    "case": lambda item: replace(
        item, question=item.question.upper(), options=tuple(map(str.swapcase, item.options))
    ),
    "white space": lambda item: replace(item, question=item.question.replace(" ", " \n ") + " "),
    "punctuation": lambda item: replace(item, question=item.question.replace("?", " :").replace(",", " -")),
    "options permuted": lambda item: replace(
        item, options=item.options[::-1], answer_index=len(item.options) - 1 - item.answer_index
    ),
    "another option": lambda item: replace(item, options=(*item.options[:3], "None of them")),
    "another option besides": lambda item: replace(item, options=(*item.options, "None of them")),
}


@pytest.mark.parametrize("item", KNOWLEDGE, ids=lambda item: item.id)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("form", ["finetuned", "instructed"])
def test_a_question_is_found_however_it_is_spelt(tmp_path, item, spelling, form):
    example = question_example(replace(SPELLINGS[spelling](item), id="x"), "own", form)
    found = search([example], look_for(KNOWLEDGE), tmp_path)
    assert found == {"x": [f"{item.id} {EXACT_KINDS[item.id]}"]}


@pytest.mark.parametrize(
    "question",
    [
        Question("x", "Which gas do lungs give off?", ("Oxygen", "Carbon dioxide", "Neon", "Helium"), 1),
        # The options of an item, asked about otherwise.
        replace(LONG, question="Which of these carpal bones is the largest of all?", answer_index=3),
        replace(TINY, question="Too much of which one is toxic to the liver?"),
        # A question of few words with other options, and with some of the same ones.
        replace(TINY, options=("Limes", "Rest", "Salt", "Sun")),
        replace(TINY, options=("Vitamin C", "Limes", "Salt", "Sun")),
        replace(TINY, options=("Vitamin A", "Vitamin D", "Biotin", "Vitamin K")),
        # A text with all of them, far from each other.
        replace(
            TINY,
            question="Which vitamin prevents scurvy? Sailors asked that. " + "They ate what they had. " * 12,
        ),
        # A short question whose right answer is another.
        replace(SHORT, options=("Cyanase", "Indigase", "Violase", "Sepiase")),
        replace(
            LONG,
            question="A gardener of 41 years fell asleep last autumn. Which bone of the hand is the smallest?",
        ),
    ],
)
def test_other_questions_are_left_alone(tmp_path, question):
    assert search([learn(question)], look_for(KNOWLEDGE), tmp_path) == {}
    result = decontaminate([learn(question)], look_for(KNOWLEDGE), mode="drop")
    assert (len(result.examples), result.report.dropped) == (1, 0)


def test_an_abstract_is_found_under_another_question_and_an_article_by_its_number(tmp_path):
    looked_for = look_for([ABSTRACT], "pubmedqa")
    assert ABSTRACT.context is not None
    half = ABSTRACT.context.split("\n")[1]
    other = "Nothing in this made-up text was ever said about lamps, nurses or sleep."
    examples = [
        learn(ABSTRACT, question="How long did they sleep?", options=("5 h", "6 h")),
        replace(learn(ABSTRACT, context=half, question="Did they?"), id="half"),
        replace(
            learn(ABSTRACT, context=other, question="Is it?", long_answer=None),
            id="1234567",
            source="pubmedqa",
        ),
        replace(
            learn(ABSTRACT, context=other, question="Is it?", long_answer=None), id="1234567", source="alpaca"
        ),
        replace(learn(ABSTRACT, context=other, question="Is it so?"), id="7654321", source="pubmedqa"),
    ]
    result = decontaminate(examples, looked_for, mode="drop", folder=tmp_path)
    assert result.places == (3, 4)
    assert result.report.by_source == {"own": 2, "pubmedqa": 1}
    assert result.report.benchmarks["pubmedqa"].kinds == {"13-gram": 2, "pmid": 1}
    assert search(examples[3:4], looked_for, tmp_path, pmid_sources=("alpaca",)) == {  # type: ignore[arg-type]
        "1234567": ["1234567 pmid"]
    }


def test_the_same_question_about_another_abstract_is_left_alone(tmp_path):
    short = replace(ABSTRACT, id="no number", context="Ten nurses slept.", long_answer=None)
    other = "Nothing in this made-up text was ever said about lamps."
    for item in (ABSTRACT, short):
        looked_for = look_for([item], "pubmedqa")
        assert search([learn(item, context=other, long_answer=None)], looked_for, tmp_path) == {}
    # An abstract too short to be looked for counts as a whole, with its question.
    assert search([learn(short)], look_for([short], "pubmedqa"), tmp_path) == {"x": ["no number same_item"]}


def change_words(text: str, places: Sequence[int]) -> str:
    words = text.split()
    for place in places:
        words[place] = f"word{place}"
    return " ".join(words)


def test_near_duplicates_are_found(tmp_path):
    item = replace(LONG, id="vignette", question=VIGNETTE.format(stock=STOCK))
    count = len(item.question.split())
    changed = list(range(0, count, 10))
    # One run of 13 words and more is left, and covers little of the question: the rest decides.
    scattered = [place for place in range(0, count, 7) if not 60 <= place < 75]
    for places in (changed, scattered):
        copy = learn(item, question=change_words(item.question, places))
        assert search([copy], look_for([item]), tmp_path) == {"x": ["vignette near-duplicate"]}
    assert search([copy], look_for([item]), tmp_path, min_share=0.0) == {"x": ["vignette 13-gram"]}


def test_a_stock_sentence_is_wording_and_no_item(tmp_path):
    item = replace(LONG, id="vignette", question=VIGNETTE.format(stock=STOCK))
    sharing = learn(
        replace(
            LONG,
            question="A tailor of 30 years has had headaches for a week and cannot look at the light of a lamp. "
            f"{STOCK} Her neck is stiff and there are red spots on both of her legs that a glass does not press away. "
            "Which of these would you give before you know more?",
        )
    )
    looked_for = look_for([item])
    result = decontaminate([sharing], looked_for, mode="drop", folder=tmp_path)
    assert (len(result.examples), result.report.shared_wording, result.report.contaminated) == (1, 1, 0)
    (line,) = map(json.loads, (tmp_path / "shared_wording.jsonl").open())
    assert line["overlaps"][0]["kind"] == "13-gram"
    assert "pulse is 96 min" in line["overlaps"][0]["evidence"]
    assert search([sharing], looked_for, tmp_path, min_share=0.0) == {"x": ["vignette 13-gram"]}


def test_a_short_question_in_nearly_the_same_words_counts_with_its_options(tmp_path):
    item = replace(
        SHORT,
        question="All of the following are signs of blue fever except?",
        options=("Rash", "Cough", "All of the above", "Hiccups"),
        answer_index=2,
    )
    other = replace(
        item,
        question="All of the following are signs of green ague except?",
        options=("Baldness", "Yawning", "All of the above", "Sneezing"),
    )
    copy = replace(item, question="All of these are signs of blue fever except?", options=item.options[::-1])
    assert search([learn(copy, answer_index=1)], look_for([item]), tmp_path) == {
        "x": ["short question_and_answer"]
    }
    assert search([learn(other)], look_for([item]), tmp_path) == {}
    (line,) = map(json.loads, (tmp_path / "shared_wording.jsonl").open())
    assert line["overlaps"][0]["item_id"] == "short"


def test_every_turn_of_a_conversation_is_searched(tmp_path):
    talk = Example(
        "talk",
        "chats",
        (
            Turn("system", "You are a tutor."),
            Turn("user", "Test me."),
            Turn("assistant", LONG.question),
            Turn("user", "The first metacarpal."),
            Turn("assistant", "Right."),
        ),
    )
    plain = make_pair("plain", "chats", "Name a vitamin.", "Vitamin C.", exact=False)
    assert search([plain, talk], look_for(KNOWLEDGE), tmp_path) == {"talk": ["long 13-gram"]}


def run(mode: str, folder: Path, examples: Sequence[Example]) -> Decontaminated:
    return decontaminate(examples, look_for(KNOWLEDGE), mode=mode, folder=folder)  # type: ignore[arg-type]


def make_examples() -> list[Example]:
    sound = [
        replace(learn(Question("", f"Which tin has the number {n}?", (f"a{n}", f"b{n}"), 0)), id=f"s{n}")
        for n in range(6)
    ]
    return [*sound[:2], learn(LONG), *sound[2:5], learn(TINY, source="other"), sound[5]]


def test_examples_are_dropped_or_reported_or_not_looked_at(tmp_path):
    examples = make_examples()
    dropped, reported, off = (run(mode, tmp_path / mode, examples) for mode in ("drop", "report", "off"))
    assert dropped.places == (0, 1, 3, 4, 5, 7)
    assert dropped.examples == tuple(examples[place] for place in dropped.places)
    assert reported.examples == off.examples == tuple(examples)
    assert dropped.report.by_source == reported.report.by_source == {"other": 1, "own": 1}
    assert (dropped.report.dropped, reported.report.dropped, off.report.dropped) == (2, 0, 0)
    assert off.report.benchmarks == {}
    assert (dropped.report.contaminated, dropped.report.examples) == (2, 8)
    for mode, documents in (("drop", [None, None]), ("report", [2, 6])):
        lines = [json.loads(line) for line in (tmp_path / mode / "contamination.jsonl").open()]
        assert [line["item"] for line in lines] == ["long", "tiny"]
        assert [line["documents"][0]["document"] for line in lines] == documents
        looked_for = [json.loads(line) for line in (tmp_path / mode / "benchmark_items.jsonl").open()]
        assert [line["item"] for line in looked_for] == ["long", "short", "tiny"]
        summary = json.loads((tmp_path / mode / "decontamination.json").read_text())
        assert summary["examples"] == 8
        assert summary["benchmarks"]["medqa"]["contaminated"] == 2
    assert [path.name for path in (tmp_path / "off").iterdir()] == ["decontamination.json"]


def test_the_report_depends_on_the_examples_alone(tmp_path):
    examples = make_examples()
    run("drop", tmp_path / "one", examples)
    run("drop", tmp_path / "two", examples)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert {item.id for item in run("drop", tmp_path / "three", examples[::-1]).examples} == {
        item.id for item in run("drop", tmp_path / "one", examples).examples
    }


def test_where_every_example_is_a_test_question_nothing_is_trained(tmp_path):
    with pytest.raises(DataError, match="each of the 2 training examples holds a question of medqa"):
        run("drop", tmp_path, [learn(LONG), learn(TINY)])
    assert run("report", tmp_path, [learn(LONG), learn(TINY)]).report.contaminated == 2


def test_questions_too_short_for_prepare_are_testable_here_and_those_without_options_are_not():
    bare = Question("bare", "Why?", ("+", "-"), 0)
    common = [
        replace(TINY, id=f"c{n}", question="Which of the following is true?", options=(f"a{n}", f"b{n}"))
        for n in range(3)
    ]
    index = build_index([build_item("own", item) for item in (*KNOWLEDGE, bare, *common)], ())
    assert [untestable.item for untestable in index.untestable] == [2, 3, 4, 5, 6]
    assert [untestable.item for untestable in build_same_items(index).index.untestable] == [3]


def test_benchmarks_that_cannot_be_had_are_named_in_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        looked_for = gather_benchmarks((), [load(KNOWLEDGE)])
    assert [source.benchmark for source in looked_for.sources] == ["medqa"]
    assert looked_for.missing == ("medmcqa", "pubmedqa")
    assert looked_for.incomplete == ("medqa (3 of 1,273)",)
    (warning,) = [record.getMessage() for record in caplog.records if "searched" in record.getMessage()]
    assert "\n" not in warning
    for part in (
        "training examples are searched for the 3 questions of medqa given; 1,270 of its published 1,273 are not",
        ". Not searched for: medmcqa and pubmedqa, which are neither on this disk nor to be had from the hub",
        "(--benchmark NAME=FILE gives a test file, --decontaminate off does not look)",
    ):
        assert part in warning
    report = decontaminate([learn(LONG, question="Is it?")], looked_for, mode="drop").report
    assert report.missing == ("medmcqa", "pubmedqa")


def test_nothing_is_said_where_everything_was_looked_for(caplog):
    whole = [
        load([replace(TINY, id=f"{n}") for n in range(count)], task, f"{task}.jsonl")
        for task, count in (("medqa-5", 1273), ("medmcqa", 4183), ("pubmedqa-no-context", 1000))
    ]
    looked_for = gather_benchmarks((), whole)
    assert [source.benchmark for source in looked_for.sources] == ["medqa-5", "medmcqa", "pubmedqa"]
    assert looked_for.warning == ""
    assert looked_for.items[-1].pmid == 999
    assert not caplog.records


def test_files_of_benchmarks_are_read_once_and_those_named_must_be_there(tmp_path):
    path = tmp_path / "test.jsonl"
    record = {
        "question": LONG.question,
        "options": dict(zip("ABCD", LONG.options, strict=True)),
        "answer_idx": "B",
    }
    path.write_text(json.dumps(record) + "\n")
    known = TASKS["medqa"]
    assert isinstance(known, QuestionTask)
    test = load_questions(known, shots=0, test_file=path)
    same = gather_benchmarks([f"medqa={path}"], [test])
    assert [source.items for source in same.sources] == [1]
    other = gather_benchmarks([f"medqa={path}"], [load(KNOWLEDGE)])
    assert [(source.benchmark, source.items) for source in other.sources] == [("medqa", 3), ("medqa-2", 1)]
    assert {item.benchmark for item in other.items} == {"medqa", "medqa-2"}
    report = decontaminate([learn(LONG), learn(SHORT)], other, mode="report").report
    assert {name: counts.contaminated for name, counts in report.benchmarks.items()} == {
        "medqa": 2,
        "medqa-2": 1,
    }
    with pytest.raises(UnavailableError, match="medmcqa"):
        gather_benchmarks(["medmcqa"])
    with pytest.raises(DataError, match="no such file"):
        gather_benchmarks([f"medmcqa={tmp_path / 'gone.json'}"])
    with pytest.raises(SettingsError, match="there is no benchmark"):
        gather_benchmarks(["medmcq"])


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("medqa-5", "medqa/test_5options_first640.jsonl"),
        ("medmcqa", "medmcqa/validation_first120.jsonl"),
        ("pubmedqa", "pubmedqa/ori_pqal_nontest500.json"),
    ],
)
def test_real_questions_are_found_when_planted_and_nowhere_else(shared_data, tmp_path, task, file):
    known = TASKS[task]
    assert isinstance(known, QuestionTask)
    questions = load_questions(known, shots=0, test_file=shared_data / file).items
    learnt, tested = questions[::2], questions[1::2]
    looked_for = look_for([replace(item, id=f"t{item.id}") for item in tested], task)
    rng = random.Random(5)
    planted = []
    for item in tested[:100]:
        order = rng.sample(range(len(item.options)), len(item.options))
        planted.append(
            replace(
                item,
                question=item.question.upper(),
                options=tuple(item.options[index] for index in order),
                answer_index=order.index(item.answer_index),
            )
        )
    for form in ("finetuned", "instructed"):
        examples = [question_example(item, task, form) for item in [*learnt, *planted]]
        result = decontaminate(examples, looked_for, mode="drop", folder=tmp_path)
        untestable = sum(result.report.benchmarks[task].untestable.values())
        assert untestable <= 1
        assert result.report.dropped >= len(planted) - untestable
        assert result.places == tuple(range(len(learnt)))
