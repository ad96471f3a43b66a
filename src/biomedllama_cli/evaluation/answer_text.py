"""The text that new ids add to a prompt, and its end at a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from biomedllama_cli.models.tokenizer import Tokenizer


def decode_answer(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], new_ids: Sequence[int], stop: Sequence[str] = ()
) -> str:
    """Return the text that new ids add to a prompt, up to the first of the `stop` texts.

    Prompt and answer are decoded together: SentencePiece drops the space before the first word of whatever it is
    given, so an answer decoded alone would lose its leading space.
    """
    # A model may have more rows than the vocabulary has pieces; those ids mean no text.
    known = [token_id for token_id in new_ids if token_id < tokenizer.vocabulary_size]
    before = tokenizer.decode(prompt_ids)
    whole = tokenizer.decode([*prompt_ids, *known])
    # Where the answer's first bytes spoil a character at the prompt's end, it is decoded alone.
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(known)
    ends = [place for place in (text.find(mark) for mark in stop) if place >= 0]
    return text[: min(ends)] if ends else text


class TextStop:
    """Tells when new text holds one of the stop texts.

    Args:
        tokenizer: decodes the new ids.
        stop: the texts.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        # Every id but a special one stands for a byte at least, so a stop text that is just complete lies in these.
        self._tail = max(len(mark.encode()) for mark in self._stop) + 8

    def holds(self, prompt_ids: Sequence[int], new_ids: Sequence[int]) -> bool:
        """Tell whether the last of some new ids have just completed a stop text.

        Args:
            prompt_ids: what the new ids follow.
            new_ids: all of them.
        """
        before = (new_ids[: -self._tail] or prompt_ids)[-self._tail :]
        known = [token_id for token_id in before if token_id < self._tokenizer.vocabulary_size]
        text = decode_answer(self._tokenizer, known, new_ids[-self._tail :])
        return any(mark in text for mark in self._stop)
