r"""Words of a byte-level BPE vocabulary (Llama-3, Qwen, GPT-2): where a text can be cut without changing an id.

Such a tokenizer first cuts the text by a regular expression, from left to right, and merges inside the parts only.
All the expressions listed here share two properties, from which follows where a text may be cut in two that are
then encoded each by itself:

- A space only ever begins a part, unless white space is in front of it. So a part ends before every space that
  follows another character than white space; and as the parts before it look ahead only past white space, they
  do not change when the text ends there.
- Llama-3's and Qwen's take newlines greedily at the end of a part, before all other white space. So a part ends after a
  newline that is followed by another character than white space, and the parts before it do not depend on that.

NFC, Qwen's normaliser, joins nothing to a space or a newline, and added tokens without white space in them do not
reach across one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biomedllama_cli.models.word_cache import slice_ids

if TYPE_CHECKING:
    from biomedllama_cli.models.merge_kernel import MergeTables

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Expression that Llama-3 cuts texts by."""
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
"""Qwen2's and Qwen3's, which differs in the digits alone."""
_NEWLINES_END_PARTS = frozenset({LLAMA3_WORDS, QWEN2_WORDS})

_SPACE = "\u0120"  # a space in the alphabet of byte-level vocabularies
_GLUED, _BARE = "\x01", "\x02"  # a space that must not be cut at; a word without a space before it
_SINGLE_SPACE = re.compile(r"(?<=\S) (?=\S)")
_WHITESPACE = re.compile("[^\\S \n]")


def build_byte_level_words(tokenizer: Any, dtype: npt.DTypeLike) -> ByteLevelWords | None:
    """Return how texts are cut into words, or None where the pipeline is not one of those proved to allow it.

    Args:
        tokenizer: as transformers loads it.
        dtype: type of the ids in the bytes of a word.
    """
    from transformers import PreTrainedTokenizerFast

    kind, usual = type(tokenizer), PreTrainedTokenizerFast
    if not isinstance(tokenizer, usual) or kind._encode_plus is not usual._encode_plus:
        return None  # whatever else it does with a text
    backend = tokenizer.backend_tokenizer
    model = backend.model
    if type(model).__name__ != "BPE" or model.dropout or model.byte_fallback:
        return None
    if model.continuing_subword_prefix or model.end_of_word_suffix or backend.token_to_id(_SPACE) is None:
        return None
    if backend.normalizer is not None and _read_state(backend.normalizer) != {"type": "NFC"}:
        return None
    for token in backend.get_added_tokens_decoder().values():
        if token.lstrip or token.rstrip or token.single_word or len(token.content.split()) != 1:
            return None
    cuts_after_newlines = _judge_pre_tokenizer(_read_state(backend.pre_tokenizer))
    if cuts_after_newlines is None:
        return None
    return ByteLevelWords(backend, dtype, cuts_after_newlines=cuts_after_newlines)


def _read_state(component: Any) -> Any:
    """Return a component of the pipeline as tokenizer.json has it."""
    return json.loads(component.__getstate__()) if component is not None else None


def _judge_pre_tokenizer(definition: Any) -> bool | None:
    """Tell whether texts may be cut after newlines as well as before spaces, or None where neither is proved.

    >>> _judge_pre_tokenizer({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})
    False
    >>> _judge_pre_tokenizer({"type": "Whitespace"}) is None
    True
    """
    steps = (definition or {}).get("pretokenizers") or [definition or {}]
    last = steps[-1]
    if len(steps) > 2 or last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    first = steps[0]
    if last.get("use_regex", True):  # GPT-2's own expression; SmolLM2 sets each digit apart before that
        digits_apart = (first.get("type"), first.get("individual_digits")) == ("Digits", True)
        return False if len(steps) == 1 or digits_apart else None
    shape = (first.get("type"), first.get("behavior"), first.get("invert"))
    known = shape == ("Split", "Isolated", False) and first["pattern"].get("Regex") in _NEWLINES_END_PARTS
    return True if known else None


