"""What the likelihoods of a question's variants say: every score of the matrix, the margin, the order's effect."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from biomedllama_cli.evaluation import statistics
from biomedllama_cli.evaluation.cells import Permutations
from biomedllama_cli.evaluation.jobs import Asked, Likelihood
from biomedllama_cli.evaluation.profiles import Profile
from biomedllama_cli.evaluation.variants import PREMISE_PREFIX, headline_form, read_order

LIKELIHOOD_SCORE = "option_likelihood"
"""Of a profile that generates: the options' likelihood after the same prompt."""
KINDS = ("sum", "per_token", "per_character", "per_byte", "domain_conditional")
"""Scores of a form: the log-likelihood as it is, per unit of the option's length, and less that without a question."""
Scored = Mapping[str, tuple[Likelihood, ...]]
"""One question's log-likelihoods by variant name, one per option in the question's own order."""


def choose_likeliest(likelihoods: Sequence[Likelihood]) -> int:
    """Return the option with the largest summed log-likelihood; the first of equals."""
    return statistics.choose_option([likelihood.value for likelihood in likelihoods])


def own_likelihoods(profile: Profile, asked: Asked, scored: Scored) -> tuple[Likelihood, ...]:
    """Return those of the profile's own form; none where it has no likelihood of its own."""
    form = headline_form(profile, asked.question)
    return () if form is None else scored[form]


def choose_by_likelihood(
    profile: Profile, asked: Sequence[Asked], scored: Sequence[Scored]
) -> dict[str, list[int | None]]:
    """Return the chosen options by score name: the profile's own scores, then the matrix where it was asked.

    Scores that some of the questions do not have are left out: a file of one's own may hold questions of several kinds.
    """
    chosen: dict[str, list[int | None]] = {}
    for one, likelihoods in zip(asked, scored, strict=True):
        for name, values in score_options(profile, one, likelihoods).items():
            chosen.setdefault(name, []).append(statistics.choose_option(values))
    return {name: options for name, options in chosen.items() if len(options) == len(asked)}


def score_options(profile: Profile, asked: Asked, scored: Scored) -> dict[str, list[float]]:
    """Return every score of one question by name: one value per option, the largest of which is chosen."""
    prompt = profile.prompt_for(asked.question)
    form = headline_form(profile, asked.question)
    scores: dict[str, list[float]] = {}
    continuations = {variant.name: variant.continuations for variant in asked.variants}
    if form is not None:
        own = _normalize(form, continuations[form], scored[form])
        if profile.method == "likelihood":
            scores["acc"] = own["sum"]
            if prompt.normalizes_by_length:
                scores["acc_norm"] = own["per_character"]
        else:
            scores[LIKELIHOOD_SCORE] = own["sum"]
    for name in continuations:
        if PREMISE_PREFIX + name not in continuations:
            continue
        values = _normalize(name, continuations[name], scored[name])
        premise = scored[PREMISE_PREFIX + name]
        values["domain_conditional"] = [
            given.value - alone.value for given, alone in zip(scored[name], premise, strict=True)
        ]
        scores |= {f"{name}_{kind}": value for kind, value in values.items()}
    return scores


def _normalize(
    form: str, continuations: Sequence[str], likelihoods: Sequence[Likelihood]
) -> dict[str, list[float]]:
    """Return the log-likelihoods as they are and per token, character and UTF-8 byte.

    The space before an option is none of its characters or bytes, as in lm-eval's `acc_norm`.
    """
    texts = [text.removeprefix(" ") if form.endswith("_space") else text for text in continuations]
    values = [likelihood.value for likelihood in likelihoods]
    units = {
        "per_token": [likelihood.tokens for likelihood in likelihoods],
        "per_character": [len(text) for text in texts],
        "per_byte": [len(text.encode()) for text in texts],
    }
    return {"sum": values} | {
        name: [value / max(length, 1) for value, length in zip(values, lengths, strict=True)]
        for name, lengths in units.items()
    }


def measure_permutations(
    profile: Profile, asked: Sequence[Asked], scored: Sequence[Scored]
) -> Permutations | None:
    """Return what the order of shown options changes; None where only one order was asked."""
    rows = [_choices_by_order(one, row) for one, row in zip(asked, scored, strict=True)]
    count = len(rows[0])
    if count < 2:
        return None
    accuracies = [
        sum(row[order][0] == one.question.answer_index for row, one in zip(rows, asked, strict=True))
        / len(rows)
        for order in range(count)
    ]
    places = Counter(place for row in rows for _, place in row)
    return Permutations(
        count=count,
        mean_accuracy=math.fsum(accuracies) / count,
        lowest=min(accuracies),
        highest=max(accuracies),
        consistent=sum(len({option for option, _ in row}) == 1 for row in rows),
        n=len(rows),
        chosen_positions=tuple(
            places[place] for place in range(max(len(one.question.options) for one in asked))
        ),
        score=_name_permuted(profile, asked[0]),
    )


def _name_permuted(profile: Profile, asked: Asked) -> str:
    """Return the name of the score that the permuted variants give: the profile's own, or one of the matrix."""
    (form,) = {order[0] for variant in asked.variants if (order := read_order(variant.name))}
    if form != headline_form(profile, asked.question):
        return f"{form}_sum"
    return "acc" if profile.method == "likelihood" else LIKELIHOOD_SCORE


def _choices_by_order(asked: Asked, scored: Scored) -> list[tuple[int, int]]:
    """Return the chosen option and the place it was shown at, for the own order and each permuted one."""
    choices: list[tuple[int, int]] = []
    for variant in asked.variants:
        permuted = read_order(variant.name)
        if permuted is None:
            continue
        form, _, order = permuted
        if not choices:
            own = choose_likeliest(scored[form])
            choices.append((own, own))
        option = choose_likeliest(scored[variant.name])
        choices.append((option, order.index(option)))
    return choices


def margin(likelihoods: Sequence[Likelihood]) -> float:
    """Return the distance of the best option to the next (in nats)."""
    best = sorted((likelihood.value for likelihood in likelihoods), reverse=True)[:2]
    return best[0] - best[1] if len(best) == 2 else math.inf
