from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from biomedllama_cli.chat.terminal.sanitise import (
    StreamSanitiser,
    repair_text,
    sanitise,
    sanitise_line,
    show_character,
)

ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that act, order, hide or are none."""

awkward = st.text(
    st.one_of(
        st.sampled_from(
            "\x1b\x9b\x07\r\n\t\u200d\u200c\u202e\u2066\u00ad\ufeff\U000e0041\ud800ab[];m👩\u0627"
        ),
        st.characters(),
    )
)


def test_no_character_of_unicode_acts() -> None:
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ACTING and character not in "\n\t":
            assert character not in sanitise(character), hex(code)


def test_ordinary_text_of_every_script_stays_as_it_is() -> None:
    for text in (
        "β-blockers: 5 µg/kg – “naïve” ≥ 3 × 10⁻⁶",
        "دارو\u200cها",  # Persian needs the joiner between its letters
        "👩\u200d⚕️ 日本語 한국어 हिन्दी",
        "line\n\tindented",
    ):
        assert sanitise(text) == text


def test_joiners_after_latin_letters_or_in_a_row_are_shown() -> None:
    assert sanitise("a\u200db\u200c\u200d") == "a�b��"
    assert sanitise("\u0627\u200c\u200c\u200d") == "\u0627\u200c��"


@given(awkward)
def test_sanitised_text_is_its_own_sanitised_text(text: str) -> None:
    once = sanitise(text)
    assert sanitise(once) == once
    assert not [c for c in once if unicodedata.category(c) in ACTING and c not in "\n\t\u200c\u200d"]


@given(st.lists(awkward))
@example(["a\r", "\nb"])
@example(["\u0627", "\u200d", "\u200d"])
@example(["\r\r", "\n", "\r"])
def test_pieces_are_sanitised_as_if_they_came_at_once(pieces: list[str]) -> None:
    stream = StreamSanitiser()
    assert "".join([*map(stream.feed, pieces), stream.close()]) == sanitise("".join(pieces))


@given(awkward)
def test_an_edited_text_keeps_its_length_and_a_title_its_line(text: str) -> None:
    assert len(show_character(text)) == len(text)
    assert not set(sanitise_line(text)) & set("\n\t\r\x1b\x9b")


@given(st.text())
def test_what_the_model_is_given_differs_only_in_what_cannot_be_written(text: str) -> None:
    assert repair_text(text) == text
    repair_text(text + "\udce9").encode()
