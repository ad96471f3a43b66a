"""The records an evaluation's report is made of: one cell per profile and task, everything in it named."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer


class Frozen(BaseModel):
    """A piece of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Accuracy(Frozen):
    """A share of right answers with its 95 % interval (fractions).

    The interval is Wilson's; where items share a passage it is that of the clusters (`clusters` is their number).
    """

    value: float
    correct: int
    n: int
    interval: tuple[float, float]
    clusters: int | None = None


def _finite_or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _null_is_infinite(value: Any) -> Any:
    return math.inf if value is None else value


Number = Annotated[
    float,
    BeforeValidator(_null_is_infinite),
    PlainSerializer(_finite_or_null, return_type=float | None, when_used="json"),
]
"""A float that JSON can hold: infinity is written as null, and read back."""


class Estimate(Frozen):
    """A value with its 95 % bootstrap interval over documents (None for a single document).

    In JSON an infinite value is null: the perplexity per word of text without spaces.
    """

    value: Number
    interval: tuple[Number, Number] | None


class Permutations(Frozen):
    """What the order of the shown options changes: `count` seeded orders, the original one among them.

    Attributes:
        score: whose choices these are: of the permuted form, by summed log-likelihood, which need not be the
            headline; None in results of an earlier version.
        mean_accuracy: over the orders (a fraction).
        lowest: of the orders' accuracies.
        highest: likewise.
        consistent: questions whose chosen option is the same in all orders.
        n: questions.
        chosen_positions: how often each shown position was chosen, over all orders.
    """

    count: int
    mean_accuracy: float
    lowest: float
    highest: float
    consistent: int
    n: int
    chosen_positions: tuple[int, ...]
    score: str | None = None


class QuestionMetrics(Frozen):
    """What a task of questions gives.

    Attributes:
        n: questions scored.
        n_all: questions of the whole task, before any limit.
        headline: the key of `scores` that stands in tables.
        scores: every accuracy by name: `acc`, `acc_norm`, the matrix, `exact_match`, ...
        random: expected accuracy of guessing.
        majority: accuracy of always choosing the commonest answer (label or position).
        context_free: accuracy of the options' own likelihood after the bare answer cue.
        macro_f1: of the headline score, where labels mean the same in every question.
        predicted_labels: how often each label was predicted.
        answer_labels: how often each label is right.
        groups: accuracies of the headline by kind and value: {"subject": {"Anatomy": ...}}.
        permutations: option-order sensitivity, where it was asked for.
        unparsed: generated answers no option could be read from.
        ambiguous: those of them that name more than one, such as the letter of one and the text of another.
        vote_curve: accuracy of the majority vote against the number of chains.
        truncated_inputs: scored inputs (options after their prompts) that lost their left end.
        truncated_prompts: of generated answers, prompts that lost theirs: an answer needs room as well.
        smallest_margin_items: ids whose two best options are closer than 2e-3 nats.
    """

    n: int
    n_all: int
    headline: str
    scores: dict[str, Accuracy]
    random: float
    majority: float | None = None
    context_free: Accuracy | None = None
    macro_f1: float | None = None
    predicted_labels: dict[str, int] | None = None
    answer_labels: dict[str, int] | None = None
    groups: dict[str, dict[str, Accuracy]] = Field(default_factory=dict)
    permutations: Permutations | None = None
    unparsed: int | None = None
    ambiguous: int | None = None
    vote_curve: dict[int, float] | None = None
    truncated_inputs: int = 0
    truncated_prompts: int | None = None
    smallest_margin_items: tuple[str, ...] = ()


class TextMetrics(Frozen):
    """What a task of running text gives; the log-likelihood is in nats over all tokens.

    `text_sha256` is over the scored documents in order: only results on the same text are compared.
    """

    n: int
    n_all: int
    words: int
    tokens: int
    utf8_bytes: int
    log_likelihood: float
    word_perplexity: Estimate
    byte_perplexity: Estimate
    token_perplexity: Estimate
    bits_per_byte: Estimate
    text_sha256: str


