"""Pieces of a conversation as token ids, so that nothing shifts where one ends and the next begins.

A text encoded with what follows it may share a token with it, and SentencePiece puts a space before whatever it
encodes. So a piece that continues another is read off their joint encoding where that keeps the first one's ids, and
is otherwise encoded behind a marker whose ids are then taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.tokenizer import Tokenizer

IdArray = npt.NDArray[np.uint32]

_MARKERS = ("\n", "a", ".", ":", "0", "|", "x\n", "é")
"""Texts to encode a continuation behind; most vocabularies join none of the first two with what follows."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a conversation: text, or one control token.

    Attributes:
        text: what it says; of a BOS that no template wrote, nothing.
        token_id: of a control token; None for text.
        turn: number of the assistant's turn that it is the target of, its end included; None for everything else.
    """

    text: str
    token_id: int | None = None
    turn: int | None = None


class PieceEncoder:
    """Encodes pieces with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._markers = [(marker, np.array(tokenizer.encode(marker), np.uint32)) for marker in _MARKERS]
        marker, marker_ids = self._markers[0]
        behind = np.array(tokenizer.encode(marker + "a"), np.uint32)[len(marker_ids) :]
        self.adds_prefix = behind.tolist() != tokenizer.encode("a")
        """Whether the tokenizer puts a space before a text."""
        self._adds_prefix_after_tokens = self.adds_prefix and self._prefixes_every_part()

    def encode(self, batch: Sequence[Sequence[Piece]]) -> list[list[IdArray]]:
        """Return the ids of every piece of every conversation, uint32 [tokens] each."""
        jobs = [[self._plan(pieces, number) for number in range(len(pieces))] for pieces in batch]
        texts = dict.fromkeys(text for row in jobs for job in row for text in job if text is not None)
        ids_of = dict(zip(texts, self._encode_texts(texts), strict=True))
        loose = dict.fromkeys(
            piece.text
            for pieces, row in zip(batch, jobs, strict=True)
            for piece, job in zip(pieces, row, strict=True)
            if piece.token_id is None and _read_joint(job, ids_of) is None
        )
        loose_ids = dict(zip(loose, self.encode_continuations(loose), strict=True))
        encoded = []
        for pieces, row in zip(batch, jobs, strict=True):
            ids = []
            for piece, job in zip(pieces, row, strict=True):
                if piece.token_id is not None:
                    ids.append(np.array([piece.token_id], np.uint32))
                    continue
                joint = _read_joint(job, ids_of)
                ids.append(loose_ids[piece.text] if joint is None else joint)
            encoded.append(ids)
        return encoded

    def encode_continuations(self, texts: Iterable[str]) -> list[IdArray]:
        """Return the ids of texts that continue others: no space is put before them, nothing is joined to them.

        Raises:
            ModelError: no marker keeps its own ids before a text.
        """
        texts = list(texts)
        if not self.adds_prefix:
            return self._encode_texts(texts)
        found: dict[str, IdArray] = {}
        for marker, marker_ids in self._markers:
            missing = [text for text in dict.fromkeys(texts) if text not in found]
            for text, ids in zip(missing, self._encode_texts(marker + text for text in missing), strict=True):
                if np.array_equal(ids[: len(marker_ids)], marker_ids):
                    found[text] = ids[len(marker_ids) :]
            if len(found) == len(set(texts)):
                return [found[text] for text in texts]
        text = next(text for text in texts if text not in found)
        raise ModelError(
            f"tokenizer: {self.tokenizer.source!r} joins {text[:40]!r} with whatever stands before it.",
            "Take a model whose tokenizer is byte-level or SentencePiece.",
        )

    def decode_continuation(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids that continue others: a space at their beginning is kept."""
        if not self.adds_prefix:
            return self.tokenizer.decode(token_ids)
        marker, marker_ids = self._markers[0]
        return self.tokenizer.decode([*marker_ids.tolist(), *token_ids])[len(marker) :]

    def _plan(self, pieces: Sequence[Piece], number: int) -> tuple[str | None, str | None]:
        """Return (a text to encode, the text its ids must begin with); (None, None) for a continuation or a token."""
        piece = pieces[number]
        before = pieces[number - 1] if number else None
        if piece.token_id is not None:
            return None, None
        if before is not None and before.token_id is None:
            return before.text + piece.text, before.text
        # A text after a token is its own to the tokenizer; the assistant's words always continue something.
        begins = before is None or not before.text
        if piece.turn is None and (begins or self._adds_prefix_after_tokens or not self.adds_prefix):
            return piece.text, None
        return None, None

    def _prefixes_every_part(self) -> bool:
        if self.tokenizer.kind == "sentencepiece":
            return True
        backend, eos_id = self.tokenizer._backend, self.tokenizer.eos_id
        ids = backend(f"{backend.eos_token}a", add_special_tokens=False)["input_ids"]
        return list(ids) == [eos_id, *self.tokenizer.encode("a")]

    def _encode_texts(self, texts: Iterable[str]) -> list[IdArray]:
        encoded = self.tokenizer.encode_bytes(list(texts), np.uint32)
        return [np.frombuffer(ids, np.uint32) for ids in encoded]


@lru_cache(maxsize=4)
def build_piece_encoder(tokenizer: Tokenizer) -> PieceEncoder:
    """Return the encoder of a tokenizer's pieces; the last few are kept."""
    return PieceEncoder(tokenizer)


def _read_joint(job: tuple[str | None, str | None], ids_of: dict[str, IdArray]) -> IdArray | None:
    """Return the ids of a piece read off the joint encoding with the one before, or None where they do not part."""
    text, before = job
    if text is None:
        return None
    ids = ids_of[text]
    if before is None:
        return ids
    first = ids_of[before]
    return ids[len(first) :] if np.array_equal(ids[: len(first)], first) else None
