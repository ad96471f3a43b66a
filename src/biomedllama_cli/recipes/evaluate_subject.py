"""The model that is evaluated: found, loaded, described, and ready to score."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache

import torch
from transformers import PreTrainedModel

from biomedllama_cli.engine.model_fit import find_positions
from biomedllama_cli.evaluation.cells import ModelFacts
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer
from biomedllama_cli.models.adapter_folder import find_tokenizer_source
from biomedllama_cli.models.identity import hash_weights, locate_model
from biomedllama_cli.models.load import load_model, load_text_config, resolve_attention
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.models.tokenizer import Tokenizer, load_tokenizer
from biomedllama_cli.settings.evaluate import ComputeSettings
from biomedllama_cli.wording import name_count

logger = logging.getLogger(__name__)

_CUDA_BATCH_SIZE = 8


@dataclass(frozen=True)
class Subject:
    """A loaded model with its tokenizer, its scorer, and what a report says of it.

    `batch_size` is of rows; `context_length` the longest input (in tokens), the model's own limit respected.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    scorer: SharedPrefixScorer
    facts: ModelFacts
    batch_size: int
    context_length: int


def load_subject(source: str, compute: ComputeSettings, device: torch.device, context_length: int) -> Subject:
    """Load tokenizer and model onto a device.

    Args:
        source: hub id, folder, checkpoint or GGUF file.
        compute: precision, attention and the scorer's layout.
        device: to score on.
        context_length: longest input asked for (in tokens).

    Raises:
        ModelError: there is no such model, or it cannot be used.
        UnavailableError: the hub or xformers is not to be had.
    """
    precision = compute.dtype
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    dtype = DTYPES[precision]
    attention = resolve_attention(compute.attention, device, dtype)
    load_text_config(source)  # before the tokenizer, so that a wrong model is called a wrong model
    tokenizer = load_tokenizer(find_tokenizer_source(source))
    model = load_model(source, dtype=dtype, attention=attention, vocabulary_size=tokenizer.vocabulary_size)
    model.to(device)
    length = limit_context(model, context_length)
    batch_size = compute.batch_size or (_CUDA_BATCH_SIZE if device.type == "cuda" else 1)
    scorer = SharedPrefixScorer(
        model,
        context_length=length,
        row_tokens=compute.row_tokens,
        batch_size=batch_size,
        sharing=compute.sharing,
    )
    return Subject(
        model, tokenizer, scorer, _describe(source, model, tokenizer, precision, scorer), batch_size, length
    )


def limit_context(model: PreTrainedModel, asked: int) -> int:
    """Return the context length asked for, or the model's own limit with a warning."""
    limit = find_positions(model.config)
    if limit is None or asked <= limit:
        return asked
    _tell_lowered(asked, limit)
    return limit


@cache
def _tell_lowered(asked: int, limit: int) -> None:
    """Say once per process, not of each model, that inputs are shorter than asked for."""
    logger.warning(
        "context_length is lowered from %d to %d tokens, the model's own limit: results are not comparable "
        "with those at %d",
        asked,
        limit,
        asked,
    )


def _describe(
    source: str, model: PreTrainedModel, tokenizer: Tokenizer, precision: str, scorer: SharedPrefixScorer
) -> ModelFacts:
    revision = getattr(model.config, "_commit_hash", None)
    place = locate_model(source, revision)
    support = scorer.support
    sharing = "prefixes shared" if support.shares else "each option by itself"
    if support.shares and not support.caches:
        sharing += ", no cache for common examples"
    return ModelFacts(
        source=source,
        revision=revision,
        weights_sha256=None if place is None else hash_weights(place),
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=precision,
        device=name_device(model.device),
        attention=model.config._attn_implementation,  # eager for a model that needs it, whatever was asked
        tokenizer_kind=tokenizer.kind,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_adds_bos=tokenizer.adds_bos,
        sharing="; ".join([sharing, *support.reasons]),
    )


def name_device(device: torch.device) -> str:
    """Return what a report calls a device: the card, or the threads and cores of the CPU."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return (
        f"cpu: {name_count(torch.get_num_threads(), 'thread')} of {name_count(os.cpu_count() or 1, 'core')}"
    )
