"""Metrics to TensorBoard, Weights & Biases and trackio, through Accelerate's trackers.

RUN/trackers.json     for each of them the id of the run there, and the last step it was given
RUN/tensorboard/      TensorBoard's event files
RUN/wandb/            what W&B has yet to send, or keeps where there is no network

A run that is killed and resumed trains some steps again. They are the same numbers, so a tracker is not given a step
twice; and what metrics.jsonl has but the tracker does not (it was asked for later, or a kill took what was still on the
way) is given first. A tracker that fails is told of once and left out from then on: training does not end for it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from biomedllama_cli.corpus.durable import write_atomically
from biomedllama_cli.engine.metrics import METRICS_FILE, iter_metrics
from biomedllama_cli.engine.wandb_files import find_last_step
from biomedllama_cli.errors import UnavailableError

logger = logging.getLogger(__name__)

TRACKERS_FILE = "trackers.json"
EXTRA = "trackers"
"""The extra of this package that installs all of them."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it.

    Attributes:
        folder: of the run.
        project: what W&B and trackio file it under.
        settings: all of them.
        resumed_step: step of the checkpoint that is continued, -1 for a fresh start.
    """

    folder: Path
    project: str
    settings: Mapping[str, Any]
    resumed_step: int = -1


def check_trackers(names: Sequence[str]) -> None:
    """Check that the packages of some trackers are installed; loads none.

    Raises:
        UnavailableError: one is not.
    """
    for name in dict.fromkeys(names):
        try:
            distribution(name)
        except PackageNotFoundError as error:
            raise UnavailableError(
                f"track is {name}, but the package {name} is not installed.",
                hint=f"pip install {name}, or all trackers with biomedllama-cli[{EXTRA}].",
            ) from error


def open_trackers(names: Sequence[str], run: TrackedRun) -> list[TrackerSink]:
    """Begin or go on with the run in every tracker; for rank 0 alone, which holds the run folder's lock.

    Raises:
        UnavailableError: one cannot be started.
    """
    book = TrackerBook(run.folder)
    return [_open_tracker(name, run, book) for name in dict.fromkeys(names)]


class TrackerSink:
    """Gives metrics to one tracker, all of a step at once (an `engine.onlookers.MetricSink`).

    Args:
        name: of the tracker.
        tracker: it, started.
        book: what it was given before.
        arrived: last step that it has.
    """

    def __init__(self, name: str, tracker: GeneralTracker, book: TrackerBook, *, arrived: int) -> None:
        self._name, self._tracker, self._book = name, tracker, book
        self._arrived, self._step = arrived, -1
        self._values: dict[str, float] = {}
        self._works = True

    def write(self, line: Mapping[str, Any]) -> None:
        """Take one line; it is given on with the others of its step, once a later step's comes."""
        if line["step"] > self._step:
            self._hand_over()
            self._step = line["step"]
        self._values |= {
            name: float(value)
            for name, value in line.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }

    def close(self) -> None:
        """Give the last step on and end the tracker's run, also where it has failed."""
        self._hand_over()
        try:
            self._tracker.finish()
        except Exception as error:
            logger.warning("%s could not be ended: %s", self._name, error)

    def _hand_over(self) -> None:
        values, self._values = self._values, {}
        if values and self._step > self._arrived:
            self._try(lambda: self._tracker.log(values, step=self._step))
            self._arrived = self._step
            if self._works:
                self._try(lambda: self._book.note(self._name, self._step))

    def _try(self, work: Any) -> None:
        """Do something that needs the tracker, unless it has failed before."""
        if not self._works:
            return
        try:
            work()
        except Exception as error:
            self._works = False
            logger.warning(
                "%s failed after step %d and is told nothing more (metrics.jsonl has everything): %s",
                self._name,
                self._arrived,
                error,
            )


