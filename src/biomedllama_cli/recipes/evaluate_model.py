"""Evaluate one model: every pass over every task, with a journal, then its results folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from biomedllama_cli.engine.job import join_job
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.errors import ModelError
from biomedllama_cli.evaluation.cells import Results
from biomedllama_cli.evaluation.generation import Generator, HuggingFaceGenerator
from biomedllama_cli.evaluation.journal import open_journal
from biomedllama_cli.evaluation.output import check_output_folder, write_results
from biomedllama_cli.evaluation.plan import Plan
from biomedllama_cli.evaluation.provenance import collect_versions
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer
from biomedllama_cli.evaluation.vllm_backend import VllmGenerator, import_vllm
from biomedllama_cli.models.adapter_folder import find_adapter
from biomedllama_cli.models.gguf import find_gguf
from biomedllama_cli.recipes.evaluate_generation import choose_run_template
from biomedllama_cli.recipes.evaluate_harness import run_harness
from biomedllama_cli.recipes.evaluate_inputs import Inputs
from biomedllama_cli.recipes.evaluate_run import Run
from biomedllama_cli.recipes.evaluate_sources import holds_results_of, written_key
from biomedllama_cli.recipes.evaluate_subject import Subject, load_subject
from biomedllama_cli.recipes.evaluate_tasks import ScoredTask, add_cell, score_question_task, score_text_task
from biomedllama_cli.settings.evaluate import EvaluateSettings
from biomedllama_cli.settings.pretrain import ParallelSettings
from biomedllama_cli.tasks.catalogue import LoadedQuestions

logger = logging.getLogger(__name__)

_UNSEEN = {"output_dir", "overwrite", "output", "workspace", "model"}
"""Settings that no number depends on (the model is told by its weights)."""


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        rank: of this process; the first one has written the folder.
        folder: of the results.
        work: folder of the journal, which stays until the whole command has ended.
        results: what is in it.
        samples: likewise, by name of their file.
        precision_error: largest difference of a log-likelihood (nats) in fp16, one by one; None if not measured.
    """

    rank: int
    folder: Path
    work: Path
    results: Results
    samples: dict[str, list[dict[str, Any]]]
    precision_error: float | None


def evaluate_model(
    source: str, plan: Plan, inputs: Inputs, settings: EvaluateSettings, folder: Path
) -> Evaluated:
    """Score one model on everything that is planned and write its results folder.

    Args:
        source: hub id, folder or checkpoint.
        plan: what is scored.
        inputs: what was read for it.
        settings: of the command.
        folder: for the results; written by the first process alone.

    Raises:
        ModelError: the model cannot be used, or answers with something that is no number.
        OutputError: the same command is running already, or the folder cannot be written.
        Resumable: stopped by a signal.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    job = join_job(
        ParallelSettings(num_processes=settings.compute.num_processes, device=settings.compute.device)
    )
    subject = load_subject(source, settings.compute, job.device, settings.protocol.context_length)
    versions = collect_versions()
    identity = _identify(subject, inputs, settings, versions)
    with (
        StopRequest("the questions at hand") as stop,
        open_journal(folder.parent, identity, rank=job.rank) as journal,
    ):
        own = holds_results_of(journal.find(written_key(folder)), folder)
        overwrite = settings.overwrite or own  # an earlier start wrote it, and was killed before its end
        check_output_folder(folder, overwrite=overwrite)
        job.wait()  # all have read what is finished before anybody adds to it
        run = Run(settings, subject, job, journal, stop)
        _run(run, plan, inputs)
        error = _measure_precision(run) if settings.reproduce is not None else None
        results = Results(
            created=created,
            model=subject.facts,
            seed=settings.seed,
            settings=settings.model_dump(mode="json"),
            versions=versions,
            questions=tuple(run.questions),
            texts=tuple(run.texts),
            self_check=max(run.checked.values(), default=None),
        )
        if job.rank == 0:
            _write(results, run, folder, overwrite=overwrite)
        job.wait()
    return Evaluated(job.rank, folder, journal.folder, results, run.samples, error)


def _write(results: Results, run: Run, folder: Path, *, overwrite: bool) -> None:
    """Write the results folder; the journal knows it from before it appears."""
    run.journal.append(written_key(folder), "", "", results.created)
    content = results.model_dump(mode="json")
    write_results(folder, content, run.samples, overwrite=overwrite, work=run.journal.folder)


def _run(run: Run, plan: Plan, inputs: Inputs) -> None:
    """Score all likelihoods first, then generate: another program that generates needs the model's memory."""
    profiles = [profile for one, _ in inputs.tasks for profile in one.profiles]
    generates = any(profile.method == "generation" for profile in profiles)
    if generates and run.settings.generation.backend == "vllm":
        _check_plain(run.subject.facts.source)
        import_vllm()  # that it is missing is found before hours of work
    if generates:
        choose_run_template(run)  # likewise that the model has none
    if plan.harness:  # first, so that a name that lm-eval lacks is found before hours of work
        run_harness(run, plan)
    scored: list[ScoredTask] = []
    for one, loaded in inputs.tasks:
        if isinstance(loaded, LoadedQuestions):
            scored += score_question_task(run, one, loaded, inputs.contamination.get(one.task.name))
        else:
            score_text_task(run, one, loaded)
    generator = _build_generator(run) if generates else None
    for done in scored:
        add_cell(run, done, generator)
    run.questions.sort(key=lambda cell: cell.method == "lm-eval")  # this project's own profiles stand first


