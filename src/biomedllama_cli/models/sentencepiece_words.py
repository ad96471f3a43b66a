"""Words of a SentencePiece BPE vocabulary: where a text can be cut without changing an id.

BPE joins two neighbouring symbols only when the joined piece is in the vocabulary. So a boundary that lies inside
no piece is never crossed, and what stands on its two sides is merged independently. LLaMA's vocabulary has no
piece with U+2581 (SentencePiece's space) after another character, and none with a newline: texts may be cut before
every run of spaces that follows another character, and around every newline. Both are read off the pieces when
the vocabulary is loaded; a vocabulary that lacks the first is left to the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.models.long_text import iter_cuts, merges_stay_in_words
from biomedllama_cli.models.word_cache import slice_ids

if TYPE_CHECKING:
    from biomedllama_cli.models.merge_kernel import MergeTables

SPACE = "\u2581"
_CUT_CANDIDATES = "\n\t"
_LONG_WORD = 1 << 16  # characters merged in one go: SentencePiece takes some 50 bytes for each


def build_sentencepiece_words(processor: Any, dtype: npt.DTypeLike) -> SentencePieceWords | None:
    """Return how texts are cut into words, or None where the vocabulary gives no proof that they may be.

    The proof: no piece has a space mark after another character; the space mark is a piece; a character without
    a piece becomes bytes (without byte fallback, unknown characters of neighbouring words are one id); no piece
    is of a kind that changes merging (user-defined, unused). That the model is BPE, does not normalise and puts
    a space before the text is what `sentencepiece_export.find_obstacle` asks of every model.

    Args:
        processor: a loaded `SentencePieceProcessor`.
        dtype: type of the ids in the bytes of a word.
    """
    from sentencepiece import sentencepiece_model_pb2 as protocol

    model = protocol.ModelProto()
    model.ParseFromString(processor.serialized_model_proto())
    kind = protocol.ModelProto.SentencePiece
    allowed = {kind.NORMAL, kind.UNKNOWN, kind.CONTROL, kind.BYTE}
    normal = [piece.piece for piece in model.pieces if piece.type == kind.NORMAL]
    if not model.trainer_spec.byte_fallback or any(piece.type not in allowed for piece in model.pieces):
        return None
    if SPACE not in normal or not merges_stay_in_words(normal):
        return None
    return SentencePieceWords(processor, normal, dtype)


class SentencePieceWords:
    """Cut texts at word starts and encode the words.

    A word stands for itself with one space before it; one that begins with a newline (or a tab, where no piece
    has one) stands for itself alone. The empty word is a single space.

    Args:
        processor: a `SentencePieceProcessor` whose vocabulary `build_sentencepiece_words` has proved fit.
        pieces: its normal pieces.
        dtype: type of the ids in the bytes of a word.
    """

    def __init__(self, processor: Any, pieces: Sequence[str], dtype: npt.DTypeLike) -> None:
        self._processor, self.dtype = processor, np.dtype(dtype)
        self._cuts = tuple(cut for cut in _CUT_CANDIDATES if not any(cut in piece for piece in pieces))
        self._pieces = pieces
        self._pairs = {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}
        self._odd = frozenset(("", SPACE, *self._cuts))
        self._begins = np.zeros(processor.get_piece_size(), np.bool_)
        for i in range(len(self._begins)):
            self._begins[i] = processor.id_to_piece(i).startswith(SPACE)
        for cut in self._cuts:
            self._begins[processor.piece_to_id(f"<0x{ord(cut):02X}>")] = True

    def split(self, text: str) -> list[str]:
        """Return the text's words."""
        if not text:
            return []
        # SentencePiece writes U+2581 for a space, so the two are one to it; and it puts one before the text.
        text = " " + text.replace(SPACE, " ")
        if "  " in text:
            # A run of spaces belongs to the word after it: all but the first become U+2581.
            text = text.replace("  ", " " + SPACE).replace(SPACE + " ", SPACE + SPACE)
        for cut in self._cuts:
            if cut in text:
                text = text.replace(cut, " " + cut)
        words = text.split(" ")
        del words[0]
        return words

    def list_cut_rule(self) -> npt.NDArray[np.uint8]:
        """Return what each byte of UTF-8 is to the cut."""
        rule = np.zeros(257, np.uint8)
        rule[ord(" ")] = 1
        rule[[ord(cut) for cut in self._cuts]] = 2
        return rule

    def build_merge_tables(self) -> MergeTables | None:
        """Return the vocabulary for compiled merging, or None where a piece has a character that is no piece."""
        from biomedllama_cli.models.merge_kernel import build_tables

        ids = {piece: self._processor.piece_to_id(piece) for piece in self._pieces}
        if any(character not in ids for piece in ids for character in piece):
            return None
        scores = {piece: self._processor.get_score(i) for piece, i in ids.items()}
        # Pieces of equal score have equal rank: then the leftmost pair goes first.
        ranks = {score: rank for rank, score in enumerate(sorted(set(scores.values()), reverse=True))}
        merges = [
            (ids[piece[:cut]], ids[piece[cut:]], i, ranks[scores[piece]])
            for piece, i in ids.items()
            for cut in range(1, len(piece))
            if piece[:cut] in ids and piece[cut:] in ids
        ]
        symbols = np.full(0x110000, -1, np.int32)
        for piece, i in ids.items():
            if len(piece) == 1:
                symbols[ord(piece)] = i
        symbols[ord(" ")] = ids[SPACE]
        byte_ids = np.array([self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)], np.int32)
        return build_tables(symbols, byte_ids, merges)

    def prepare(self, text: str) -> str:
        """Return the text with the space SentencePiece puts before it."""
        return " " + text.replace(SPACE, " ") if text else ""

    def name_word(self, raw: str) -> str:
        """Return the word of a part that the cut rule found."""
        return raw[1:].replace(" ", SPACE) if raw.startswith(" ") else raw

    def iter_parts(self, text: str, length: int) -> Iterator[str]:
        """Yield parts of about `length` characters whose ids, end to end, are those of the text."""
        return iter_cuts(text, length)

    def encode_words(self, words: Sequence[str]) -> dict[str, bytes]:
        """Return the ids of each word; the plain ones in one call, as one text."""
        odd = self._odd
        plain = [word for word in words if word[:1] not in odd]
        if len(plain) < len(words) or max(map(len, plain)) > _LONG_WORD:
            return self._encode_odd_words(words)
        ids = self._to_array(self._processor.encode(" ".join(plain)))
        return dict(zip(plain, slice_ids(ids, self._begins[ids]), strict=True))

    def _encode_odd_words(self, words: Sequence[str]) -> dict[str, bytes]:
        """Return the ids of words some of which are long, follow a run of spaces, or begin with a newline."""
        encoded: dict[str, bytes] = {}
        plain: list[str] = []
        for word in words:
            if not word:
                encoded[word] = self._to_bytes([self._processor.piece_to_id(SPACE)])
            elif word[:1] in self._odd or len(word) > _LONG_WORD:
                encoded[word] = b"".join(map(self._to_bytes, self._iter_pieces(word)))
            else:
                plain.append(word)
        return encoded | (self.encode_words(plain) if plain else {})

    def encode_whole(self, text: str) -> bytes:
        """Return the ids of a text as the library gives them."""
        return self._to_bytes(self._processor.encode(text))

    def _iter_pieces(self, word: str) -> Iterator[list[int]]:
        """Yield the ids of a word that is encoded by itself, part by part where pieces allow a cut."""
        bare = word.startswith(self._cuts)
        start = 0
        while start < len(word):
            end = self._find_cut(word, start + _LONG_WORD) if self._cuts else len(word)
            if start == 0 and not bare:
                yield self._processor.encode(word[:end])
            else:
                # A newline before the part keeps SentencePiece's own space away from it.
                yield self._processor.encode(self._cuts[0] + word[start:end])[2:]
            start = end

    def _find_cut(self, word: str, start: int) -> int:
        """Return the first place from `start` on that lies inside no piece."""
        for place in range(start, len(word)):
            if word[place - 1 : place + 1] not in self._pairs:
                return place
        return len(word)

    def _to_array(self, ids: Sequence[int]) -> npt.NDArray[Any]:
        return np.array(ids, self.dtype)

    def _to_bytes(self, ids: Sequence[int]) -> bytes:
        return self._to_array(ids).tobytes()
