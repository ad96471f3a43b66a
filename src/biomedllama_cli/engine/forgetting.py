"""What a run forgets: general text, general questions and held-out documents beside the model as it was given.

RUN/forgetting.json holds the log-likelihoods of the model as it was given, and every look since: a resumed run goes on
holding itself against the same model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field, ValidationError

from biomedllama_cli.corpus.durable import write_atomically
from biomedllama_cli.engine.probe_rows import ProbeRows
from biomedllama_cli.engine.saved_runs import read_step
from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.evaluation.forgetting import (
    Look,
    Nats,
    compare_tasks,
    compare_texts,
    describe_positions,
)
from biomedllama_cli.evaluation.likelihoods import hash_group
from biomedllama_cli.evaluation.probes import Probe, QuestionProbe, TextProbe

logger = logging.getLogger(__name__)

FORGETTING_FILE = "forgetting.json"
_SCHEMA = "biomedllama.forgetting/1"


class _Given(Frozen):
    """What the model as it was given makes of one probe: of which tokens, and in nats, by sequence."""

    sequences: str
    nats: tuple[float, ...]


class _Record(Frozen):
    schema_version: str = _SCHEMA
    given: dict[str, _Given] = Field(default_factory=dict)
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """When to look: before the first step, after the last, and every so many (None for no others)."""

    every_steps: int | None = None

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Say whether to look after this step.

        >>> [step for step in range(8) if Schedule(3).is_due(step, is_last=step == 7)]
        [0, 3, 6, 7]
        """
        return is_last or step == 0 or (self.every_steps is not None and step % self.every_steps == 0)

    def count(self, total_steps: int) -> int:
        """Return how many looks a run takes.

        >>> Schedule(3).count(7), Schedule(3).count(6), Schedule().count(7)
        (4, 3, 2)
        """
        return 1 + -(-total_steps // (self.every_steps or max(total_steps, 1)))


class ForgettingMeter:
    """Look at a model in training with probes (an `engine.onlookers.Meter`).

    Args:
        probes: at least one.
        schedule: when to look.
        folder: of the run; rank 0 writes there.
        resumed_from: checkpoint that is continued, or None; what the model as it was given made of the probes stands in
            the folder of its run.
        eos_id: stands in padding.
        sequence_length: of a row (in tokens).
        rows_at_once: rows that one rank forwards at once.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        schedule: Schedule,
        folder: Path,
        *,
        resumed_from: Path | None,
        eos_id: int,
        sequence_length: int,
        rows_at_once: int,
    ) -> None:
        self.schedule, self._probes, self._folder = schedule, probes, folder
        ends = np.cumsum([len(probe.sequences) for probe in probes]).tolist()
        self._parts = [
            slice(end - len(probe.sequences), end) for end, probe in zip(ends, probes, strict=True)
        ]
        held_out = any(_kind(probe) == "validation" for probe in probes)
        shown = "validation" if held_out else "general"
        self._rows = ProbeRows(
            [sequence for probe in probes for sequence in probe.sequences],
            [
                number
                for probe, part in zip(probes, self._parts, strict=True)
                if _kind(probe) == shown
                for number in range(part.start, part.stop)
            ],
            eos_id=eos_id,
            sequence_length=sequence_length,
            rows_at_once=rows_at_once,
        )
        self._resumed_from = resumed_from
        self._given: Nats | None = None
        self._kept: dict[str, _Given] = {}  # of probes that this start does not look with
        self._looks: list[Look] = []

    @property
    def positions(self) -> int:
        """Return the tokens that a look forwards, padding included."""
        return self._rows.positions

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Say whether to look after this step; 0 is before the first."""
        return self.schedule.is_due(step, is_last=is_last)

    def measure(self, accelerator: Accelerator, model: torch.nn.Module, step: int) -> Mapping[str, float]:
        """Look at the model and return the numbers for metrics.jsonl; every rank calls it, and all get the same."""
        nats, by_bin = self._rows.score(accelerator, model)
        if step == 0:
            self._given = nats
        elif self._given is None:
            self._given = self._recall(accelerator, step)
        look = self._compare(nats, by_bin, step)
        self._looks = [*(one for one in self._looks if one.step < step), look]
        if accelerator.is_main_process:
            self._write()
            logger.info("step %d: %s", step, tell_briefly(look))
        return look.metrics()

    def _compare(self, nats: Nats, by_bin: Nats, step: int) -> Look:
        texts, answers = [], []
        for probe, part in zip(self._probes, self._parts, strict=True):
            given = self._find_given(part)
            if isinstance(probe, TextProbe):
                texts.append(compare_texts(probe, given, nats[part]))
            else:
                answers.append(compare_tasks(probe, given, nats[part]))
        positions = describe_positions(by_bin.tolist(), self._rows.position_tokens.tolist())
        return Look(step=step, texts=tuple(texts), answers=tuple(answers), positions=positions)

    def _find_given(self, part: slice) -> Nats | None:
        """Return what the model as it was given made of some sequences, or None where that is not known."""
        if self._given is None or not np.isfinite(self._given[part]).all():
            return None
        return self._given[part]

    def _recall(self, accelerator: Accelerator, step: int) -> Nats:
        """Return what the model as it was given made of every sequence, NaN where that is not known.

        Rank 0 reads it, for a node may not see the run folder.
        """
        known = np.full(len(self._rows), np.nan)
        if accelerator.is_main_process and self._resumed_from is not None:
            record = read_record(self._resumed_from.resolve().parent.parent)
            done = read_step(self._resumed_from)
            self._looks = [look for look in record.looks if look.step <= done]
            self._kept = record.given
            for probe, part in zip(self._probes, self._parts, strict=True):
                given = record.given.get(name_probe(probe))
                same = given is not None and given.sequences == hash_group(probe.sequences)
                if given is not None and same and len(given.nats) == len(probe.sequences):
                    known[part] = given.nats
                else:
                    logger.warning(
                        "general: %s was not looked at before the first step with this text and sequence length, so no "
                        "change is told",
                        name_probe(probe),
                    )
        if accelerator.num_processes > 1:
            shared = torch.from_numpy(known).to(accelerator.device)
            torch.distributed.broadcast(shared, src=0)
            known = shared.cpu().numpy()
        return known

    def _write(self) -> None:
        given = dict(self._kept)
        for probe, part in zip(self._probes, self._parts, strict=True):
            if (nats := self._find_given(part)) is not None:
                given[name_probe(probe)] = _Given(
                    sequences=hash_group(probe.sequences), nats=tuple(nats.tolist())
                )
        record = _Record(given=given, looks=tuple(self._looks))
        write_atomically(self._folder / FORGETTING_FILE, record.model_dump_json() + "\n")


def read_record(run_folder: Path) -> _Record:
    """Return what a run has written of its looks; an empty record where there is none that can be read."""
    try:
        content: Any = json.loads((run_folder / FORGETTING_FILE).read_text(encoding="utf-8"))
        return _Record.model_validate(content)
    except (OSError, ValueError, ValidationError):
        return _Record()


def read_last_look(run_folder: Path) -> Look | None:
    """Return the last look of a run, or None without any."""
    looks = read_record(run_folder).looks
    return looks[-1] if looks else None


def name_probe(probe: Probe) -> str:
    """Return the name by which a probe's numbers are kept: a set and a source may have the same."""
    return f"{_kind(probe)}/{probe.name}"


def tell_briefly(look: Look) -> str:
    """Return a look as the log tells it: bits per byte and accuracies with their change.

    >>> tell_briefly(Look(step=0, texts=(), answers=(), positions=()))
    'nothing looked at'
    """
    parts = [
        f"{text.name} {text.bits_per_byte:.4f}" + (f" ({text.delta:+.4f})" if text.delta is not None else "")
        for text in look.texts
    ]
    told = [", ".join(parts) + " bits per byte"] if parts else []
    told += [
        f"{task.name} {task.accuracy:.1%}"
        + (f" ({100 * task.delta:+.1f} points)" if task.delta is not None else "")
        for task in look.answers
    ]
    return ", ".join(told) or "nothing looked at"


def _kind(probe: Probe) -> str:
    return "questions" if isinstance(probe, QuestionProbe) else probe.kind
