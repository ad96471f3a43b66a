"""What tuning a model hands back: its data, one run per seed, and the scores before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from biomedllama_cli.engine.saved_runs import REPORT_FILE
from biomedllama_cli.instructions.counts import list_counts
from biomedllama_cli.settings.evaluate import ProtocolSettings
from biomedllama_cli.wording import name_count

NOT_SEARCHED = "Benchmark questions were not looked for among the examples."


class Frozen(BaseModel):
    """A piece of a report."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class TuningFacts(Frozen):
    """What is trained on; known before any weight is loaded."""

    examples: int
    """Examples there are to train on: `finetune` takes all of them, `instruct` draws rows of them."""
    held_out: int
    """Examples held out to choose the best checkpoint."""
    tokens: int
    """Tokens of `examples`, each counted once, whether it is drawn or not."""
    target_tokens: int
    """Those of them that carry loss."""
    refused: dict[str, int] = {}
    """Examples, held-out ones among them, that are left out because they do not fit, by reason."""
    cut: int = 0
    """Examples whose abstract lost its left end."""
    defective: dict[str, int] = {}
    """Questions with defects, by kind."""
    dropped_defective: int = 0
    """Of them left out."""
    contaminated: dict[str, int] = {}
    """Examples that hold items of a benchmark, by benchmark."""
    dropped_contaminated: int = 0
    """Of them left out."""
    not_looked_for: tuple[str, ...] = ()
    """Benchmarks that were not to be had, or not wholly, and so were not looked for."""
    template: str
    """How the examples are written: plain text or the model's chat template."""


class SeedRun(Frozen):
    """One training run."""

    seed: int
    """Of the order of the examples, and of the adapters."""
    status: Literal[
        "trained", "already trained", "already trained, merged now", "would train", "would continue"
    ]
    """What was done; `would ...` for a dry run."""
    run_folder: Path
    """Settings, metrics, loss curve and checkpoints."""
    checkpoint: Path | None = None
    """The best checkpoint where examples are held out, else the last: a model folder, or an adapter's."""
    merged: Path | None = None
    """A plain transformers folder with the adapters merged in."""
    steps: int
    """Optimizer steps of the whole run."""
    real_share: float | None = None
    """Part of the computed positions that are tokens of examples, the rest being padding (a fraction; of 20 steps)."""
    steps_done: int | None = None
    """Steps that were taken; fewer where it ended early."""
    resumed_step: int | None = None
    """Step of the checkpoint that was continued, if any."""
    best_step: int | None = None
    """Step of the lowest held-out loss."""
    validation_loss_before: float | None = None
    """Mean loss per held-out target token before the first step (in nats)."""
    validation_loss_best: float | None = None
    """The lowest after a step."""
    loss_first: float | None = None
    """Mean training loss over the first tenth of the steps, at least one (in nats per target token); null where there
    is one step only."""
    loss_last: float | None = None
    """The same over the last tenth."""
    parameters: int | None = None
    """Parameters of the model, tied ones once, adapters included."""
    trainable_parameters: int | None = None
    """Those that were trained."""
    target_tokens_seen: int | None = None
    """Target tokens trained on, over all passes."""
    tokens_per_second: float | None = None
    """Tokens of examples per second over all devices, padding not counted; of this start of the run."""
    wall_seconds: float | None = None
    """From loading the model to the last checkpoint; of this start of the run."""
    loss_curve: Path | None = None
    """Picture of the losses and the learning rate."""

    def line(self) -> str:
        """Return the run in one line for people."""
        if self.status.startswith("would"):
            after = f" after step {self.resumed_step}" if self.resumed_step else ""
            line = f"Seed {self.seed}: {self.status}{after}, {name_count(self.steps, 'step')}"
            if self.real_share is not None:
                line += f" ({self.real_share:.1%} of the positions are tokens of examples)"
            return f"{line}, in {self.run_folder}."
        again = self.status == "trained" and self.resumed_step is not None
        after = f" (continued after step {self.resumed_step:,})" if again else ""
        line = (
            f"Seed {self.seed}: {self.status}{after}, {self.steps_done:,} of {name_count(self.steps, 'step')}"
        )
        if self.loss_first is not None and self.loss_last is not None:
            line += f", loss {self.loss_first:.3f} -> {self.loss_last:.3f}"
            line += " (means of the first and last tenth of the steps)"
        if self.validation_loss_before is not None and self.validation_loss_best is not None:
            line += (
                f", held-out loss {self.validation_loss_before:.3f} -> {self.validation_loss_best:.3f} "
                f"(step {self.best_step})"
            )
        if self.tokens_per_second is not None:
            line += f", {self.tokens_per_second:,.0f} tokens/s"
        return line + f". Checkpoint: {self.merged or self.checkpoint}"


