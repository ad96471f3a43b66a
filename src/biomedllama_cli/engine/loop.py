"""The training loop: `Loop.run` -> `train_step`, nothing between them."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from biomedllama_cli.engine.checkpoint import RunFolder, Saver, restore_random_states, restore_scaler
from biomedllama_cli.engine.checkpoint_folder import Best, Progress
from biomedllama_cli.engine.compute_clock import ComputeClock
from biomedllama_cli.engine.finite import FiniteCheck
from biomedllama_cli.engine.loader import TrainingData, iter_micro_batches
from biomedllama_cli.engine.loop_parts import LoopSettings, ProgressReporter, Tally, Trainee
from biomedllama_cli.engine.metrics import MetricsWriter
from biomedllama_cli.engine.onlookers import NOBODY, Onlookers, StepFacts
from biomedllama_cli.engine.optimizer import set_learning_rate
from biomedllama_cli.engine.rows import Batch
from biomedllama_cli.engine.schedule import learning_rate_at, warmup_length
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.engine.step import StepFrame, train_step
from biomedllama_cli.errors import Resumable
from biomedllama_cli.models.flops import model_flops_utilization

__all__ = ["Loop", "LoopSettings", "ProgressReporter", "Tally", "Trainee"]

logger = logging.getLogger(__name__)


class Loop:
    """Train from the first or the resumed step to the last.

    Args:
        trainee: model and optimizer on their devices.
        data: rows and their order.
        run_folder: where to write; only rank 0 does.
        settings: the sections the loop reads.
        progress: told after every step.
        onlookers: look at the run.
    """

    def __init__(
        self,
        trainee: Trainee,
        data: TrainingData,
        run_folder: RunFolder,
        settings: LoopSettings,
        progress: ProgressReporter,
        *,
        onlookers: Onlookers = NOBODY,
    ) -> None:
        self._accelerator, self._model = trainee.accelerator, trainee.model
        self._optimizer, self._data, self._run = trainee.optimizer, data, run_folder
        self._settings, self._progress, self._onlookers = settings, progress, onlookers
        self._saver = Saver(run_folder, trainee.accelerator, settings.checkpoint)
        self._finite = FiniteCheck(
            data,
            run_folder.folder,
            is_scaled=trainee.accelerator.scaler is not None,
            finish_saving=lambda: self._tell_saved(self._saver.finish()),
        )
        self._warmup_steps = warmup_length(data.total_steps, settings.schedule)
        # Nobody is slower than the others where there are none.
        several = trainee.accelerator.num_processes > 1
        self._clock = ComputeClock(self._model, trainee.accelerator.device) if several else None
        gate, start = onlookers.gate, run_folder.progress
        self._frame = StepFrame(
            max_grad_norm=settings.optimizer.max_grad_norm,
            rows_at_once=data.most_rows,
            data_rank=settings.data_rank,
            data_ranks=settings.data_ranks,
            accept=None if gate is None else gate.accept,
        )
        if gate is not None and start is not None and start.gate is not None:
            gate.load(start.gate)
        self._tally = Tally(
            step=start.step if start else 0,
            tokens_seen=start.tokens_seen if start else 0,
            checkpoint=run_folder.resumed_from,
            best=(start.best if start else None) or Best(),
        )

    def run(self) -> Tally:
        """Train to the last step.

        Raises:
            Resumable: a signal came; the step was finished and saved.
            ModelError: a loss is not finite.
        """
        folder = self._run.folder if self._accelerator.is_main_process else None
        done = self._run.progress
        self._metrics = MetricsWriter(
            folder, done.step if done else -1, looks_again=done is not None and done.stopped_before_look
        )
        with StopRequest() as stop, self._metrics, ExitStack() as at_end:
            for watcher in self._onlookers.watchers:
                at_end.callback(watcher.close)
            for sink in self._onlookers.sinks:
                at_end.callback(sink.close)
            return self._run_steps(stop)

    def _run_steps(self, stop: StopRequest) -> Tally:
        tally, total = self._tally, self._data.total_steps
        batches = self._open_batches()
        if self._run.resumed_from is not None and self._run.progress is not None:
            logger.info("goes on after step %d of %d, from %s", tally.step, total, self._run.resumed_from)
            restore_random_states(self._run.resumed_from, self._accelerator)
            restore_scaler(self._run.resumed_from, self._accelerator, self._run.progress.grad_scaler)
            if self._run.progress.stopped_before_look:
                self._look(is_last=False)
        else:
            self._look(is_last=total == 0)
        if self._is_spent():
            return tally
        self._model.train()
        self._progress.start_at(tally.step)
        for watcher in self._onlookers.watchers:
            watcher.begin(tally.step)
        tally.clock = time.perf_counter()
        for step in range(tally.step + 1, total + 1):
            self._account(step, self._train(step, batches, stop))
            if tally.stop_seen or step == total:
                # Ends the loader processes, so that none dies by a signal while this one saves.
                batches = iter(())
            self._look_and_save(step)
            if self._is_spent():
                logger.info(
                    "no better held-out loss in %d looks: ended after step %d", tally.best.looks_since, step
                )
                break
            if self._stops_early():
                raise self._build_resumable(step)
        return tally

    def _open_batches(self) -> Iterator[Batch]:
        return iter_micro_batches(
            self._data,
            self._accelerator,
            self._tally.step + 1,
            rank=self._frame.data_rank,
            data_workers=self._settings.data_workers,
        )

    def _train(self, step: int, batches: Iterator[Batch], stop: StopRequest) -> StepFacts:
        count = len(self._data.micro_batches(step, self._frame.data_rank))
        set_learning_rate(self._optimizer, self._learning_rate(step))
        began = time.perf_counter()
        micro_batches = list(itertools.islice(batches, count))
        waited = time.perf_counter() - began
        computed = self._clock.read() if self._clock is not None else 0.0
        return train_step(
            self._accelerator,
            self._model,
            self._optimizer,
            micro_batches,
            self._frame,
            stop_requested=stop.requested,
            seconds=(waited, computed),
        )

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(
            step,
            total_steps=self._data.total_steps,
            warmup_steps=self._warmup_steps,
            peak_learning_rate=self._settings.optimizer.peak_learning_rate,
            final_fraction=self._settings.schedule.final_learning_rate_fraction,
        )

    def _account(self, step: int, measured: StepFacts) -> None:
        """Write a step's numbers and check them."""
        tally, now = self._tally, time.perf_counter()
        seconds, tally.clock = now - tally.clock, now
        self._finite.check(measured, step, self._learning_rate(step))
        tally.step, tally.stop_seen = step, bool(measured.ranks_asked_to_stop)
        tally.tokens_seen += measured.target_tokens
        tally.train_seconds += seconds
        processed = self._data.step_tokens(step)
        tally.trained_tokens += processed
        speed = processed / seconds
        line: dict[str, Any] = {
            "step": step,
            "train/loss": measured.loss,
            "train/learning_rate": self._learning_rate(step),
            "train/grad_norm": measured.grad_norm,  # infinite in fp16 where the loss scaling skipped the update
            "train/tokens_per_second": speed,
            "tokens_seen": tally.tokens_seen,
        }
        note = f"loss {measured.loss:.3f}  {speed:,.0f} tokens/s"
        if (mfu := self.mfu(speed)) is not None:
            line["mfu"] = mfu
            note += f"  MFU {mfu:.3f}"
        facts = replace(measured, step=step, seconds=seconds)
        for watcher in self._onlookers.watchers:
            line |= watcher.note(facts)
        self._write(line)
        self._progress.advance(1, note)
        if step % self._settings.monitor.log_every_steps == 0:
            logger.info("step %d: %s", step, note)

    def _write(self, line: dict[str, Any]) -> None:
        self._metrics.write(line)
        if self._accelerator.is_main_process:
            for sink in self._onlookers.sinks:
                sink.write(line)

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

    def _look_and_save(self, step: int) -> None:
        """Measure and save where this step asks for it; the time does not count as training."""
        self._tell_saved(self._saver.poll())
        is_last = step == self._data.total_steps
        if not self._stops_early():  # a stopped job may be killed soon: the resumed run looks
            self._look(is_last=is_last)
        best = self._settings.keep_best and self._tally.best.step == step
        due = step % self._settings.checkpoint.save_every_steps == 0
        if is_last or best or due or self._tally.stop_seen or self._is_spent():
            self._save()
        if is_last or self._tally.stop_seen or self._is_spent():
            self._tell_saved(self._saver.finish())
        self._tally.clock = time.perf_counter()

    def _look(self, *, is_last: bool) -> None:
        """Ask the validator and the meters, where the step they are at is theirs."""
        step, accelerator = self._tally.step, self._accelerator
        if is_last or step % self._settings.monitor.validate_every_steps == 0:
            self._validate()
        line: dict[str, Any] = {}
        for meter in self._onlookers.meters:
            if meter.is_due(step, is_last=is_last):
                line |= meter.measure(accelerator, self._model, step)
        if line:
            self._write({"step": step, **line})

    def _stops_early(self) -> bool:
        return self._tally.stop_seen and self._tally.step < self._data.total_steps

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
        self._write(line)
        if self._accelerator.is_main_process:
            logger.info("step %d: %s", step, note)

    def _save(self) -> None:
        scaler, gate = self._accelerator.scaler, self._onlookers.gate
        for watcher in self._onlookers.watchers:
            watcher.flush()
        progress = Progress(
            step=self._tally.step,
            tokens_seen=self._tally.tokens_seen,
            order=self._run.order,
            grad_scaler=scaler.state_dict() if scaler is not None else {},
            best=self._tally.best if self._settings.keep_best else None,
            gate=gate.save() if gate is not None else None,
            stopped_before_look=self._stops_early(),
        )
        self._tell_saved(self._saver.save(self._model, self._optimizer, progress))

    def _tell_saved(self, numbers: dict[str, Any]) -> None:
        self._tally.checkpoint = self._saver.newest
        if numbers:
            self._write({"step": self._tally.step, **numbers})

    def _build_resumable(self, step: int) -> Resumable:
        return Resumable(
            f"Stopped by a signal after step {step} of {self._data.total_steps}; saved {self._tally.checkpoint}.",
            hint=(
                "Continue with --resume auto and without --overwrite; the same command would not go on from there."
                if self._run.same_command_restarts
                else "The same command continues from there."
            ),
        )
