"""The published order of items and draw of few-shot examples, a function of the whole list and the seed.

One generator shuffles the items and then draws for each of them in turn. So a limit (the first items of the
shuffled list) changes no draw, and neither would a spread over processes.
Source: lm-evaluation-harness 0.3, `evaluator.evaluate` and `Task.fewshot_context`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from typing import TypeVar

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Question

Item = TypeVar("Item")


def shuffle_items(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in the order they are scored in.

    >>> shuffle_items([0, 1, 2, 3, 4], seed=42)
    [3, 1, 2, 4, 0]
    """
    return _shuffled(items, random.Random(seed))


def draw_examples(
    items: Sequence[Question], pool: Sequence[Question] | None, shots: int, seed: int
) -> list[tuple[Question, tuple[Question, ...]]]:
    """Return the items in the order they are scored in, each with its few-shot examples.

    Args:
        items: all items of the task, in the order of their file.
        pool: the training items, in the order of their file; None draws from `items`, never the item itself.
        shots: examples per item.
        seed: 42 as published.

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
    drawn: list[tuple[Question, tuple[Question, ...]]] = []
    for item in order:
        if pool is None:
            candidates = generator.sample(items, shots + 1)
            examples = [candidate for candidate in candidates if candidate != item][:shots]
        else:
            examples = generator.sample(pool, shots)
        drawn.append((item, tuple(examples)))
    return drawn


def hash_draws(drawn: Sequence[tuple[Question, tuple[Question, ...]]]) -> str:
    """Return the SHA-256 over every item's id and its examples' ids, in order, as hexadecimal."""
    rows = [[item.id, [example.id for example in examples]] for item, examples in drawn]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _shuffled(items: Sequence[Item], generator: random.Random) -> list[Item]:
    order = list(items)
    generator.shuffle(order)
    return order