class TuningReport(Frozen):
    """What `finetune` and `instruct` have in common."""

    dry_run: bool = False
    """Whether nothing was done."""
    model: str
    """Model the runs started from."""
    method: str
    """Which weights were trained."""
    parameters: int | None = None
    """Parameters of the model, tied ones once, adapters included."""
    trainable_parameters: int | None = None
    """Those that were trained."""
    data: TuningFacts
    """What was trained on."""
    sequence_length: int
    """Longest example, and longest packed row (in tokens)."""
    global_batch_size: int
    """Examples per step over all ranks."""
    epochs: float
    """Passes over the examples."""
    runs: tuple[SeedRun, ...]
    """One per seed."""
    world_size: int
    """Processes."""
    device: str
    """Type of device trained on."""
    settings: dict[str, Any]
    """All settings of the command."""
    versions: dict[str, str]
    """Versions of this program and of the libraries that touch the result."""

    def describe_method(self) -> str:
        """Return how it was tuned, and how many weights where that is known."""
        if self.parameters is None:
            return f"method {self.method}"
        return f"method {self.method} ({self.trainable_parameters:,} of {self.parameters:,} weights)"

    def scoring_command(self, profile: str) -> list[str]:
        """Return the beginning of a command that scores the tuned model under a profile, its rows read whole."""
        model = self.runs[0].merged or self.runs[0].checkpoint
        command = ["biomedllama", "evaluate", "--model", str(model), "--profile", profile]
        if self.sequence_length > ProtocolSettings().context_length:
            command += ["--context-length", str(self.sequence_length)]
        return command

    def data_lines(self) -> list[str]:
        """Return what was trained on, for people."""
        data = self.data
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs:g} epochs"
        if most := self.settings["duration"]["max_steps"]:
            epochs += f", but at most {name_count(most, 'step')},"
        steps = f"{epochs} in steps of {name_count(self.global_batch_size, 'example')}"
        lines = [f"{self._name_data()}, {data.held_out:,} held out, template {data.template}; {steps}."]
        if data.refused:
            lines.append(f"Left out at {self.sequence_length:,} tokens a row: {list_counts(data.refused)}.")
        if data.cut:
            lines.append(
                f"{name_count(data.cut, 'abstract')} lost {'its' if data.cut == 1 else 'their'} left end."
            )
        if data.defective:
            out = data.dropped_defective
            fate = f"{name_count(out, 'question')} left out" if out else "kept"
            lines.append(f"Defects: {list_counts(data.defective)}; {fate}.")
        if data.contaminated:
            out = data.dropped_contaminated
            fate = f"{name_count(out, 'example')} left out" if out else "kept"
            lines.append(f"Benchmark items among the examples: {list_counts(data.contaminated)}; {fate}.")
        if self.settings["decontamination"]["decontaminate"] == "off":
            lines.append(NOT_SEARCHED)
        if data.not_looked_for:
            names = ", ".join(data.not_looked_for)
            lines.append(f"Not looked for among the examples, or in part: {names}.")
        return lines

    def _name_data(self) -> str:
        """Return how much is learnt."""
        data = self.data
        share = data.target_tokens / data.tokens if data.tokens else 0.0
        return f"{name_count(data.examples, 'example')} ({data.tokens:,} tokens, {share:.1%} of them targets)"


def load_seed_run(run_folder: Path) -> SeedRun | None:
    """Return the report of a finished run, or None where there is none (any more)."""
    try:
        return SeedRun.model_validate(json.loads((run_folder / REPORT_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None
