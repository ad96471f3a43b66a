"""The training loop: `Loop.run` -> `train_step`, nothing between them."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from biomedllama_cli.engine.checkpoint import (
    Progress,
    RunFolder,
    remove_old_checkpoints,
    restore_random_states,
    save_checkpoint,
)
from biomedllama_cli.engine.loader import TrainingData, iter_micro_batches
from biomedllama_cli.engine.loop_parts import Best, LoopSettings, ProgressReporter, Tally, Trainee
from biomedllama_cli.engine.metrics import MetricsWriter
from biomedllama_cli.engine.optimizer import set_learning_rate
from biomedllama_cli.engine.rows import Batch
from biomedllama_cli.engine.schedule import learning_rate_at, warmup_length
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.engine.step import StepTensors, train_step
from biomedllama_cli.errors import ModelError, Resumable
from biomedllama_cli.models.flops import model_flops_utilization

__all__ = ["Loop", "LoopSettings", "ProgressReporter", "Tally", "Trainee"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pending:
    """A step whose numbers are still on the device."""

    step: int
    learning_rate: float
    processed_tokens: int
    tensors: StepTensors


class Loop:
    """Train from the first or the resumed step to the last.

    Args:
        trainee: model and optimizer on their devices.
        data: rows and their order.
        run_folder: where to write; only rank 0 does.
        settings: the sections the loop reads.
        progress: told after every step.
    """

    def __init__(
        self,
        trainee: Trainee,
        data: TrainingData,
        run_folder: RunFolder,
        settings: LoopSettings,
        progress: ProgressReporter,
    ) -> None:
        self._accelerator, self._model = trainee.accelerator, trainee.model
        self._optimizer, self._data, self._run = trainee.optimizer, data, run_folder
        self._settings, self._progress = settings, progress
        self._warmup_steps = warmup_length(data.total_steps, settings.schedule)
        start = run_folder.progress
        self._tally = Tally(
            step=start.step if start else 0,
            tokens_seen=start.tokens_seen if start else 0,
            checkpoint=run_folder.resumed_from,
            best=Best(**start.best) if start else Best(),
        )

    def run(self) -> Tally:
        """Train to the last step.

        Raises:
            Resumable: a signal came; the step was finished and saved.
            ModelError: a loss is not finite.
        """
        folder = self._run.folder if self._accelerator.is_main_process else None
        start = self._run.progress.step if self._run.progress else -1
        with StopRequest() as stop, MetricsWriter(folder, start) as self._metrics:
            return self._run_steps(stop)

    def _run_steps(self, stop: StopRequest) -> Tally:
        tally, total = self._tally, self._data.total_steps
        batches = iter_micro_batches(
            self._data, self._accelerator, tally.step + 1, data_workers=self._settings.data_workers
        )
        if self._run.resumed_from is not None and self._run.progress is not None:
            restore_random_states(self._run.resumed_from, self._accelerator)
            if self._accelerator.scaler is not None and self._run.progress.grad_scaler:
                self._accelerator.scaler.load_state_dict(self._run.progress.grad_scaler)
        else:
            self._validate()
        if self._is_spent():
            return tally
        self._model.train()
        self._progress.start_at(tally.step)
        pending: _Pending | None = None
        tally.clock = time.perf_counter()
        for step in range(tally.step + 1, total + 1):
            current = self._train(step, batches, stop)
            self._account(pending)
            pending = current
            due = self._is_due(step)
            # On CUDA a step's numbers are read while the next one runs, so that the device never waits for
            # Python; elsewhere, or when they are needed, at once.
            if self._accelerator.device.type != "cuda" or due or tally.stop_seen:
                self._account(pending)
                pending = None
            if tally.stop_seen or step == total:
                batches = iter(
                    ()
                )  # ends the loader processes, so that none dies by a signal while this one saves
            if due or tally.stop_seen:
                self._look_and_save(step)
            if self._is_spent():
                logger.info(
                    "no better held-out loss in %d looks: ended after step %d", tally.best.looks_since, step
                )
                break
            if tally.stop_seen and step < total:
                raise self._build_resumable(step)
        return tally

    def _train(self, step: int, batches: Iterator[Batch], stop: StopRequest) -> _Pending:
        rate = self._learning_rate(step)
        count = len(self._data.micro_batches(step, self._accelerator.process_index))
        set_learning_rate(self._optimizer, rate)
        tensors = train_step(
            self._accelerator,
            self._model,
            self._optimizer,
            list(itertools.islice(batches, count)),
            max_grad_norm=self._settings.optimizer.max_grad_norm,
            stop_requested=stop.requested,
        )
        return _Pending(step, rate, self._data.step_tokens(step), tensors)

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(
            step,
            total_steps=self._data.total_steps,
            warmup_steps=self._warmup_steps,
            peak_learning_rate=self._settings.optimizer.peak_learning_rate,
            final_fraction=self._settings.schedule.final_learning_rate_fraction,
        )

    def _account(self, pending: _Pending | None) -> None:
        """Read a step's numbers (waits for the device), write them and check them."""
        if pending is None:
            return
        losses = pending.tensors.losses.tolist()
        target_tokens = int(pending.tensors.target_tokens)
        loss, grad_norm = math.fsum(losses) / max(target_tokens, 1), float(pending.tensors.grad_norm)
        self._check_finite(pending.step, losses, grad_norm)
        tally, now = self._tally, time.perf_counter()
        seconds, tally.clock = now - tally.clock, now
        tally.step, tally.stop_seen = pending.step, bool(pending.tensors.ranks_asked_to_stop)
        tally.tokens_seen += target_tokens
        tally.train_seconds += seconds
        tally.trained_tokens += pending.processed_tokens
        speed = pending.processed_tokens / seconds
        line: dict[str, Any] = {
            "step": pending.step,
            "train/loss": loss,
            "train/learning_rate": pending.learning_rate,
            "train/grad_norm": grad_norm,  # infinite in fp16 where the loss scaling skipped the update
            "train/tokens_per_second": speed,
            "tokens_seen": tally.tokens_seen,
        }
        note = f"loss {loss:.3f}  {speed:,.0f} tokens/s"
        if (mfu := self.mfu(speed)) is not None:
            line["mfu"] = mfu
            note += f"  MFU {mfu:.3f}"
        self._metrics.write(line)
        self._progress.advance(1, note)
        if pending.step % self._settings.monitor.log_every_steps == 0:
            logger.info("step %d: %s", pending.step, note)

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return the share of the devices' peak (a fraction), or None where the peak is not known."""
        if self._settings.peak_flops is None:
            return None
        return model_flops_utilization(
            tokens_per_second,
            self._settings.flops_per_token,
            self._settings.peak_flops,
            devices=self._accelerator.num_processes,
        )

    def _check_finite(self, step: int, losses: list[float], grad_norm: float) -> None:
        broken = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        # In fp16 an infinite gradient is ordinary: the loss scaling skips that update and lowers its factor.
        if not broken and (math.isfinite(grad_norm) or self._accelerator.scaler is not None):
            return
        what = "loss" if broken else "gradient"
        rows = self._data.name_rows(step, broken or list(range(len(losses))))
        raise ModelError(
            f"The {what} of step {step} is not finite (learning rate {self._learning_rate(step):.3g}, "
            f"{rows}).",
            hint="The last checkpoint is from before. Lower --peak-learning-rate, lengthen the warm-up, or use "
            "--precision bf16 or fp32.",
        )

    def _is_due(self, step: int) -> bool:
        monitor, checkpoint = self._settings.monitor, self._settings.checkpoint
        return (
            step == self._data.total_steps
            or step % monitor.validate_every_steps == 0
            or step % checkpoint.save_every_steps == 0
        )

    def _look_and_save(self, step: int) -> None:
        """Validate and save where this step asks for it; the time does not count as training."""
        last = step == self._data.total_steps
        if last or step % self._settings.monitor.validate_every_steps == 0:
            self._validate()
        best = self._settings.keep_best and self._tally.best.step == step
        due = step % self._settings.checkpoint.save_every_steps == 0
        if last or best or due or self._tally.stop_seen or self._is_spent():
            self._save()
        self._tally.clock = time.perf_counter()

    def _is_spent(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self._tally.best.looks_since >= patience

    def _validate(self) -> None:
        if self._data.validator is None:
            return
        result, step = self._data.validator.run(self._accelerator, self._model), self._tally.step
        line, note = {"step": step, "validation/loss": result.loss}, f"validation loss {result.loss:.4f}"
        if result.bits_per_byte is not None:
            line["validation/bits_per_byte"] = result.bits_per_byte
            note += f", {result.bits_per_byte:.4f} bits per byte"
        if step > 0:  # the model as it was given is no checkpoint to keep
            self._tally.best = self._tally.best.after(step, result.loss)
        self._metrics.write(line)
        if self._accelerator.is_main_process:
            logger.info("step %d: %s", step, note)

    def _save(self) -> None:
        scaler = self._accelerator.scaler
        progress = Progress(
            step=self._tally.step,
            tokens_seen=self._tally.tokens_seen,
            order=self._run.order,
            grad_scaler=scaler.state_dict() if scaler is not None else {},
            best=asdict(self._tally.best) if self._settings.keep_best else {},
        )
        self._tally.checkpoint = save_checkpoint(
            self._run, self._accelerator, self._model, self._optimizer, progress
        )
        if self._accelerator.is_main_process:
            best_step = self._tally.best.step if self._settings.keep_best else None
            remove_old_checkpoints(self._run.folder, self._settings.checkpoint.keep_checkpoints, best_step)

    def _build_resumable(self, step: int) -> Resumable:
        return Resumable(
            f"Stopped by a signal after step {step} of {self._data.total_steps}; saved {self._tally.checkpoint}.",
            hint=(
                "Continue with --resume auto and without --overwrite; the same command would not go on from there."
                if self._run.same_command_restarts
                else "The same command continues from there."
            ),
        )
