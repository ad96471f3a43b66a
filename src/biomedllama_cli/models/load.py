"""Load a causal language model from the hub, a folder, a file, an adapter and its base, or a named configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
)

from biomedllama_cli.errors import ModelError, UserError
from biomedllama_cli.models.adapter_folder import find_adapter
from biomedllama_cli.models.attention import resolve_attention
from biomedllama_cli.models.attention_names import register_attention
from biomedllama_cli.models.description import ModelDescription, describe_model
from biomedllama_cli.models.gguf import find_gguf
from biomedllama_cli.models.gguf_weights import load_gguf, load_gguf_config
from biomedllama_cli.models.hub import is_hub_reachable
from biomedllama_cli.models.identity import check_base
from biomedllama_cli.models.load_errors import explain_load_error
from biomedllama_cli.models.names import is_path
from biomedllama_cli.models.scratch import SCRATCH_PREFIX, build_scratch_config
from biomedllama_cli.models.split_attention import SPLIT_ATTENTION
from biomedllama_cli.models.weight_index import check_named_weights, check_weight_index

__all__ = [
    "ModelDescription",
    "build_scratch_config",
    "describe_model",
    "fit_attention",
    "load_model",
    "load_text_config",
    "resolve_attention",
]

logger = logging.getLogger(__name__)


def load_model(
    source: str,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    vocabulary_size: int | None = None,
    bos_id: int | None = None,
    eos_id: int | None = None,
    seed: int = 0,
    quantization: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Load a causal language model; of a multimodal one, its text part; an adapter is merged into its base.

    The result is a plain transformers model: `save_pretrained` writes a text-only folder.

    Args:
        source: hub id, folder (of a model or an adapter), GGUF file, or `scratch:NAME` for a LLaMA of random weights.
        dtype: of the weights.
        attention: `sdpa`, `eager`, or one of `models/attention_names.py` that runs here.
        vocabulary_size: pieces of the tokenizer; `scratch:` gets exactly these rows, any other model must have
            at least as many.
        bos_id: written into the configuration of a `scratch:` model.
        eos_id: likewise.
        seed: of the random weights; the caller's random state is left alone.
        quantization: arguments of `from_pretrained` that quantise the weights while they load; for hub ids and folders.

    Raises:
        ModelError: the name is unknown, the folder is missing, broken or would run code, or the vocabulary is
            too small.
        UnavailableError: the hub cannot be reached and has no copy in the cache.
    """
    attention = register_attention(attention)
    if source.startswith(SCRATCH_PREFIX):
        config = build_scratch_config(source, vocabulary_size, bos_id=bos_id, eos_id=eos_id)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _build_from_config(config, dtype, attention)
    if (file := find_gguf(source)) is not None:
        model = load_gguf(file, dtype, attention)
        _check_vocabulary(model, source, vocabulary_size)
        return model
    if (adapter := find_adapter(source)) is not None:
        from biomedllama_cli.models.adapter_weights import merge_weights

        model = load_model(adapter.base, dtype=dtype, attention=attention, vocabulary_size=vocabulary_size)
        check_base(adapter, getattr(model.config, "_commit_hash", None))
        merge_weights(model, adapter)
        return model
    model = _load_pretrained(source, dtype, attention, **(quantization or {}))
    _check_vocabulary(model, source, vocabulary_size)
    _make_saveable(model)
    return model


def load_text_config(
    source: str, *, vocabulary_size: int | None = None, bos_id: int | None = None, eos_id: int | None = None
) -> Any:
    """Load the configuration of the text model that `load_model` would give, without its weights.

    Raises:
        ModelError: the name is unknown, the folder is missing, broken or would run code, or the file is malformed.
        UnavailableError: the hub cannot be reached and has no copy in the cache.
    """
    if source.startswith(SCRATCH_PREFIX):
        return build_scratch_config(source, vocabulary_size, bos_id=bos_id, eos_id=eos_id)
    if (file := find_gguf(source)) is not None:
        return load_gguf_config(file)
    if (adapter := find_adapter(source)) is not None:
        return load_text_config(adapter.base)
    folder = _find_folder(source)
    try:
        return _load_config(source, folder)[0].get_text_config(decoder=True)
    except Exception as error:
        raise explain_load_error(source, folder, error) from error


def _load_config(source: str, folder: Path | None) -> tuple[Any, bool]:
    """Return a configuration, and whether the cache alone is to be used."""
    # A hub that does not answer is not asked again and again.
    cached_only = folder is None and not is_hub_reachable()
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=cached_only)
    return config, cached_only


