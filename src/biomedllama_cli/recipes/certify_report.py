"""What `biomedllama certify` hands back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.errors import DataError, UserError
from biomedllama_cli.wording import name_count

_NAMED = 16


class EpochReport(BaseModel):
    """One epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epoch: int
    """Counted from 1."""
    sequences: int
    """Sequences that the steps so far should have taken of it (those of a weighted source as often as it says)."""
    whole: bool
    """Whether that is all of the epoch."""
    fed: int
    """Sequences that they were fed."""
    missing: int
    """Different sequences that were fed less often than they should."""
    repeated: int
    """Different sequences that were fed more often."""
    first_missing: tuple[int, ...] = ()
    """Ids of the first of them."""
    first_repeated: tuple[int, ...] = ()
    """Ids of the first of them."""

    def problems(self) -> Iterator[str]:
        """Generate what is wrong with it, one sentence each."""
        for count, ids, what in (
            (self.missing, self.first_missing, "missing"),
            (self.repeated, self.first_repeated, "fed too often"),
        ):
            if count:
                named = name_numbers("sequence", ids, count)
                yield f"Epoch {self.epoch}: {named} {'is' if count == 1 else 'are'} {what}."

    def line(self) -> str:
        """Return what is told of it."""
        part = "" if self.whole else " so far"
        return (
            f"epoch {self.epoch}: {self.fed:,} of {name_count(self.sequences, 'sequence')}{part}, "
            f"{self.missing or 'none'} missing, {self.repeated or 'none'} too often"
        )


class StartReport(BaseModel):
    """One start of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    step: int
    """Steps that were done before."""
    started: str
    """When, in UTC."""
    processes: int
    """Ranks."""


class CertifyReport(BaseModel):
    """What a run was fed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: str = "biomedllama.certify/1"
    """Changes when a reader of this report would have to."""
    verdict: Literal["certified", "certified so far", "not certified"]
    """Whether every sequence was fed exactly once; `so far` where the run is not over."""
    run_folder: Path
    """The run."""
    checkpoint: Path | None
    """Whose weights this is about: the newest one."""
    step: int
    """Its step."""
    total_steps: int
    """Steps of the whole run."""
    global_batch_size: int
    """Sequences per step."""
    epochs: tuple[EpochReport, ...]
    """Every epoch that was begun."""
    starts: tuple[StartReport, ...]
    """Every start of the run."""
    steps_undone: int
    """Steps that were trained and lost, because a later start began at a checkpoint before them."""
    steps_ahead: int
    """Steps after the newest checkpoint; the next start trains them again."""
    updates_left_out: tuple[int, ...]
    """Steps that were fed but did not change the weights: spikes, or overflows of fp16."""
    damaged_bytes: int
    """Bytes of the log that cannot be read."""
    damage_is_of_kills: bool
    """Whether all of them stand where a start ended, as a kill in the middle of a step leaves them."""
    contents: Literal["checked", "not checked"]
    """Whether the checksums of all rows were held against the corpus."""
    contents_note: str
    """The corpus, or why not."""
    problems: tuple[str, ...]
    """What speaks against the run, one sentence each."""

    @property
    def problem(self) -> UserError | None:
        """What ends the command with another code than 0, once the report is printed."""
        if not self.problems:
            return None
        return DataError(
            f"{self.run_folder} is not certified: {self.problems[0]}",
            hint="Resume a checkpoint from before the first step that is named, or train anew.",
        )

    def lines(self) -> list[str]:
        """Return the summary for people."""
        verdict = {
            "certified": "Certified: every sequence was fed exactly once per epoch (or as often as its weight says)."
            if all(epoch.whole for epoch in self.epochs)
            else "Certified: no sequence is missing or was fed too often; the run ended inside its last epoch.",
            "certified so far": "Certified so far: no sequence is missing or was fed too often; the run is not over.",
            "not certified": "Not certified:",
        }[self.verdict]
        return [
            verdict,
            *(f"  - {problem}" for problem in self.problems),
            f"  run: {self.run_folder}, {self.step:,} of {name_count(self.total_steps, 'step')} "
            f"of {name_count(self.global_batch_size, 'sequence')}",
            *(f"  {epoch.line()}" for epoch in self.epochs),
            *(f"  {line}" for line in self._history_lines()),
            f"  contents: {self.contents} ({self.contents_note})",
        ]

    def _history_lines(self) -> Iterator[str]:
        told = ", ".join(
            f"after step {start.step} on {name_count(start.processes, 'rank')}" for start in self.starts
        )
        yield f"starts: {len(self.starts)}, {told}"
        if self.steps_undone:
            yield f"trained again after a kill, or from an earlier checkpoint: {name_count(self.steps_undone, 'step')}"
        if self.steps_ahead:
            ahead = name_count(self.steps_ahead, "step")
            yield f"after the newest checkpoint: {ahead}, which the next start trains again"
        if self.updates_left_out:
            yield f"fed without an update: {name_numbers('step', self.updates_left_out)} (spikes or overflows)"
        if self.damaged_bytes:
            why = (
                "as a kill leaves them"
                if self.damage_is_of_kills
                else "which no kill explains: the file was damaged"
            )
            yield f"the log has {name_count(self.damaged_bytes, 'byte')} that cannot be read, {why}"


def name_numbers(noun: str, numbers: Sequence[int], count: int | None = None) -> str:
    """Return a noun with the first of its numbers, runs of neighbours drawn together.

    >>> name_numbers("step", [3, 4, 5, 9])
    'steps 3-5, 9'
    >>> name_numbers("sequence", range(0, 40, 2))
    'sequences 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, ... (20 in all)'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number, number])
    total = len(numbers) if count is None else count
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_NAMED]]
    more = f", ... ({total:,} in all)" if len(runs) > _NAMED or total > len(numbers) else ""
    return f"{noun}{'' if total == 1 else 's'} {', '.join(shown)}{more}"