def _check_plain(source: str) -> None:
    """Check that vLLM, which loads the model by itself, gets one that is whole.

    Raises:
        ModelError: it is an adapter or a GGUF file.
    """
    if find_gguf(source) is not None:
        raise ModelError(
            f"model: {source} is a GGUF file, which --backend vllm is not given here.",
            hint="Generate with --backend hf, or give the hub id or folder that it was made from.",
        )
    if find_adapter(source) is not None:
        raise ModelError(
            f"model: {source} is an adapter, which --backend vllm cannot load.",
            hint="Give its merged folder (train with --merge), or generate with --backend hf.",
        )


def _build_generator(run: Run) -> Generator:
    generation, subject = run.settings.generation, run.subject
    if generation.backend == "vllm":
        subject.model.to("cpu")
        torch.cuda.empty_cache()
        return VllmGenerator(
            subject.facts.source,
            subject.tokenizer,
            context_length=subject.context_length,
            dtype=subject.facts.dtype,
            revision=subject.facts.revision,
        )
    return HuggingFaceGenerator(
        subject.model,
        subject.tokenizer,
        context_length=subject.context_length,
        batch_size=max(
            subject.batch_size, generation.chains if "cot" in run.settings.protocol.profile else 4
        ),
    )


def _identify(
    subject: Subject, inputs: Inputs, settings: EvaluateSettings, versions: dict[str, str]
) -> dict[str, Any]:
    """Return everything the numbers follow from: a start with the same identity continues this one."""
    facts = subject.facts
    asked = settings.model_dump(mode="json", exclude=_UNSEEN)
    asked["compute"] = {"sharing": settings.compute.sharing, "row_tokens": settings.compute.row_tokens}
    return {
        "model": facts.weights_sha256 or facts.source,
        "revision": facts.revision,
        "tokenizer": subject.tokenizer.digest,
        "dtype": facts.dtype,
        "device": facts.device.partition(":")[0],
        "attention": facts.attention,
        "batch_size": subject.batch_size,
        "settings": asked,
        "sources": [[loaded.source.location, loaded.source.sha256] for _, loaded in inputs.tasks],
        "versions": {name: versions[name] for name in ("biomedllama-cli", "torch", "transformers")},
    }


def _measure_precision(run: Run) -> float | None:
    """Return the largest difference of a log-likelihood (nats) to the same questions one by one, also in fp16.

    fp16 is what was published; the model is converted in place, since nothing is scored after this.
    """
    if not run.kept or run.job.rank != 0:
        return None
    error = _score_again(run)
    if run.subject.facts.dtype != "fp16":
        run.subject.model.to(torch.float16)
        error = max(error, _score_again(run))
    logger.info("precision: questions one by one and in fp16 differ by at most %.1e nats", error)
    return error


def _score_again(run: Run) -> float:
    subject = run.subject
    scorer = SharedPrefixScorer(subject.model, context_length=subject.context_length, sharing="off")
    largest = 0.0
    for number, likelihoods in scorer.score([group for group, _ in run.kept]):
        pairs = zip(likelihoods, run.kept[number][1], strict=True)
        largest = max(largest, *(abs(again.value - before.value) for again, before in pairs))
    return largest
