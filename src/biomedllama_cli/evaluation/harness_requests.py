"""lm-eval's requests put together by question, as the scorer wants them."""

from __future__ import annotations

from collections.abc import Sequence

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.scorer import Group, TokenSequence

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""lm-eval's: the two texts (None for running text), the context's ids and the continuation's."""


def group_requests(
    requests: Sequence[Request], context_length: int
) -> tuple[list[Group], list[tuple[int, int]]]:
    """Return what is scored together, and for each request its group and the sequence there.

    Neighbours with the same context are the options of one question. Equal sequences of a group are kept once.
    Windows of running text, and continuations of nothing, share nothing: each is a group of its own.

    Args:
        requests: lm-eval's, in its order.
        context_length: longest input (in tokens).

    Raises:
        DataError: a continuation has no token of its own, or more than the context holds.
    """
    collected: list[dict[TokenSequence, int]] = []
    places: list[tuple[int, int]] = []
    previous: str | None = None
    for texts, context_ids, continuation_ids in requests:
        if not 0 < len(continuation_ids) <= context_length:
            shown = repr(texts[1]) if texts else "a window"
            raise DataError(
                f"option {shown} has {len(continuation_ids)} tokens of its own after its question; "
                f"it must have 1 to {context_length} (context_length)"
            )
        if not texts or not texts[0] or texts[0] != previous:
            collected.append({})
        previous = texts[0] if texts else None
        known = collected[-1]
        sequence = TokenSequence((*context_ids, *continuation_ids), len(continuation_ids))
        places.append((len(collected) - 1, known.setdefault(sequence, len(known))))
    return [tuple(known) for known in collected], places
