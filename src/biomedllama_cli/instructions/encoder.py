"""Examples as token ids with a mask of what is learnt.

The mask is never found by searching for an answer among the tokens: prompt and answer are encoded as the pieces they
are, so the ids before a target are those inference feeds, and the trained ones are the answer's and its end's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from biomedllama_cli.instructions.cutting import count_cuts, cut_turns
from biomedllama_cli.instructions.example import Example, Turn
from biomedllama_cli.models.chat_rendering import ChangesAnswer, TemplateRefusal
from biomedllama_cli.models.chat_template import Template, add_bos
from biomedllama_cli.models.pieces import Piece, build_piece_encoder
from biomedllama_cli.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as it is trained.

    Attributes:
        token_ids: BOS first where the tokenizer's default has it, the end of the last turn last.
        trained: for each token, whether it is a target.
        cut_tokens: tokens that the example lost to fit.
    """

    token_ids: list[int]
    trained: list[bool]
    cut_tokens: int = 0


class CannotFit(Exception):
    """An example that cannot be trained.

    Args:
        reason: in snake_case, as it is counted.
        detail: what exactly is wrong, where there is more to say.
        tokens: that its row would need at least, where that is known and too many.
    """

    def __init__(self, reason: str, detail: str = "", tokens: int = 0) -> None:
        super().__init__((detail or reason.replace("_", " ")) + (f" ({tokens:,} tokens)" if tokens else ""))
        self.reason = reason
        self.detail = detail
        self.tokens = tokens


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """An encoded example as arrays: ids uint32 [tokens], whether each is a target bool [tokens]."""

    token_ids: npt.NDArray[np.uint32]
    trained: npt.NDArray[np.bool_]
    cut_tokens: int = 0


class Encoder:
    """Turns examples into rows.

    Args:
        tokenizer: of the model.
        template: how conversations are written.
        sequence_length: longest row (in tokens).
        train_on: which of the assistant's turns are targets.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        sequence_length: int,
        train_on: Literal["all-turns", "last-turn"] = "all-turns",
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.sequence_length = sequence_length
        self.train_on = train_on
        self._pieces = build_piece_encoder(tokenizer)

    def encode(self, example: Example) -> EncodedExample:
        """Return one example's tokens.

        Raises:
            CannotFit: question, answer and end do not fit even without the text that may be cut, or the example
                has no answer.
            SettingsError: the chat template rewrites earlier turns, so they cannot be trained.
        """
        row = self.encode_batch([example])[0]
        if isinstance(row, CannotFit):
            raise row
        return EncodedExample(row.token_ids.tolist(), row.trained.tolist(), row.cut_tokens)

    def encode_batch(self, examples: Sequence[Example]) -> list[Row | CannotFit]:
        """Return a row, or why there is none, for each example; texts are tokenised together.

        Raises:
            SettingsError: the chat template rewrites earlier turns, so they cannot be trained.
        """
        results: list[Row | CannotFit] = []
        written: list[list[Piece]] = []
        for example in examples:
            pieces = self._write(example, example.turns)
            results.append(pieces if isinstance(pieces, CannotFit) else _NO_ROW)
            written += [] if isinstance(pieces, CannotFit) else [pieces]
        encoded = iter(zip(written, self._pieces.encode(written), strict=True))
        for number, example in enumerate(examples):
            if isinstance(results[number], CannotFit):
                continue
            row = self._mask(example, *next(encoded))
            if isinstance(row, Row) and len(row.token_ids) > self.sequence_length:
                row = self._cut(example, row)
            results[number] = row
        return results

    def _write(self, example: Example, turns: Sequence[Turn]) -> list[Piece] | CannotFit:
        if (problem := _find_problem(example, self.tokenizer)) is not None:
            return CannotFit(problem)
        try:
            pieces = self.template.write(
                [(turn.role, turn.text) for turn in turns],
                exact=example.exact,
                keep_history=self.train_on == "all-turns",
            )
        except TemplateRefusal as refusal:
            changes = isinstance(refusal, ChangesAnswer)
            return CannotFit(
                "changed_by_chat_template" if changes else "refused_by_chat_template", refusal.message
            )
        return add_bos(pieces, self.tokenizer)

    def _mask(
        self, example: Example, pieces: Sequence[Piece], ids: Sequence[npt.NDArray[np.uint32]]
    ) -> Row | CannotFit:
        """Join the pieces' ids and mark the targets."""
        last = max((piece.turn for piece in pieces if piece.turn is not None), default=None)
        chosen = [
            piece.turn is not None
            and (self.train_on == "all-turns" or piece.turn == last)
            and example.turns[piece.turn].learnt
            for piece in pieces
        ]
        if not any(chosen):
            return CannotFit("nothing_to_learn")
        trained = np.repeat(np.array(chosen, bool), [len(part) for part in ids])
        if trained[0]:
            # Nothing stands before the first token, so nothing could predict it.
            return CannotFit("empty_prompt")
        return Row(np.concatenate(ids), trained)

    def _cut(self, example: Example, whole: Row) -> Row | CannotFit:
        """Cut as few words as make the example fit."""
        words = count_cuts(example.turns)
        if not words:
            single = sum(turn.role == "assistant" for turn in example.turns) == 1
            reason = "too_long" if single else "conversation_too_long"
            return CannotFit(reason, tokens=len(whole.token_ids))
        shortest = self._try_cut(example, words)
        if isinstance(shortest, CannotFit):
            return CannotFit("too_long_even_without_its_context")
        if len(shortest.token_ids) > self.sequence_length:
            return CannotFit("too_long_even_without_its_context", tokens=len(shortest.token_ids))
        fits, least, most = shortest, 1, words
        while least < most:
            middle = (least + most) // 2
            row = self._try_cut(example, middle)
            if isinstance(row, Row) and len(row.token_ids) <= self.sequence_length:
                fits, most = row, middle
            else:
                least = middle + 1
        return Row(fits.token_ids, fits.trained, len(whole.token_ids) - len(fits.token_ids))

    def _try_cut(self, example: Example, words: int) -> Row | CannotFit:
        pieces = self._write(example, cut_turns(example.turns, words))
        if isinstance(pieces, CannotFit):
            return pieces
        return self._mask(example, pieces, self._pieces.encode([pieces])[0])


_NO_ROW = Row(np.empty(0, np.uint32), np.empty(0, bool))


def _find_problem(example: Example, tokenizer: Tokenizer) -> str | None:
    """Return why no template could make a row of an example, or None."""
    text = "\n".join(turn.text for turn in example.turns)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "broken_unicode"
    if tokenizer.kind == "sentencepiece" and "\0" in text:  # it ends SentencePiece's strings
        return "holds_a_null_character"
    if not example.turns or example.turns[-1].role != "assistant":
        return "does_not_end_with_an_answer"
    if any(turn.role == "assistant" and not turn.text.strip() for turn in example.turns):
        return "empty_answer"
    return None
