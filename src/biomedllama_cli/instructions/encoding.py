"""All encoded examples of a run in flat arrays, and the count of those that could not be encoded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.counts import list_counts
from biomedllama_cli.instructions.encoder import CannotFit, EncodedExample, Encoder, Row
from biomedllama_cli.instructions.example import Example

__all__ = ["CannotFit", "EncodedExample", "EncodedSet", "Encoder", "encode_examples"]

logger = logging.getLogger(__name__)

_BATCH = 4096
"""Examples whose texts are tokenised together: enough to keep all cores busy, a few tens of MB."""

_LONGER_ROWS = "Take longer rows (--sequence-length), as far as the model's positions reach"
_HINTS = {
    "too_long": _LONGER_ROWS,
    "conversation_too_long": _LONGER_ROWS,
    "too_long_even_without_its_context": _LONGER_ROWS,
    "empty_answer": "Give every assistant's turn an answer",
    "nothing_to_learn": "Give one answer at least, or with --train-on last-turn the last, the weight 1",
    "empty_prompt": "Give every answer a question",
    "does_not_end_with_an_answer": "Let every conversation end with the assistant's turn",
    "broken_unicode": "Mend texts with half of a surrogate pair",
    "holds_a_null_character": "Take null characters out of the texts",
    "changed_by_chat_template": "Write plain text (--template plain)",
    "refused_by_chat_template": "Write plain text (--template plain)",
}


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Rows of token ids, end to end.

    Attributes:
        token_ids: uint32 [tokens].
        trained: bool [tokens]; whether a token is a target.
        starts: int64 [rows + 1]; row i is `starts[i]:starts[i + 1]`.
        ids: of the examples, by row.
        sources: likewise.
        cut_tokens: int64 [rows]; tokens that each lost to fit.
        refused: examples left out, by reason.
    """

    token_ids: npt.NDArray[np.uint32]
    trained: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    ids: list[str]
    sources: list[str]
    cut_tokens: npt.NDArray[np.int64]
    refused: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the tokens of each row, int64 [rows]."""
        return np.diff(self.starts)

    @cached_property
    def target_tokens(self) -> npt.NDArray[np.int64]:
        """Return the trained tokens of each row, int64 [rows]."""
        before = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return np.asarray(before[self.starts[1:]] - before[self.starts[:-1]], np.int64)

    @property
    def cut_rows(self) -> int:
        """Return how many rows lost a part to fit."""
        return int(np.count_nonzero(self.cut_tokens))

    def row(self, number: int) -> EncodedExample:
        """Return one row."""
        part = slice(self.starts[number], self.starts[number + 1])
        return EncodedExample(
            self.token_ids[part].tolist(), self.trained[part].tolist(), int(self.cut_tokens[number])
        )


def encode_examples(
    examples: Iterable[Example],
    encoder: Encoder,
    *,
    max_refused: float,
    what: str = "training examples",
    may_be_empty: bool = False,
) -> EncodedSet:
    """Encode all examples.

    Args:
        examples: in the order of the rows.
        encoder: of the model.
        max_refused: share of them that may be left out (a fraction).
        what: they are, for the log and for errors.
        may_be_empty: whether all of them may be left out.

    Raises:
        DataError: more than that is left out, or no token of all of them carries loss and one has to.
        SettingsError: the chat template rewrites earlier turns, so they cannot be trained.
    """
    rows: list[Row] = []
    ids: list[str] = []
    sources: list[str] = []
    left_out = _LeftOut()
    for batch in _iter_batches(examples):
        for example, row in zip(batch, encoder.encode_batch(batch), strict=True):
            if isinstance(row, CannotFit):
                left_out.add(example, row)
                continue
            rows.append(row)
            ids.append(example.id)
            sources.append(example.source)
    if rows or not may_be_empty:
        _check_refused(len(rows), left_out, encoder.sequence_length, max_refused, what)
    if count := left_out.reasons.total():
        logger.warning("%d of %d %s are left out: %s", count, count + len(rows), what, left_out.describe())
    lengths = [len(row.token_ids) for row in rows]
    encoded = EncodedSet(
        token_ids=np.concatenate([np.empty(0, np.uint32), *(row.token_ids for row in rows)]),
        trained=np.concatenate([np.empty(0, np.bool_), *(row.trained for row in rows)]),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        ids=ids,
        sources=sources,
        cut_tokens=np.array([row.cut_tokens for row in rows], np.int64),
        refused=left_out.reasons,
    )
    assert encoded.target_tokens.all(), "a row without a target"
    return encoded


@dataclass
class _LeftOut:
    """Examples that could not be encoded: how many by reason, and the tokens of the longest row that one needs."""

    reasons: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    def add(self, example: Example, why: CannotFit) -> None:
        """Count an example; the first for each reason is told."""
        level = logging.DEBUG if self.reasons[why.reason] else logging.WARNING
        logger.log(level, "%s %r is left out: %s", example.source, example.id, why)
        self.reasons[why.reason] += 1
        self.longest = max(self.longest, why.tokens)

    def sort(self) -> dict[str, int]:
        """Return the counts, the largest first."""
        return dict(sorted(self.reasons.items(), key=lambda pair: (-pair[1], pair[0])))

    def describe(self) -> str:
        """Return the counts for people, and how long a row would have to be."""
        needed = f" (the longest needs {self.longest:,} tokens)" if self.longest else ""
        return list_counts(self.sort()) + needed


def _check_refused(
    kept: int, left_out: _LeftOut, sequence_length: int, max_refused: float, what: str
) -> None:
    count = left_out.reasons.total()
    total = kept + count
    if not total:
        raise DataError(
            f"{what}: there is none to train on.", "Check the data, and what was left out before."
        )
    if not count:
        return
    counts = left_out.describe()
    hint = "; ".join(dict.fromkeys(_HINTS[reason] for reason in left_out.sort()))
    if not kept:
        raise DataError(
            f"{what}: no token carries loss, since all {total:,} are left out at {sequence_length:,} tokens a row: "
            f"{counts}.",
            f"{hint}.",
        )
    if count > max_refused * total:
        raise DataError(
            f"max_refused: {count:,} of {total:,} {what} ({count / total:.1%}) are left out at "
            f"{sequence_length:,} tokens a row, above the limit of {max_refused:.1%}: {counts}.",
            f"{hint}; or allow it (--max-refused).",
        )


def _iter_batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    remaining = iter(examples)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