class ByteLevelWords:
    """Cut texts at word starts and encode the words.

    A word stands for itself with one space before it; one that begins with U+0002 stands for itself without. In
    a word U+0001 is a space that follows white space.

    Args:
        backend: a `tokenizers.Tokenizer` whose pipeline `build_byte_level_words` has proved fit.
        dtype: type of the ids in the bytes of a word.
        cuts_after_newlines: whether words also end after newlines.
    """

    def __init__(self, backend: Any, dtype: npt.DTypeLike, *, cuts_after_newlines: bool) -> None:
        self._backend, self.dtype, self._cuts_after_newlines = backend, np.dtype(dtype), cuts_after_newlines
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self._begins = np.zeros(max(vocabulary.values()) + 1, np.bool_)
        self._begins[[i for piece, i in vocabulary.items() if piece.startswith(_SPACE)]] = True

    def split(self, text: str) -> list[str] | None:
        """Return the text's words; None for a text that has the marks of this class in it."""
        if _GLUED in text or _BARE in text:
            return None
        others = set(_WHITESPACE.findall(text))
        for other in others:
            text = text.replace(other + " ", other + _GLUED)
        if not self._cuts_after_newlines:
            others.add("\n")
        text = text.replace("\n ", "\n" + _GLUED)
        if "  " in text:
            # A run of spaces belongs to the word after it: all but the first are glued to that.
            text = text.replace("  ", " " + _GLUED)
        text = text.replace(_GLUED + " ", _GLUED + _GLUED)
        if self._cuts_after_newlines and "\n" in text:
            text = text.replace("\n", "\n " + _BARE)
            for other in ("\n", _GLUED, *others):
                text = text.replace(" " + _BARE + other, other)
        return (_BARE + text).split(" ")

    def list_cut_rule(self) -> npt.NDArray[np.uint8]:
        """Return what each byte of UTF-8 is to the cut."""
        rule = np.zeros(257, np.uint8)
        rule[ord(" ")] = rule[256] = 1
        rule[ord("\n")] = 3 * self._cuts_after_newlines
        return rule

    def build_merge_tables(self) -> MergeTables | None:
        """Return the vocabulary for compiled merging of ASCII words, or None for other expressions than those here."""
        from biomedllama_cli.models.byte_level_merges import build_byte_level_tables

        return build_byte_level_tables(self._backend) if self._cuts_after_newlines else None

    def prepare(self, text: str) -> str | None:
        """Return the text itself; None for one that has the marks of this class in it."""
        return None if _GLUED in text or _BARE in text else text

    def name_word(self, raw: str) -> str:
        """Return the word of a part that the cut rule found."""
        return raw[1:].replace(" ", _GLUED) if raw.startswith(" ") else _BARE + raw.replace(" ", _GLUED)

    def iter_parts(self, text: str, length: int) -> Iterator[str]:
        """Yield parts of about `length` characters whose ids, end to end, are those of the text."""
        start = 0
        while len(text) - start > length and (cut := _SINGLE_SPACE.search(text, start + length)):
            yield text[start : cut.start()]
            start = cut.start()
        yield text[start:]

    def encode_words(self, words: Sequence[str]) -> dict[str, bytes]:
        """Return the ids of each word: the plain ones in one call, as one text."""
        plain: list[str] = []
        odd: list[str] = []
        for word in words:
            # White space at an end could be taken together with the space before the next word.
            bad = not word or word[0] == _BARE or _GLUED in word or word[0].isspace() or word[-1].isspace()
            (odd if bad else plain).append(word)
        texts = ["".join([" " + word for word in plain])]
        for word in odd:
            text = word.replace(_GLUED, " ")
            texts.append(text[1:] if text.startswith(_BARE) else " " + text)
        together, *rest = self._encode_all(texts)
        encoded = dict(zip(plain, slice_ids(together, self._begins[together]), strict=True))
        encoded.update(zip(odd, [ids.tobytes() for ids in rest], strict=True))
        return encoded

    def encode_whole(self, text: str) -> bytes:
        """Return the ids of a text as the library gives them."""
        return self._encode_all([text])[0].tobytes()

    def _encode_all(self, texts: list[str]) -> list[npt.NDArray[Any]]:
        # The settings of a call through transformers with split_special_tokens stay in the backend: set ours.
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, self.dtype) for encoding in encodings]
