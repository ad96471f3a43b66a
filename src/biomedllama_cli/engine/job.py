"""The processes of a job that share work without sharing a model: each has the whole model, and its own questions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.distributed.distributed_c10d import _set_pg_timeout

from biomedllama_cli.engine.accelerator import check_world, choose_device_type
from biomedllama_cli.engine.sharding import read_world
from biomedllama_cli.errors import Resumable
from biomedllama_cli.settings.pretrain import ParallelSettings

Value = TypeVar("Value")

SHARE_TIMEOUT = timedelta(days=7)
"""How long a process waits for the others' shares; one that has died is found out by the launcher."""

CONTINUES = "The same command continues."


@dataclass(frozen=True)
class _Stopped:
    """What a process gives instead of its share when it was asked to stop."""

    reason: str


@dataclass(frozen=True)
class Job:
    """The place of this process in its job.

    Attributes:
        rank: of this process.
        ranks: processes of the job.
        device: this process computes on.
    """

    rank: int
    ranks: int
    device: torch.device

    def gather(self, found: dict[int, Value]) -> dict[int, Value]:
        """Return what all processes have found, on each of them; every process must call it, or `stop`.

        Raises:
            Resumable: another process has stopped.
        """
        if self.ranks == 1:
            return found
        together: dict[int, Value] = {}
        for part in gather_object([found]):
            if isinstance(part, _Stopped):
                raise Resumable(part.reason, CONTINUES)
            together.update(part)
        return together

    def stop(self, reason: str) -> NoReturn:
        """Leave the work, and release the processes that wait in `gather` for this one's share.

        A process that waits there hears no signal: without this it would wait for ever.

        Args:
            reason: one sentence.

        Raises:
            Resumable: always.
        """
        if self.ranks > 1:
            gather_object([_Stopped(reason)])
        raise Resumable(reason, CONTINUES)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.ranks > 1:
            PartialState().wait_for_everyone()


def join_job(parallel: ParallelSettings) -> Job:
    """Join the job that the environment announces, or be one of one process.

    Raises:
        SettingsError: another number of processes was started than asked for.
        UnavailableError: CUDA is asked for and is not there.
        WorkerError: our own launcher was asked for another number.
    """
    world = read_world()
    kind = choose_device_type(parallel)
    if world.world_size == 1:
        return Job(0, 1, torch.device(kind))
    check_world(parallel, world)
    state = PartialState(cpu=kind == "cpu", timeout=SHARE_TIMEOUT)
    # Where this process has trained before, Accelerate keeps that group, with training's much shorter timeout.
    _set_pg_timeout(SHARE_TIMEOUT)
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return Job(state.process_index, state.num_processes, state.device)
