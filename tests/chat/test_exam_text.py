"""What people type, paste or name after `/mc` becomes a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from biomedllama_cli.chat.exam_text import parse_exam
from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.prompts import kind_of


def test_one_line_holds_a_question_and_its_options():
    found = parse_exam("  Which metal rusts? | tin |iron| gold ")
    assert (found.question, found.options) == ("Which metal rusts?", ("tin", "iron", "gold"))
    assert (found.answer_index, found.context, found.origin, found.remarks) == (None, None, "", ())


def test_the_right_answer_may_stand_at_the_end_of_the_line():
    assert parse_exam("Which rusts? | tin | iron | Answer: B").answer_index == 1
    assert parse_exam("Which rusts? | tin | iron | Answer:").answer_index is None


@pytest.mark.parametrize("mark", ["{}. ", "{}) ", "({}) ", "  {}.\t"])
@pytest.mark.parametrize("letters", ["ABC", "abc"])
def test_lines_with_letters(mark, letters):
    options = [
        mark.format(letter) + text for letter, text in zip(letters, ("tin", "iron", "gold"), strict=True)
    ]
    found = parse_exam("\n".join(["Which metal rusts?", "", *options, "Answer: b"]))
    assert (found.question, found.options, found.answer_index) == (
        "Which metal rusts?",
        ("tin", "iron", "gold"),
        1,
    )


@pytest.mark.parametrize("mark", ["-", "*", "•", "–"])
def test_lines_with_dashes(mark):
    found = parse_exam(f"Which metal rusts?\n{mark} tin\n{mark} iron")
    assert (found.question, found.options) == ("Which metal rusts?", ("tin", "iron"))


def test_windows_line_ends_and_wrapped_options_are_read_through():
    found = parse_exam("A man asks.\r\nWhich rusts?\r\nA. tin that\r\n   was plated\r\n\r\nB. iron\r\n")
    assert found.question == "A man asks.\nWhich rusts?"
    assert found.options == ("tin that was plated", "iron")


@pytest.mark.parametrize(
    "below",
    [
        "Answer: B\nExplanation: tin does not.\nA. is tin.\nB. is iron.",
        "Correct answer: B",
        "The right answer is: b) iron\n\nIt was in the exam of 2019.",
        "Answer B",
        "The correct answer is (B)",
        "Ans. B",
        "\nSource: a book\nAnswer: iron",
        "Explanation: tin does not.\nThe answer is B.\nAnswer: B",
        "Answer: B\nNote: of all metals, the\nanswer: B",
    ],
)
@pytest.mark.parametrize(
    "options", ["\nA. tin\nB. iron that\nis wet", "\n- tin\n- iron that is wet", " | tin | iron that is wet"]
)
def test_what_stands_below_the_options_is_part_of_none(below, options):
    below = below.replace("iron", "iron that is wet")
    found = parse_exam(f"Which rusts?{options}\n{below}")
    assert (found.question, found.options, found.answer_index) == (
        "Which rusts?",
        ("tin", "iron that is wet"),
        1,
    )


@pytest.mark.parametrize(
    "note", ["Source: a book", "Explanation: rust.\nIt is red.", "References:\n1. A book."]
)
def test_notes_below_the_options_say_nothing_of_the_answer(note):
    found = parse_exam(f"Does tin rust?\nyes/no\n{note}")
    assert (found.options, found.answer_index) == (("yes", "no"), None)


def test_text_that_speaks_of_answers_stays_in_its_option():
    found = parse_exam("Which?\nA. tin\nB. iron, the\nanswer a man gave\nC. the answer: gold\nAnswer: B")
    assert found.options == ("tin", "iron, the answer a man gave", "the answer: gold")
    assert parse_exam("Which? | answer a | answer b").options == ("answer a", "answer b")


def test_a_context_may_speak_of_an_answer():
    found = parse_exam("Context: We asked.\nAnswer: none.\nWhich rusts?\nA. tin\nB. iron\nAnswer: B")
    assert (found.context, found.answer_index) == ("We asked.\nAnswer: none.", 1)


def test_only_a_heading_is_taken_off_a_question():
    assert parse_exam("What is said of the question: which? | tin | iron").question == (
        "What is said of the question: which?"
    )


@pytest.mark.parametrize(
    "text",
    [
        "Context: We saw rust.\nDoes tin rust? | yes | no",
        "Context: We saw rust.\nDoes tin rust? | yes/no",
        "Context: We saw rust. | Does tin rust? | yes | no",
        "Abstract: We saw rust.\n\nQuestion: Does tin rust? | yes | no",
        "Context: We saw rust. | Question: Does tin rust? | yes | no",
    ],
)
def test_a_context_may_stand_before_the_question_of_a_line(text):
    found = parse_exam(text)
    assert (found.context, found.question, found.options) == ("We saw rust.", "Does tin rust?", ("yes", "no"))


@pytest.mark.parametrize("question", ["Which rusts?", "What rusts is"])
def test_the_line_of_the_options_holds_the_question_below_a_context(question):
    found = parse_exam(f"Context: We saw rust.\n{question} | tin | iron | gold")
    assert (found.context, found.question, found.options) == (
        "We saw rust.", question, ("tin", "iron", "gold")
    )  # fmt: skip


def test_names_of_bacteria_are_no_letters_of_options():
    found = parse_exam("A. fumigatus is what?\n- E. coli\n- a mould")
    assert (found.question, found.options) == ("A. fumigatus is what?", ("E. coli", "a mould"))
    assert parse_exam("Which? | E. coli | B. cereus").options == ("E. coli", "B. cereus")
    assert parse_exam("Which?\nA. E. coli\nB. B. cereus\nAnswer: E. coli").answer_index == 0


def test_letters_in_front_of_all_options_of_a_line_are_taken_off():
    assert parse_exam("Which? | A) tin | B) iron").options == ("tin", "iron")
    assert parse_exam("Which? | A) tin | iron").options == ("A) tin", "iron")


def test_lists_in_the_question_stay_there_where_options_have_letters():
    found = parse_exam("Findings:\n- fever\n- cough\nWhich?\nA. tin\nB. iron")
    assert found.question == "Findings:\n- fever\n- cough\nWhich?"


@pytest.mark.parametrize(
    "text",
    [
        "Context: We gave tin.\nHalf got none.\nDoes tin help?\nyes/no/maybe\nAnswer: maybe",
        "Context: We gave tin.\nHalf got none.\n\nQuestion: Does tin help?\nA. Yes\nB. No\nC. Maybe\nAnswer: C) maybe",
        "Abstract: We gave tin.\nHalf got none.\n\nDoes tin help?\n\n- yes\n- no\n- maybe\nAnswer: C",
        "Context: We gave tin.\nHalf got none. | Does tin help? | YES / No / maybe | answer: c",
    ],
)
def test_labels_with_a_context_are_asked_as_pubmedqa_is(text):
    found = parse_exam(text)
    assert found.context == "We gave tin.\nHalf got none."
    assert (found.question, found.options, found.answer_index) == (
        "Does tin help?",
        ("yes", "no", "maybe"),
        2,
    )
    assert kind_of(found.as_question()) == "abstract"


def test_a_context_belongs_to_questions_with_options_of_their_own_as_well():
    found = parse_exam("Context: A. was seen.\nB. was not.\nQuestion: Which\nwas seen?\nA. tin\nB. iron")
    assert found.context == "A. was seen.\nB. was not."
    assert (found.question, found.options) == ("Which\nwas seen?", ("tin", "iron"))
    assert kind_of(found.as_question()) == "options"


def test_other_alphabets_stay_as_they_are():
    found = parse_exam("Welche Säure? | β‑Alanin | 水 | 𝛼-Säure | Answer: 水")
    assert found.options == ("β‑Alanin", "水", "𝛼-Säure")
    assert found.answer_index == 1


def test_twenty_six_options_fit():
    assert len(parse_exam("Which? | " + " | ".join(f"metal {n}" for n in range(26))).options) == 26


def test_equal_options_are_remarked_and_nothing_is_said_of_an_unknown_answer():
    unknown = parse_exam("Which? | tin | iron | Tin")
    assert unknown.remarks == ("Options A and C are the same text.",)
    (known,) = parse_exam("Which? | tin | iron | Tin | Answer: A").remarks
    assert known == "Options A and C are the same text, and only A counts as right."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  \n ", "there is no question"),
        ("Which metal rusts?", "the question has no options; it must have 2 to 26"),
        ("Which metal rusts?\nand how?", "the question has no options"),
        ("Which? | iron", "the question has 1 option; it must have 2 to 26"),
        ("Which?\nA. iron", "the question has 1 option"),
        ("Which? | " + " | ".join("abcdefghijklmnopqrstuvwxyz0"), "the question has 27 options"),
        ("Which? | iron | | tin", "option B is empty"),
        ("Which? | iron | tin |", "option C is empty"),
        ("Which?\nA. iron\nB.\nC. tin", "option B is empty"),
        ("Which?\nA. iron\nB. tin\nB. gold", "option B is there twice"),
        ("Which?\nA. iron\nC. tin", "option C stands after A"),
        (" | iron | tin", "the question is empty"),
        ("Question:\nA. iron\nB. tin", "the question is empty"),
        ("Context: We saw iron.\nA. iron\nB. tin", "there is a context and no question"),
        ("Context:\nWhich?\nA. iron\nB. tin", "the context is empty"),
        ("Which? | iron | tin | Answer: C", "the answer is 'C'; it must be a letter of A to B"),
        ("Which? | iron | tin | Answer: B) iron", "the answer is 'B) iron'"),
        ("Which? | tin | tin | Answer: tin", "the answer is 'tin'"),
        ("Which?\nA. tin\nB. iron\nAnswer: A\nWhat?\nA. lead\nB. zinc\nAnswer: B", "there are two answers"),
        (
            "Which?\nA. tin\nB. iron\n\nIt was asked in 2019.",
            "below the options stands 'It was asked in 2019.'",
        ),
        ("Which?\n- tin\n- iron\n\nIt was asked in 2019.", "below the options stands 'It was asked"),
        ("Which? | tin | iron\n\nIt was asked in 2019.", "below the options stands 'It was asked"),
        ("Does it?\nyes/no\nThank you!", "below the options stands 'Thank you!'"),
        ("Which?\nA. tin\nB. iron\nNote: wet\nC. gold", "option C stands below 'Note: wet'"),
        ("Which \ud800? | iron | tin", "lone surrogate"),
    ],
)
def test_mistakes_are_told_in_a_sentence(text, message):
    with pytest.raises(DataError) as error:
        parse_exam(text)
    assert message in error.value.message
    assert error.value.hint or "surrogate" in message


def test_the_hint_shows_how_a_question_is_written():
    with pytest.raises(DataError) as error:
        parse_exam("Which? | iron")
    assert "`Question? | option | option`" in error.value.hint


@pytest.fixture
def own_file(tmp_path):
    records = [
        {"question": "Which rusts?", "options": ["tin", " iron "], "answer_index": 1, "id": "first"},
        {"question": "Which shines?", "options": {"A": "tin", "B": "gold"}},
        {"question": "Does it?", "options": ["Yes", "No"], "answer": "No", "context": "It does."},
    ]
    file = tmp_path / "my questions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_a_file_gives_its_nth_question_exactly_as_it_is(own_file):
    first = parse_exam(str(own_file))
    assert (first.id, first.options, first.answer_index) == ("first", ("tin", " iron "), 1)
    assert first.origin == f"{own_file}, question 1"
    assert parse_exam(f"{own_file}:1") == first
    third = parse_exam(f"{own_file}:3")
    assert (third.options, third.answer_index, third.context) == (("Yes", "No"), 1, "It does.")


def test_a_question_of_a_file_needs_no_answer(own_file):
    second = parse_exam(f"{own_file}:2")
    assert (second.options, second.answer_index) == (("tin", "gold"), None)


def test_a_benchmark_is_read_in_its_own_schema(tmp_path):
    from evaluation_runs import write_medqa, write_pubmedqa

    medqa = write_medqa(tmp_path / "medqa.jsonl", 5, repeated=[3])
    fourth = parse_exam(f"medqa={medqa}:4")
    assert (len(fourth.options), fourth.answer_index) == (4, 3)
    assert fourth.question.startswith("Patient 3 asks")
    assert "same text" in " ".join(fourth.remarks)
    pubmedqa = write_pubmedqa(tmp_path / "ori_pqal.json", test=2, other=1)
    second = parse_exam(f"pubmedqa={pubmedqa}:2")
    assert second.options == ("yes", "no", "maybe")
    assert second.context == "We looked at harbour in 21 people.\nHalf of them got none."
    with pytest.raises(DataError) as error:
        parse_exam(f"{pubmedqa}:2")
    assert f"pubmedqa={pubmedqa}:2" in error.value.hint


def test_bundled_questions_go_by_their_name():
    assert parse_exam("sample-questions:2").origin == "sample-questions.jsonl, question 2"


def test_what_a_file_does_not_hold_is_told(own_file):
    for text, message in (
        (f"{own_file}:4", "holds 3 questions, and question 4 was asked for"),
        (f"{own_file}:0", "the question's number is 0"),
        (f"{own_file}x.jsonl", "there is no file"),
        (f"medqqa={own_file}:1", "names the task 'medqqa', which does not exist"),
        (f"text={own_file}:1", "names the task 'text', which does not exist or has no options"),
    ):
        with pytest.raises(DataError, match=message):
            parse_exam(text)


def test_what_is_wrong_with_other_questions_of_a_file_is_not_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "No options?"}\n{"question": "Which?", "options": ["tin", "iron"]}\n')
    assert parse_exam(f"{file}:2").options == ("tin", "iron")
    with pytest.raises(DataError, match=r"line 1: field `options` is missing") as caught:
        parse_exam(f"{file}:1")
    assert "answer_index" not in str(caught.value)  # which the record does not hold


def test_a_hint_names_no_flag_that_the_chat_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "five.jsonl"
    options = {letter: f"word {letter}" for letter in "ABCDE"}
    record = {"question": "Which?", "options": options, "answer_idx": "A", "answer": "word A"}
    file.write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError) as caught:
        parse_exam(f"medqa={file}:1")
    assert "--task" not in caught.value.hint
