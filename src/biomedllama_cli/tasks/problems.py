"""Problems of a file told together: the first few one by one, the others counted."""

from __future__ import annotations

from collections.abc import Sequence

from biomedllama_cli.errors import DataError

PROBLEMS_TOLD = 20
"""Problems of a file that are told one by one; the others are counted."""


def tell_first(problems: Sequence[DataError], count: int) -> list[str]:
    """Return the first problems, a line each, and how many more there are.

    Args:
        problems: the first `PROBLEMS_TOLD` of them, or more.
        count: of all.

    >>> tell_first([DataError("a.jsonl line 2 is blank")], 3)
    ['  a.jsonl line 2 is blank', '  and 2 more']
    """
    told = [f"  {problem.message}" for problem in problems[:PROBLEMS_TOLD]]
    return [*told, f"  and {count - len(told):,} more"] if count > len(told) else told
