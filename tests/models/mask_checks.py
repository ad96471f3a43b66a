"""The trained tokens of a row, checked with the tokenizers' own libraries."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from chat_models import END

from biomedllama_cli.instructions.encoding import EncodedExample
from biomedllama_cli.instructions.example import Example, Turn
from biomedllama_cli.models.chat_template import Template
from biomedllama_cli.models.tokenizer import Tokenizer

LoadModel = Callable[[str, str], tuple[Tokenizer, Template]]
LoadPlain = Callable[[str], Tokenizer]
TWO_TURNS = Example(
    "1",
    "mine",
    (
        Turn("system", "You know the heart."),
        Turn("user", "Which valve lies left?"),
        Turn("assistant", "The mitral valve."),
        Turn("user", "And what inhibits platelets?"),
        Turn("assistant", "Aspirin"),
    ),
)


def list_runs(row: EncodedExample) -> list[tuple[int, list[int]]]:
    """Return where each run of trained tokens begins, and its ids."""
    runs = []
    for trained, places in groupby(range(len(row.trained)), key=row.trained.__getitem__):
        found = list(places)
        if trained:
            runs.append((found[0], [row.token_ids[place] for place in found]))
    return runs


def read(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Decode ids behind others, with the library alone: SentencePiece drops a space at the beginning of all."""
    if tokenizer.kind == "sentencepiece":
        return tokenizer._backend.decode([tokenizer._backend.piece_to_id("<0x0A>"), *ids])[1:]
    if tokenizer.encode("\na") != [*tokenizer.encode("\n"), *tokenizer.encode("a")]:
        before = tokenizer._backend.convert_tokens_to_ids("<0x0A>")
        return tokenizer._backend.decode([before, *ids], clean_up_tokenization_spaces=False)[1:]
    return tokenizer._backend.decode(ids, clean_up_tokenization_spaces=False)


def check_row(
    row: EncodedExample,
    tokenizer: Tokenizer,
    template: Template,
    example: Example,
    answers: list[str],
    end: int,
) -> None:
    """Check that the runs say the answers and end, and that each continues what inference feeds."""
    runs = list_runs(row)
    assert [read(tokenizer, ids[:-1]) for _, ids in runs] == answers
    assert [ids[-1] for _, ids in runs] == [end] * len(answers)
    turns = [(turn.role, turn.text) for turn in example.turns]
    places = [number for number, (role, _) in enumerate(turns) if role == "assistant"][-len(runs) :]
    for (start, _), place in zip(runs, places, strict=True):
        fed = template.encode_prompt(tokenizer, turns[:place], exact=example.exact)
        assert row.token_ids[:start] == fed
    if tokenizer.adds_bos:
        assert row.token_ids[0] == tokenizer.bos_id
        assert row.token_ids[1] != tokenizer.bos_id


def end_id(tokenizer: Tokenizer, name: str) -> int:
    if tokenizer.kind == "sentencepiece" or END[name] == "</s>":
        return tokenizer.eos_id
    return tokenizer._backend.convert_tokens_to_ids(END[name])
