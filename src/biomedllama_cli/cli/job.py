"""Commands that train: started as one process per device where there are several, and each told the same settings."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from biomedllama_cli.cli.output import Report
from biomedllama_cli.errors import SettingsError

if TYPE_CHECKING:
    from biomedllama_cli.settings.pretrain import ParallelSettings

_NO_MEMORY = re.compile("out of memory|can't allocate memory")


def run_job(
    context: typer.Context,
    parallel: ParallelSettings,
    story: Callable[[], Any],
    *,
    alone: bool,
    resume: str = "auto",
) -> Report | None:
    """Run a command's story in the processes that its settings ask for.

    Args:
        context: of the invocation.
        parallel: how many processes, on what.
        story: imports the recipe and calls it; an import that fails is then reported by a rank as well.
        alone: whether this process is to do it by itself: a dry run.
        resume: what the run goes on from, wherever that was said.

    Returns:
        The report, or None where the first of the processes it started has printed it.

    Raises:
        SettingsError: restarts are asked for together with a checkpoint to go back to.
    """
    from biomedllama_cli.engine.launch import launch_if_needed
    from biomedllama_cli.engine.rank import run_as_rank

    if parallel.max_restarts and resume not in ("auto", "never"):
        raise SettingsError(
            f"max_restarts is {parallel.max_restarts}, but resume is {resume}: each restart would go back there.",
            "Leave --resume out, or --max-restarts.",
        )
    if not alone and launch_if_needed(parallel, read_arguments(context)) is not None:
        return None
    report: Report | None = run_as_rank(lambda: _explain_memory(story))
    return report


def read_arguments(context: typer.Context) -> list[str]:
    """Return the command line after the program's name: what `main` was given, else that of this process."""
    return list(sys.argv[1:] if context.obj is None else context.obj)


def _explain_memory(story: Callable[[], Any]) -> Any:
    """Run a story; that a device has too little memory for it is something a user can mend, and no restart will."""
    try:
        return story()
    except RuntimeError as error:  # torch has an error of its own for some devices, and words for the others
        if type(error).__name__ != "OutOfMemoryError" and not _NO_MEMORY.search(str(error)):
            raise
        said = textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(".")
        raise SettingsError(
            f"The run needs more memory than the device has: {said}.",
            "Give a smaller --micro-batch-size (the step stays the same), --activation-checkpointing full, or more "
            "processes; `biomedllama pretrain --dry-run` plans the memory, part by part.",
        ) from error
