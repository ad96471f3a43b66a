"""`biomedllama evaluate`: ask a model the published tasks with the published protocol."""

from __future__ import annotations

import logging
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedllama_cli.errors import ModelError, UnavailableError
from biomedllama_cli.evaluation.jobs import TextJob, build_question_job
from biomedllama_cli.evaluation.output import check_output_folder, write_results
from biomedllama_cli.evaluation.plan import describe_input, load_task, plan_tasks
from biomedllama_cli.evaluation.provenance import collect_versions, hash_items, hash_weights, locate_model
from biomedllama_cli.evaluation.report import (
    EvaluateReport,
    ModelFacts,
    ProtocolFacts,
    QuestionReport,
    SourceFacts,
    TextReport,
    describe_prompt,
)
from biomedllama_cli.evaluation.results import score_documents, score_questions
from biomedllama_cli.report.progress import Progress
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.tasks.catalogue import LoadedDocuments, LoadedQuestions
from biomedllama_cli.tasks.fewshot import draw_examples, hash_draws, shuffle_items

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from biomedllama_cli.evaluation.harness import ProtocolModel

__all__ = ["EvaluateReport", "evaluate"]

logger = logging.getLogger(__name__)

# torch, transformers and lm_eval take seconds to import: the functions that compute do it, so that a dry run
# and a mistake in the settings are answered at once.
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def evaluate(settings: EvaluateSettings, *, dry_run: bool = False) -> EvaluateReport:
    """Score a model on the tasks asked for and write results.json and the samples.

    Args:
        settings: the whole tree of this command.
        dry_run: say what would be scored; load and write nothing.

    Raises:
        SettingsError: the settings contradict each other.
        DataError: a file is missing, broken or of another task.
        ModelError: there is no model, or it cannot be used.
        UnavailableError: a hub or a device is not to be had.
        OutputError: the output folder holds something.
    """
    source = _find_model(settings)
    plans = plan_tasks(settings.protocol)
    now = datetime.now(UTC)
    output_dir = settings.output_dir or settings.workspace / "runs" / _default_name(source, now)
    check_output_folder(output_dir, overwrite=settings.overwrite)
    facts: dict[str, Any] = {
        "created": now.isoformat(timespec="seconds"),
        "model_source": source,
        "output_dir": str(output_dir),
        "settings": settings.model_dump(mode="json"),
        "versions": collect_versions(),
    }
    if dry_run:
        planned = {plan.task.name: describe_input(plan, settings.seed) for plan in plans}
        return EvaluateReport(dry_run=True, planned=planned, **facts)

    loaded = [load_task(plan) for plan in plans]  # before the model: a broken file is found at once
    scorer, model_facts, protocol_facts = _load_scorer(source, settings)
    questions: dict[str, QuestionReport] = {}
    texts: dict[str, TextReport] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for plan, task in zip(plans, loaded, strict=True):
        name = plan.task.name
        if isinstance(task, LoadedQuestions):
            questions[name], samples[name] = _run_questions(scorer, task, plan.shots, settings)
        else:
            texts[name], samples[name] = _run_text(scorer, task, settings)
    report = EvaluateReport(
        dry_run=False, model=model_facts, protocol=protocol_facts, questions=questions, texts=texts, **facts
    )
    write_results(output_dir, report.model_dump(mode="json"), samples, overwrite=settings.overwrite)
    return report


def _load_scorer(source: str, settings: EvaluateSettings) -> tuple[ProtocolModel, ModelFacts, ProtocolFacts]:
    """Load tokenizer and model, and return them ready to score with the facts a report needs."""
    import torch

    from biomedllama_cli.evaluation.harness import ProtocolModel
    from biomedllama_cli.models.load import load_model, load_text_config, resolve_attention
    from biomedllama_cli.models.scratch import SCRATCH_PREFIX
    from biomedllama_cli.models.tokenizer import load_tokenizer

    device, precision = _choose_device(settings.compute.device), settings.compute.dtype
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    dtype = getattr(torch, _DTYPES[precision])
    attention = resolve_attention(settings.compute.attention, device, dtype)
    if not source.startswith(SCRATCH_PREFIX):
        load_text_config(source)  # before the tokenizer, so that a wrong model is called a wrong model
    tokenizer = load_tokenizer(source)
    model = load_model(source, dtype=dtype, attention=attention, vocabulary_size=tokenizer.vocabulary_size)
    model.to(device)
    asked_length = settings.protocol.context_length
    context_length = _limit_context(model, asked_length)
    scorer = ProtocolModel(
        model, tokenizer, context_length=context_length, batch_size=settings.compute.batch_size
    )
    revision = getattr(model.config, "_commit_hash", None)
    folder = locate_model(source, revision)
    model_facts = ModelFacts(
        source=source,
        revision=revision,
        weights_sha256=None if folder is None else hash_weights(folder),
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=precision,
        device=_name_device(device),
        attention=model.config._attn_implementation,  # eager for a model that needs it, whatever was asked
        tokenizer_kind=tokenizer.kind,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_adds_bos=tokenizer.adds_bos,
    )
    protocol_facts = ProtocolFacts(
        seed=settings.seed,
        context_length=context_length,
        asked_context_length=asked_length,
        rolling_prefix_id=tokenizer.eos_id,
    )
    return scorer, model_facts, protocol_facts


