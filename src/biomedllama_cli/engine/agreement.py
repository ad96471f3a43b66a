"""All processes of a job begin at the same place: what each sees of the run folder is held against the others."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from accelerate.utils import gather_object

from biomedllama_cli.engine.run_folder import RunStart
from biomedllama_cli.errors import OutputError

logger = logging.getLogger(__name__)

LOOKS, PAUSE_SECONDS = 31, 2.0
"""File systems that nodes share may show one of them an old list of a folder: NFS for up to a minute."""


def agree_on_start(
    start: RunStart, look_again: Callable[[], RunStart], describe_end: Callable[[RunStart], str]
) -> RunStart:
    """Return how a run begins, once all processes see the same of it.

    Otherwise some would go on from one checkpoint and some from another, and no collective tells.

    Args:
        start: as this process sees it; every process of the job must call this, after it has joined.
        look_again: plans the start anew.
        describe_end: says of a run that has ended how, and nothing of others.

    Raises:
        OutputError: they see different things, also after a while.
    """
    for number in range(LOOKS):
        if number:
            time.sleep(PAUSE_SECONDS)
            start = look_again()
        sights = gather_object([(_describe(start) + describe_end(start), socket.gethostname())])
        seen, first_host = sights[0]
        other = next((sight for sight in sights if sight[0] != seen), None)
        if other is None:
            return start
        if not number and sights[0][1] == socket.gethostname():
            logger.warning("%s sees %s, but rank 0 %s: looking again", other[1], other[0], seen)
    assert other is not None
    raise OutputError(
        f"output_dir {start.folder} is not the same for all processes: {other[1]} sees {other[0]}, but rank 0 on "
        f"{first_host} sees {seen}.",
        hint="Put --output-dir on a disk that all nodes share, or copy the run folder of rank 0's node to the others "
        "before every start.",
    )


def _describe(start: RunStart) -> str:
    if start.checkpoint is None or start.progress is None:
        return "no checkpoint to go on from"
    return f"{start.checkpoint.name} (step {start.progress.step})"
