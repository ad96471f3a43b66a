"""Anybody sees what is trained, with colour and without, and no data steers the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from chat_models import load_chat_model
from rich.console import Console, Group

from biomedllama_cli.instructions.encoding import EncodedSet, Encoder, encode_examples
from biomedllama_cli.instructions.example import Example, Turn, make_pair
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.report.mask_view import show_masks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Encoder]:
    tokenizer, template = load_chat_model("byte-level", "gemma", tmp_path_factory.mktemp("chat") / "gemma")
    return tokenizer, Encoder(tokenizer, template, 256)


def show(encoded: EncodedSet, tokenizer: Tokenizer, numbers: list[int], *, colour: bool) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=200,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
    )
    console.print(Group(*show_masks(encoded, tokenizer, numbers)))
    return stream.getvalue()


def test_trained_tokens_show_without_colour(model: tuple[Tokenizer, Encoder]) -> None:
    tokenizer, encoder = model
    abstract = "one two three " * 60
    examples = [
        make_pair("7", "mine", "Why?", "So it is", exact=False),
        make_pair("8", "mine", abstract + "Why?", "Yes", exact=False, cuttable=(0, len(abstract))),
        make_pair("9", "mine", "Not shown", "No", exact=False),
    ]
    encoded = encode_examples(examples, encoder, max_refused=0)
    lines = show(encoded, tokenizer, [0, 1], colour=False).splitlines()
    row = encoded.row(0)
    assert lines[0] == f"mine 7: {len(row.token_ids)} tokens, {sum(row.trained)} trained"
    assert lines[1] == "{<s>}{<start_of_turn>}user"
    assert lines[4] == "[[So it is{<end_of_turn>}]]"
    assert any(line.startswith("mine 8: ") and line.endswith(" cut") for line in lines)
    assert not any("Not shown" in line for line in lines)
    assert "stand in [[ ]]" in lines[-1]


def test_all_trained_turns_are_coloured(model: tuple[Tokenizer, Encoder]) -> None:
    tokenizer, encoder = model
    turns = (Turn("user", "a"), Turn("assistant", "first"), Turn("user", "b"), Turn("assistant", "second"))
    encoded = encode_examples([Example("1", "mine", turns)], encoder, max_refused=0)
    text = show(encoded, tokenizer, [0], colour=True)
    coloured = re.findall(r"\x1b\[1;32m([a-z]+)\x1b\[0m", text)
    assert coloured == ["first", "second"]


def test_data_cannot_steer_the_terminal(model: tuple[Tokenizer, Encoder]) -> None:
    tokenizer, encoder = model
    hostile = "\x1b[31mred\x07 \x9b2J \u202eturned [bold]markup[/bold] [link=x]y[/link]\r"
    example = make_pair("\x1b]0;title\x07\n", "\x1b[2J", hostile, hostile + ".", exact=False)
    text = show(encode_examples([example], encoder, max_refused=0), tokenizer, [0], colour=False)
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
    assert "[bold]markup[/bold] [link=x]y[/link]" in text
    assert "\\x1b[31mred\\x07" in text


def test_answers_of_sentencepiece_keep_their_first_blank(tmp_path: Path) -> None:
    tokenizer, template = load_chat_model("sentencepiece", "llama2", tmp_path / "llama2")
    encoded = encode_examples(
        [make_pair("1", "mine", "Why?", "So", exact=False)], Encoder(tokenizer, template, 128), max_refused=0
    )
    assert "[INST] Why? [/INST][[ So {</s>}]]" in show(encoded, tokenizer, [0], colour=False)
