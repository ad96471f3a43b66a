"""What `/mc` shows of an answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from biomedllama_cli.chat.exam_answer import KINDS, ExamAnswer, FormAnswer
from biomedllama_cli.chat.exam_question import ExamQuestion
from biomedllama_cli.evaluation.jobs import Likelihood

PROMPT = "Question: Which rusts?\nAnswer:"


def likelihoods(*values: float, truncated: bool = False) -> tuple[Likelihood, ...]:
    return tuple(Likelihood(value, 2, False, truncated) for value in values)


def build_answer(
    *values: float,
    options: tuple[str, ...] = ("tin", "iron", "gold"),
    answer_index: int | None = None,
    generates: bool = False,
    truncated: bool = False,
    device: str = "cpu",
) -> ExamAnswer:
    """An answer of one form whose numbers are planted: per character and byte C is best, alone A is."""
    alone = (math.log(0.5), math.log(0.25), math.log(0.25))
    own = FormAnswer(
        "text_space",
        PROMPT,
        tuple(f" {option}" for option in options),
        likelihoods(*values, truncated=truncated),
        "Answer:",
        likelihoods(*alone),
    )
    per_length = (-3.0, -2.0, -1.0)
    kinds = dict.fromkeys(KINDS, per_length) | {"sum": values, "domain_conditional": (1.0, -0.5, 0.25)}
    names = {"option_likelihood": values} if generates else {"acc": values, "acc_norm": per_length}
    return ExamAnswer(
        question=ExamQuestion("Which rusts?", options, answer_index, remarks=("Something is odd.",)),
        profile="instructed/1" if generates else "paper/1",
        summary="a protocol",
        generates=generates,
        bos=False,
        forms=(own,),
        without_question=likelihoods(*alone),
        scores={**names, **{f"text_space_{kind}": row for kind, row in kinds.items()}},
        context_length=512,
        dtype="bfloat16",
        device=device,
    )


VALUES = (math.log(0.002), math.log(0.006), math.log(0.002))


def test_probabilities_are_those_among_the_options():
    rows = build_answer(*VALUES).rows()
    assert [row["probability"] for row in rows] == pytest.approx([0.2, 0.6, 0.2])
    assert [row["without_question"] for row in rows] == pytest.approx([0.5, 0.25, 0.25])
    assert [row["log_likelihood"] for row in rows] == list(VALUES)
    assert [row["letter"] + row["option"] for row in rows] == ["Atin", "Biron", "Cgold"]
    assert [row["domain_conditional"] for row in rows] == [1.0, -0.5, 0.25]


def test_each_row_says_which_scores_choose_it():
    chosen = [row["chosen_by"] for row in build_answer(*VALUES).rows()]
    assert chosen == [
        ("domain_conditional",),
        ("acc", "sum"),
        ("acc_norm", "per_token", "per_character", "per_byte"),
    ]


def test_the_verdict_names_the_profiles_own_scores():
    assert build_answer(*VALUES).verdict() == "chosen by acc: B (0.60); by acc_norm: C"
    assert build_answer(*VALUES, answer_index=2).verdict().endswith("by acc_norm: C (right: C)")
    assert build_answer(*VALUES, generates=True).verdict() == "chosen by option_likelihood: B (0.60)"


def test_the_matrix_has_every_score_with_its_margin():
    rows = {row["score"]: row for row in build_answer(*VALUES, answer_index=1).matrix()}
    assert list(rows) == ["acc", "acc_norm", *(f"text_space_{kind}" for kind in KINDS)]
    assert rows["acc"]["margin"] == pytest.approx(math.log(3))
    assert (rows["acc"]["chosen"], rows["acc"]["right"], rows["acc"]["form"]) == ("B", True, None)
    conditional = rows["text_space_domain_conditional"]
    assert (conditional["form"], conditional["kind"]) == ("text_space", "domain_conditional")
    assert (conditional["chosen"], conditional["right"], conditional["margin"]) == ("A", False, 0.75)


def test_notes_say_how_it_was_asked():
    notes = " ".join(build_answer(*VALUES).notes())
    assert "Profile paper/1: a protocol." in notes
    assert "Option A is scored as ' tin' after the prompt, which is plain text without BOS" in notes
    assert "Without the question the model would choose A (0.50)." in notes
    assert "Something is odd." in notes
    for absent in ("lets the model write", "lost its left end", "closer than", "Computed in"):
        assert absent not in notes


def test_notes_tell_what_to_mind():
    notes = " ".join(build_answer(-1.0, -1.001, -5.0, generates=True, truncated=True, device="cuda").notes())
    assert "`evaluate --profile instructed` also lets the model write an answer" in notes
    assert "longer than the context of 512 tokens: the prompt lost its left end" in notes
    assert "closer than 0.002 nats" in notes
    assert "Computed in bfloat16; on CUDA `evaluate` computes in float16" in notes


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_lines_fit_the_window_and_hold_every_option(width):
    options = ("tin that was plated in the rain for years", "铁" * 30, "gold leaf")
    answer = build_answer(*VALUES, options=options, answer_index=1)
    lines = replace(answer, summary="铁" * 30).lines(width)
    assert max(map(cell_len, lines)) <= width
    text = "".join("".join(lines).split())
    for part in ("plated", "years", "gold", "prob", "0.600"):
        assert part in text
    assert text.count("铁") == 60
    assert any(line.startswith(">*  B") for line in lines)


def test_wide_windows_show_more_numbers():
    assert "tokens" not in build_answer(*VALUES).lines(40)[0]
    heading = build_answer(*VALUES).lines(120)[0]
    for name in ("prob", "log-lik", "domain", "/char", "/token", "/byte", "alone", "tokens"):
        assert name in heading


def test_the_prompt_is_shown_to_the_letter_when_asked_for():
    answer = build_answer(*VALUES)
    assert "| Answer:" not in answer.lines(80)
    lines = answer.lines(80, verbose=True)
    start = lines.index("Prompt of text_space:")
    assert lines[start + 1 :] == ["| Question: Which rusts?", "| Answer:"]


def test_a_question_that_was_named_by_its_file_is_shown():
    answer = build_answer(*VALUES)
    assert answer.heading() == ""
    named = replace(answer, question=replace(answer.question, origin="my.jsonl, question 7"))
    assert named.lines(80)[:2] == ["my.jsonl, question 7: Which rusts?", ""]
    assert named.lines(80)[2:] == answer.lines(80)


def test_the_matrix_says_what_each_form_chooses():
    lines = build_answer(*VALUES, answer_index=1).lines(100, verbose=True)
    start = lines.index("Chosen by form and normalisation:")
    assert lines[start + 1].split()[-5:] == ["sum", "/token", "/char", "/byte", "domain"]
    assert lines[start + 2].split() == ["text_space", "'", "tin'", "B*", "C", "C", "C", "A"]


def test_nothing_that_is_shown_drives_a_terminal():
    answer = build_answer(*VALUES, options=("tin\x1b[2J", "iron\r\x07[bold]", "\x9b31mgold\n\t"))
    lines = answer.lines(80, verbose=True)
    assert all(line.isprintable() for line in lines)
    assert any("iron ␇[bold]" in line for line in lines)


def test_everything_fits_into_json():
    dumped = build_answer(*VALUES, answer_index=1).dump()
    again = json.loads(json.dumps(dumped, allow_nan=False))
    assert again == dumped
    assert again["scores"] == {
        "acc": 1,
        "acc_norm": 2,
        "text_space_sum": 1,
        "text_space_per_token": 2,
        "text_space_per_character": 2,
        "text_space_per_byte": 2,
        "text_space_domain_conditional": 0,
    }
    assert again["forms"][0]["prompt"] == again["prompt"] == PROMPT
    assert again["answer_index"] == 1
