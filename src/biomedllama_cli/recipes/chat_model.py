"""The model that is talked to: chosen before anything heavy is loaded, then loaded and described."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedllama_cli.engine.saved_runs import find_newest_result
from biomedllama_cli.errors import ModelError
from biomedllama_cli.models.adapter_folder import find_adapter, find_tokenizer_source
from biomedllama_cli.models.gguf import find_gguf, read_gguf
from biomedllama_cli.recipes.evaluate_sources import SCRATCH_PREFIX, check_source, find_result_of_run
from biomedllama_cli.settings.chat import ChatComputeSettings, ChatSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from biomedllama_cli.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LONGEST_CONTEXT = 8192
"""Context of a chat where none is asked for (in tokens): the keys and values of 8,192 tokens take 1 GB in a model of
7 billion parameters with grouped queries, in bf16."""


@dataclass(frozen=True)
class ChatModel:
    """A loaded model to talk to.

    Attributes:
        model: in eval mode, on its device.
        tokenizer: of the model.
        facts: what a transcript says of it.
        context_length: longest conversation with its reply (in tokens), the model's own limit respected.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    facts: dict[str, Any]
    context_length: int


def find_chat_model(settings: ChatSettings) -> str:
    """Return the model given (of a run folder what it has to show), else the newest of the workspace.

    Raises:
        ModelError: none is given and the workspace has no checkpoint, or the given one cannot be there.
    """
    if settings.model:
        return find_source(settings.model)
    for command, what in (("instruct", "newest result of `instruct`"), ("", "newest checkpoint of any run")):
        if newest := find_newest_result(settings.workspace, of=command):
            why = "" if command else ", which holds none of `instruct`"
            logger.info("no model was given: taking the %s in the workspace%s, %s", what, why, newest)
            return str(newest)
    raise ModelError(
        f"no model was given, and the workspace {settings.workspace.resolve()} holds no checkpoint.",
        "Give --model (a hub id, a folder, a checkpoint or a .gguf file), or tune one with `biomedllama instruct`.",
    )


def find_source(source: str) -> str:
    """Return the model that a name given by the user stands for: of a run folder what it has to show.

    Raises:
        ModelError: it has no weights, is not there, is a broken file or an adapter without its base, holds the runs
            of several seeds, or is the name of nothing that a file system can hold.
    """
    if source.startswith(SCRATCH_PREFIX):
        raise ModelError(
            f"model: {source} has random weights and no tokenizer, so there is nobody to talk to.",
            "Give a hub id, a model folder or a checkpoint; `biomedllama pretrain` trains this shape.",
        )
    try:
        found = find_result_of_run(source)
        check_source(found)
        if not Path(found).expanduser().exists():
            logger.info("model: %s is no folder here: it is taken as a hub id", found)
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, nobody's home, a NUL
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise ModelError(
            f"model: {source} names no model: {reason}.", "Give a hub id, a model folder or a checkpoint."
        ) from error
    return found


def load_chat_model(source: str, compute: ChatComputeSettings) -> ChatModel:
    """Load tokenizer and model onto the device.

    Args:
        source: an answer of `find_chat_model` or `find_source`.
        compute: precision, quantisation, device, attention and context.

    Raises:
        ModelError: there is no such model, or it cannot be used.
        UnavailableError: the hub, a device or a package is not to be had.
    """
    import torch

    from biomedllama_cli.engine.accelerator import choose_device_type
    from biomedllama_cli.models.load import load_model, load_text_config, resolve_attention
    from biomedllama_cli.models.precision import DTYPES
    from biomedllama_cli.models.quantization import build_quantization, check_widths
    from biomedllama_cli.models.tokenizer import load_tokenizer
    from biomedllama_cli.settings.pretrain import ParallelSettings

    device = torch.device(choose_device_type(ParallelSettings(device=compute.device)))
    _check_quantize(source, compute)
    precision = _choose_precision(compute.dtype, device)
    dtype = DTYPES[precision]
    attention = resolve_attention(compute.attention, device, dtype)
    load_text_config(source)  # before the tokenizer, so that a wrong model is called a wrong model
    tokenizer = load_tokenizer(find_tokenizer_source(source))
    model = load_model(
        source,
        dtype=dtype,
        attention=attention,
        vocabulary_size=tokenizer.vocabulary_size,
        quantization=None
        if compute.quantize == "none"
        else build_quantization(compute.quantize, device, dtype),
    )
    if compute.quantize == "none":  # quantised weights were loaded onto the device
        model.to(device)
    check_widths(model)
    facts = _describe(source, model, tokenizer, precision, compute.quantize)
    return ChatModel(model.eval(), tokenizer, facts, _choose_context(model, compute.context_length))


def _check_quantize(source: str, compute: ChatComputeSettings) -> None:
    """Refuse what cannot be quantised before anything is loaded.

    Raises:
        ModelError: the weights cannot be quantised while they are loaded.
        UnavailableError: bitsandbytes is not there.
    """
    if compute.quantize == "none":
        return
    if find_gguf(source) is not None:
        raise ModelError(
            f"quantize is {compute.quantize}, and {source} is a GGUF file, which brings its own quantisation.",
            "Leave --quantize out, or give the model's transformers folder.",
        )
    if find_adapter(source) is not None:
        raise ModelError(
            f"quantize is {compute.quantize}, and {source} is an adapter, which is merged into unquantised weights.",
            "Leave --quantize out, or give the merged folder (train with --merge).",
        )
    from biomedllama_cli.models.quantization import check_bitsandbytes

    check_bitsandbytes(
        f"quantize is {compute.quantize}", "leave --quantize out (--dtype bf16 halves the memory)"
    )


def _choose_precision(asked: str, device: torch.device) -> str:
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _choose_context(model: PreTrainedModel, asked: int | None) -> int:
    from biomedllama_cli.engine.model_fit import find_positions

    limit = find_positions(model.config)
    if asked is None:
        return min(limit or LONGEST_CONTEXT, LONGEST_CONTEXT)
    if limit is not None and asked > limit:
        logger.warning(
            "context_length is lowered from %d to %d tokens, the limit of %s",
            asked,
            limit,
            model.name_or_path,
        )
        return limit
    return asked


def _describe(
    source: str, model: PreTrainedModel, tokenizer: Tokenizer, precision: str, quantize: str
) -> dict[str, Any]:
    """Return what a transcript says of a model; `stored_as` is the type of a GGUF file's weights."""
    from biomedllama_cli.models.description import count_weights
    from biomedllama_cli.models.identity import hash_weights, locate_model
    from biomedllama_cli.recipes.evaluate_subject import name_device

    file = find_gguf(source)
    revision = getattr(model.config, "_commit_hash", None)
    place = locate_model(source, revision)
    return {
        "source": source,
        "revision": revision,
        "weights_sha256": None if place is None else hash_weights(place),
        "stored_as": None if file is None else read_gguf(file).stored_as,
        "architecture": type(model).__name__,
        "parameters": sum(map(count_weights, model.parameters())),
        "dtype": precision,
        "device": name_device(model.device),
        "quantize": quantize,
        "attention": model.config._attn_implementation,  # eager for a model that needs it, whatever was asked
        "tokenizer_fingerprint": tokenizer.fingerprint,
    }
