"""Text that comes piece by piece is the text that comes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest
from chat_models import KINDS, load_chat_model
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.chat.conversation import Finish
from biomedllama_cli.chat.streaming_text import StreamingText
from biomedllama_cli.evaluation.answer_text import decode_answer
from biomedllama_cli.models.tokenizer import Tokenizer

KINDS_BUILT = [kind for kind in KINDS if kind != "llama"]
PROMPTS = ("What is β-carotene?\n\n### Response:\n", "The heart", "Is it 漢字? ", "")
STOPS: tuple[tuple[str, ...], ...] = (
    (),
    ("a",),
    ("\n### Instruction:", "e p"),
    ("in", "inh", " "),
    ("é", "\ufffd"),
)
WRITTEN = (
    "Aspirin — naïve 漢字 🙂 of 5 µg.\n### Instruct is no stop."
    "\n\n### Instruction:\nAnd platelets? 🧬🧬 patients a  b"
)


@pytest.fixture(scope="module")
def get_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    folder = tmp_path_factory.mktemp("streaming")

    @cache
    def build(kind: str) -> Tokenizer:
        return load_chat_model(kind, "zephyr", folder / kind)[0]

    return build


def stream(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], ids: Sequence[int], stop: Sequence[str]
) -> tuple[str, int]:
    """Return the joined pieces, and how many ids were taken before a stop text ended them."""
    text = StreamingText(tokenizer, prompt_ids, stop)
    pieces: list[str] = []
    for count, token_id in enumerate(ids, 1):
        pieces.append(text.push(token_id))
        if text.stopped:
            assert text.text == "".join(pieces)
            return text.text, count
    pieces.append(text.finish())
    assert text.text == "".join(pieces)
    return text.text, len(ids)


@pytest.mark.parametrize("kind", KINDS_BUILT)
@given(data=st.data())
def test_pieces_of_any_ids_are_the_text_of_all(
    kind: str, get_tokenizer: Callable[[str], Tokenizer], data: st.DataObject
) -> None:
    tokenizer = get_tokenizer(kind)
    written = tokenizer.encode(data.draw(st.sampled_from((WRITTEN, "🙂🙂🙂", "  a"))))
    some_id = st.one_of(st.integers(0, tokenizer.vocabulary_size + 3), st.sampled_from(written))
    parts = data.draw(st.lists(st.one_of(some_id.map(lambda i: [i]), st.just(written)), max_size=90))
    ids = [token_id for part in parts for token_id in part]
    prompt_ids = tokenizer.encode(data.draw(st.sampled_from(PROMPTS)))
    if tokenizer.adds_bos and tokenizer.bos_id is not None:
        prompt_ids = [tokenizer.bos_id, *prompt_ids]
    stop = data.draw(st.sampled_from(STOPS))
    text, taken = stream(tokenizer, prompt_ids, ids, stop)
    assert text == decode_answer(tokenizer, prompt_ids, ids[:taken], stop)


@pytest.mark.parametrize("kind", KINDS_BUILT)
def test_no_piece_holds_half_a_character_or_a_part_of_a_stop_text(
    kind: str, get_tokenizer: Callable[[str], Tokenizer]
) -> None:
    tokenizer = get_tokenizer(kind)
    text = StreamingText(tokenizer, tokenizer.encode("x:"), ("\n### Instruction:",))
    pieces = [text.push(token_id) for token_id in tokenizer.encode(WRITTEN)]
    assert text.stopped
    assert text.finish() == ""
    expected = WRITTEN[: WRITTEN.index("\n### Instruction:")]
    # A SentencePiece vocabulary writes its own space before a text.
    assert "".join(pieces).removeprefix(" ") == expected
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(1 for piece in pieces if piece) > 10
    # What looks like the stop text comes only once it cannot be one any more.
    shown = list(accumulate(pieces))
    assert not any(text.endswith(("\n#", "\n##", "\n###", "\n### Inst", "\n### Instruct")) for text in shown)


def test_an_unfinished_character_is_left_out_of_a_reply_that_was_cut_off(
    get_tokenizer: Callable[[str], Tokenizer],
) -> None:
    for kind in KINDS_BUILT:
        tokenizer = get_tokenizer(kind)
        prompt_ids = tokenizer.encode("x:")
        ids = [*tokenizer.encode("blood 🧬")][:-1]
        for cut, ending in ((True, "blood "), (False, "\ufffd")):
            text = StreamingText(tokenizer, prompt_ids)
            joined = "".join(map(text.push, ids)) + text.finish(cut=cut)
            assert joined.endswith(ending)
            assert text.text == joined
            assert text.finish(cut=cut) == ""


def test_text_held_back_for_a_stop_text_comes_at_the_end(get_tokenizer: Callable[[str], Tokenizer]) -> None:
    tokenizer = get_tokenizer("byte-level")
    text = StreamingText(tokenizer, [], ("\n### Instruction:",))
    assert "".join(map(text.push, tokenizer.encode("yes\n### Inst"))) == "yes"
    assert text.finish(cut=True) == "\n### Inst"
    assert text.text == "yes\n### Inst"


def test_a_long_reply_is_not_decoded_again_and_again(
    get_tokenizer: Callable[[str], Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = get_tokenizer("byte-level")
    ids = tokenizer.encode(WRITTEN.replace("#", "")) * 40
    decoded = 0
    decode = Tokenizer.decode

    def count(self: Tokenizer, some: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(some)
        return decode(self, some)

    monkeypatch.setattr(Tokenizer, "decode", count)
    stream(tokenizer, tokenizer.encode("x" * 3000), ids, ())
    assert len(ids) > 3000
    assert decoded < 60 * len(ids)


def test_llama_text_comes_as_it_is(shared_data: Path, tmp_path: Path) -> None:
    tokenizer, _ = load_chat_model(
        "llama", "zephyr", tmp_path / "llama", shared_data / "tokenizer" / "llama" / "tokenizer.model"
    )
    prompt_ids = tokenizer.encode("### Response:\n")
    ids = tokenizer.encode("### Response:\n" + WRITTEN)[len(prompt_ids) :]
    assert stream(tokenizer, prompt_ids, ids, ())[0] == WRITTEN


def test_the_end_of_a_reply_is_told_with_its_whole_text(get_tokenizer: Callable[[str], Tokenizer]) -> None:
    tokenizer = get_tokenizer("sentencepiece")
    prompt_ids, ids = tokenizer.encode(PROMPTS[1]), tokenizer.encode("of blood of blood")

    def end(finish: Finish, kept: int, stop: Sequence[str] = (), *, full: bool = False) -> tuple[str, Finish]:
        text = StreamingText(tokenizer, prompt_ids, stop)
        for token_id in ids:
            text.push(token_id)
        return text.end(finish, ids[:kept], full=full)

    whole, half = " of blood of blood", len(ids) // 2
    assert end("end", len(ids), full=True) == (whole, "end")
    assert end("length", len(ids)) == (whole, "length")
    assert end("length", len(ids), full=True) == (whole, "context")
    # One copy is left of what was said over and over, and no stop text in it.
    assert end("repetition", half) == (" of blood", "repetition")
    assert end("repetition", half, (" blood",)) == (" of", "stop")
    assert end("length", len(ids), (" of",)) == ("", "stop")
