"""Hold out a part of the training data by its content: equal questions stay together, and order changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from biomedllama_cli.corpus.decontamination.words import split_words
from biomedllama_cli.corpus.split import hash_content
from biomedllama_cli.instructions.example import Example
from biomedllama_cli.tasks.question import Question

Item = TypeVar("Item")


def split_validation(questions: Sequence[Question], fraction: float) -> tuple[list[Question], list[Question]]:
    """Return the questions to train on and those held out, both in their order.

    Questions that are the same but for case, spaces and punctuation are on the same side, whatever their options and
    answers; so are all questions asked about the same context.

    Args:
        questions: of one task.
        fraction: share that is held out, at least one question where it is above 0 and there are two to tell apart.
    """
    return _split(questions, [_question_content(question) for question in questions], fraction)


def split_examples(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Return the examples to train on and those held out, both in their order.

    Examples whose user's turns hold the same words, in whatever order (options may be permuted), are on the same
    side; so are all examples about the same cuttable text.

    Args:
        examples: of one source.
        fraction: share that is held out, at least one example where it is above 0 and there are two to tell apart.
    """
    return _split(examples, [_example_content(example) for example in examples], fraction)


def choose_held_out(contents: Sequence[bytes], fraction: float) -> frozenset[int]:
    """Return the places of the contents that are held out: those with the smallest hashes, equal ones together.

    So a content stays where it is when others are added, but for those at the border. A content that stands so often
    that it would hold out too much is trained on.

    Args:
        contents: what tells items apart.
        fraction: share of the places; at least one where it is above 0, and never all of them.

    >>> contents = [b"iron", b"tin", b"iron", b"gold"]
    >>> sorted(contents[place] for place in choose_held_out(contents, 0.5)) in (
    ...     [b"iron", b"iron"], [b"gold", b"tin"])
    True
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for place, content in enumerate(contents):
        groups[content].append(place)
    if fraction <= 0 or len(groups) < 2:
        return frozenset()
    wanted = min(max(1, round(len(contents) * fraction)), len(contents) - 1)
    ordered = sorted(groups, key=lambda content: (hash_content(content)[1], content))
    held_out: list[int] = []
    for content in ordered:
        if len(held_out) + len(groups[content]) <= wanted:
            held_out += groups[content]
    if not held_out:  # each content stands oftener than wanted
        held_out = groups[min(ordered, key=lambda content: len(groups[content]))]
    return frozenset(held_out)


def _split(
    items: Sequence[Item], contents: Sequence[bytes], fraction: float
) -> tuple[list[Item], list[Item]]:
    held_out = choose_held_out(contents, fraction)
    sides: tuple[list[Item], list[Item]] = ([], [])
    for place, item in enumerate(items):
        sides[place in held_out].append(item)
    return sides


def _question_content(question: Question) -> bytes:
    return _fold(question.context or "") or _fold(question.question) or question.question.encode()


def _example_content(example: Example) -> bytes:
    asked = [turn for turn in example.turns if turn.role == "user"]
    passages = [turn.text[slice(*turn.cuttable)] for turn in asked if turn.cuttable]
    if folded := _fold(" ".join(passages)):
        return folded
    text = "\n".join(turn.text for turn in asked)
    return b" ".join(sorted(split_words(text))) or text.encode()


def _fold(text: str) -> bytes:
    return b" ".join(split_words(text))
