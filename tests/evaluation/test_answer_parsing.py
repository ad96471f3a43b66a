"""What counts as an answer in a generated text, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.evaluation.answer_parsing import parse_answer, trim_answer, trimmed_match
from biomedllama_cli.tasks.question import Question

DRUGS = ("Aspirin", "Metformin", "Lisinopril", "Acetylsalicylic acid and dipyridamole", "Insulin glargine")
GERMS = ("Escherichia coli", "A. fumigatus", "E. coli", "Clostridioides difficile", "H. pylori")
NESTED = ("Pancreatitis", "Acute pancreatitis", "Acute necrotising pancreatitis", "Hepatitis B", "Hepatitis")
DOSES = ("5 mg", "0.5 mg", "50 mg", "5 g", "10%")
COUNTS = ("5", "10", "100", "1,000", "-5")
ABOVE = ("Iron", "Zinc", "Both A and B", "All of the above", "None of the above")
BARE = ("Surgery", "Radiation", "None", "All")
TRENDS = (
    "↑ calcium, ↓ phosphate",
    "↓ calcium, ↑ phosphate",
    "β-Blocker",
    "Guillain–Barré syndrome",
    ">10 cells",
)
TEN = ("Alpha", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "India", "Juliett")
LABELS = ("yes", "no", "maybe")
TWINS = ("Oxygen", "Nitrogen", "oxygen", "Helium")
BLOOD = ("O", "A", "B", "AB")

CASES: list[tuple[tuple[str, ...], str, int | None]] = [
    # The plain forms.
    (DRUGS, "A", 0),
    (DRUGS, "(B)", 1),
    (DRUGS, " C ", 2),
    (DRUGS, "C.", 2),
    (DRUGS, "B) Metformin", 1),
    (DRUGS, "B. Metformin", 1),
    (DRUGS, "B: Metformin", 1),
    (DRUGS, "B - Metformin", 1),
    (DRUGS, "B Metformin", 1),
    (DRUGS, "(b) metformin", 1),
    (DRUGS, "b", 1),
    (DRUGS, "[E]", 4),
    (DRUGS, "**C**", 2),
    (DRUGS, "**C) Lisinopril**", 2),
    (DRUGS, "`D`", 3),
    (DRUGS, "\\boxed{C}", 2),
    (DRUGS, "$\\boxed{\\text{(C) Lisinopril}}$", 2),
    (DRUGS, "Answer: B", 1),
    (DRUGS, "Answer: (B)", 1),
    (DRUGS, "Answer:\n\nB", 1),
    (DRUGS, "**Answer:** B", 1),
    (DRUGS, "Answer - C", 2),
    (DRUGS, "Ans: C", 2),
    (DRUGS, "### Final answer: **(E)**", 4),
    (DRUGS, "The answer is (C)", 2),
    (DRUGS, "The answer is C.", 2),
    (DRUGS, "the answer is c", 2),
    (DRUGS, "the correct answer is option D", 3),
    (DRUGS, "The correct option is: D.", 3),
    (DRUGS, "The best choice would be E, since it is long-acting.", 4),
    (DRUGS, "The answer to this question is B.", 1),
    (DRUGS, "My answer would be 'B'.", 1),
    (DRUGS, "The answer is therefore most likely B) Metformin", 1),
    (DRUGS, "I choose B because it is first-line.", 1),
    (DRUGS, "I would go with (C).", 2),
    (DRUGS, "Option B is correct.", 1),
    (DRUGS, "(B) is the correct answer.", 1),
    (DRUGS, "Therefore, C is the best answer.", 2),
    (DRUGS, "So the answer must be D", 3),
    (DRUGS, "Thus, (E).", 4),
    (DRUGS, "（Ａ）", 0),
    # The option's own text.
    (DRUGS, "metformin", 1),
    (DRUGS, "Metformin.", 1),
    (DRUGS, "ACETYLSALICYLIC ACID   and dipyridamole!", 3),
    (DRUGS, "Insulin-glargine", 4),
    (DRUGS, "The answer is insulin glargine, given once a day.", 4),
    (DRUGS, "Metformin is the most appropriate first drug for this patient.", 1),
    (DRUGS, "I believe that metformin would be given here.", 1),
    (DRUGS, "The correct answer is the biguanide, that is, metformin.", 1),
    (DRUGS, "He should be given metformin (B).", 1),
    (DRUGS, "Answer: The drug of choice is lisinopril", 2),
    # The last statement of a chain of thought wins.
    (DRUGS, "At first the answer is A. But he has diabetes, so the answer is B.", 1),
    (DRUGS, "A) Aspirin would thin the blood. B) Metformin lowers sugar. The answer is B.", 1),
    (DRUGS, "Let's think. Aspirin is an NSAID. Lisinopril lowers pressure.\n\nC", 2),
    (DRUGS, "Let's think. Aspirin is an NSAID. Lisinopril lowers pressure.\n\n(C) Lisinopril", 2),
    (DRUGS, "The answer is C. The other options (A, B, D) are incorrect.", 2),
    (DRUGS, "C is correct because A is not first-line and B is contraindicated.", 2),
    (DRUGS, "Answer: A\n\nWait, the kidneys fail. Final answer: E", 4),
    (DRUGS, "A) Aspirin\n\nExplanation: aspirin inhibits cyclooxygenase.", 0),
    (DRUGS, "C) Lisinopril\n\nExplanation:\n(A) is wrong.\n(B) is wrong.", 2),
    (DRUGS, "B) Metformin\nB) Metformin\nB) Metformin", 1),
    # What follows a new question is not this one's answer.
    (DRUGS, "B) Metformin\n\n### Question: Which drug is a salicylate?\n\n### Answer:(A) Aspirin", 1),
    (DRUGS, "B\nQuestion: What next?\nAnswer: C", 1),
    (DRUGS, "B) Metformin\n\nThe following is a multiple-choice question. The answer is A.", 1),
    # Denied options.
    (DRUGS, "The answer is not A.", None),
    (DRUGS, "The answer is not A but B.", 1),
    (DRUGS, "The answer is B, not A.", 1),
    (DRUGS, "The answer is B rather than C.", 1),
    (DRUGS, "The answer isn't A.", None),
    (DRUGS, "A is not the correct answer.", None),
    (DRUGS, "A is incorrect.", None),
    (DRUGS, "The incorrect answer is A.", None),
    (DRUGS, "It cannot be A. The answer is D.", 3),
    (DRUGS, "We can rule out (A), so what remains is (B).", 1),
    (DRUGS, "Not aspirin. Metformin is given.", 1),
    (DRUGS, "Aspirin is contraindicated.", None),
    (DRUGS, "(A) and (C) are wrong.", None),
    (DRUGS, "So the correct option is not C, it is D.", 3),
    (DRUGS, "I would not choose A. I would choose B.", 1),
    (DRUGS, "Option A: Aspirin is wrong. Option B: Metformin is right.", 1),
    (DRUGS, "The correct answer is A) Aspirin.\n\nIncorrect answers: B) Metformin", 0),
    (DRUGS, "Neither A nor B is correct.", None),
    (DRUGS, "All except B", None),
    # Answers in other people's clothes.
    (DRUGS, "<answer>B</answer>", 1),
    (DRUGS, '{"answer": "B"}', 1),
    (DRUGS, "Final Answer: The final answer is $\\boxed{D}$. I hope it is correct.", 3),
    (DRUGS, "A. Aspirin - antiplatelet\nB. Metformin - biguanide\n\nAnswer: B. Metformin", 1),
    (DRUGS, "Of the options given, only metformin lowers glucose.", 1),
    # Ambiguous.
    (DRUGS, "A or B", None),
    (DRUGS, "A and B", None),
    (DRUGS, "A, C", None),
    (DRUGS, "A/B", None),
    (DRUGS, "(A) (B)", None),
    (DRUGS, "The answer is A or B.", None),
    (DRUGS, "The answer is either (A) or (B).", None),
    (DRUGS, "The answer is both A and C", None),
    (DRUGS, "A) Aspirin\nB) Metformin\nC) Lisinopril", None),
    (DRUGS, "A) Aspirin\n\nB) Metformin", None),
    (DRUGS, "Aspirin and metformin", None),
    (DRUGS, "Aspirin or metformin could be used.", None),
    (DRUGS, "A) Metformin", None),
    # No answer at all.
    (DRUGS, "", None),
    (DRUGS, "   \n", None),
    (DRUGS, "A patient with diabetes needs care.", None),
    (DRUGS, "A 54-year-old man came to the clinic.", None),
    (DRUGS, "The answer is a drug for diabetes.", None),
    (DRUGS, "I do not know.", None),
    (DRUGS, "I", None),
    (DRUGS, "F", None),
    (DRUGS, "Answer: F", None),
    (DRUGS, "The answer is unclear.", None),
    (DRUGS, "What is the answer? Is the answer A?", None),
    (DRUGS, "Vitamin D, vitamin B and group A streptococci.", None),
    (DRUGS, "C-reactive protein and D-dimer are raised.", None),
    (DRUGS, "The answer is B-cell lymphoma.", None),
    (DRUGS, "Aspirins", None),
    (DRUGS, "I'd say it depends.", None),
    (DRUGS, "Because the patient is a candidate for dialysis,", None),
    # Names that begin with a letter.
    (GERMS, "E. coli", 2),
    (GERMS, "C) E. coli", 2),
    (GERMS, "The answer is E. coli.", 2),
    (GERMS, "E) H. pylori", 4),
    (GERMS, "E", 4),
    (GERMS, "A. fumigatus", 1),
    (GERMS, "B. A. fumigatus", 1),
    (GERMS, "D. Clostridioides difficile", 3),
    (GERMS, "C. difficile", None),
    (GERMS, "B. burgdorferi is the cause", None),
    (GERMS, "A. Escherichia coli", 0),
    # Options inside other options.
    (NESTED, "Pancreatitis", 0),
    (NESTED, "Acute pancreatitis", 1),
    (NESTED, "The patient has acute necrotising pancreatitis.", 2),
    (NESTED, "B) Acute pancreatitis", 1),
    (NESTED, "A) Acute pancreatitis", None),
    (NESTED, "hepatitis B", 3),
    (NESTED, "The answer is hepatitis B.", 3),
    (NESTED, "The answer is hepatitis.", 4),
    (NESTED, "B", 1),
    # Numbers and units.
    (DOSES, "5 mg", 0),
    (DOSES, "5mg", 0),
    (DOSES, "0.5 mg", 1),
    (DOSES, "The dose is 50 mg a day.", 2),
    (DOSES, "The answer is 0.5 mg.", 1),
    (DOSES, "25 mg", None),
    (DOSES, "1.5 mg", None),
    (DOSES, "10 %", 4),
    (DOSES, "The answer is 10%.", 4),
    (COUNTS, "5", 0),
    (COUNTS, "-5", 4),
    (COUNTS, "−5", 4),
    (COUNTS, "The answer is 1000.", 3),
    (COUNTS, "B) 10", 1),
    (COUNTS, "It took 10 days and 5 nurses.", None),
    # Options about the others.
    (ABOVE, "All of the above", 3),
    (ABOVE, "D) All of the above", 3),
    (ABOVE, "The answer is none of the above.", 4),
    (ABOVE, "Both A and B", 2),
    (ABOVE, "The answer is both A and B.", 2),
    (ABOVE, "C) Both A and B", 2),
    (ABOVE, "A and B", None),
    (BARE, "None", 2),
    (BARE, "The answer is None.", 2),
    (BARE, "None of the above", 2),
    (BARE, "C) None", 2),
    (BARE, "None of the trials helped, so surgery was done", 0),
    (BARE, "All patients had surgery.", 0),
    # Unicode and signs.
    (TRENDS, "↑ calcium, ↓ phosphate", 0),
    (TRENDS, "The answer is ↓ calcium ↑ phosphate", 1),
    (TRENDS, "beta blocker", 2),
    (TRENDS, "β–blocker", 2),
    (TRENDS, "Guillain-Barre syndrome", 3),
    (TRENDS, "D) Guillain‑Barré Syndrome", 3),
    (TRENDS, "> 10 cells", 4),
    (TRENDS, "<10 cells", None),
    # Ten options.
    (TEN, "J", 9),
    (TEN, "I", 8),
    (TEN, "(I) India", 8),
    (TEN, "The answer is (J).", 9),
    (TEN, "I think it is H.", None),
    (TEN, "I think the answer is H.", 7),
    (TEN, "I would say golf", 6),
    (TEN, "I am not sure.", None),
    (TEN, "K", None),
    # Yes, no, maybe.
    (LABELS, "Yes", 0),
    (LABELS, "NO", 1),
    (LABELS, " maybe.", 2),
    (LABELS, "Yes, the drug lowered mortality.", 0),
    (LABELS, "Yes the drug works", 0),
    (LABELS, "No, it did not.", 1),
    (LABELS, "No it did not", 1),
    (LABELS, "No, it is not.", 1),
    (LABELS, "The answer to the question is: no, it does not.", 1),
    (LABELS, "Yes, but maybe not in children.", 0),
    (LABELS, "The answer is no.", 1),
    (LABELS, "The answer is yes because mortality fell.", 0),
    (LABELS, "Answer: **Maybe**", 2),
    (LABELS, "No evidence was found of a benefit.", None),
    (LABELS, "There was no benefit.", None),
    (LABELS, "Yes / No / Maybe", None),
    (LABELS, "Yes or no", None),
    (LABELS, "The trial was small.\n\nMaybe", 2),
    (LABELS, "The trial was large. The final answer is: Yes", 0),
    (LABELS, "Not yes.", None),
    (LABELS, "A", None),
    (LABELS, "B) no", 1),
    (LABELS, "yesterday nobody came", None),
    # The same text twice, and options that are letters themselves.
    (TWINS, "Oxygen", None),
    (TWINS, "C) oxygen", 2),
    (TWINS, "(A) Oxygen", 0),
    (TWINS, "Helium", 3),
    (BLOOD, "AB", 3),
    (BLOOD, "D) AB", 3),
    (BLOOD, "C) B", 2),
    (BLOOD, "A", 0),
]


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    CASES,
    ids=[f"{index}-{text[:40]}" for index, (_, text, _) in enumerate(CASES)],
)
def test_the_parser_reads(options: tuple[str, ...], text: str, expected: int | None) -> None:
    assert parse_answer(text, Question("q", "?", options, 0)) == expected


WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9)


@given(st.lists(WORDS, min_size=2, max_size=10, unique=True), st.data())
def test_every_plain_form_of_any_option_is_read(options: list[str], data: st.DataObject) -> None:
    texts = [f"z{option}" for option in options]
    index = data.draw(st.integers(0, len(options) - 1))
    letter = "ABCDEFGHIJ"[index]
    form = data.draw(
        st.sampled_from(
            [
                "{l}",
                "({l})",
                "{l}) {t}",
                "({l}) {t}",
                "{l}. {t}",
                "{t}",
                "The answer is ({l}) {t}.",
                "Answer: {t}",
            ]
        )
    )
    question = Question("q", "?", tuple(texts), 0)
    assert parse_answer(form.format(l=letter, t=texts[index]), question) == index


@given(st.text(max_size=300), st.sampled_from([DRUGS, TEN, LABELS, COUNTS, TRENDS]))
def test_any_text_gives_an_option_or_none(text: str, options: tuple[str, ...]) -> None:
    answer = parse_answer(text, Question("q", "?", options, 0))
    assert answer is None or 0 <= answer < len(options)


def test_a_long_rambling_text_is_read_in_good_time() -> None:
    text = (
        "The answer is that the patient, who is not (A) well and so therefore the most likely best is " * 200
    )
    assert parse_answer(text + "The answer is B.", Question("q", "?", DRUGS, 0)) == 1


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("(A) Aspirin", "A) Aspirin"),
        ("A) Aspirin", "A) Aspirin"),
        (" ( (A) Aspirin )", "A) Aspirin"),
        ("(B) Iron (oral)", "B) Iron (oral"),
        (" Yes ", "Yes"),
        (") Yes", "Yes"),
        ("Yes\n", "Yes\n"),
        ("", ""),
    ],
)
def test_trimming_is_the_original_one(text: str, trimmed: str) -> None:
    assert trim_answer(text) == trimmed


def test_the_original_match_is_exact() -> None:
    assert trimmed_match("A) Aspirin", "(A) Aspirin")
    assert trimmed_match("Yes ", "Yes")
    assert not trimmed_match("yes", "Yes")
    assert not trimmed_match("A) aspirin", "(A) Aspirin")
    assert not trimmed_match("A", "(A) Aspirin")
    assert not trimmed_match("A) Aspirin\n\n### Question", "(A) Aspirin")
