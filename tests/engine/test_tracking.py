"""Trackers: no step twice, none left out, and training goes on where one fails."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, PartialState

from biomedllama_cli.engine import tracking
from biomedllama_cli.engine.tracking import TRACKERS_FILE, TrackedRun, check_trackers, open_trackers
from biomedllama_cli.engine.wandb_files import find_last_step, iter_messages
from biomedllama_cli.errors import UnavailableError


@pytest.fixture(autouse=True)
def _one_process() -> Iterator[None]:
    """Accelerate's trackers log through its state, which a run has by then."""
    PartialState(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Recorder:
    """A tracker that keeps what it is told, as a service elsewhere would."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.identities: list[str] = []
        self.breaks_at = -1

    def log(self, values: dict[str, float], step: int) -> None:
        if step == self.breaks_at:
            raise ConnectionError("gone")
        self.told.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    service = Recorder()

    def start(run: TrackedRun, identity: str, given: int) -> tuple[Any, int | None]:
        service.identities.append(identity)
        return service, None

    monkeypatch.setitem(tracking._STARTERS, "wandb", start)
    return service


def train(folder: Path, first: int, last: int, *, ends: bool = True) -> None:
    """Write steps as the loop does: metrics.jsonl is cut at the checkpoint, then every line goes to file and sinks."""
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    (sink,) = open_trackers(["wandb"], TrackedRun(folder, "project", {}, resumed_step=first - 1 or -1))
    kept = [line for line in lines if line["step"] < first and first > 1]
    new = [{"step": 0, "validation/loss": 5.0}] if first == 1 else []
    for step in range(first, last + 1):
        new.append({"step": step, "train/loss": 5.0 - step / 10})
        new += [{"step": step, "validation/loss": 5.0 - step / 9}] if step % 3 == 0 else []
    for line in new:
        sink.write(line)
    metrics.write_text("".join(json.dumps(line) + "\n" for line in kept + new))
    if ends:
        sink.close()


def test_all_numbers_of_a_step_are_given_at_once_and_the_last_ones_at_the_end(
    tmp_path: Path, recorder: Recorder
) -> None:
    train(tmp_path, 1, 3)
    assert [step for step, _ in recorder.told] == [0, 1, 2, 3]
    assert recorder.told[-1] == (3, {"train/loss": 4.7, "validation/loss": 5.0 - 3 / 9})
    assert recorder.finished == 1


@pytest.mark.parametrize("checkpoint", [0, 2, 4])
def test_a_killed_and_resumed_run_has_each_step_once_in_the_same_run(
    tmp_path: Path, recorder: Recorder, checkpoint: int
) -> None:
    train(tmp_path, 1, 5, ends=False)
    train(tmp_path, checkpoint + 1, 8)
    assert [step for step, _ in recorder.told] == list(range(9))
    assert recorder.told[6][1].keys() == {"train/loss", "validation/loss"}
    assert len(set(recorder.identities)) == 1


def test_a_tracker_asked_for_later_is_given_what_came_before(tmp_path: Path, recorder: Recorder) -> None:
    train(tmp_path, 1, 4)
    (tmp_path / TRACKERS_FILE).unlink()
    recorder.told.clear()
    train(tmp_path, 4, 6)
    assert [step for step, _ in recorder.told] == list(range(7))


def test_what_a_kill_took_on_its_way_is_given_again(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, 1, 6)
    del recorder.told[5:]  # steps 5 and 6 never arrived, and the service knows it
    monkeypatch.setitem(tracking._STARTERS, "wandb", lambda run, identity, given: (recorder, 4))
    train(tmp_path, 7, 8)
    assert [step for step, _ in recorder.told] == list(range(9))


def test_a_tracker_that_fails_is_told_of_once_and_training_goes_on(
    tmp_path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.breaks_at = 2
    train(tmp_path, 1, 5)
    assert [step for step, _ in recorder.told] == [0, 1]
    assert recorder.finished == 1
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "wandb failed" in warning
    assert "gone" in warning
    assert json.loads((tmp_path / TRACKERS_FILE).read_text())["wandb"]["step"] == 1


def test_each_of_several_trackers_has_a_place_of_its_own_in_the_book(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking._STARTERS, "trackio", lambda run, identity, given: (recorder, 7))
    sinks = open_trackers(["wandb", "trackio", "wandb"], TrackedRun(tmp_path, "project", {}))
    for sink in sinks:
        sink.write({"step": 8, "train/loss": 1.0})
        sink.close()
    book = json.loads((tmp_path / TRACKERS_FILE).read_text())
    assert {name: entry["step"] for name, entry in book.items()} == {"wandb": 8, "trackio": 8}
    assert recorder.finished == 2


def test_a_line_of_an_earlier_step_goes_with_the_one_at_hand(tmp_path: Path, recorder: Recorder) -> None:
    (sink,) = open_trackers(["wandb"], TrackedRun(tmp_path, "project", {}))
    for line in ({"step": 4, "train/loss": 1.0}, {"step": 3, "checkpoint/write_seconds": 2.0}):
        sink.write(line)
    sink.close()
    assert recorder.told == [(4, {"train/loss": 1.0, "checkpoint/write_seconds": 2.0})]


def write_log(messages: list[bytes]) -> bytes:
    """Return what LevelDB's log writer makes of messages, after W&B's header."""
    content = bytearray(b":W&B" + bytes(3))
    for message in messages:
        rest, begun = message, False
        while True:
            left = 32768 - len(content) % 32768
            if left < 7:
                content += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = (3 if begun else 2) if rest else (4 if begun else 1)
            content += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            begun = True
            if not rest:
                break
    return bytes(content)


def test_the_log_of_wandb_is_read_across_blocks_and_up_to_where_a_kill_cut_it() -> None:
    messages = [bytes([number]) * size for number, size in enumerate([5, 32_742, 90_000, 0, 32_740, 3])]
    content = write_log(messages)
    assert list(iter_messages(content)) == messages
    for cut in (1, 2, 9, 20_000):
        read = list(iter_messages(content[:-cut]))
        assert read == messages[: len(read)]
        assert len(read) < len(messages)
    assert list(iter_messages(b"")) == []


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path, recorder: Recorder) -> None:
    (sink,) = open_trackers(["wandb"], TrackedRun(tmp_path, "project", {}))
    sink.write({"step": 1, "train/loss": 1.0, "train/grad_norm": float("inf"), "mfu": None})
    sink.close()
    assert recorder.told == [(1, {"train/loss": 1.0})]


@pytest.mark.parametrize("content", ["", "[]", '{"wandb": 3}', '{"wandb": {"id": "a"}}', "\x00"])
def test_a_broken_book_begins_a_new_run(tmp_path: Path, recorder: Recorder, content: str) -> None:
    (tmp_path / TRACKERS_FILE).write_text(content)
    train(tmp_path, 1, 1)
    assert [step for step, _ in recorder.told] == [0, 1]


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        raise tracking.PackageNotFoundError(name)

    monkeypatch.setattr(tracking, "distribution", find)
    with pytest.raises(
        UnavailableError, match="track is trackio, but the package trackio is not installed"
    ) as told:
        check_trackers(["trackio"])
    assert "pip install trackio" in told.value.hint
    check_trackers([])


def test_a_tracker_that_cannot_start_ends_the_run_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: TrackedRun, identity: str, given: int) -> Any:
        raise ValueError("no such project")

    monkeypatch.setitem(tracking._STARTERS, "trackio", refuse)
    with pytest.raises(UnavailableError, match="trackio cannot be started: no such project"):
        open_trackers(["trackio"], TrackedRun(tmp_path, "project", {}))


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def open_sink(resumed: int) -> Any:
        (sink,) = open_trackers(["tensorboard"], TrackedRun(tmp_path, "project", {"seed": 0}, resumed))
        return sink

    killed = open_sink(-1)
    lines = [{"step": step, "train/loss": 1.0 / step} for step in range(1, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    for line in lines[:6]:
        killed.write(line)
    # Step 5 was written and the process died before it noted that.
    book = json.loads((tmp_path / TRACKERS_FILE).read_text())
    assert book["tensorboard"]["step"] == 5
    book["tensorboard"]["step"] = 4
    (tmp_path / TRACKERS_FILE).write_text(json.dumps(book))
    resumed = open_sink(4)
    for line in lines[4:]:
        resumed.write(line)
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert shown == [(step, pytest.approx(1.0 / step)) for step in range(1, 10)]
    assert events.Tags()["tensors"] == ["settings/text_summary"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], Any]:
    """Return an opener of W&B's real tracker on a machine without a key."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)

    def open_sink(resumed: int) -> Any:
        (sink,) = open_trackers(["wandb"], TrackedRun(tmp_path / "run", "project", {"seed": 0}, resumed))
        return sink

    return open_sink


def test_without_a_key_wandb_keeps_its_files_for_later(
    tmp_path: Path, offline: Callable[[int], Any], caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    (tmp_path / "run").mkdir()
    for resumed in (-1, 1):
        sink = offline(resumed)
        sink.write({"step": resumed + 2, "train/loss": 1.0})
        sink.close()
        wandb.teardown()  # its own process writes the last block after the run has ended
        assert find_last_step(tmp_path / "run", sink._book.open("wandb")[0]) == resumed + 2
    runs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert len({run.name.split("-")[3] for run in runs}) == 1  # the same run there
    assert "wandb sync" in caplog.text


def test_trackio_has_each_step_once_and_leaves_stdout_alone(tmp_path: Path) -> None:
    """In a process of its own, since trackio ends its run with the interpreter."""
    pytest.importorskip("trackio")
    code = """
import sys, contextlib
from pathlib import Path
from accelerate import PartialState
from biomedllama_cli.engine.tracking import TrackedRun, open_trackers
PartialState(cpu=True)
folder, first, resumed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with contextlib.redirect_stdout(sys.stderr):
    (sink,) = open_trackers(["trackio"], TrackedRun(folder, "project", {"seed": 0}, resumed))
    for step in range(first, first + 4):
        sink.write({"step": step, "train/loss": 1.0 / step})
    sink.close()
print("report")
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)}
    for first, resumed in ((1, -1), (3, 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), str(first), str(resumed)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "report\n"
    with sqlite3.connect(tmp_path / "trackio" / "project.db") as stored:
        rows = stored.execute("select run_name, step from metrics order by step").fetchall()
    assert [step for _, step in rows] == [1, 2, 3, 4, 5, 6]
    assert len({run for run, _ in rows}) == 1
