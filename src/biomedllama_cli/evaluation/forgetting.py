"""How a model in training does beside the model as it was given: pure functions of log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from biomedllama_cli.evaluation.cells import Frozen, Number
from biomedllama_cli.evaluation.paired import compare_answers, compare_bits_per_byte
from biomedllama_cli.evaluation.probes import QuestionProbe, TextKind, TextProbe
from biomedllama_cli.evaluation.statistics import choose_option, normalize_by_length, perplexity

SEED = 0
"""Of the bootstrap: the same documents are drawn at every look."""

Nats = npt.NDArray[np.float64]
"""Negative log-likelihood of every sequence of a probe (in nats)."""


class TextChange(Frozen):
    """Bits per byte of a set of documents, now and as the model was given.

    Attributes:
        name: of the set or source.
        kind: general text, or held-out documents of the corpus.
        documents: how many.
        bits_per_byte: now.
        given: of the model as it was given; None where it was not looked at.
        delta: now minus given; above 0 is forgotten.
        interval: its 95 % paired bootstrap interval over documents; None for a single one.
        p_value: two-sided, of the sign-flip test over documents.
    """

    name: str
    kind: TextKind
    documents: int
    bits_per_byte: Number
    given: Number | None = None
    delta: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None


class AnswerChange(Frozen):
    """Share of right answers (a fraction), now and as the model was given.

    Attributes:
        name: of the task.
        questions: how many.
        chance: share that guessing has right.
        accuracy: now.
        given: of the model as it was given; None where it was not looked at.
        delta: now minus given; below 0 is forgotten.
        interval: its 95 % paired bootstrap interval over questions; None where both answer alike.
        p_value: two-sided, of McNemar's exact test.
    """

    name: str
    questions: int
    chance: float
    accuracy: float
    given: float | None = None
    delta: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None


class PositionPerplexity(Frozen):
    """Perplexity per token of those that have so many tokens of their document before them in their row.

    Attributes:
        first: fewest tokens before.
        last: most.
        tokens: scored there.
        perplexity: of the model now.
    """

    first: int
    last: int
    tokens: int
    perplexity: Number

    @property
    def places(self) -> str:
        """Return the range as people write it.

        >>> PositionPerplexity(first=4, last=7, tokens=1, perplexity=2.0).places
        '4-7'
        """
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Look(Frozen):
    """One look at what is forgotten.

    Attributes:
        step: after which it was taken.
        texts: general sets, then held-out documents by source.
        answers: tasks.
        positions: perplexity by position, over held-out documents (over general ones where nothing is held out).
    """

    step: int
    texts: tuple[TextChange, ...]
    answers: tuple[AnswerChange, ...]
    positions: tuple[PositionPerplexity, ...]

    def metrics(self) -> dict[str, float]:
        """Return the numbers for metrics.jsonl, by name."""
        found: dict[str, float | None] = {}
        for text in self.texts:
            found[f"{text.kind}/{text.name}/bits_per_byte"] = text.bits_per_byte
            found[f"{text.kind}/{text.name}/delta"] = text.delta
        for task in self.answers:
            found[f"general/{task.name}/accuracy"] = task.accuracy
            found[f"general/{task.name}/delta"] = task.delta
        for place in self.positions:
            found[f"validation/perplexity/{place.places}"] = place.perplexity
        return {name: value for name, value in found.items() if value is not None}


def compare_texts(probe: TextProbe, given: Nats | None, now: Nats) -> TextChange:
    """Return the bits per byte of a probe's documents, beside those of the model as it was given.

    Args:
        probe: the documents.
        given: of the model as it was given, or None.
        now: of the model now.

    >>> from biomedllama_cli.evaluation.token_trees import TokenSequence
    >>> probe = TextProbe("notes", "general", (TokenSequence((0, 1), 1),) * 2, (0, 1), (1, 1))
    >>> bit = math.log(2)
    >>> change = compare_texts(probe, np.array([bit, bit]), np.array([2 * bit, 2 * bit]))
    >>> change.bits_per_byte, change.given, change.delta, change.interval
    (2.0, 1.0, 1.0, (1.0, 1.0))
    """
    sizes = probe.utf8_bytes
    after = _sum_by_owner(probe, now)
    change = TextChange(
        name=probe.name,
        kind=probe.kind,
        documents=len(sizes),
        bits_per_byte=math.fsum(after) / math.log(2) / sum(sizes),
    )
    if given is None or not np.isfinite(now).all():  # of a broken model no change is told
        return change
    before = _sum_by_owner(probe, given)
    difference, p_value = compare_bits_per_byte(
        [-nats for nats in before], [-nats for nats in after], sizes, seed=SEED
    )
    return change.model_copy(
        update={
            "given": math.fsum(before) / math.log(2) / sum(sizes),
            "delta": difference.value,
            "interval": difference.interval,
            "p_value": p_value,
        }
    )


def compare_tasks(probe: QuestionProbe, given: Nats | None, now: Nats) -> AnswerChange:
    """Return the accuracy on a probe's questions, beside that of the model as it was given.

    Args:
        probe: the questions.
        given: of the model as it was given, or None.
        now: of the model now.
    """
    right = mark_answers(probe, now)
    change = AnswerChange(
        name=probe.name,
        questions=len(right),
        chance=sum(1 / len(options) for options in probe.options) / len(right),
        accuracy=sum(right) / len(right),
    )
    if given is None or not np.isfinite(now).all():
        return change
    before = mark_answers(probe, given)
    paired = compare_answers(before, right, seed=SEED)
    return change.model_copy(
        update={
            "given": sum(before) / len(before),
            "delta": paired.difference.value,
            "interval": paired.difference.interval,
            "p_value": paired.p_value,
        }
    )


def mark_answers(probe: QuestionProbe, nats: Nats) -> list[bool]:
    """Return which questions are answered rightly: by the likeliest option per character.

    >>> from biomedllama_cli.evaluation.token_trees import TokenSequence
    >>> probe = QuestionProbe("facts", (TokenSequence((0, 1), 1),) * 2, (("no", "perhaps"),), (1,))
    >>> mark_answers(probe, np.array([3.0, 4.0]))
    [True]
    """
    values, marks, first = (-nats).tolist(), [], 0
    for options, answer in zip(probe.options, probe.answers, strict=True):
        likelihoods = values[first : first + len(options)]
        marks.append(choose_option(normalize_by_length(likelihoods, options)) == answer)
        first += len(options)
    return marks


def bin_positions(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of each position's bin: 0, 1, 2-3, 4-7, 8-15, ...

    >>> bin_positions(np.array([0, 1, 2, 3, 4, 7, 8, 2047])).tolist()
    [0, 1, 2, 2, 3, 3, 4, 11]
    """
    edges = 2 ** np.arange(40, dtype=np.int64)
    return np.searchsorted(edges, positions, side="right").astype(np.int64)


def describe_positions(nats: Sequence[float], tokens: Sequence[int]) -> tuple[PositionPerplexity, ...]:
    """Return the perplexity of every bin of `bin_positions` that holds a token.

    Args:
        nats: summed in each bin.
        tokens: scored in each.

    >>> [(one.places, round(one.perplexity, 6)) for one in describe_positions([0.0, math.log(8) * 5], [0, 5])]
    [('1', 8.0)]
    """
    return tuple(
        PositionPerplexity(
            first=2 ** (number - 1) if number else 0,
            last=2**number - 1,
            tokens=count,
            perplexity=perplexity(-total, count),
        )
        for number, (total, count) in enumerate(zip(nats, tokens, strict=True))
        if count
    )


def _sum_by_owner(probe: TextProbe, nats: Nats) -> list[float]:
    sums = np.bincount(probe.owners, weights=nats, minlength=len(probe.utf8_bytes))
    return [float(value) for value in sums]
