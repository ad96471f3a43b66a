"""What stands below the tables of an evaluation: the facts that its numbers depend on, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from biomedllama_cli.evaluation.cells import Permutations, QuestionCell, Results, TextCell
from biomedllama_cli.evaluation.comparison_cells import show_perplexity
from biomedllama_cli.report.tables import format_number

_SHOWN_IDS = 5
_SHOWN_HASH = 12


def name_cell(cell: QuestionCell | TextCell) -> str:
    """Return what a cell is called in titles and notes: `medqa, paper/1, 0 shots`."""
    name = f"{cell.task}, {cell.profile}"
    if isinstance(cell, TextCell):
        return name
    return f"{name}, {cell.facts.shots} {'shot' if cell.facts.shots == 1 else 'shots'}"


def describe_run(results: Results) -> list[str]:
    """Return what holds for all tables: the model, how it was computed, and how well that was checked."""
    model = results.model
    name = model.source if model.revision is None else f"{model.source} (revision {model.revision})"
    lines = [
        f"Model: {name}: {model.architecture}, {model.parameters:,} parameters, {model.dtype} on {model.device}",
        f"Tokenizer: {model.tokenizer_kind}, fingerprint {model.tokenizer_fingerprint[:_SHOWN_HASH]}, "
        f"{'adds' if model.tokenizer_adds_bos else 'does not add'} BOS by itself; seed {results.seed}",
        f"Scoring: {model.sharing}",
    ]
    if results.self_check is not None:
        lines.append(
            f"Self-check: questions scored again one by one differ by {results.self_check:.1e} nats at most"
        )
    return lines


def of_questions(cells: Sequence[QuestionCell]) -> Iterator[str]:
    """Yield the notes below the table of questions."""
    yield f"BOS: {_by_profile({(cell.profile, cell.facts.bos): None for cell in cells})}"
    lengths = {(cell.profile, f"{cell.facts.context_length:,} tokens"): None for cell in cells}
    yield f"Context length: {_by_profile(lengths)}"
    generated = {
        (cell.profile, describe_generation(cell.facts.generation)): None
        for cell in cells
        if cell.facts.generation is not None
    }
    if generated:
        yield f"Generated answers: {_by_profile(generated)}"
    for cell in cells:
        for note in _of_question_cell(cell):
            yield f"{name_cell(cell)}: {note}"


def describe_generation(generation: Mapping[str, Any]) -> str:
    """Return how answers were generated, in words.

    >>> describe_generation({"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "chains": 1, "backend": "hf"})
    '128 new tokens at most, greedy, 1 chain, backend hf'
    >>> describe_generation({"max_new_tokens": 12, "temperature": 0.7, "top_p": 0.9, "chains": 8, "backend": "vllm"})
    '12 new tokens at most, temperature 0.7, top p 0.9, 8 chains, backend vllm'
    >>> describe_generation({"max_new_tokens": 9, "temperature": 0, "chains": 1, "backend": "hf", "template": "chat"})
    "9 new tokens at most, greedy, 1 chain, backend hf, prompts in the model's chat template"
    """
    temperature, chains = generation["temperature"], generation["chains"]
    sampled = f"temperature {temperature:g}, top p {generation['top_p']:g}" if temperature else "greedy"
    wrapped = ", prompts in the model's chat template" if generation.get("template") == "chat" else ""
    return (
        f"{generation['max_new_tokens']:,} new tokens at most, {sampled}, "
        f"{chains:,} {'chain' if chains == 1 else 'chains'}, backend {generation['backend']}{wrapped}"
    )


def _by_profile(pairs: Mapping[tuple[str, str], None]) -> str:
    """Write facts by profile, or once where all profiles share it.

    >>> _by_profile({("paper/1", "none"): None, ("clean/1", "none"): None})
    'none'
    >>> _by_profile({("paper/1", "none"): None, ("clean/1", "BOS (id 1)"): None})
    'none (paper/1), BOS (id 1) (clean/1)'
    """
    values = list(dict.fromkeys(value for _, value in pairs))
    if len(values) == 1:
        return values[0]
    return ", ".join(f"{value} ({profile})" for profile, value in pairs)


def _of_question_cell(cell: QuestionCell) -> Iterator[str]:
    metrics, facts = cell.metrics, cell.facts
    clusters = metrics.scores[metrics.headline].clusters
    if clusters is not None:
        yield f"items share passages: the interval is that of {clusters:,} clusters"
    if metrics.predicted_labels is not None and metrics.answer_labels is not None:
        yield f"predicted {_list_counts(metrics.predicted_labels)}; answers {_list_counts(metrics.answer_labels)}"
    if metrics.unparsed is not None:
        texts = metrics.n * max(metrics.vote_curve or {1: 0.0})  # one for every chain
        several = f"; {metrics.ambiguous:,} of them name more than one" if metrics.ambiguous else ""
        yield f"no option could be read from {metrics.unparsed:,} of {texts:,} generated answers{several}"
    if metrics.permutations is not None:
        yield _describe_permutations(metrics.permutations, metrics.headline)
    if facts.draw_rule is not None:
        leak = "the scored items" in facts.draw_rule
        told = "; a leak: scored questions stand before others with their answers" if leak else ""
        yield f"few-shot examples: {facts.draw_rule}{told}"
    yield from _of_items(cell)
    if metrics.truncated_inputs:
        yield f"{metrics.truncated_inputs:,} scored options lost the left end of their prompt to the context length"
    if metrics.truncated_prompts:
        yield (
            f"{metrics.truncated_prompts:,} of {metrics.n:,} prompts lost their left end before they were answered: "
            f"a longer --context-length keeps it, where the model has one"
        )
    if metrics.smallest_margin_items:
        count = len(metrics.smallest_margin_items)
        yield f"the two best options of {_items(count)} are closer than 2e-3 nats"


def _of_items(cell: QuestionCell) -> Iterator[str]:
    facts = cell.facts
    if facts.published_items is not None and cell.metrics.n_all < facts.published_items:
        yield f"{cell.metrics.n_all:,} of the {facts.published_items:,} items of the published test set"
    if facts.defects:
        kinds = _list_counts(Counter(defect.kind for defect in facts.defects))
        ids = _list_ids([defect.id for defect in facts.defects])
        dropped = f"{_items(facts.dropped_defective)} left out" if facts.dropped_defective else "all scored"
        yield f"defects in the data: {kinds} ({ids}); {dropped}"
    if facts.contaminated is not None:
        found = len(facts.contaminated)
        ids = f" ({_list_ids(facts.contaminated)})" if found else ""
        left_out = ", left out" if found and cell.profile.startswith("clean/") else ""
        yield f"the corpus holds {_items(found)}{ids}{left_out}"


def _items(count: int) -> str:
    return f"{count:,} {'item' if count == 1 else 'items'}"


def _describe_permutations(permutations: Permutations, headline: str) -> str:
    mean, low, high = (
        format_number(value, 3)
        for value in (permutations.mean_accuracy, permutations.lowest, permutations.highest)
    )
    share = format_number(permutations.consistent / permutations.n, 3)
    chosen = ", ".join(
        f"{number}: {count:,}" for number, count in enumerate(permutations.chosen_positions, start=1)
    )
    score = permutations.score or "accuracy"
    other = "" if permutations.score in (None, headline) else f" (another score than {headline})"
    return (
        f"{permutations.count} orders of the options: {score}{other} {mean} in the mean, {low} to {high}; "
        f"the same option in all orders for {permutations.consistent:,} of {permutations.n:,} ({share}); "
        f"shown positions chosen: {chosen}"
    )


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _list_ids(ids: Sequence[str]) -> str:
    """Name the first of some ids.

    >>> _list_ids(["1", "2", "2"]), _list_ids([str(number) for number in range(7)])
    ('1, 2', '0, 1, 2, 3, 4 and 2 more')
    """
    distinct = list(dict.fromkeys(ids))
    shown = ", ".join(distinct[:_SHOWN_IDS])
    return shown if len(distinct) <= _SHOWN_IDS else f"{shown} and {len(distinct) - _SHOWN_IDS} more"


def of_texts(results: Results) -> Iterator[str]:
    """Yield the notes below the table of running text."""
    yield "\N{DAGGER} for comparison with published rows only; models are compared by bits per byte"
    fingerprint = results.model.tokenizer_fingerprint[:_SHOWN_HASH]
    for cell in results.texts:
        metrics = cell.metrics
        yield (
            f"{name_cell(cell)}: {metrics.utf8_bytes:,} bytes, {metrics.words:,} words, {metrics.tokens:,} tokens; "
            f"windows of {cell.context_length:,} tokens, the first after {cell.prefix}"
        )
        yield (
            f"{name_cell(cell)}: {show_perplexity(metrics.token_perplexity.value)} per token of tokenizer "
            f"{fingerprint}: no measure across tokenizers"
        )
