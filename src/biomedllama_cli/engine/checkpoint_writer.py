"""Writing one checkpoint: at once, or from a copy in host memory while training goes on. One at a time."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import distributed

from biomedllama_cli.corpus.disk import explain_full_disk
from biomedllama_cli.engine.checkpoint_draft import Piece
from biomedllama_cli.errors import OutputError, UserError
from biomedllama_cli.models.tensor_files import write_tensor


@dataclass
class Writing:
    """The pieces of one rank on their way to the disk.

    Attributes:
        folder: the unfinished checkpoint.
        pieces: what this rank writes.
        seconds: how long it took.
        error: what stopped it.
    """

    folder: Path
    pieces: Sequence[Piece]
    seconds: float = 0.0
    error: Exception | None = None
    thread: threading.Thread | None = field(default=None, repr=False)

    def run(self) -> None:
        """Write them and flush them to the disk; an error is kept for `check`."""
        began = time.perf_counter()
        try:
            self._write()
        except Exception as error:  # told by every rank together, see Saver
            self.error = error
        self.seconds = time.perf_counter() - began

    def start(self) -> None:
        """Write them in a thread, which does not keep a dying process alive."""
        self.thread = threading.Thread(target=self.run, name="checkpoint", daemon=True)
        self.thread.start()

    def is_done(self) -> bool:
        """Say whether all of them are written, or none will be."""
        return self.thread is None or not self.thread.is_alive()

    def wait(self) -> None:
        """Wait for that."""
        if self.thread is not None:
            self.thread.join()

    def _write(self) -> None:
        with ExitStack() as files:
            opened = {
                name: files.enter_context((self.folder / name).open("r+b"))
                for name in dict.fromkeys(piece.file for piece in self.pieces)
            }
            for piece in self.pieces:
                write_tensor(opened[piece.file].fileno(), piece.place, piece.rows)
            for file in opened.values():
                os.fsync(file.fileno())


def explain_failure(error: Exception, folder: Path) -> UserError | None:
    """Return one sentence for what stopped a checkpoint from being written, or None for what no user can mend."""
    try:
        with explain_full_disk(folder.parent):
            raise error
    except UserError as told:
        return told
    except FileNotFoundError as problem:
        if folder.is_dir():
            return OutputError(f"checkpoint: {problem.filename} is gone.", "Did another program remove it?")
        return OutputError(
            f"checkpoint: {folder} is not there on {socket.gethostname()}; rank 0 makes it.",
            "Ranks that hold different parts of the weights need one disk: put --output-dir on one that all nodes "
            "share. With --sharding hybrid the first node writes everything, but to go on from there every node needs "
            "a copy.",
        )
    except OSError as problem:
        return OutputError(f"checkpoint: {folder.parent} cannot be written: {problem.strerror or problem}.")
    except Exception:
        return None


def raise_together(accelerator: Accelerator, error: Exception | None, folder: Path) -> None:
    """Raise on every rank what stopped one of them; every rank must call it, so it also waits for all.

    Args:
        accelerator: of the job.
        error: of this rank.
        folder: the unfinished checkpoint, which is removed where there is an error.
    """
    told = None if error is None else explain_failure(error, folder)
    if error is not None and told is None:
        raise error
    if accelerator.num_processes > 1:
        failures = torch.tensor(int(told is not None), device=accelerator.device)
        distributed.all_reduce(failures)
        if not failures:
            return
        everyone: list[UserError | None] = [None] * accelerator.num_processes
        distributed.all_gather_object(everyone, told)
        told = next(each for each in everyone if each is not None)
    if told is None:
        return
    if accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)  # the room may be what is missing
    raise told from error
