"""What `biomedllama pretrain` hands back."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from biomedllama_cli import __version__
from biomedllama_cli.engine.metrics import iter_metrics
from biomedllama_cli.engine.saved_runs import REPORT_FILE
from biomedllama_cli.evaluation.forgetting import Look
from biomedllama_cli.recipes.forecast_lines import format_plan
from biomedllama_cli.recipes.forecast_report import RunPlan
from biomedllama_cli.report.forgetting_lines import show_forgetting
from biomedllama_cli.wording import name_count


class PretrainReport(BaseModel):
    """The facts of one training run, or with `dry_run` of the run that would be."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    schema_version: str = "biomedllama.pretrain/1"
    """Changes when a reader of this report would have to."""
    status: Literal["trained", "already trained", "would train", "would continue"]
    """What was done; `would ...` for a dry run."""
    run_folder: Path
    """Settings, metrics, loss curve and checkpoints."""
    corpus: Path | None = None
    """Corpus folder; null in a plan of numbers."""
    model: str
    """Model the run started from."""
    checkpoint: Path | None = None
    """Newest checkpoint: a plain transformers folder."""
    loss_curve: Path | None = None
    """Picture of the losses and the learning rate."""
    parameters: int
    """Parameters of the model, tied ones once."""
    steps: int
    """Optimizer steps of the whole run."""
    resumed_step: int | None = None
    """Step of the checkpoint that was continued, if any."""
    sequences: int
    """Training sequences of the corpus."""
    mixture: dict[str, float] = {}
    """Passes over each source in one epoch."""
    sequence_length: int
    """Tokens per sequence."""
    global_batch_size: int
    """Sequences per step over all ranks."""
    micro_batch_size: int
    """Sequences one rank forwards at once."""
    grad_accum_steps: int
    """Micro-batches per rank and step."""
    tokens_seen: int | None = None
    """Target tokens trained on, over all passes."""
    validation_loss_before: float | None = None
    """Mean loss per held-out target token before the first step (in nats)."""
    validation_loss_after: float | None = None
    """The same after the last step."""
    bits_per_byte_before: float | None = None
    """Bits per UTF-8 byte of the held-out text before the first step; EOS is scored, BOS is not."""
    bits_per_byte_after: float | None = None
    """The same after the last step."""
    bits_per_byte_unigram: float | None = None
    """The same for a unigram model of the training tokens."""
    validation_is_sampled: bool = False
    """Whether only a part of the held-out sequences was scored; bits per byte are then estimates."""
    forgetting: Look | None = None
    """General text, general questions and held-out documents by source after the last step, beside the model as it was
    given; None where nothing was looked at."""
    spikes: int = 0
    """Steps whose loss or gradient norm was far above the last ones; see `monitor.spikes` for what was done."""
    tokens_per_second: float | None = None
    """Over all devices, validation and saving not counted; of this start of the run."""
    mfu: float | None = None
    """Share of the devices' peak (a fraction), where the peak is known."""
    mfu_formula: str | None = None
    """How `mfu` is computed, with its numbers."""
    wall_seconds: float | None = None
    """From loading the model to the last checkpoint; of this start of the run."""
    world_size: int
    """Processes."""
    mesh: dict[str, int]
    """Sizes of the mesh axes."""
    device: str
    """Type of device trained on."""
    attention: str
    """Attention implementation."""
    plan: RunPlan | None = None
    """What the run will need; of a dry run."""
    settings: dict[str, Any]
    """All settings of the command."""
    versions: dict[str, str]
    """Versions of this program and of the libraries that touch the result."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        ranks = self.world_size // self.mesh.get("cp", 1)  # with rows of their own
        batch = (
            f"{name_count(self.steps, 'step')} of {name_count(self.global_batch_size, 'sequence')} x "
            f"{name_count(self.sequence_length, 'token')} "
            f"({ranks} x {self.micro_batch_size} x {self.grad_accum_steps} accumulated)"
        )
        folders = (self.corpus or "a corpus to come", *self.settings.get("mix", ()))
        corpora = ", ".join(map(str, folders))
        head = f"{self.model}, {self.parameters:,} parameters, on {corpora}: {batch}"
        if self.status.startswith("would"):
            return self._dry_run_lines(head)
        verb = "Was trained already" if self.status == "already trained" else "Trained"
        lines = [f"{verb}: {head}.", *self._mixture_lines(), *self._validation_lines()]
        lines += [] if self.forgetting is None else show_forgetting(self.forgetting)
        if self.tokens_seen is not None and self.tokens_per_second is not None:
            speed = f"{self.tokens_seen:,} target tokens, {self.tokens_per_second:,.0f} tokens/s"
            lines.append(
                speed + (f", MFU {self.mfu:.3f} ({self.mfu_formula})" if self.mfu is not None else "")
            )
        if self.spikes:
            done = "left out" if self.settings["monitor"]["spikes"] == "skip" else "made"
            lines.append(
                f"Spikes: {name_count(self.spikes, 'step')}, whose updates were {done}; the log names them"
            )
        return [
            *lines,
            f"Loss curve: {self.loss_curve}",
            f"Checkpoint: {self.checkpoint}",
            f"Next: biomedllama evaluate --model {self.checkpoint} --task medqa --shots 3",
        ]

    def _dry_run_lines(self, head: str) -> list[str]:
        tokens = self.steps * self.global_batch_size * self.sequence_length
        lines = [
            f"Would train {head}.",
            f"{name_count(self.sequences, 'training sequence')}; {tokens:,} tokens in all steps, on {self.device} with "
            f"{self.attention} attention.",
            f"Run folder: {self.run_folder}",
        ]
        lines += self._mixture_lines()
        if self.status == "would continue":
            lines.append(f"Would continue {self.checkpoint} after step {self.resumed_step}.")
        if self.plan is not None:
            lines += format_plan(self.plan)
        return [*lines, "Nothing was written."]

    def _mixture_lines(self) -> list[str]:
        if all(weight == 1 for weight in self.mixture.values()):
            return []
        passes = ", ".join(f"{name} x {weight:g}" for name, weight in self.mixture.items())
        return [f"One epoch: {passes}."]

    def _validation_lines(self) -> list[str]:
        if self.bits_per_byte_after is None or self.validation_loss_after is None:
            return ["The corpus holds no documents out, so nothing was validated."]
        line = "Held-out text:"
        if self.bits_per_byte_before is not None:
            line += f" {self.bits_per_byte_before:.3f} ->"
        line += f" {self.bits_per_byte_after:.3f} bits per byte"
        if self.validation_is_sampled:
            line += " (estimated from a part of it)"
        lines = [line + f", loss {self.validation_loss_after:.3f}."]
        if self.bits_per_byte_unigram is not None:
            better = 1 - self.bits_per_byte_after / self.bits_per_byte_unigram
            comparison = f"{abs(better):.0%} {'below' if better >= 0 else 'above'}"
            lines.append(
                f"Unigram model: {self.bits_per_byte_unigram:.3f} bits per byte; this one is {comparison} it."
            )
        return lines


def load_report(run_folder: Path) -> PretrainReport | None:
    """Return the report of a finished run, or None where there is none (any more)."""
    try:
        return PretrainReport.model_validate(
            json.loads((run_folder / REPORT_FILE).read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, ValidationError):
        return None


def read_validations(metrics_file: Path) -> dict[str, float]:
    """Return the first and the last look at the held-out text, under their names in the report."""
    looks = [line for line in iter_metrics(metrics_file) if "validation/loss" in line]
    facts: dict[str, float] = {}
    if looks and looks[0]["step"] == 0:
        facts["validation_loss_before"] = looks[0]["validation/loss"]
        facts["bits_per_byte_before"] = looks[0]["validation/bits_per_byte"]
    if looks:
        facts["validation_loss_after"] = looks[-1]["validation/loss"]
        facts["bits_per_byte_after"] = looks[-1]["validation/bits_per_byte"]
    return facts


def read_spikes(metrics_file: Path) -> int:
    """Return how many spikes were found in a whole run."""
    return max((int(line.get("spikes/found") or 0) for line in iter_metrics(metrics_file)), default=0)


def read_versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the libraries that touch the result."""
    versions = {"biomedllama-cli": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "accelerate", "safetensors", "numpy", "xformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
