"""A reply's text while its tokens come: never half a character, never a part of a stop text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from biomedllama_cli.chat.conversation import Finish
from biomedllama_cli.models.control_tokens import list_control_tokens
from biomedllama_cli.models.tokenizer import Tokenizer

_CONTEXT = 24
"""Ids that stay before those to be decoded: the first of them may lose its space, or begin within a character."""
_UNKNOWN = "\ufffd"
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class StreamingText:
    """Decodes new ids one by one; the pieces together are what `decode_answer` gives for all of them.

    Args:
        tokenizer: of the model.
        prompt_ids: what the new ids follow.
        stop: texts that end the reply before them.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.text = ""
        """All that was handed out."""
        self.stopped = False
        """Whether a stop text was met; nothing comes after that."""
        self._tokenizer = tokenizer
        self._prompt_ids = prompt_ids
        self._byte_ids, self._silent_ids = _find_odd_ids(tokenizer)
        self._stop = tuple(mark for mark in stop if mark)
        self._held = ""
        """Decoded text that may become a stop text."""
        self._window = self._choose_context(prompt_ids)
        self._taken = len(tokenizer.decode(self._window))
        """Characters of the window's text that are done with."""

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that is certain by now."""
        if self.stopped or token_id in self._silent_ids or token_id >= self._tokenizer.vocabulary_size:
            return ""
        self._window.append(token_id)
        if token_id in self._byte_ids:
            return ""  # whether bytes are text at all may depend on the whole run of them
        text = self._tokenizer.decode(self._window)
        # The last bytes may be the beginning of a character.
        new = self._take(text, len(text) - text.endswith(_UNKNOWN))
        if len(self._window) > 2 * _CONTEXT:
            left = len(text) - self._taken
            self._window = self._window[-_CONTEXT:]
            self._taken = max(0, len(self._tokenizer.decode(self._window)) - left)
        return self._release(new)

    def finish(self, *, cut: bool = False) -> str:
        """Return what was held back.

        Args:
            cut: whether the reply was cut off, so that an unfinished character at its end is left out.
        """
        if self.stopped:
            return ""
        text = self._tokenizer.decode(self._window)
        piece = self._release(self._take(text, len(text.rstrip(_UNKNOWN)) if cut else len(text)))
        if not self.stopped:
            piece += self._held
            self.text += self._held
            self._held = ""
        return piece

    def end(self, finish: Finish, kept_ids: Sequence[int], *, full: bool) -> tuple[str, Finish]:
        """Return the whole text of a reply that has ended, and why it did.

        Args:
            finish: why the last id was the last.
            kept_ids: of the reply, without what it said over and over.
            full: whether the context has no room for a reply of the length that was asked for.
        """
        whole = self
        if finish == "repetition":  # more of it was handed out
            whole = StreamingText(self._tokenizer, self._prompt_ids, self._stop)
            for token_id in kept_ids:
                whole.push(token_id)
        whole.finish(cut=finish != "end")
        if whole.stopped:
            return whole.text, "stop"
        return whole.text, "context" if full and finish == "length" else finish

    def _take(self, text: str, end: int) -> str:
        start, self._taken = self._taken, max(self._taken, end)
        return text[start : self._taken]

    def _release(self, new: str) -> str:
        """Return what can no longer become a stop text."""
        text = self._held + new
        found = [place for place in (text.find(mark) for mark in self._stop) if place >= 0]
        if found:
            self.stopped = True
            piece, self._held = text[: min(found)], ""
        else:
            kept = max((_overlap(text, mark) for mark in self._stop), default=0)
            piece, self._held = text[: len(text) - kept], text[len(text) - kept :]
        self.text += piece
        return piece

    def _choose_context(self, prompt_ids: Sequence[int]) -> list[int]:
        known = self._tokenizer.vocabulary_size
        ids = [i for i in prompt_ids[-4 * _CONTEXT :] if i < known and i not in self._silent_ids]
        start = max(0, len(ids) - _CONTEXT)
        while start > 0 and ids[start] in self._byte_ids:
            start -= 1
        return ids[start:]


def _overlap(text: str, mark: str) -> int:
    r"""Return how many of the last characters of a text may become the mark.

    >>> _overlap("so\n##", "\n### Instruction:"), _overlap("so", "\n### Instruction:")
    (3, 0)
    """
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


@lru_cache(maxsize=4)
def _find_odd_ids(tokenizer: Tokenizer) -> tuple[frozenset[int], frozenset[int]]:
    """Return the ids that stand for single bytes of a character, and those that decoding passes over."""
    if tokenizer.kind == "sentencepiece":
        every = range(tokenizer.vocabulary_size)
        return frozenset(i for i in every if tokenizer._backend.is_byte(i)), frozenset()
    pieces = tokenizer._backend.get_vocab().items()
    silent = (token.token_id for token, special in list_control_tokens(tokenizer).values() if special)
    return frozenset(i for piece, i in pieces if _BYTE_PIECE.fullmatch(piece)), frozenset(silent)
