"""Words are the same however they are spelled; runs are hashed as they should be."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.corpus.decontamination.grams import build_table, hash_runs, hash_words
from biomedllama_cli.corpus.decontamination.matching import measure_similarity
from biomedllama_cli.corpus.decontamination.words import close_words, split_words

# Letters that English biomedical text is written with: Latin with accents, ligatures, Greek.
LETTERS = st.characters(
    categories=("Ll", "Lu", "Nd"), max_codepoint=0x3C9, exclude_characters="\u0149\u0345\u037a\u01f0\u0390\u03b0"
)  # fmt: skip
TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=8), max_size=12).map(" ".join)


@given(st.text())
def test_any_text_becomes_plain_words(text):
    for word in split_words(text):
        decoded = word.decode()
        assert decoded
        assert all(character.isalnum() for character in decoded)
    again = b" ".join(split_words(text)).decode()
    assert split_words(again) == split_words(text)


@given(TEXTS)
def test_case_makes_no_difference(text):
    words = split_words(text)
    assert split_words(text.upper()) == split_words(text.lower()) == split_words(text.title()) == words


@given(st.text())
def test_composed_decomposed_and_compatible_spellings_are_the_same(text):
    words = split_words(text)
    for form in ("NFC", "NFD"):
        assert split_words(unicodedata.normalize(form, text)) == words


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x24F)))
def test_compatible_spellings_of_latin_text_are_the_same(text):
    assert split_words(unicodedata.normalize("NFKC", text)) == split_words(text)


@given(st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=12), st.data())
def test_punctuation_and_spaces_between_words_make_no_difference(words, data):
    marks = st.text(
        st.sampled_from(".,;:!?()[]{}\"'-/\u2013\u2014\u2018\u2019\u201c\u2026\u00a0\u2009\n\t_%<>")
    )
    text = words[0] + "".join(f" {data.draw(marks)}{word}" for word in words[1:])
    assert split_words(text) == split_words(" ".join(words))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Sj\u00f6gren\u2019s", "sjogren s"),
        ("non\u2011breaking\u00a0space", "non breaking space"),
        ("co\u00adoperate zero\u200bwidth", "cooperate zerowidth"),
        ("\uff26\uff35\uff2c\uff2c \u00bd m\u00b2", "full 1 2 m2"),
        ("TNF-\u03b1 \u00b5g \u039c\u03a3 \u03c3\u03c2", "tnf \u03b1 \u03bcg \u03bc\u03c3 \u03c3\u03c3"),
        ("Stra\u00dfe STRASSE", "strasse strasse"),
        ("\ud800lone\x00null", "lone null"),
    ],
)  # fmt: skip
def test_spellings_that_occur(text, words):
    assert b" ".join(split_words(text)).decode() == words


@given(TEXTS)
def test_a_text_that_lost_its_punctuation_is_its_closed_reading(text):
    marked = text.replace(" ", "-", 3)
    bare = "".join(character for character in marked if character.isalnum() or character.isspace())
    assert split_words(close_words(marked)) == split_words(bare)


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 14))
def test_runs_of_equal_words_have_equal_hashes_and_others_not(words, length):
    hashes = hash_runs(hash_words(np.array(words, np.uint32)), length).tolist()
    runs = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs))
    assert len(set(zip(hashes, runs, strict=True))) == len(set(runs))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 5)), max_size=40),
    st.lists(st.integers(0, 12), max_size=20),
)
def test_a_table_finds_every_place_of_every_hash(places, searched):
    columns = [np.array(column) for column in zip(*places, strict=True)] or [np.zeros(0, int)] * 3
    table = build_table(3, columns[0].astype(np.uint64), columns[1], columns[2])
    found = sorted(zip(*(part.tolist() for part in table.find(np.array(searched, np.uint64))), strict=True))
    expected = [
        (at, u, o) for at, sought in enumerate(searched) for hashed, u, o in places if hashed == sought
    ]
    assert found == sorted(expected)


def longest_common_subsequence(left: list[int], right: list[int]) -> int:
    row = [0] * (len(right) + 1)
    for one in left:
        previous = row
        row = [0]
        for at, other in enumerate(right):
            row.append(previous[at] + 1 if one == other else max(row[at], previous[at + 1]))
    return row[-1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=90), st.lists(st.integers(0, 5), max_size=90))
def test_similarity_is_the_longest_common_subsequence(words, place):
    expected = longest_common_subsequence(words, place) / len(words)
    assert measure_similarity(np.array(words), np.array(place, int)) == expected
