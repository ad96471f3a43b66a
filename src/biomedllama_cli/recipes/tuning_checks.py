"""What of the settings of tuning a model must fit: the model, and what is held out."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from transformers import AutoModelForCausalLM

from biomedllama_cli.engine.model_fit import check_positions
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.instructions.encoding import EncodedSet
from biomedllama_cli.models.adapter_config import choose_targets, list_linear_layers
from biomedllama_cli.models.load import load_text_config
from biomedllama_cli.recipes.tuning_plan import Pupil, TuningSections
from biomedllama_cli.settings.finetune import FinetuneSettings
from biomedllama_cli.settings.instruct import InstructSettings
from biomedllama_cli.settings.tuning import AdapterSettings

logger = logging.getLogger(__name__)

Tree = TypeVar("Tree", FinetuneSettings, InstructSettings)


def fit_rows(settings: Tree, pupil: Pupil) -> Tree:
    """Return the settings with rows that the model has positions for: a default that is too long is lowered.

    Raises:
        SettingsError: a sequence length that was given is longer than the model's positions.
    """
    batch, positions = settings.batch, pupil.positions
    if positions is None or batch.sequence_length <= positions:
        return settings
    if "sequence_length" in batch.model_fields_set:
        check_positions(pupil.source, positions, batch.sequence_length)
    logger.warning(
        "sequence_length is lowered from its default of %d to %d tokens, the positions of %s",
        batch.sequence_length,
        positions,
        pupil.source,
    )
    return settings.model_copy(update={"batch": batch.model_copy(update={"sequence_length": positions})})


def check_targets(pupil: Pupil, adapter: AdapterSettings) -> None:
    """Check the names of layers that are to get an adapter, on the model's shape alone.

    Raises:
        SettingsError: a name is not a linear layer of the decoder.
    """
    if adapter.method == "full" or not adapter.target_modules:
        return
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(load_text_config(pupil.source))
    choose_targets(list_linear_layers(shape), adapter.target_modules)


def check_patience(settings: TuningSections, held_out: EncodedSet | None) -> None:
    """Check that there is something to lose patience with.

    Raises:
        SettingsError: nothing is held out.
    """
    if settings.duration.patience is not None and held_out is None:
        raise SettingsError(
            f"duration.patience = {settings.duration.patience} needs held-out examples, and there are none.",
            hint="Raise --validation-fraction, or leave --patience out.",
        )
