"""One pass over a task: what all profiles ask of a question is scored together, once, and survives a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.encoding import encode_continuations, iter_windows
from biomedllama_cli.evaluation.harness_journal import Journal
from biomedllama_cli.evaluation.jobs import Asked, Likelihood
from biomedllama_cli.evaluation.scorer import Group, TokenSequence
from biomedllama_cli.evaluation.variants import CONTEXT_FREE, PREMISE_PREFIX
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.tasks.question import Document

Scored = Mapping[str, tuple[Likelihood, ...]]
"""By name of the variant: one likelihood per option, in the question's own order."""


class Scorer(Protocol):
    """What `scorer.SharedPrefixScorer` offers."""

    def score(
        self, groups: Sequence[Group], *, finished: frozenset[int], rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[int, tuple[Likelihood, ...]]]:
        """Yield the number of each group and one likelihood per sequence, as they come."""
        ...


@dataclass(frozen=True)
class Ranks:
    """The processes that share a pass, and how one gathers what all have found."""

    rank: int = 0
    ranks: int = 1
    gather: Callable[[dict[int, list[list[float | int]]]], dict[int, list[list[float | int]]]] = field(
        default=lambda found: found
    )


@dataclass(frozen=True)
class Pass:
    """The groups of one task, and where each answer belongs.

    Attributes:
        groups: what is scored together, each with its sequences once.
        names: of the item each group belongs to.
        places: per profile and question, by variant: the group, and the sequence there, of each option.
    """

    groups: tuple[Group, ...]
    names: tuple[str, ...]
    places: dict[str, list[dict[str, list[tuple[int, int]]]]]

    def assemble(self, found: Mapping[int, Sequence[Likelihood]]) -> dict[str, list[Scored]]:
        """Return the likelihoods by profile, question and variant."""
        return {
            profile: [
                {
                    name: tuple(found[group][place] for group, place in where)
                    for name, where in question.items()
                }
                for question in questions
            ]
            for profile, questions in self.places.items()
        }


class _Collector:
    """Groups in the making: equal sequences of a group are kept once."""

    def __init__(self) -> None:
        self.sequences: list[dict[TokenSequence, int]] = []
        self.names: list[str] = []
        self._numbers: dict[object, int] = {}

    def number_of(self, key: object, name: str) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.sequences)
            self.sequences.append({})
            self.names.append(name)
        return self._numbers[key]

    def place(self, group: int, sequence: TokenSequence) -> tuple[int, int]:
        known = self.sequences[group]
        return group, known.setdefault(sequence, len(known))


def plan_questions(tokenizer: Tokenizer, asked: Mapping[str, Sequence[Asked]]) -> Pass:
    """Return one group per question over all profiles, and one per set of options that is asked without question.

    Args:
        tokenizer: of the model.
        asked: per profile, the questions in scoring order.

    Raises:
        DataError: an option is empty or has no token of its own.
    """
    collector = _Collector()
    places: dict[str, list[dict[str, list[tuple[int, int]]]]] = {}
    for profile, questions in asked.items():
        places[profile] = []
        for one in questions:
            where: dict[str, list[tuple[int, int]]] = {}
            for variant in one.variants:
                sequences = encode_continuations(
                    tokenizer, variant.context, variant.continuations, bos=variant.bos
                )
                # These depend on the options alone: equal ones are scored once for all questions.
                free = variant.name == CONTEXT_FREE or variant.name.startswith(PREMISE_PREFIX)
                key = tuple(sequences) if free else (one.question.id, one.question.question)
                group = collector.number_of(key, "" if free else one.question.id)
                where[variant.name] = [collector.place(group, sequence) for sequence in sequences]
            places[profile].append(where)
    groups = tuple(tuple(known) for known in collector.sequences)
    return Pass(groups, tuple(collector.names), places)


