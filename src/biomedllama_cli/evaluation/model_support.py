"""What a model's attention allows: masks of token trees, restarted positions, a cache that rows share.

Some answers stand in the configuration. The rest is tried: a small tree of random tokens is scored with and without
sharing, and a model whose answers differ is not shared.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from biomedllama_cli.evaluation.preambles import Preambles
from biomedllama_cli.evaluation.projection import can_project_in_blocks
from biomedllama_cli.evaluation.row_forward import Abilities, MaskKind, RowForward, Window
from biomedllama_cli.evaluation.row_plans import Row
from biomedllama_cli.evaluation.token_trees import Group, TokenSequence

_MASKS: dict[str, MaskKind] = {"eager": "additive", "sdpa": "boolean", "xformers": "boolean"}
_ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
_PREAMBLE_LENGTH = 5
_RELATIVE_DIFFERENCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_DIFFERENCE = 0.1


@dataclass(frozen=True, slots=True)
class Support:
    """What a model was found to allow.

    Attributes:
        shares: rows in which sequences share their prefixes.
        caches: preambles that are computed once and kept.
        reasons: why not, or where not, one sentence each.
    """

    shares: bool
    caches: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """Support, and how to make use of it.

    Attributes:
        support: what is told to users.
        abilities: how the model is called.
        longest_input: inputs above it do not share; None for no limit.
    """

    support: Support
    abilities: Abilities
    longest_input: int | None = None


def examine_model(model: PreTrainedModel, *, sharing: bool) -> Findings:
    """Find out what a model in evaluation mode allows.

    Args:
        model: a causal language model.
        sharing: whether sharing is wanted at all.
    """
    probe_ids = _draw_ids(model, 24)
    abilities = Abilities(
        in_blocks=can_project_in_blocks(model, torch.tensor([probe_ids], device=model.device))
    )
    if not sharing:
        return Findings(Support(False, False, ("sharing is switched off",)), abilities)
    reason = find_static_reason(model)
    if reason is not None:
        return Findings(Support(False, False, (reason,)), abilities)
    abilities = replace(abilities, mask=_MASKS[model.config._attn_implementation])
    return _probe(model, abilities, probe_ids)


def find_static_reason(model: PreTrainedModel) -> str | None:
    """Return why a model's structure rules sharing out, or None."""
    config = model.config.get_text_config(decoder=True)
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        return f"{name} is an encoder-decoder"
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(model, "_is_stateful", False) or kinds - _ATTENTION_KINDS:
        return f"{name} carries a state from token to token, which branches of a tree cannot share"
    if model.config._attn_implementation not in _MASKS:
        return f"the attention {model.config._attn_implementation} takes no mask of one's own; sdpa does"
    if getattr(config, "alibi", False):
        return f"{name} counts distances along the row (ALiBi), which are not those along a branch"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return f"{name} takes no positions: those of a branch cannot start again where it forks"
    return None


def _probe(model: PreTrainedModel, abilities: Abilities, probe_ids: Sequence[int]) -> Findings:
    """Try to share with a mask per kind of layer, then with one for all, with and without a cache."""
    plain = _score_probe(model, abilities, probe_ids, None)
    obstacle = ""
    for tried, longest_input in _list_tries(model, abilities):
        reasons = []
        if longest_input is not None:
            reasons.append(
                f"inputs of more than {longest_input} tokens, the attention's window, are read one by one"
            )
        obstacle = _find_obstacle(model, tried, probe_ids, plain, caches=False)
        if not obstacle:
            cache_obstacle = _find_obstacle(model, tried, probe_ids, plain, caches=True)
            if cache_obstacle:
                reasons.append(f"common examples are read again for each row: {cache_obstacle}")
            return Findings(Support(True, not cache_obstacle, tuple(reasons)), tried, longest_input)
    reason = f"{type(model).__name__} does not take rows of token trees: {obstacle}"
    return Findings(Support(False, False, (reason,)), abilities)


def _list_tries(model: PreTrainedModel, abilities: Abilities) -> list[tuple[Abilities, int | None]]:
    config = model.config.get_text_config(decoder=True)
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    if not set(kinds) - {"full_attention"}:
        # Without kinds of layers, transformers uses a given mask as it is in all layers.
        return [(abilities, None if kinds else window)]
    windows = tuple((kind, _find_window(config, kind)) for kind in kinds)
    return [(replace(abilities, windows=windows), None), (abilities, window)]


def _find_window(config: Any, kind: str) -> Window:
    if kind == "sliding_attention":
        return Window(config.sliding_window)
    if kind == "chunked_attention":
        return Window(config.attention_chunk_size, blocks=True)
    return Window()


def _find_obstacle(
    model: PreTrainedModel,
    abilities: Abilities,
    probe_ids: Sequence[int],
    plain: torch.Tensor,
    *,
    caches: bool,
) -> str:
    """Return how sharing fails on a tree of random tokens, or an empty text."""
    try:
        shared = _score_probe(model, abilities, probe_ids, caches)
    except Exception as error:  # whatever a model of any family raises when it is called in an unusual way
        return f"its forward fails ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
    difference = float((shared - plain).abs().max())
    # Logits are rounded in the model's dtype, and differ between tokens by about the spread.
    share = _RELATIVE_DIFFERENCE.get(model.dtype, _HALF_DIFFERENCE)
    allowed = share * float(plain.std()) + torch.finfo(model.dtype).eps * float(plain.abs().max()) * 8
    if not difference <= allowed:
        return f"log-likelihoods differ by {difference:.2g} nats from those of plain rows"
    return ""


def _score_probe(
    model: PreTrainedModel, abilities: Abilities, probe_ids: Sequence[int], caches: bool | None
) -> torch.Tensor:
    """Score forks of several depths; `caches` None means plain rows."""
    ids = tuple(probe_ids)
    start, options = ids[:8], (ids[8:12], ids[8:10] + ids[12:15], ids[15:16], ids[16:18] + ids[8:12])
    group: Group = tuple(TokenSequence(start + option, len(option)) for option in options)
    other: Group = (
        TokenSequence(ids[18:20] + ids[:3], 2),
        TokenSequence(ids[:_PREAMBLE_LENGTH] + ids[20:], 3),
    )
    groups = [group, other]
    forward = RowForward(model, abilities, context_length=len(ids))
    if caches is None:
        found = forward.score_plain(groups, range(2), batch_size=1)
    else:
        preambles = Preambles([np.array(ids[:_PREAMBLE_LENGTH], dtype=np.int64)] if caches else [])
        row = Row((0, 1), (0,) if caches else (), 32)
        found = forward.score_batch(groups, (row,), preambles)
    return torch.tensor([one.value / one.tokens for number in (0, 1) for one in found[number]])


def _draw_ids(model: PreTrainedModel, count: int) -> list[int]:
    """Return different token ids, the same for every model of that vocabulary."""
    pieces = int(model.get_input_embeddings().weight.shape[0])
    generator = np.random.default_rng(0)
    ids: list[int] = generator.choice(pieces, size=count, replace=pieces < count).tolist()
    return ids
