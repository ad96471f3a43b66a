"""The order of items and the draw of few-shot examples, a function of the whole list and the seed.

As published, one generator shuffles the items and then draws for each of them in turn. So a limit (the first
items of the shuffled list) changes no draw, and neither does a spread over processes. The fixed draw takes the same
examples for every item, so that a model reads them once; the items keep their order.
Source of the published draw: lm-evaluation-harness 0.3, `evaluator.evaluate` and `Task.fewshot_context`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import Literal, TypeVar

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question

Item = TypeVar("Item")
Draw = Literal["per question", "fixed"]
DrawnQuestion = tuple[Question, tuple[Question, ...]]
"""A question with its few-shot examples."""


def shuffle_items(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in the order they are scored in.

    >>> shuffle_items([0, 1, 2, 3, 4], seed=42)
    [3, 1, 2, 4, 0]
    """
    return _shuffled(items, random.Random(seed))


def draw_examples(
    items: Sequence[Question],
    pool: Sequence[Question] | None,
    shots: int,
    seed: int,
    *,
    draw: Draw = "per question",
) -> list[DrawnQuestion]:
    """Return the items in the order they are scored in, each with its few-shot examples.

    Args:
        items: all items of the task, in the order of their file.
        pool: the training items, in the order of their file; None draws from `items`, never the item itself.
        shots: examples per item.
        seed: 42 as published.
        draw: `per question` as published, or `fixed`: the first `shots` of one draw for every item. That draw
            holds one example more, which takes the place of an item that would be its own example.

    Raises:
        DataError: there are fewer items to draw from than `shots`.
    """
    available = len(items) - 1 if pool is None else len(pool)
    if shots > available:
        raise DataError(f"shots is {shots}, but there are only {max(available, 0)} questions to draw from")
    generator = random.Random(seed)
    order = _shuffled(items, generator)
    if shots == 0:
        return [(item, ()) for item in order]
    if draw == "fixed":
        source = items if pool is None else pool
        candidates = generator.sample(source, min(shots + 1, len(source)))
        return [(item, _without(item, candidates, shots)) for item in order]
    drawn: list[DrawnQuestion] = []
    for item in order:
        if pool is None:
            drawn.append((item, _without(item, generator.sample(items, shots + 1), shots)))
        else:
            drawn.append((item, tuple(generator.sample(pool, shots))))
    return drawn


def hash_draws(drawn: Sequence[DrawnQuestion]) -> str:
    """Return the SHA-256 over every item's id and its examples' ids, in order, as hexadecimal."""
    rows = [[item.id, [example.id for example in examples]] for item, examples in drawn]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _without(item: Question, candidates: Sequence[Question], shots: int) -> tuple[Question, ...]:
    return tuple(candidate for candidate in candidates if candidate != item)[:shots]


def _shuffled(items: Sequence[Item], generator: random.Random) -> list[Item]:
    order = list(items)
    generator.shuffle(order)
    return order
