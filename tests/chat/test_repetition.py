"""Loops are found, and what only looks like one is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from byte_level import build_backend
from hypothesis import given
from hypothesis import strategies as st
from tiny import TEXT

from biomedllama_cli.chat.repetition import LONGEST_PERIOD, find_loop

Encode = Callable[[str], list[int]]

LIST = "".join(f"{number}. Take one tablet of 5 mg in the morning.\n" for number in range(1, 40))
TABLE = "| Arm | Women | Men | Died |\n|-----|-------|-----|------|\n" + "".join(
    f"| Group {letter} | 12 | 12 | 0 |\n" for letter in "ABCDEFGHIJKLMNOPQR"
)
WIDE_TABLE = "|" + " Arm |" * 20 + "\n|" + "---|" * 20 + "\n|" + " yes |" * 20 + "\n"
RULES = "-" * 78 + "\nResults\n" + "=" * 78 + "\n" + "* " * 30 + "\n"
SEQUENCES = "5'-" + "CAG" * 40 + "CCG" + "AT" * 50 + "-" + "A" * 100 + "-3'"
MATRIX = "\n".join(" ".join("1" if row == column else "0" for column in range(8)) for row in range(8))
REFRAIN = "\n\n".join(
    ["Is the patient awake? Then ask him.", "Do not wake him.", "Do not wake him.", "Do not wake him."] * 2
)
HARMLESS = {
    "list": LIST,
    "table": TABLE,
    "wide table": WIDE_TABLE,
    "rules": RULES,
    "sequences": SEQUENCES,
    "matrix": MATRIX,
    "refrain": REFRAIN,
}
SENTENCE = "The mitral valve lies between the left atrium and the left ventricle of the heart. "


@pytest.fixture(scope="module", params=["bytes", "gpt2", "llama3"])
def encode(request: pytest.FixtureRequest) -> Encode:
    """Vocabularies from single bytes, which make the longest repeats, to words."""
    if request.param == "bytes":
        return lambda text: list(text.encode())
    backend = build_backend(request.param, TEXT, 400)
    return lambda text: backend.encode(text).ids


def first_alarm(ids: list[int]) -> tuple[int, int] | None:
    """Return (ids written, ids to keep) when a loop is first found."""
    for count in range(1, len(ids) + 1):
        kept = find_loop(ids[:count])
        if kept is not None:
            return count, kept
    return None


@pytest.mark.parametrize("name", HARMLESS)
def test_lists_tables_rules_and_sequences_are_no_loops(name: str, encode: Encode) -> None:
    ids = encode(HARMLESS[name])
    assert len(ids) > 25
    assert first_alarm(ids) is None


def test_a_sentence_said_over_and_over_is_kept_once(encode: Encode) -> None:
    before = encode("Where does it lie?\n")
    one = encode(SENTENCE)
    found = first_alarm(before + one * 12)
    assert found is not None
    written, kept = found
    assert kept == len(before) + len(one)
    assert written <= len(before) + max(4 * len(one), 64)


@given(
    before=st.lists(st.integers(100, 999), max_size=30, unique=True),
    block=st.lists(st.integers(0, 40), min_size=1, max_size=LONGEST_PERIOD, unique=True),
)
def test_any_loop_is_found_in_the_end_and_one_copy_kept(before: list[int], block: list[int]) -> None:
    written = max(4 * len(block), 64 if len(block) >= 8 else 128)
    ids = (before + block * 200)[: len(before) + written]
    assert find_loop(ids) == len(before) + len(block)


def test_tokens_that_differ_are_no_loop() -> None:
    assert find_loop([]) is None
    assert find_loop(list(range(2000))) is None
    almost = (list(range(10)) * 7)[:-1]
    assert find_loop([*almost, 99, *almost[:50]]) is None


def test_asking_after_every_token_costs_little() -> None:
    ids = list(range(40)) * 3 + list(range(500, 620)) * 3
    started = time.perf_counter()
    for _ in range(1000):
        find_loop(ids)
    assert time.perf_counter() - started < 1.0  # a millisecond each on a busy machine; 20 µs on a quiet one