class TrackerBook:
    """What each tracker was given: `trackers.json` of a run folder.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TRACKERS_FILE
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            for name, entry in content.items():
                self._entries[str(name)] = {"id": str(entry["id"]), "step": int(entry["step"])}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # no such file yet, or one cut short by a dying machine: the trackers begin a new run

    def open(self, name: str) -> tuple[str, int]:
        """Return the id of the run in a tracker, and the last step it was given (-1 before the first)."""
        entry = self._entries.setdefault(name, {"id": secrets.token_hex(4), "step": -1})
        return entry["id"], entry["step"]

    def note(self, name: str, step: int) -> None:
        """Write down that a tracker was given a step."""
        self._entries[name]["step"] = step
        # Every step does this, so nothing is flushed to the disk: a machine that dies may lose it, a process may not.
        write_atomically(self._path, json.dumps(self._entries), flush=False)


def _open_tracker(name: str, run: TrackedRun, book: TrackerBook) -> TrackerSink:
    identity, given = book.open(name)
    try:
        tracker, arrived = _STARTERS[name](run, identity, given)
    except Exception as error:
        raise UnavailableError(
            f"track: {name} cannot be started: {error}",
            hint=f"Train without --track {name}: metrics.jsonl holds the same numbers.",
        ) from error
    if arrived is None:
        arrived = given
    book.note(name, arrived)
    sink = TrackerSink(name, tracker, book, arrived=arrived)
    for line in iter_metrics(run.folder / METRICS_FILE):
        if arrived < line["step"] <= run.resumed_step:
            sink.write(line)
    return sink


def _start_tensorboard(run: TrackedRun, identity: str, given: int) -> tuple[GeneralTracker, int | None]:
    # Readers leave out what an earlier start wrote from there on, such as a step that was written but not noted.
    tracker = TensorBoardTracker("tensorboard", str(run.folder), purge_step=given + 1)
    tracker.start()
    if given < 0:
        shown = json.dumps(run.settings, indent=2, default=str)
        tracker.tracker.add_text("settings", f"```json\n{shown}\n```", global_step=0)
    return tracker, None


def _start_wandb(run: TrackedRun, identity: str, given: int) -> tuple[GeneralTracker, int | None]:
    import wandb

    kept = find_last_step(run.folder, identity)
    if "WANDB_MODE" not in os.environ and not _has_wandb_key():
        logger.warning("there is no key for W&B: its files stay in %s/wandb, for `wandb sync`", run.folder)
        mode = "offline"
    else:
        mode = os.environ.get("WANDB_MODE", "online")

    def start(mode: str) -> WandBTracker:
        tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT", run.project),
            id=identity,
            name=_name_run(run, identity),
            dir=str(run.folder),
            config=dict(run.settings),
            resume="allow",
            mode=mode,
            settings=wandb.Settings(
                console="off"
            ),  # what is printed is no metric, and stdout is the report's
        )
        tracker.start()
        return tracker

    try:
        tracker = start(mode)
    except Exception as error:
        if mode != "online":
            raise
        logger.warning("W&B cannot be reached: its files stay in %s/wandb (%s)", run.folder, error)
        tracker = start("offline")
    known = tracker.tracker
    if known.offline:
        return tracker, kept
    return tracker, known.step - 1 if known.resumed else None


def _has_wandb_key() -> bool:
    """Tell whether W&B would find a key without asking for one at the terminal."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from netrc import NetrcParseError, netrc

    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if file and netrc(Path(file).expanduser()).authenticators(host):
                return True
        except (OSError, NetrcParseError):
            continue
    return False


def _start_trackio(run: TrackedRun, identity: str, given: int) -> tuple[GeneralTracker, int | None]:
    import trackio

    # trackio finds a run by its name alone, which therefore carries the id.
    tracker = TrackioTracker(
        run.project,
        name=f"{_name_run(run, identity)}-{identity}",
        config=dict(run.settings),
        resume="allow",
        embed=False,
    )
    tracker.start()
    # Accelerate's leaves trackio a run to end once more with the interpreter, which it tells on stdout, the report's.
    tracker.finish = trackio.finish
    following = getattr(tracker.tracker, "_next_step", None)
    return tracker, following - 1 if isinstance(following, int) and given >= 0 else None


def _name_run(run: TrackedRun, identity: str) -> str:
    folder = run.folder.resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name.startswith("seed-") else folder.name


_STARTERS = {"tensorboard": _start_tensorboard, "wandb": _start_wandb, "trackio": _start_trackio}