@dataclass(frozen=True)
class TextPass:
    """The windows of documents: one group each, and which belong to which document.

    Attributes:
        groups: one window each.
        names: id of the document each window is of.
        windows: per document, the numbers of its windows.
        tokens: per document.
    """

    groups: tuple[Group, ...]
    names: tuple[str, ...]
    windows: tuple[range, ...]
    tokens: tuple[int, ...]

    def assemble(self, found: Mapping[int, Sequence[Likelihood]]) -> list[float]:
        """Return the log-likelihood of each document (in nats)."""
        return [sum(found[number][0].value for number in numbers) for numbers in self.windows]


def plan_documents(
    tokenizer: Tokenizer, documents: Sequence[Document], *, prefix_id: int, context_length: int
) -> TextPass:
    """Return the windows of all documents."""
    groups: list[Group] = []
    names: list[str] = []
    windows: list[range] = []
    tokens: list[int] = []
    for document in documents:
        ids = tokenizer.encode(document.text)
        start = len(groups)
        for window in iter_windows(ids, prefix_id=prefix_id, context_length=context_length):
            groups.append((window,))
            names.append(document.id)
        windows.append(range(start, len(groups)))
        tokens.append(len(ids))
    return TextPass(tuple(groups), tuple(names), tuple(windows), tuple(tokens))


def run_pass(
    scorer: Scorer,
    work: Pass | TextPass,
    task: str,
    *,
    journal: Journal,
    ranks: Ranks,
    on_group: Callable[[bool], None] = lambda found: None,
    context_length: int | None = None,
) -> dict[int, tuple[Likelihood, ...]]:
    """Score all groups that the journal does not know, and return all of them on every rank.

    Args:
        scorer: of the model.
        work: what to score.
        task: its name, for the journal.
        journal: of this command.
        ranks: the processes of this job.
        on_group: told after each group; whether it was in the journal.
        context_length: longest input (in tokens); None leaves it to the scorer to refuse what does not fit.

    Raises:
        DataError: an option is longer than the context.
    """
    _check_lengths(work, task, context_length)
    keys = name_groups(work.groups, task)
    found: dict[int, list[list[float | int]]] = {}
    for number, key in enumerate(keys):
        known = journal.find(key)
        if known is not None:
            found[number] = known
            on_group(True)
    stream = scorer.score(work.groups, finished=frozenset(found), rank=ranks.rank, ranks=ranks.ranks)
    for number, likelihoods in stream:
        if number in found:  # its batch was cut short, so it was computed once more
            continue
        value = [[one.value, one.tokens, int(one.greedy), int(one.truncated)] for one in likelihoods]
        journal.append(keys[number], task, work.names[number], value)
        found[number] = value
        on_group(False)
    gathered = ranks.gather(found)
    return {
        number: tuple(
            Likelihood(float(value), int(tokens), bool(greedy), bool(truncated))
            for value, tokens, greedy, truncated in values
        )
        for number, values in sorted(gathered.items())
    }


def _check_lengths(work: Pass | TextPass, task: str, context_length: int | None) -> None:
    """Refuse an option that no input can hold, by the id of its question: the scorer knows numbers alone."""
    if context_length is None:
        return
    for name, group in zip(work.names, work.groups, strict=True):
        scored = max(sequence.scored for sequence in group)
        # Options by themselves have no name, and stand in a question as well.
        if name and scored > context_length:
            raise DataError(
                f"{task}: an option of the question {name} has {scored:,} tokens, and the context holds "
                f"{context_length:,} (protocol.context_length)",
                "Give a longer --context-length, up to the model's own limit, or leave the question out of the data.",
            )


def name_groups(groups: Sequence[Group], task: str) -> list[str]:
    """Return the journal's key of every group: by the ids of its sequences, and of all others of the pass.

    Which groups share a row follows from all of them, and the last bits of a number from its row.
    """
    hashes = [hash_group(group) for group in groups]
    together = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
    return [f"{task}/{together}/{number}/{own}" for number, own in enumerate(hashes)]


def hash_group(group: Group) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over the ids of a group's sequences."""
    digest = hashlib.sha256()
    for sequence in group:
        digest.update(repr((sequence.token_ids, sequence.scored)).encode())
    return digest.hexdigest()[:16]
