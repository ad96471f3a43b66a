"""Conversations, questions of one's own, exemplars and chains of thought: what they become and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.profiles import find_profile
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.instructions.sources.catalogue import load_source, read_source
from biomedllama_cli.tasks.question import Question

TALK = [
    ("system", "Be brief."),
    ("user", "Hello."),
    ("assistant", " Hi. "),
    ("user", "Why?"),
    ("assistant", "So."),
]
QUESTION: dict[str, Any] = {"question": "Which metal?", "options": ["Zinc", "Iron"], "answer_index": 1}
CHOICE: dict[str, Any] = {
    "dataset": "medqa",
    "question": "Which metal?",
    "options": {"A": "Zinc", "B": "Iron"},
    "answer_idx": "B",
}
ABSTRACT: dict[str, Any] = {
    "dataset": "pubmedqa",
    "question": "Does tin help?",
    "context": "We gave tin.",
    "answer": "maybe",
}
LONG: dict[str, Any] = {"dataset": "liveqa", "question": "What is tin?", "answer": "A metal."}


def read(folder: Path, format_name: str, *records: object) -> list[Example]:
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return read_source(format_name, path, "mine")


def messages(*talk: tuple[str, object], **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in talk], **fields}


def test_an_answer_of_weight_zero_is_not_learnt(tmp_path: Path) -> None:
    talk = messages(*TALK)
    talk["messages"][2]["weight"] = 0
    talk["messages"][4]["weight"] = 1
    (example,) = read(tmp_path, "messages", talk)
    assert [turn.learnt for turn in example.turns] == [True, True, False, True, True]


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    talk, short = read(tmp_path, "messages", messages(*TALK, id="t1"), messages(*TALK[1:3], tools=[]))
    assert [turn.role for turn in talk.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn.text for turn in talk.turns] == ["Be brief.", "Hello.", "Hi.", "Why?", "So."]
    assert (talk.id, talk.exact, short.id, len(short.turns)) == ("t1", False, "1", 2)


def test_sharegpts_names_are_read_as_messages(tmp_path: Path) -> None:
    talk = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hello."},
        {"from": "gpt", "value": " Hi. "},
    ]
    plain, *shared = read(
        tmp_path, "messages", messages(*TALK[:3]), {"conversations": talk}, {"messages": talk}
    )
    assert [example.turns for example in shared] == [plain.turns] * 2


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (messages(), "field `messages` must be a list"),
        ({"messages": "Hello."}, "field `messages` must be a list"),
        ({"messages": ["Hello."]}, r"messages\[0\] is str"),
        ({"text": "Hello."}, "field `messages` is missing"),
        (messages(("tool", "4")), r"messages\[0\]: role is 'tool'"),
        (messages(("developer", "Be brief.")), "role is 'developer'"),
        (messages((["user"], "Hello.")), r"role is \['user'\]"),
        ({"conversations": [{"from": "tool", "value": "4"}]}, r"conversations\[0\]: from is 'tool'"),
        ({"conversations": [{"from": "human", "value": " "}]}, r"conversations\[0\]: value is blank"),
        (messages(("user", "Hello."), ("assistant", None)), r"messages\[1\]: content is NoneType"),
        (messages(("user", [{"type": "image_url"}]), ("assistant", "A cat.")), "content is list"),
        (messages(("user", " "), ("assistant", "Hi.")), r"messages\[0\]: content is blank"),
        (messages(("assistant", "Hi.")), r"messages\[0\] is the assistant's where the user's"),
        (messages(("user", "a"), ("user", "b"), ("assistant", "c")), r"messages\[1\] is the user's"),
        (messages(*TALK[:2], ("system", "a"), ("assistant", "c")), r"messages\[2\] is the system's"),
        (messages(*TALK[:4]), "the last message is the user's"),
        (messages(("system", "Be brief.")), "the last message is the system's"),
        (messages(*TALK, tools=[{"type": "function"}]), "field `tools` is set"),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b", "weight": 0.5},
                ]
            },
            r"messages\[1\]: weight is 0.5; it must be 1, or for an answer that is not to be learnt 0",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a", "weight": 0},
                    {"role": "assistant", "content": "b"},
                ]
            },
            r"messages\[0\]: weight is 0",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "tool_calls": [{"id": 1}]},
                ]
            },
            "field `tool_calls` is set",
        ),
    ],
)
def test_conversations_that_cannot_be_learnt_are_refused_by_line(
    tmp_path: Path, record: object, rule: str
) -> None:
    with pytest.raises(DataError, match=rule) as caught:
        read(tmp_path, "messages", messages(*TALK), record)
    assert "records.jsonl line 2" in caught.value.message


@pytest.mark.parametrize(
    "answer",
    [
        {"answer_index": 1},
        {"answer_idx": "B"},
        {"answer": " Iron "},
        {"answer_index": 1, "answer_idx": "B", "answer": "Iron"},
        {"answer_index": None, "answer": "Iron"},
    ],
)
@pytest.mark.parametrize("options", [["Zinc", "Iron"], {"A": "Zinc", "B": "Iron"}])
def test_own_questions_name_the_right_option_in_any_way(
    tmp_path: Path, options: object, answer: dict[str, object]
) -> None:
    (example,) = read(tmp_path, "questions", {"question": "Which metal?", "options": options, **answer})
    assert (example.id, example.exact, example.turns[1].text) == ("0", True, " (B) Iron")
    asked = Question("0", "Which metal?", ("Zinc", "Iron"), 1)
    assert example.turns[0].text + "(" == find_profile("instructed").prompt_of(asked)


def test_an_own_question_may_be_about_a_text(tmp_path: Path) -> None:
    with_text, without = read(
        tmp_path, "questions", QUESTION | {"context": "Blood.", "id": "q7"}, QUESTION | {"context": ""}
    )
    assert "### Context: Blood.\n\n### Question: Which metal?" in with_text.turns[0].text
    assert with_text.id == "q7"
    assert "Context" not in without.turns[0].text
    assert without.turns[0].cuttable is None


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"answer_index": 2}, "`answer_index` is 2; it must be 0 to 1"),
        ({"answer_index": -1}, "`answer_index` is -1"),
        ({"answer_index": True}, "`answer_index` is True"),
        ({"answer_index": "1"}, "`answer_index` is '1'; it must be a number, 0 to 1, and not text"),
        ({"answer_index": None}, "`answer_index` is missing, and so are `answer_idx` and `answer`"),
        ({"answer_idx": "A"}, "`answer_index` names option B, `answer_idx` names option A"),
        ({"answer_idx": "C"}, "it must be a letter of A to B"),
        ({"answer": "Gold"}, "the text of none of the options"),
        (
            {"answer": "Iron", "answer_index": None, "options": ["Iron", "Iron"]},
            "the text of 2 of the options",
        ),
        ({"options": ["Iron"]}, "field `options` holds 1 option; it must hold 2 to 26"),
        ({"options": ["Zinc", " "]}, "option B is blank"),
        ({"options": {"A": "Zinc", "C": "Iron"}}, "they must be A, B, C and on"),
        ({"options": "Zinc, Iron"}, "must map letters to texts"),
        ({"options": ["Zinc", 4]}, "must be a list of texts"),
        ({"question": ""}, "field `question` is blank"),
        ({"context": 5}, "field `context` is int"),
        ({"id": [1]}, r"field `id` is \[1\]"),
    ],
)
def test_wrong_questions_are_named_by_line(tmp_path: Path, changed: dict[str, object], rule: str) -> None:
    with pytest.raises(DataError, match=rule) as caught:
        read(tmp_path, "questions", QUESTION, QUESTION | changed)
    assert "records.jsonl line 2" in caught.value.message


def test_exemplars_become_questions_chains_and_long_answers(tmp_path: Path) -> None:
    choice, chain, abstract, long_form = read(
        tmp_path,
        "medpalm",
        CHOICE,
        CHOICE | {"explanation": "It rusts."},
        ABSTRACT,
        LONG | {"id": "liveqa/x"},
    )
    assert [example.id for example in (choice, chain, abstract, long_form)] == [
        "medqa/0",
        "medqa/1",
        "pubmedqa/2",
        "liveqa/x",
    ]
    assert choice.turns[1].text == " (B) Iron"
    assert chain.turns[0].text == choice.turns[0].text + " Let's think step by step."
    assert chain.turns[1].text == " It rusts.\nTherefore, the answer is (B) Iron"
    assert abstract.turns[1].text == " Maybe"
    assert abstract.turns[0].cuttable is not None
    assert [turn.text for turn in long_form.turns] == ["What is tin?", "A metal."]
    assert [example.exact for example in (choice, chain, abstract, long_form)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (CHOICE | {"dataset": "usmle"}, "field `dataset` is 'usmle'"),
        (CHOICE | {"explanation": " "}, "field `explanation` is blank"),
        (ABSTRACT | {"answer": "perhaps"}, "the text of none of the options"),
        ({**ABSTRACT, "context": None}, "field `context` is NoneType"),
        ({"dataset": "liveqa", "question": "What is tin?"}, "field `answer` is missing"),
    ],
)
def test_wrong_exemplars_are_named_by_line(tmp_path: Path, record: object, rule: str) -> None:
    with pytest.raises(DataError, match=rule) as caught:
        read(tmp_path, "medpalm2", CHOICE, record)
    assert "records.jsonl line 2" in caught.value.message


CHAINS = (
    "The following are multiple choice questions (with answers) about metals.\n\n"
    "Q: Which one rusts?\n(A) Tin (B) Iron\nA: Let's think step by step. Rust is iron's.\n\nOnly so. "
    "The answer is (B).\n\n"
    "Q: Which one\nis soft?\n(A) Lead (B) Iron\nA: Lead is. The answer is (A).\n"
)


def test_chains_lose_their_header_and_are_learnt_behind_their_cue(tmp_path: Path) -> None:
    path = tmp_path / "chains.txt"
    path.write_bytes(b"\xef\xbb\xbf" + CHAINS.replace("\n", "\r\n").encode())
    first, second = read_source("codex-cot", path, "codex-cot")
    assert [turn.text for turn in first.turns] == [
        "Q: Which one rusts?\n(A) Tin (B) Iron\nA: Let's think step by step.",
        " Rust is iron's.\n\nOnly so. The answer is (B).",
    ]
    assert [turn.text for turn in second.turns] == [
        "Q: Which one\nis soft?\n(A) Lead (B) Iron\nA:",
        " Lead is. The answer is (A).",
    ]
    assert (first.id, second.id, first.exact) == ("1", "2", True)


def test_subjects_give_an_example_per_question(tmp_path: Path) -> None:
    path = tmp_path / "subjects.json"
    path.write_text(json.dumps({"metals": "\n" + CHAINS, "ores": CHAINS}), encoding="utf-8")
    assert [example.id for example in read_source("mmlu-cot", path, "mmlu-cot")] == [
        "metals/1",
        "metals/2",
        "ores/1",
        "ores/2",
    ]


def test_lost_backslashes_are_put_back_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "subjects.json"
    path.write_text(json.dumps({"maths": "Q: What is \frac{1}{2} \right)?\nA: A half.\f"}), encoding="utf-8")
    loaded = load_source("mmlu-cot", path, "mmlu-cot")
    assert loaded.examples[0].turns[0].text == "Q: What is \\frac{1}{2} \\right)?\nA:"
    assert loaded.noted == {"restored_backslash": 1}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("No question at all.", "metals: the text holds no question"),
        ("Q: Which?\n(A) Tin", r"metals: question 1 \(line 1 of its text\).* has 0 such lines"),
        ("Q: a\nA: b\n\nQ: c\nA: d\nA: e", r"question 2 \(line 4 of its text\).* has 2 such lines"),
        ("Q: a\nA: Let's think step by step. ", "text behind that; it has 1 such lines"),
        ("Q: \nA: b", "text behind that; it has 1 such lines"),
        (5, "field `text` is int"),
    ],
)
def test_chains_that_end_in_nothing_are_refused(tmp_path: Path, text: object, rule: str) -> None:
    path = tmp_path / "subjects.json"
    path.write_text(json.dumps({"metals": text}), encoding="utf-8")
    with pytest.raises(DataError, match=rule):
        read_source("mmlu-cot", path, "mmlu-cot")


def test_shared_exemplars_are_all_there(shared_data: Path) -> None:
    folder = shared_data / "instruct"
    subjects = load_source("mmlu-cot", folder / "mmlu-cot.json", "mmlu-cot")
    assert len(subjects.examples) == 282
    assert len({example.id.partition("/")[0] for example in subjects.examples}) == 57
    for example in subjects.examples:
        prompt, answer = (turn.text for turn in example.turns)
        assert prompt.startswith("Q: ")
        assert prompt.endswith("\nA: Let's think step by step.")
        assert "multiple choice questions (with answers)" not in prompt + answer
        assert re.fullmatch(r" \S.*The answer is \([A-E]\)\.", answer, re.DOTALL)
    codex = load_source("codex-cot", folder / "codex-cot_usmle_5shot.txt", "codex-cot")
    assert len(codex.examples) == 5
    assert all(
        example.turns[1].text.startswith(" We refer to Wikipedia articles") for example in codex.examples
    )


@pytest.mark.parametrize("name", ["alpaca_format_gsm300.json", "alpaca_format_roleplay300.json"])
def test_shared_instructions_are_all_there(shared_data: Path, name: str) -> None:
    loaded = load_source("alpaca", shared_data / "instruct" / name, "alpaca-cleaned")
    assert (len(loaded.examples), loaded.left_out, loaded.noted) == (300, {}, {})


@pytest.mark.parametrize(
    ("format_name", "file", "count"),
    [
        ("medqa-5", "medqa/test_5options_first640.jsonl", 640),
        ("medmcqa", "medmcqa/validation_first120.jsonl", 120),
        ("pubmedqa", "pubmedqa/ori_pqal_nontest500.json", 500),
    ],
)
def test_shared_questions_are_all_there(shared_data: Path, format_name: str, file: str, count: int) -> None:
    loaded = load_source(format_name, shared_data / file, format_name)
    assert (len(loaded.examples), loaded.left_out) == (count, {})
