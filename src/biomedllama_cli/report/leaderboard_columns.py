"""Which results share a column of a leaderboard: those of the same items, asked alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from biomedllama_cli.evaluation.cells import Frozen, QuestionCell, Results, TextCell
from biomedllama_cli.evaluation.profiles import PROFILES

_SHOWN_HASH = 6
BITS_PER_BYTE = "bits_per_byte"
_BOS_NAMES = {"none": "without BOS", "BOS": "with BOS", "convention": "BOS by tokenizer"}


@dataclass(frozen=True, slots=True)
class Protocol:
    """All that cells of one column agree in; fields are as in the cells' own records.

    Attributes:
        bos: `none`, `BOS`, or `convention` where the profile leaves it to the tokenizer; of text its prefix.
        context_length: None where several lengths share a column, as none of them cut an input.
        items: hash of all items, or of the scored text.
        seed: None where all items were scored: it chooses them only below a limit.
        draws: hash of the few-shot examples; None without.
        prompt: hash of the wording.
        generation: how answers were generated, as JSON; None where they were not.
    """

    task: str
    profile: str
    shots: int | None
    score: str
    method: str
    bos: str
    context_length: int | None
    n: int
    items: str
    seed: int | None
    draws: str | None
    prompt: str | None
    generation: str | None = None


class BoardCell(Frozen):
    """One model's number in one column.

    Attributes:
        bos: as the cell has it, with the id.
        file: the results.json it is from.
        created: when.
    """

    value: float
    interval: tuple[float, float] | None
    correct: int | None
    n: int
    bos: str
    dtype: str
    file: str
    created: str


class BoardColumn(Frozen):
    """What a column's cells have in common; `random` and `majority` are accuracies."""

    title: str
    kind: Literal["questions", "text"]
    task: str
    profile: str
    shots: int | None
    score: str
    bos: str
    context_length: int | None
    n: int
    n_all: int
    items_sha256: str
    random: float | None
    majority: float | None
    generation: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A number on its way to the board."""

    protocol: Protocol
    cell: BoardCell
    origin: QuestionCell | TextCell
    results: Results


def iter_placed(results: Results, file: str) -> Iterator[Placed]:
    """Yield every cell of some results with the protocol that decides its column."""
    for question in results.questions:
        headline = question.metrics.scores[question.metrics.headline]
        cell = BoardCell(
            value=headline.value,
            interval=headline.interval,
            correct=headline.correct,
            n=headline.n,
            bos=question.facts.bos,
            dtype=results.model.dtype,
            file=file,
            created=results.created,
        )
        yield Placed(_question_protocol(question, results.seed), cell, question, results)
    for text in results.texts:
        bits = text.metrics.bits_per_byte
        cell = BoardCell(
            value=bits.value,
            interval=bits.interval,
            correct=None,
            n=text.metrics.n,
            bos=text.prefix,
            dtype=results.model.dtype,
            file=file,
            created=results.created,
        )
        yield Placed(_text_protocol(text), cell, text, results)


def share_contexts(placed: Sequence[Placed]) -> list[Placed]:
    """Put questions of several context lengths into one column where none of their inputs was cut."""
    alike: dict[Protocol, list[Placed]] = {}
    for one in placed:
        alike.setdefault(replace(one.protocol, context_length=None), []).append(one)
    shared = {
        protocol
        for protocol, group in alike.items()
        if len({one.protocol.context_length for one in group}) > 1
        and all(
            isinstance(one.origin, QuestionCell) and not one.origin.metrics.truncated_inputs for one in group
        )
    }
    merged = [replace(one.protocol, context_length=None) for one in placed]
    return [
        replace(one, protocol=protocol) if protocol in shared else one
        for one, protocol in zip(placed, merged, strict=True)
    ]


def _question_protocol(cell: QuestionCell, seed: int) -> Protocol:
    facts, metrics = cell.facts, cell.metrics
    wording = json.dumps(facts.prompt, sort_keys=True, ensure_ascii=False)
    return Protocol(
        task=cell.task,
        profile=cell.profile,
        shots=facts.shots,
        score=metrics.headline,
        method=cell.method,
        bos=_bos_rule(cell),
        context_length=facts.context_length,
        n=metrics.n,
        items=facts.items_sha256,
        seed=None if metrics.n == metrics.n_all else seed,
        draws=facts.draws_sha256 if facts.shots else None,
        prompt=hashlib.sha256(wording.encode("utf-8", "surrogatepass")).hexdigest(),
        generation=None if facts.generation is None else json.dumps(facts.generation, sort_keys=True),
    )


def _bos_rule(cell: QuestionCell) -> str:
    name = cell.profile.partition("/")[0]
    if name == "harness":  # its version is that of lm-eval, which takes the tokenizer as it is
        return "convention"
    profile = PROFILES.get(name)
    if profile is not None and str(profile) == cell.profile and profile.bos == "convention":
        return "convention"
    return _without_id(cell.facts.bos)


def _without_id(token: str) -> str:
    """Leave out what is another number in every tokenizer.

    >>> _without_id("BOS (id 1)"), _without_id("none")
    ('BOS', 'none')
    """
    return token.partition(" (id ")[0]


def _text_protocol(cell: TextCell) -> Protocol:
    return Protocol(
        task=cell.task,
        profile=cell.profile,
        shots=None,
        score=BITS_PER_BYTE,
        method="rolling",
        bos=_without_id(cell.prefix),
        context_length=cell.context_length,
        n=cell.metrics.n,
        items=cell.metrics.text_sha256,
        seed=None,
        draws=None,
        prompt=None,
    )


def build_columns(placed: Sequence[Placed]) -> dict[Protocol, BoardColumn]:
    """Return a column for each protocol among the cells, ordered by task, profile, shots and what else differs."""
    first: dict[Protocol, Placed] = {}
    for one in placed:
        first.setdefault(one.protocol, one)
    ordered = sorted(
        first, key=lambda protocol: [_sortable(getattr(protocol, f.name)) for f in fields(protocol)]
    )
    titles: dict[str, Protocol] = {}
    for protocol in ordered:
        title = name_protocol(protocol, ordered)
        # Hashes are shown shortened; two that begin alike must not become one column.
        again = sum(known == title or known.startswith(f"{title} #") for known in titles)
        titles[f"{title} #{again + 1}" if again else title] = protocol
    return {protocol: _build_column(title, first[protocol]) for title, protocol in titles.items()}


def _sortable(value: str | int | None) -> tuple[int, int, str]:
    if value is None:
        return 0, 0, ""
    return (1, value, "") if isinstance(value, int) else (2, 0, value)


def name_protocol(protocol: Protocol, among: Sequence[Protocol]) -> str:
    """Name a column by task, profile and shots, and by what tells it from others of the same name."""
    alike = [one for one in among if _base_name(one) == _base_name(protocol)]
    texts = {
        "score": protocol.score,
        "method": protocol.method,
        "bos": f"{protocol.bos} first"
        if protocol.shots is None
        else _BOS_NAMES.get(protocol.bos, protocol.bos),
        "context_length": "no input cut"
        if protocol.context_length is None
        else f"context {protocol.context_length:,}",
        "n": f"n={protocol.n:,}",
        "items": f"items {protocol.items[:_SHOWN_HASH]}",
        "seed": "all items" if protocol.seed is None else f"seed {protocol.seed}",
        "draws": f"examples {(protocol.draws or 'none')[:_SHOWN_HASH]}",
        "prompt": f"prompt {(protocol.prompt or 'none')[:_SHOWN_HASH]}",
    }
    differing = [text for name, text in texts.items() if len({getattr(one, name) for one in alike}) > 1]
    differing += _tell_generation(protocol, alike)
    if len({one.seed for one in alike} - {None}) < 2 and texts["n"] in differing:
        differing = [text for text in differing if text != texts["seed"]]  # n says it already
    return f"{_base_name(protocol)} ({', '.join(differing)})" if differing else _base_name(protocol)


def _tell_generation(protocol: Protocol, alike: Sequence[Protocol]) -> list[str]:
    """Say which of the settings of generation tell a column from its namesakes."""
    mine, *others = [json.loads(one.generation or "{}") for one in (protocol, *alike)]
    keys = sorted({key for one in others for key in one})
    differing = [key for key in keys if len({repr(one.get(key)) for one in others}) > 1]
    return [
        f"{key.replace('_', ' ')} {mine[key]}" if key in mine else f"{key.replace('_', ' ')} unknown"
        for key in differing
    ]


def _base_name(protocol: Protocol) -> str:
    last = "bits per byte" if protocol.shots is None else f"{protocol.shots}-shot"
    return f"{protocol.task} \N{MIDDLE DOT} {protocol.profile} \N{MIDDLE DOT} {last}"


def _build_column(title: str, example: Placed) -> BoardColumn:
    protocol, origin = example.protocol, example.origin
    questions = origin.metrics if isinstance(origin, QuestionCell) else None
    return BoardColumn(
        title=title,
        kind="text" if questions is None else "questions",
        task=protocol.task,
        profile=protocol.profile,
        shots=protocol.shots,
        score=protocol.score,
        bos=protocol.bos,
        context_length=protocol.context_length,
        n=protocol.n,
        n_all=origin.metrics.n_all,
        items_sha256=protocol.items,
        random=None if questions is None else questions.random,
        majority=None if questions is None else questions.majority,
        generation=None if protocol.generation is None else json.loads(protocol.generation),
    )