def _build_from_config(config: Any, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def _load_pretrained(source: str, dtype: torch.dtype, attention: str, **quantization: Any) -> PreTrainedModel:
    folder = _find_folder(source)
    try:
        with _no_background_conversion():
            config, cached_only = _load_config(source, folder)
            if folder is not None:
                check_named_weights(config, source)
            is_causal_model = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
            loader = AutoModelForCausalLM if is_causal_model else AutoModelForImageTextToText
            model, loading = loader.from_pretrained(
                source,
                dtype=dtype,
                attn_implementation=fit_attention(config, attention),
                trust_remote_code=False,
                local_files_only=cached_only,
                # A .bin of a stranger is read by the restricted unpickler, which runs nothing.
                weights_only=True,
                output_loading_info=True,
                **quantization,
            )
    except UserError:
        raise
    except Exception as error:
        raise explain_load_error(source, folder, error) from error
    if missing := sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"]):
        raise ModelError(
            f"model: {source} lacks the weights of {len(missing)} tensors, first {missing[0]}.",
            hint="They would be random. Is it a complete causal language model?",
        )
    return _extract_text_model(model, source)


def _find_folder(source: str) -> Path | None:
    """Return the local folder that `source` names, or None for a hub id."""
    path = Path(source).expanduser()
    if source and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model: the folder {source} has no config.json.",
                hint="Give the folder of a transformers model, such as RUN/checkpoints/step-....",
            )
        check_weight_index(path)
        return path
    if is_path(source) or path.exists() or not source:
        raise ModelError(
            f"model: {source or 'an empty name'} is not a folder.",
            hint="Give a hub id or a model folder.",
        )
    return None


@contextmanager
def _no_background_conversion() -> Iterator[None]:
    """Keep transformers from asking the hub, in a thread, to convert a repository to safetensors."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def fit_attention(config: Any, attention: str) -> str:
    """Return `attention`, or `eager` for a model whose attention is more than the fused operators compute.

    Args:
        config: of the model, or of its text part.
        attention: an implementation.

    Raises:
        ModelError: sequences are split over ranks, which eager cannot.
    """
    text = config.get_text_config(decoder=True)
    has_own = (
        type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
        and not MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]._supports_sdpa
    )
    if getattr(text, "attn_logit_softcapping", None):
        what = "caps its attention scores"
    elif has_own and attention != "eager":
        what = "has an attention of its own (such as one with sinks)"
    else:
        return attention
    if attention == SPLIT_ATTENTION:
        raise ModelError(
            f"model: it {what}, which attention of split sequences cannot.", hint="Leave --cp-size out."
        )
    if attention != "eager":
        logger.warning("attention: this model %s; eager is used instead of %s", what, attention)
    return "eager"


def _extract_text_model(model: PreTrainedModel, source: str) -> PreTrainedModel:
    """Return the text model inside a multimodal wrapper, or the model itself.

    The decoder and the output table are moved, not copied; the other towers are dropped.
    """
    text_config = model.config.get_text_config(decoder=True)
    if text_config is model.config:
        return model
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    with torch.device("meta"):
        text_model: PreTrainedModel = AutoModelForCausalLM.from_config(
            text_config, attn_implementation=model.config._attn_implementation
        )
    if type(text_model.base_model) is not type(decoder) or head is None:
        raise ModelError(
            f"model: {source} is a {type(model).__name__}, whose text part is not a causal language model.",
            hint="Give a text-only model.",
        )
    text_model.config.tie_word_embeddings = head.weight is decoder.get_input_embeddings().weight
    setattr(text_model, text_model.base_model_prefix, decoder)
    text_model.set_output_embeddings(head)
    text_model.generation_config = model.generation_config
    left = [name for name, tensor in text_model.state_dict().items() if tensor.is_meta]
    assert not left, f"tensors without weights: {left}"
    logger.info("model: taking the text part (%s) of %s", type(text_model).__name__, type(model).__name__)
    return text_model.eval()


def _check_vocabulary(model: PreTrainedModel, source: str, vocabulary_size: int | None) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if vocabulary_size is not None and rows < vocabulary_size:
        raise ModelError(
            f"model: {source} has {rows:,} embeddings, fewer than the {vocabulary_size:,} pieces of the tokenizer.",
            hint="Prepare the corpus with this model's own tokenizer.",
        )


def _make_saveable(model: PreTrainedModel) -> None:
    """Mend a generation configuration that transformers would warn about, or refuse to save once touched."""
    generation = model.generation_config
    if generation is None or _is_valid(generation):
        return
    # Published folders carry sampling values with do_sample=false (LLaMA-2-chat); they mean sampling.
    generation.do_sample = True
    if not _is_valid(generation):
        model.generation_config = GenerationConfig.from_model_config(model.config)


def _is_valid(generation: GenerationConfig) -> bool:
    try:
        generation.validate(strict=True)
    except ValueError:
        return False
    return True
