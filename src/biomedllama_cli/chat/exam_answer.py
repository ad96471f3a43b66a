"""What a model gives to the options of a question: every number, what is chosen under which, and how it was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomedllama_cli.chat.exam_notes import list_notes, tell_verdict
from biomedllama_cli.chat.exam_question import ExamQuestion
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.scores import KINDS
from biomedllama_cli.evaluation.statistics import choose_option
from biomedllama_cli.tasks.options import LETTERS


@dataclass(frozen=True)
class FormAnswer:
    """One way of asking.

    Attributes:
        name: `text_space`, `letter_nospace`, ... (see `evaluation.variants`).
        prompt: the whole text before what is scored.
        continuations: what is scored, one per option.
        likelihoods: of each.
        premise: the prompt of the domain-conditional score: the answer cue without a question.
        premise_likelihoods: of the same continuations after it.
    """

    name: str
    prompt: str
    continuations: tuple[str, ...]
    likelihoods: tuple[Likelihood, ...]
    premise: str
    premise_likelihoods: tuple[Likelihood, ...]

    @property
    def truncated(self) -> bool:
        """Whether an input lost its left end."""
        return any(one.truncated for one in self.likelihoods)


@dataclass(frozen=True)
class ExamAnswer:
    """A question, asked under a profile.

    Attributes:
        question: as it was asked, its options as they were shown and scored.
        profile: with its version: `paper/1`.
        summary: of the profile, in one line.
        generates: whether `evaluate` also lets the model write an answer under this profile.
        bos: whether BOS stood first.
        forms: all ways of asking, the profile's own first.
        without_question: likelihoods of the profile's own continuations after the bare answer cue.
        scores: one value per option by the names that `evaluate` writes into its samples: `acc`, `acc_norm` or
            `option_likelihood`, then `<form>_<kind>`.
        context_length: longest input (in tokens).
        dtype: precision of the model.
        device: kind of device.
    """

    question: ExamQuestion
    profile: str
    summary: str
    generates: bool
    bos: bool
    forms: tuple[FormAnswer, ...]
    without_question: tuple[Likelihood, ...]
    scores: Mapping[str, tuple[float, ...]]
    context_length: int
    dtype: str
    device: str

    @property
    def own(self) -> FormAnswer:
        """The profile's own form."""
        return self.forms[0]

    @property
    def own_scores(self) -> tuple[str, ...]:
        """Names of the profile's own scores, the first of them by summed log-likelihood."""
        return tuple(name for name in self.scores if name in ("acc", "acc_norm", "option_likelihood"))

    @property
    def chosen(self) -> dict[str, int]:
        """The chosen option by score, as in `evaluate`'s samples: the largest value, the first of equals."""
        return {name: choose_option(values) for name, values in self.scores.items()}

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Of the options in the profile's own form, given that it is one of them."""
        return share_out([one.value for one in self.own.likelihoods])

    @property
    def truncated(self) -> bool:
        """Whether an input of any form lost its left end."""
        return any(form.truncated for form in self.forms)

    def heading(self) -> str:
        """Return the question with its file and number; empty where it was typed, and so stands there already."""
        return f"{self.question.origin}: {self.question.question}" if self.question.origin else ""

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per option, of the profile's own form.

        Keys: `letter`, `option`, `right` (None where it is not known), `probability`, `without_question` (the
        probability after the bare answer cue), `log_likelihood` (nats), `tokens`, `per_token`, `per_character`,
        `per_byte`, `domain_conditional` (nats), `chosen_by` (the kinds of score that choose this option, with the
        profile's own by their names).
        """
        answer = self.question.answer_index
        kinds = {kind: self.scores[f"{self.own.name}_{kind}"] for kind in KINDS}
        chosen = self.chosen
        named = {name: chosen[name] for name in self.own_scores}
        named |= {kind: chosen[f"{self.own.name}_{kind}"] for kind in KINDS}
        before = share_out([one.value for one in self.without_question])
        return [
            {
                "letter": LETTERS[index],
                "option": option,
                "right": None if answer is None else index == answer,
                "probability": self.probabilities[index],
                "without_question": before[index],
                "log_likelihood": kinds["sum"][index],
                "tokens": self.own.likelihoods[index].tokens,
                **{kind: values[index] for kind, values in kinds.items() if kind != "sum"},
                "chosen_by": tuple(name for name, choice in named.items() if choice == index),
            }
            for index, option in enumerate(self.question.options)
        ]

    def matrix(self) -> list[dict[str, Any]]:
        """Return one row per score: the profile's own, then every form and normalisation.

        Keys: `score` (its name), `form` and `kind` (None for the profile's own scores), `chosen` (a letter), `right`
        (whether that is right; None where nobody knows), `margin` (distance of the best value to the next, in the
        score's unit), `values` and `shares` (softmax of the values: probabilities where the kind is `sum`).
        """
        answer = self.question.answer_index
        places = {f"{form.name}_{kind}": (form.name, kind) for form in self.forms for kind in KINDS}
        rows = []
        for name, values in self.scores.items():
            form, kind = places.get(name, (None, None))
            choice = choose_option(values)
            rows.append(
                {
                    "score": name,
                    "form": form,
                    "kind": kind,
                    "chosen": LETTERS[choice],
                    "right": None if answer is None else choice == answer,
                    "margin": find_margin(values),
                    "values": values,
                    "shares": share_out(values),
                }
            )
        return rows

    def verdict(self) -> str:
        """Return what the profile's own scores choose: `chosen by acc: B (0.62); by acc_norm: C`."""
        return tell_verdict(self)

    def notes(self) -> list[str]:
        """Return how it was asked and what to mind, one sentence each."""
        return list_notes(self)

    def lines(self, width: int = 80, *, verbose: bool = False) -> list[str]:
        """Return it as plain text (see `exam_lines.show_answer`)."""
        from biomedllama_cli.chat.exam_lines import show_answer  # loads rich, and needs this class

        return show_answer(self, width, verbose=verbose)

    def dump(self) -> dict[str, Any]:
        """Return everything as JSON content; `log_likelihoods`, `tokens`, `options` and `scores` as in `evaluate`'s
        samples, whose `scores` also hold what is read from generated text.
        """
        question = self.question
        return {
            "question": question.question,
            "context": question.context,
            "options": list(question.options),
            "answer_index": question.answer_index,
            "id": question.id,
            "origin": question.origin or None,
            "profile": self.profile,
            "prompt": self.own.prompt,
            "bos": self.bos,
            "context_length": self.context_length,
            "dtype": self.dtype,
            "truncated": self.truncated,
            "log_likelihoods": [one.value for one in self.own.likelihoods],
            "tokens": [one.tokens for one in self.own.likelihoods],
            "probabilities": list(self.probabilities),
            "scores": self.chosen,
            "rows": [{**row, "chosen_by": list(row["chosen_by"])} for row in self.rows()],
            "forms": [_dump_form(form) for form in self.forms],
            "matrix": [
                {**row, "values": list(row["values"]), "shares": list(row["shares"])} for row in self.matrix()
            ],
            "notes": [self.verdict(), *self.notes()],
        }


def share_out(values: Sequence[float]) -> tuple[float, ...]:
    """Return the softmax of some values: of log-likelihoods (in nats) the probability of each among them.

    >>> share_out([math.log(3.0), math.log(1.0)])
    (0.75, 0.25)
    >>> share_out([-1000.0, -1000.0])
    (0.5, 0.5)
    """
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def find_margin(values: Sequence[float]) -> float:
    """Return the distance of the largest value to the next.

    >>> find_margin([-3.0, -1.0, -1.5])
    0.5
    """
    best, second = sorted(values, reverse=True)[:2]
    return best - second


def _dump_form(form: FormAnswer) -> dict[str, Any]:
    return {
        "form": form.name,
        "prompt": form.prompt,
        "continuations": list(form.continuations),
        "log_likelihoods": [one.value for one in form.likelihoods],
        "tokens": [one.tokens for one in form.likelihoods],
        "truncated": form.truncated,
        "premise": form.premise,
        "premise_log_likelihoods": [one.value for one in form.premise_likelihoods],
    }
