"""Models on a leaderboard: what they are called, and how they rank."""

from __future__ import annotations

from collections.abc import Sequence

ModelKey = tuple[str, str | None, str | None]
"""Source, revision and hash of the weights."""
_SHOWN_HASH = 8


def name_models(models: Sequence[ModelKey]) -> dict[ModelKey, str]:
    """Name each model by its source, and where that is not enough by revision and hash."""
    short = {model: shorten_source(model[0]) for model in models}
    names = {}
    for model in models:
        source, revision, weights = model
        namesakes = [other for other in models if short[other] == short[model]]
        name = short[model] if len({other[0] for other in namesakes}) == 1 else source
        same = [other for other in namesakes if other[0] == source]
        facts = []
        if len({other[1] for other in same}) > 1:
            facts.append("no revision" if revision is None else f"revision {revision[:_SHOWN_HASH]}")
        if len({other[2] for other in same}) > 1:
            facts.append("weights unhashed" if weights is None else f"weights {weights[:_SHOWN_HASH]}")
        names[model] = f"{name} ({', '.join(facts)})" if facts else name
    return names


def shorten_source(source: str) -> str:
    """Return the last part of a folder's path, of a checkpoint its run and step; hub ids stay whole.

    >>> shorten_source("/data/models/llama-7b/"), shorten_source("huggyllama/llama-7b"), shorten_source("./out/final")
    ('llama-7b', 'huggyllama/llama-7b', 'final')
    >>> shorten_source("runs/mine/checkpoints/step-00000433"), shorten_source("checkpoints/step-00000433")
    ('mine-step-00000433', 'step-00000433')
    """
    parts = source.rstrip("/").split("/")
    if parts[-1].startswith("step-"):
        named = [part for part in parts if part not in {"", ".", "..", "~", "checkpoints"}]
        return "-".join(named[-2:])
    return parts[-1] or source if len(parts) > 2 or source.startswith((".", "/", "~")) else source


def rank_values(values: Sequence[float]) -> list[float]:
    """Return ranks from 1, the smallest first; equal values share the mean of their ranks.

    >>> rank_values([0.3, 0.1, 0.3])
    [2.5, 1.0, 2.5]
    """
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]