class SourceFacts(Frozen):
    """Where items came from; `sha256` is of the file, `revision` of the hub data set."""

    kind: Literal["file", "hub", "bundled", "lm-eval"]
    location: str
    rows: int
    sha256: str | None
    revision: str | None = None


class Defect(Frozen):
    """An item of the data that is not what it should be."""

    id: str
    kind: str
    detail: str


def _name_template(generation: dict[str, Any]) -> dict[str, Any]:
    """Name the only template of results that were made before there were others."""
    return {**generation, "template": generation.get("template", "plain")}


class CellFacts(Frozen):
    """What a question cell's numbers depend on, besides the model.

    Attributes:
        prompt: the wording as data.
        bos: `none`, or `BOS (id 1)`.
        context_length: longest input (in tokens).
        shots: few-shot examples per question.
        draw_rule: where they came from and how.
        draws_sha256: over item ids and their examples' ids.
        items_sha256: over the content of all items.
        pool_sha256: likewise of the pool.
        source: of the items.
        pool_source: of the pool.
        defects: found in the items.
        dropped_defective: how many of them were left out, because that was asked for.
        contaminated: ids of items the corpus holds; None where no corpus was given.
        corpus: which corpus that was and how it was found out: `path`, `manifest_sha256`, `documents` searched,
            items `listed` by prepare, items `searched` for, and `untestable` ones.
        published_items: items of the published test set that the profile scores (in items); None where none is known.
        generation: `max_new_tokens`, `temperature`, `top_p`, `chains` and `backend` of generated answers, and the
            `template` of their prompts (plain or chat).
    """

    prompt: dict[str, Any]
    bos: str
    context_length: int
    shots: int
    draw_rule: str | None
    draws_sha256: str
    items_sha256: str
    pool_sha256: str | None
    source: SourceFacts
    pool_source: SourceFacts | None
    defects: tuple[Defect, ...] = ()
    dropped_defective: int = 0
    contaminated: tuple[str, ...] | None = None
    corpus: dict[str, Any] | None = None
    published_items: int | None = None
    generation: Annotated[dict[str, Any], AfterValidator(_name_template)] | None = None


class QuestionCell(Frozen):
    """One task of questions under one profile.

    Attributes:
        profile: with its version: `paper/1`.
        task: as in `--task`.
        method: how the answer was found.
        samples_file: name of the file of samples in the results folder.
    """

    profile: str
    task: str
    method: Literal["likelihood", "generation", "lm-eval"]
    metrics: QuestionMetrics
    facts: CellFacts
    samples_file: str


class TextCell(Frozen):
    """One task of running text under one profile; `prefix` is what the first window is conditioned on."""

    profile: str
    task: str
    metrics: TextMetrics
    prefix: str
    context_length: int
    items_sha256: str
    source: SourceFacts
    samples_file: str


class ModelFacts(Frozen):
    """The scored model; hashes are SHA-256."""

    source: str
    revision: str | None
    weights_sha256: str | None
    architecture: str
    parameters: int
    dtype: str
    device: str
    attention: str
    tokenizer_kind: str
    tokenizer_fingerprint: str
    tokenizer_adds_bos: bool
    sharing: str
    """How prefixes were shared, or why not."""


class Results(Frozen):
    """Everything in one results folder's results.json.

    Attributes:
        questions: one cell per profile and task.
        texts: likewise of running text.
        seed: of shuffles, draws, permutations and bootstrap.
        self_check: largest difference (nats) of the questions scored again one by one, where asked for.
    """

    schema_version: str = "biomedllama.evaluate/2"
    created: str
    model: ModelFacts
    seed: int
    settings: dict[str, Any]
    versions: dict[str, str]
    questions: tuple[QuestionCell, ...] = ()
    texts: tuple[TextCell, ...] = ()
    self_check: float | None = None
