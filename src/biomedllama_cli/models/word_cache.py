"""Token ids word by word, each word's ids kept from its first time on.

Text repeats its words: after a few million, 95 of 100 have been seen. Where a tokenizer provably never joins
characters across a word start, the ids of a text are those of its words end to end, and a dictionary answers
much faster than merging again. What a word is, and the proof, belong to the vocabulary: see
`sentencepiece_words` and `byte_level_words`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from biomedllama_cli.models.merge_kernel import MergeTables

logger = logging.getLogger(__name__)

MAX_WORDS = 1 << 19
"""Words of one generation: about 90 MB of memory for English words, and two generations are kept."""

LONGEST_WORD = 64
"""Characters of the longest word that is kept; longer ones (sequences, URLs) hardly ever come again."""

_BATCH_CHARACTERS = 1 << 15
BATCH_WORDS = 1 << 10  # characters: SentencePiece and `tokenizers` are fastest on texts of this size
LONG_TEXT = 1 << 18


class WordCodec(Protocol):
    """What a cache needs to know of a vocabulary."""

    def split(self, text: str) -> list[str] | None:
        """Return the words whose ids, end to end, are those of the text; None where that cannot be told."""
        ...

    dtype: np.dtype[Any]
    """Type of the ids in the bytes of a word."""

    def list_cut_rule(self) -> npt.NDArray[np.uint8]:
        """Return what each byte of UTF-8 is to the cut, as `word_table` has it; shape [257]."""
        ...

    def build_merge_tables(self) -> MergeTables | None:
        """Return the vocabulary for compiled merging, or None where that cannot be told to be the same."""
        ...

    def prepare(self, text: str) -> str | None:
        """Return the text that the cut rule is for; None where the cut cannot be told."""
        ...

    def name_word(self, raw: str) -> str:
        """Return the word, as `split` would, of a part that the cut rule found."""
        ...

    def iter_parts(self, text: str, length: int) -> Iterator[str]:
        """Yield parts of about `length` characters whose ids, end to end, are those of the text."""
        ...

    def encode_words(self, words: Sequence[str]) -> dict[str, bytes]:
        """Return the ids of each word, as bytes of the type the codec was built for; no word comes twice."""
        ...

    def encode_whole(self, text: str) -> bytes:
        """Return the ids of a text as the library gives them."""
        ...


class WordMemory(Protocol):
    """Encodes texts and remembers their words: `WordCache`, or the compiled `word_table.WordTable`."""

    seen: int
    missed: int

    def __len__(self) -> int:
        """Return the number of words kept."""
        ...

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of every text as bytes of the codec's type."""
        ...


def build_word_cache(codec: WordCodec) -> WordMemory:
    """Return the fastest memory of words there is: the compiled one where numba is installed and works."""
    try:
        from biomedllama_cli.models.word_table import WordTable
    except (ImportError, RuntimeError) as error:
        # numba raises ImportError next to a numpy it does not know, and RuntimeError where no folder can be
        # written for what it compiles.
        logger.info("Tokens without compiled code, which gives the same ids more slowly: %s", error)
        return WordCache(codec)
    return WordTable(codec)


def slice_ids(ids: npt.NDArray[Any], begins: npt.NDArray[np.bool_]) -> list[bytes]:
    r"""Return the bytes of each run of ids that begins where `begins` says, the first one at the start.

    >>> slice_ids(np.array([7, 8, 9], np.uint8), np.array([True, False, True]))
    [b'\x07\x08', b'\t']
    """
    data, size = ids.tobytes(), ids.itemsize
    edges = [*(np.flatnonzero(begins) * size).tolist(), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


class WordCache:
    """Encode texts through a bounded memory of words.

    Two generations of at most `max_words` words are kept. When the young one is full it becomes the old one, and
    words that are still in use come back from there: memory is bounded and the cache follows the text. The ids
    never depend on what is kept.

    Args:
        codec: cuts texts and encodes words.
        max_words: words of one generation.

    Attributes:
        seen: words looked up so far.
        missed: words that were not there; the same word twice in a short batch of texts counts once.
    """

    def __init__(self, codec: WordCodec, *, max_words: int = MAX_WORDS) -> None:
        self._codec, self._max_words = codec, max_words
        self._young: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self.seen = self.missed = 0

    def __len__(self) -> int:
        """Return the number of words kept, those in both generations twice."""
        return len(self._young) + len(self._old)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return the ids of every text as bytes of the codec's type."""
        encoded: list[bytes] = []
        # Few texts at a time: a word that is new in one of them is known in the next ones.
        for batch in iter_batches(texts, _BATCH_CHARACTERS):
            if len(batch) == 1:  # which may be long: a list of its words would be ten times its size
                parts = self._codec.iter_parts(batch[0], LONG_TEXT)
                encoded.append(b"".join(self._encode_few([part])[0] for part in parts))
            else:
                encoded += self._encode_few(batch)
        return encoded

    def _encode_few(self, texts: Sequence[str]) -> list[bytes]:
        find = self._young.get
        found: list[list[Any] | bytes] = []
        holes: list[tuple[int, list[str], list[int]]] = []
        for number, text in enumerate(texts):
            words = self._codec.split(text)
            if words is None:
                found.append(self._codec.encode_whole(text))
                continue
            ids = list(map(find, words))
            missing = ids.count(None)
            self.seen += len(ids)
            if missing:
                holes.append((number, words, _find_holes(ids, missing)))
            found.append(ids)
        if holes:
            self._fill(found, holes)
        return [ids if isinstance(ids, bytes) else b"".join(ids) for ids in found]

    def _fill(
        self, found: list[list[Any] | bytes], holes: Sequence[tuple[int, list[str], list[int]]]
    ) -> None:
        """Put the ids of the missing words in their places, and keep the words."""
        fresh: dict[str, bytes] = {}
        unknown = dict.fromkeys([words[place] for _, words, places in holes for place in places])
        self.missed += len(unknown)
        if self._old:
            fresh = {word: self._old[word] for word in unknown.keys() & self._old.keys()}
            unknown = dict.fromkeys([word for word in unknown if word not in fresh])
        for batch in iter_batches(unknown, BATCH_WORDS):
            fresh.update(self._codec.encode_words(batch))
        for number, words, places in holes:
            ids = found[number]
            assert isinstance(ids, list), "only texts cut into words have holes"
            for place in places:
                ids[place] = fresh[words[place]]
        self._keep(fresh)

    def _keep(self, fresh: dict[str, bytes]) -> None:
        if max(map(len, fresh)) > LONGEST_WORD:
            fresh = {word: ids for word, ids in fresh.items() if len(word) <= LONGEST_WORD}
        if len(self._young) + len(fresh) > self._max_words:
            self._old, self._young = self._young, {}
        if len(fresh) <= self._max_words:
            self._young.update(fresh)


def _find_holes(ids: list[Any], missing: int) -> list[int]:
    """Return the places of None.

    >>> _find_holes([b"a", None, b"b", None], 2)
    [1, 3]
    """
    places, place = [], -1
    for _ in range(missing):
        place = ids.index(None, place + 1)
        places.append(place)
    return places


def iter_batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield texts or words in batches of about `size` characters, those longer than that alone."""
    batch: list[str] = []
    room = size
    for text in texts:
        length = len(text)
        if length > size and batch:
            yield batch
            batch, room = [], size
        batch.append(text)
        room -= length
        if room <= 0:
            yield batch
            batch, room = [], size
    if batch:
        yield batch