def _find_model(settings: EvaluateSettings) -> str:
    """Return the model given (of a run folder its newest checkpoint), else the newest of the workspace."""
    if settings.model is not None and not (Path(settings.model).expanduser() / "checkpoints").is_dir():
        return settings.model
    from biomedllama_cli.engine.checkpoint import find_checkpoint, find_newest_checkpoint

    if settings.model is not None:
        newest = find_checkpoint(Path(settings.model).expanduser())
        if newest is not None:
            logger.info("the model given is a run folder: taking its newest checkpoint, %s", newest)
        return str(newest or settings.model)
    checkpoint = find_newest_checkpoint(settings.workspace)
    if checkpoint is None:
        raise ModelError(
            f"no model was given, and the workspace {settings.workspace.resolve()} holds no checkpoint",
            "Give --model (a hub id, a model folder or a checkpoint), or train one with `biomedllama pretrain`.",
        )
    logger.info("no model was given: taking the newest checkpoint of the workspace, %s", checkpoint)
    return str(checkpoint)


def _default_name(source: str, now: datetime) -> str:
    parts = [part for part in Path(source).parts if part not in {"/", ".", "..", "checkpoints"}]
    # A checkpoint is named after its run and step, anything else after its last part.
    kept = parts[-2:] if parts and parts[-1].startswith("step-") else parts[-1:]
    name = "-".join(kept).replace(":", "-") or "model"
    return f"evaluate-{name}-{now:%Y%m%dT%H%M%SZ}"


def _choose_device(asked: str) -> torch.device:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("compute.device is cuda, but torch finds no CUDA device", "Try --device cpu.")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)


def _name_device(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def _limit_context(model: PreTrainedModel, asked: int) -> int:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None or asked <= limit:
        return asked
    logger.warning(
        "context_length is lowered from %d to %d tokens, the model's own limit: results are not comparable "
        "with those at %d",
        asked,
        limit,
        asked,
    )
    return int(limit)


def _run_questions(
    scorer: ProtocolModel, loaded: LoadedQuestions, shots: int, settings: EvaluateSettings
) -> tuple[QuestionReport, list[dict[str, Any]]]:
    from biomedllama_cli.evaluation.harness import score_job

    task = loaded.task
    # The draws are made for the whole list, so that a limit takes the first items and changes no draw.
    drawn = draw_examples(loaded.items, loaded.pool, shots, settings.seed)
    kept = drawn[: settings.protocol.limit]
    inputs = sum(len(item.options) for item, _ in kept)
    with Progress(f"scoring {task.name}", inputs, "inputs") as progress:
        scores = score_job(scorer, build_question_job(task.name, task.prompt, kept), progress.advance)
    metrics, samples = score_questions(
        kept, len(loaded.items), task.prompt, scores.log_likelihoods, scores.truncated
    )
    report = QuestionReport(
        metrics=metrics,
        prompt=describe_prompt(task.prompt),
        shots=shots,
        draws_sha256=hash_draws(drawn),
        draw_rule=loaded.draw_rule,
        items_sha256=hash_items(loaded.items),
        source=SourceFacts(**vars(loaded.source)),
        pool_sha256=hash_items(loaded.pool) if loaded.pool else None,
        pool_source=SourceFacts(**vars(loaded.pool_source)) if loaded.pool_source else None,
    )
    return report, samples


def _run_text(
    scorer: ProtocolModel, loaded: LoadedDocuments, settings: EvaluateSettings
) -> tuple[TextReport, list[dict[str, Any]]]:
    from biomedllama_cli.evaluation.harness import score_job

    documents = shuffle_items(loaded.items, settings.seed)[: settings.protocol.limit]
    tokens = [len(scorer.tok_encode(document.text)) for document in documents]
    windows = sum(math.ceil(count / scorer.max_length) for count in tokens)
    with Progress(f"scoring {loaded.task.name}", windows, "windows") as progress:
        scores = score_job(scorer, TextJob(loaded.task.name, tuple(documents)), progress.advance)
    log_likelihoods = [values[0] for values in scores.log_likelihoods]
    metrics, samples = score_documents(documents, len(loaded.items), tokens, log_likelihoods, settings.seed)
    report = TextReport(
        metrics=metrics,
        items_sha256=hash_items(loaded.items),
        source=SourceFacts(**vars(loaded.source)),
    )
    return report, samples
