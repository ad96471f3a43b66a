"""Token groups made up at random, and an independent loop that scores them one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from biomedllama_cli.evaluation.scorer import Group, TokenSequence


def score_alone(model: PreTrainedModel, sequence: TokenSequence, context_length: int) -> tuple[float, bool]:
    """Return the summed log-likelihood (nats) and whether every scored token is the likeliest."""
    ids = sequence.token_ids[-(context_length + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0, -sequence.scored :].double()
    targets = torch.tensor(ids[-sequence.scored :])
    value = logits.log_softmax(-1).gather(1, targets[:, None]).sum().item()
    return value, bool((logits.argmax(-1) == targets).all())


def score_all_alone(
    model: PreTrainedModel, groups: Sequence[Group], context_length: int
) -> dict[int, tuple[float, ...]]:
    return {
        number: tuple(score_alone(model, sequence, context_length)[0] for sequence in group)
        for number, group in enumerate(groups)
    }


def draw(generator: np.random.Generator, count: int, vocabulary: int = 64) -> tuple[int, ...]:
    return tuple(generator.integers(0, vocabulary, count).tolist())


def make_questions(
    count: int, *, preamble: int = 0, seed: int = 0, context: tuple[int, int] = (8, 30)
) -> list[Group]:
    """Return questions of three to five options, some of which begin alike, after a common preamble."""
    generator = np.random.default_rng(seed)
    common = draw(generator, preamble)
    groups = []
    for number in range(count):
        start = common + draw(generator, int(generator.integers(*context)))
        first = draw(generator, 5)
        options = [first, (*first[:2], *draw(generator, 3)), draw(generator, 1), draw(generator, 4)]
        groups.append(
            tuple(TokenSequence(start + option, len(option)) for option in options[: 3 + number % 2])
        )
    return groups


def make_mixed(seed: int = 1, preamble: int = 48) -> list[Group]:
    """Return questions with a common preamble, one whose options are letters, one that is too long, and a text."""
    generator = np.random.default_rng(seed)
    questions = make_questions(5, preamble=preamble, seed=seed)
    stem = draw(generator, 20)
    letters = tuple(TokenSequence((*stem, letter), 1) for letter in (3, 4, 5))
    free = (*questions[0], *(TokenSequence((7, 8, *one.token_ids[-2:]), 2) for one in questions[0]))
    long = draw(generator, 120)
    cut = tuple(TokenSequence((*long, *draw(generator, 3)), 3) for _ in range(3))
    text = draw(generator, 60)
    return [free, *questions[1:], letters, cut, (TokenSequence(text, 59),)]
