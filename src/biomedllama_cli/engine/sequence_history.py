"""What a run was fed in the end: starts that went back to a checkpoint undo what came after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from biomedllama_cli.engine.sequence_frames import Damage, FedStep, Start


@dataclass
class SequenceHistory:
    """The steps that made the weights, and what became of the others.

    Attributes:
        starts: of the run, in order.
        steps: by number, each as the last start that trained it was fed.
        undone: steps that were trained and then lost, since a later start began before them.
        damages: bytes of the log that are no frame.
        torn: how many of them a killed start explains: nothing follows them but the next start, or the end.
        disorder: what a sound log never holds, one sentence each.
    """

    starts: list[Start] = field(default_factory=list)
    steps: dict[int, FedStep] = field(default_factory=dict)
    undone: int = 0
    damages: list[Damage] = field(default_factory=list)
    torn: int = 0
    disorder: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """Return the last step that is not undone, or 0."""
        return max(self.steps, default=0)


def follow_history(entries: Iterable[Start | FedStep | Damage]) -> SequenceHistory:
    """Go through a log in the order it was written.

    >>> import numpy as np
    >>> def fed(step, *ids):
    ...     return FedStep.of(step, np.array(ids), np.zeros(len(ids), np.int64), targets=1, was_updated=True)
    >>> history = follow_history([Start(0, {}), fed(1, 4), fed(2, 5), Start(1, {}), fed(2, 5)])
    >>> sorted(history.steps), history.undone
    ([1, 2], 1)
    """
    history, expected = SequenceHistory(), 1
    is_torn = False  # whether the entry before was damage
    for entry in entries:
        if isinstance(entry, Damage):
            history.damages.append(entry)
            is_torn = True
            continue
        if isinstance(entry, Start):
            history.torn += is_torn
            _go_back(history, entry.step)
            history.starts.append(entry)
            expected = entry.step + 1
        else:
            if entry.step != expected:
                history.disorder.append(f"The log has step {entry.step} where step {expected} should follow.")
            if entry.step in history.steps:
                history.disorder.append(f"The log has step {entry.step} twice in one start.")
            history.steps[entry.step] = entry
            expected = entry.step + 1
        is_torn = False
    history.torn += is_torn
    return history


def _go_back(history: SequenceHistory, step: int) -> None:
    """Undo what was trained after a step."""
    for later in [number for number in history.steps if number > step]:
        del history.steps[later]
        history.undone += 1
