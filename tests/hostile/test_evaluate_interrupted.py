"""`evaluate` killed, stopped, started twice and without room: what is finished stays, and no number changes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from evaluate_forks import Forks, build_environment, write_data
from tiny_llama import build_tiny_model

ALL = ("paper", "clean", "instructed", "harness")
RECIPE = "biomedllama_cli.recipes.evaluate"


@dataclass
class Material:
    """Two models, data, what an undisturbed run of each command gives, and the program that forks."""

    folder: Path
    forks: Any
    expected: dict[tuple[str, ...], Path] = field(default_factory=dict)
    seconds: float = 0.0

    def arguments(self, output: Path, *options: str, profiles: tuple[str, ...] = ALL) -> list[str]:
        """Return the command line; questions are packed closely, so that there are many batches."""
        line = ["evaluate", "--device", "cpu", "--row-tokens", "128", "--json", "--max-new-tokens", "4"]
        line += ["--output-dir", str(output), "--model", str(self.folder / "model")]
        line += ["--task", "medqa", "--data", f"medqa={self.folder / 'medqa.jsonl'}"]
        line += ["--task", "text", "--data", f"text={self.folder / 'text.jsonl'}"]
        return [*line, *(part for name in profiles for part in ("--profile", name)), *options]

    def reference(self, *options: str, profiles: tuple[str, ...] = ALL) -> Path:
        """Return the results of an undisturbed run, with a log of its batches beside them."""
        key = (*options, *profiles)
        if key not in self.expected:
            room = self.folder / f"expected-{len(self.expected)}"
            room.mkdir()
            arguments = self.arguments(room / "out", *options, profiles=profiles)
            before = time.monotonic()
            ended = self.forks.run(arguments, log=str(room / "log"))
            self.seconds = self.seconds or time.monotonic() - before
            assert ended.code == 0, ended.errors
            self.expected[key] = room / "out"
        return self.expected[key]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Material]:
    folder = tmp_path_factory.mktemp("material")
    for seed, name in enumerate(("model", "other")):
        build_tiny_model(folder / name, adds_bos=False, seed=seed)
    write_data(folder)
    forks = Forks(build_environment(repository), folder)
    yield Material(folder, forks)
    forks.close()


def join(ranks: int) -> list[dict[str, Any]]:
    """Return for each process what torchrun would set, or nothing for one process."""
    if ranks == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return [{"environment": shared | {"RANK": str(n), "LOCAL_RANK": str(n)}} for n in range(ranks)]


def read(folder: Path) -> dict[str, Any]:
    """Return all of a results folder but the time and the place."""
    content = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    results = json.loads(content.pop("results.json"))
    del results["created"], results["settings"]["output_dir"]
    return {"results.json": results, **content}


def assert_finished(output: Path, reference: Path) -> None:
    """Check that the results are those of an undisturbed run and lie alone."""
    assert read(output) == read(reference)
    assert [path.name for path in output.parent.iterdir() if path.name != "log"] == [output.name]


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# Each start may have another number of processes: the journal of all of them is used.
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_again_and_again_it_ends_with_the_same_bytes_and_does_nothing_twice(
    material: Material, tmp_path: Path, seed: int
) -> None:
    reference, chance = material.reference(), random.Random(seed)
    arguments, log = material.arguments(tmp_path / "out"), tmp_path / "log"
    kills = 0
    while not (tmp_path / "out").exists():
        jobs = join(chance.choice([1, 1, 2]))
        victim = chance.randrange(len(jobs))
        deed = {"after": chance.randint(1, 14), "deed": chance.choice(["die", "tear"])}
        orders = [job | {"log": str(log)} | (deed if rank == victim else {}) for rank, job in enumerate(jobs)]
        started = [material.forks.start(arguments, **order) for order in orders]
        if material.forks.finish(started[victim]).code != 0:
            kills += 1
            for process_id in started:  # as the launcher does
                if process_id != started[victim]:
                    os.kill(process_id, signal.SIGKILL)
        for process_id in started:
            if process_id != started[victim]:
                material.forks.finish(process_id)
    assert kills >= 3
    assert_finished(tmp_path / "out", reference)
    # A killed process had one batch in hand; another one, where there were two, likewise.
    assert count_lines(log) <= count_lines(reference.parent / "log") + 2 * kills


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    material: Material, tmp_path: Path, seed: int
) -> None:
    reference, arguments = material.reference(), material.arguments(tmp_path / "out")
    process_id = material.forks.start(arguments)
    time.sleep(random.Random(seed).random() * material.seconds)
    os.kill(process_id, signal.SIGKILL)
    material.forks.finish(process_id)
    again = material.forks.run(arguments)
    if again.code:  # killed after the last word of all: what is there is complete
        assert "holds results already" in again.out
    assert_finished(tmp_path / "out", reference)


# Before the folder takes its place, after that, and when everything is done but the removal of the journal.
@pytest.mark.parametrize(
    "place",
    [
        ("biomedllama_cli.evaluation.output", "_replace"),
        ("biomedllama_cli.recipes.evaluate", "_conclude"),
        ("biomedllama_cli.recipes.evaluate", "remove_journal"),
    ],
)
def test_killed_while_results_are_written_the_same_command_continues(
    material: Material, tmp_path: Path, place: tuple[str, str]
) -> None:
    reference = material.reference(profiles=("paper",))
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    assert material.forks.run(arguments, at=place).code == -signal.SIGKILL
    ended = material.forks.run(arguments, log=str(tmp_path / "log"))
    assert ended.code == 0, ended.errors
    assert count_lines(tmp_path / "log") == 0
    assert_finished(tmp_path / "out", reference)


def test_another_command_does_not_take_the_folder_of_a_killed_one(material: Material, tmp_path: Path) -> None:
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    material.forks.run(arguments, at=(RECIPE, "remove_journal"))
    before = read(tmp_path / "out")
    other = material.forks.run([*arguments, "--limit", "3"])
    assert other.code == 6
    assert "holds results already" in json.loads(other.out)["error"]["message"]
    assert read(tmp_path / "out") == before


def test_of_two_models_the_finished_one_is_not_scored_again(material: Material, tmp_path: Path) -> None:
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    arguments += ["--model", str(material.folder / "other")]
    log = tmp_path / "log"
    assert material.forks.run(arguments, log=str(log), after=30, deed="die").code == -signal.SIGKILL
    assert (tmp_path / "out" / "model" / "results.json").exists()
    assert not (tmp_path / "out" / "other").exists()
    ended = material.forks.run(arguments, log=str(log))
    assert ended.code == 0, ended.errors
    one = count_lines(material.reference(profiles=("paper",)).parent / "log")
    assert count_lines(log) <= 2 * one + 1
    names = ["model", "other"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(each["output_dir"] for each in json.loads(ended.out)["evaluations"]) == [
        str(tmp_path / "out" / name) for name in names
    ]
    assert read_cells(tmp_path / "out" / "model") == read_cells(material.reference(profiles=("paper",)))


def read_cells(folder: Path) -> list[Any]:
    results = json.loads((folder / "results.json").read_text())
    return [results["questions"], results["texts"]]


# While options are scored; while text is generated.
@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 3), (signal.SIGTERM, 60)])
def test_a_signal_ends_with_a_sentence_and_leaves_nothing_half_written(
    material: Material, tmp_path: Path, number: signal.Signals, after: int
) -> None:
    reference, arguments = material.reference(), material.arguments(tmp_path / "out")
    order = {"waiting": str(material.folder / "waiting"), "released": str(material.folder / "released")}
    for name in order.values():
        Path(name).unlink(missing_ok=True)
    process_id = material.forks.start(arguments, after=after, deed="wait", **order)
    wait_until(Path(order["waiting"]).exists)
    os.kill(process_id, number)
    Path(order["released"]).touch()
    ended = material.forks.finish(process_id)
    error = json.loads(ended.out)["error"]
    assert (ended.code, error["kind"], error["hint"]) == (75, "Resumable", "The same command continues.")
    assert error["message"] == f"stopped by {number.name} with {after} finished pieces saved."
    assert "Traceback" not in ended.errors
    (work,) = tmp_path.iterdir()
    assert work.name.startswith(".evaluate-")
    assert material.forks.run(arguments).code == 0
    assert_finished(tmp_path / "out", reference)


def test_a_signal_reaches_a_process_that_waits_for_the_share_of_another(
    material: Material, tmp_path: Path
) -> None:
    reference, arguments = material.reference(), material.arguments(tmp_path / "out")
    order = {"waiting": str(material.folder / "waits"), "released": str(material.folder / "goes")}
    first, second = join(2)
    waits = material.forks.start(arguments, log=str(tmp_path / "log"), **first)
    slow = material.forks.start(arguments, after=1, deed="wait", **order, **second)
    wait_until(Path(order["waiting"]).exists)
    settled = [-1]

    def has_done_its_share() -> bool:
        before, settled[0] = settled[0], count_lines(tmp_path / "log")
        time.sleep(0.5)
        return before == settled[0] > 0

    wait_until(has_done_its_share)
    for process_id in (waits, slow):
        os.kill(process_id, signal.SIGTERM)
    Path(order["released"]).touch()
    ended = [material.forks.finish(process_id) for process_id in (waits, slow)]
    assert [each.code for each in ended] == [75, 75]
    assert "stopped by SIGTERM" in ended[0].out
    assert material.forks.run(arguments).code == 0
    assert_finished(tmp_path / "out", reference)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_command_at_once_is_refused_and_harms_nothing(
    material: Material, tmp_path: Path, ranks: int
) -> None:
    reference = material.reference(profiles=("paper",))
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    order = {"waiting": str(material.folder / f"w{ranks}"), "released": str(material.folder / f"r{ranks}")}
    jobs = join(ranks)
    started = [material.forks.start(arguments, after=2, deed="wait", **order, **job) for job in jobs]
    wait_until(Path(order["waiting"]).exists)
    second = material.forks.run(arguments)
    Path(order["released"]).touch()
    assert second.code == 6
    assert "the same evaluation is running already" in json.loads(second.out)["error"]["message"]
    assert [material.forks.finish(process_id).code for process_id in started] == [0] * ranks
    assert_finished(tmp_path / "out", reference)


@pytest.mark.parametrize(
    "options",
    [("--limit", "5"), ("--dtype", "bf16"), ("--seed", "7"), ("--batch-size", "3"), ("--permutations", "2")],
)
def test_another_command_takes_no_number_of_an_unfinished_one(
    material: Material, tmp_path: Path, options: tuple[str, str]
) -> None:
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    material.forks.run(arguments, after=4, deed="die")
    log = tmp_path / "log"
    ended = material.forks.run([*arguments, *options], log=str(log))
    assert ended.code == 0
    assert "continuing" not in ended.errors
    expected = material.reference(*options, profiles=("paper",))
    assert read(tmp_path / "out") == read(expected)
    assert count_lines(log) == count_lines(expected.parent / "log")


def test_what_no_number_depends_on_may_change_between_starts(material: Material, tmp_path: Path) -> None:
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    material.forks.run(arguments, after=4, deed="die")
    shutil.copytree(material.folder / "model", tmp_path / "moved")
    moved = [*arguments, "--self-check", "1", "--fail-under", "medqa=0"]
    moved = [str(tmp_path / "moved") if part == str(material.folder / "model") else part for part in moved]
    ended = material.forks.run(moved)
    assert ended.code == 0
    assert "continuing: 4 finished pieces" in ended.errors


# Too little for the journal; enough for that, and too little for results.json.
@pytest.mark.parametrize(("kilobytes", "stage"), [(2, "The disk of"), (6, "cannot be written")])
def test_a_full_disk_is_one_sentence_and_a_later_start_continues(
    material: Material, tmp_path: Path, kilobytes: int, stage: str
) -> None:
    reference = material.reference(profiles=("paper",))
    arguments = material.arguments(tmp_path / "out", profiles=("paper",))
    ended = material.forks.run(arguments, kilobytes=kilobytes)
    error = json.loads(ended.out)["error"]
    assert (ended.code, error["kind"]) == (6, "OutputError"), error
    assert stage in error["message"]
    assert "Traceback" not in ended.errors
    assert not (tmp_path / "out").exists()
    again = material.forks.run(arguments)
    assert again.code == 0
    assert "continuing" in again.errors
    assert_finished(tmp_path / "out", reference)


def test_a_small_disk_that_is_full(material: Material, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs privileges")
    try:
        arguments = material.arguments(disk / "out", profiles=("paper",))
        ended = material.forks.run(arguments)
        assert ended.code == 6, ended.errors
        assert "Traceback" not in ended.errors
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert material.forks.run(arguments).code == 0
        assert_finished(disk / "out", material.reference(profiles=("paper",)))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
