"""Tells of a rank that computes slower than the others, and of a loader that keeps the model waiting."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from accelerate.utils import gather_object

from biomedllama_cli.engine.onlookers import RANK_TIMES, StepFacts, Watcher

logger = logging.getLogger(__name__)

Seconds = npt.NDArray[np.float64]

WINDOW = 32
"""Steps that are looked at together: one slow step is nobody's fault."""
SLOW_RATIO = 1.25
"""A straggler computes so many times as long as the median of the other ranks."""
STARVED_FRACTION = 0.1
"""A loader that keeps the model waiting for more of a step is starving it."""
_SILENT_STEPS = 1000
"""Until the same is told again."""


class Stragglers(Watcher):
    """A watcher; every rank has one, and rank 0's log is read.

    Args:
        accelerator: of the job.
        data_workers: loader processes of each rank, for the advice.
    """

    def __init__(self, accelerator: Accelerator, *, data_workers: int) -> None:
        self._ranks, self._data_workers = accelerator.num_processes, data_workers
        self._hosts = [socket.gethostname()]
        self._computed: deque[Seconds] = deque(maxlen=WINDOW)
        self._waited: deque[float] = deque(maxlen=WINDOW)
        self._first_step = 0
        self._told: dict[str, int] = {}

    def begin(self, step: int) -> None:
        """Learn where the ranks are; every rank calls it."""
        self._first_step = step + 1
        if self._ranks > 1:
            self._hosts = gather_object([socket.gethostname()])

    def note(self, facts: StepFacts) -> Mapping[str, float]:
        """Look at one step; return the worst rank's share of it spent waiting, and how slow the slowest was."""
        waits = facts.rank_seconds[:, RANK_TIMES.index("loader")]
        computed = facts.rank_seconds[:, RANK_TIMES.index("compute")]
        fraction = float(waits.max()) / max(facts.seconds, 1e-9)
        numbers = {"loader/wait_fraction": fraction}
        if facts.step > self._first_step:  # the first one starts the loader
            self._waited.append(fraction)
            self._look_at_loader(facts.step, int(waits.argmax()))
        if self._ranks > 1 and computed.min() > 0:
            numbers["ranks/slowest_ratio"] = float(compare_to_others(computed).max())
            self._computed.append(computed)
            self._look_at_ranks(facts.step)
        return numbers

    def _look_at_loader(self, step: int, rank: int) -> None:
        mean = sum(self._waited) / len(self._waited)
        if len(self._waited) < WINDOW or mean <= STARVED_FRACTION or not self._is_news("loader", step):
            return
        logger.warning(
            "step %d: the loader keeps the model waiting for %.0f %% of a step (mean of the last %d, now rank %d%s): "
            "raise --data-workers, which is %d, or put the corpus on a faster disk",
            step,
            100 * mean,
            WINDOW,
            rank,
            self._name_host(rank),
            self._data_workers,
        )

    def _look_at_ranks(self, step: int) -> None:
        if len(self._computed) < WINDOW:
            return
        ratios = compare_to_others(np.median(np.stack(self._computed), axis=0))
        for rank in np.flatnonzero(ratios > SLOW_RATIO).tolist():
            if self._is_news(f"rank {rank}", step):
                logger.warning(
                    "step %d: rank %d%s computes %.2f times as long as the others (median of the last %d steps), and "
                    "every step waits for it: look at its device's clock, temperature and other jobs",
                    step,
                    rank,
                    self._name_host(rank),
                    ratios[rank],
                    WINDOW,
                )

    def _name_host(self, rank: int) -> str:
        return f" on {self._hosts[rank]}" if len(set(self._hosts)) > 1 else ""

    def _is_news(self, what: str, step: int) -> bool:
        told = self._told.get(what)
        if told is not None and step - told < _SILENT_STEPS:
            return False
        self._told[what] = step
        return True


def compare_to_others(seconds: Seconds | Sequence[float]) -> Seconds:
    """Return each rank's seconds over the median of the other ranks'.

    >>> compare_to_others([1.0, 2.0, 1.0]).tolist()
    [0.6666666666666666, 2.0, 0.6666666666666666]
    """
    every = np.asarray(seconds, dtype=np.float64)
    others = [np.median(np.delete(every, rank)) for rank in range(len(every))]
    return every / np.maximum(others, 1e-12)
