"""Rotary positions beyond those a model was trained with.

The change is one of the configuration, which every checkpoint carries: plain transformers loads it as it is. `linear`
is position interpolation (arXiv 2306.15595), `yarn` is arXiv 2309.00071, `llama3` the frequencies of Llama 3.1, and a
larger base alone is what Code Llama did (arXiv 2308.12950).
"""

from __future__ import annotations

import logging
import math
from typing import Any

from transformers import PreTrainedModel

from biomedllama_cli.errors import ModelError, SettingsError
from biomedllama_cli.settings.pretrain import PositionsSettings

logger = logging.getLogger(__name__)

# Of Llama 3.1: wavelengths above 8192 / 1 positions are stretched in full, those below 8192 / 4 not at all.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def changes_positions(settings: PositionsSettings) -> bool:
    """Tell whether the settings ask for any change."""
    return settings.rope_scaling != "none" or settings.rope_theta is not None


def stretch_positions(config: Any, settings: PositionsSettings, sequence_length: int) -> None:
    """Change the rotary positions in a configuration, in place, to reach sequences of a length.

    Args:
        config: of a text model.
        settings: what to change.
        sequence_length: to be trained on (in tokens).

    Raises:
        ModelError: the model has no rotary positions of one kind, or stretched ones already.
        SettingsError: nothing has to be stretched, or the factor does not reach the length.
    """
    if not changes_positions(settings):
        if settings.rope_factor is not None:
            raise SettingsError(
                f"positions.rope_factor = {settings.rope_factor:g} needs positions.rope_scaling.",
                "Give --rope-scaling linear, yarn or llama3.",
            )
        return
    rope = find_rope(config)
    positions = int(config.max_position_embeddings)
    changed = {name: value for name, value in rope.items() if value is not None}
    if settings.rope_theta is not None:
        changed["rope_theta"] = settings.rope_theta
    reached = max(positions, sequence_length)
    if settings.rope_scaling != "none":
        factor = choose_factor(settings, positions, sequence_length)
        changed |= {"rope_type": settings.rope_scaling, "factor": factor}
        if settings.rope_scaling != "linear":
            changed["original_max_position_embeddings"] = positions
        if settings.rope_scaling == "llama3":
            changed |= _LLAMA3
        reached = math.floor(positions * factor + 1e-6)
    config.rope_parameters = changed
    config.max_position_embeddings = reached
    logger.info("positions: %d become %d (%s)", positions, reached, describe_rope(changed))


def find_rope(config: Any) -> dict[str, Any]:
    """Return the rotary parameters of a configuration that has not been stretched.

    Raises:
        ModelError: there are none, several kinds, or stretched ones.
    """
    rope = getattr(config, "rope_parameters", None)
    name = type(config).__name__
    if not isinstance(rope, dict) or "rope_type" not in rope:
        raise ModelError(
            f"model: {name} has no rotary positions of one kind, so positions.rope_scaling cannot change them.",
            "Leave --rope-scaling and --rope-theta out.",
        )
    if rope["rope_type"] != "default":
        raise ModelError(
            f"model: its rotary positions are stretched already ({describe_rope(rope)}).",
            "Leave --rope-scaling and --rope-theta out, or start from the model before it was stretched.",
        )
    return rope


def choose_factor(settings: PositionsSettings, positions: int, sequence_length: int) -> float:
    """Return by how much positions are stretched: as asked, else just enough.

    >>> choose_factor(PositionsSettings(rope_scaling="yarn"), 2048, 8192)
    4.0

    Raises:
        SettingsError: the length is reached without, or not by the factor that was given.
    """
    needed = sequence_length / positions
    if settings.rope_factor is None:
        if needed <= 1:
            raise SettingsError(
                f"positions.rope_scaling is {settings.rope_scaling}, but batch.sequence_length = {sequence_length} is "
                f"within the model's {positions} positions.",
                "Give a longer --sequence-length, or --rope-factor to stretch all the same.",
            )
        return needed
    if settings.rope_factor < needed or settings.rope_factor < 1:
        raise SettingsError(
            f"positions.rope_factor = {settings.rope_factor:g} must be at least {max(needed, 1):g}: "
            f"batch.sequence_length = {sequence_length}, and the model has {positions} positions.",
            "Leave --rope-factor out to take just enough.",
        )
    return settings.rope_factor


def describe_rope(rope: dict[str, Any]) -> str:
    """Return rotary parameters in words.

    >>> describe_rope({"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0})
    'yarn x 4, base 10000'
    >>> describe_rope({}), describe_rope({"full_attention": {"rope_type": "default"}})
    ('none', 'of several kinds')
    """
    if "rope_type" not in rope:
        return "of several kinds" if rope else "none"
    factor, base = rope.get("factor"), rope.get("rope_theta")
    kind = (
        ""
        if rope["rope_type"] == "default"
        else f"{rope['rope_type']} x {1 if factor is None else factor:g}, "
    )
    return kind + ("base of the model" if base is None else f"base {base:g}")


def stretch_model(model: PreTrainedModel, settings: PositionsSettings, sequence_length: int) -> None:
    """Stretch the rotary positions of a model that was just loaded; nothing where the settings ask for nothing.

    Raises:
        ModelError: they cannot be stretched.
        SettingsError: nothing has to be, or the factor does not reach the length.
    """
    stretch_positions(model.config, settings, sequence_length)
    if changes_positions(settings):
        rebuild_rotary(model)


def rebuild_rotary(model: PreTrainedModel) -> None:
    """Give a model the rotary positions of its configuration, which has changed since it was built.

    Raises:
        ModelError: no module of the model makes rotary positions from its configuration.
    """
    found = [
        (parent, name)
        for parent in model.modules()
        for name, module in parent.named_children()
        if type(module).__name__.endswith("RotaryEmbedding") and hasattr(module, "config")
    ]
    if not found:
        raise ModelError(
            f"model: {type(model).__name__} does not say where its rotary positions are made, so they cannot be "
            "stretched.",
            "Leave --rope-scaling and --rope-theta out.",
        )
    device = next(model.parameters()).device
    for parent, name in found:
        setattr(parent, name, type(getattr(parent, name))(config=model.config).to(device))


def check_stretched(config: Any, settings: PositionsSettings) -> None:
    """Check that a checkpoint that is continued has the rotary positions the settings ask for.

    Raises:
        SettingsError: it has others.
    """
    if not changes_positions(settings):
        return
    rope = getattr(config, "rope_parameters", None) or {}
    wanted = "default" if settings.rope_scaling == "none" else settings.rope_scaling
    differs = rope.get("rope_type") != wanted
    differs |= settings.rope_theta is not None and rope.get("rope_theta") != settings.rope_theta
    differs |= settings.rope_factor is not None and rope.get("factor") != settings.rope_factor
    if differs:
        raise SettingsError(
            f"positions: the checkpoint that is continued has other rotary positions ({describe_rope(rope)}) than "
            "--rope-scaling, --rope-factor and --rope-theta ask for.",
            "Leave them as they were, or start from its weights alone with --model.",
        )
