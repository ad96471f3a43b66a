"""A fetch that is killed or stopped goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from bucket_server import DATE, BucketServer, Paper, build_objects

CONNECTIONS = 4
PAPERS = [Paper(n, licence="CC BY-NC" if n % 10 == 0 else "CC BY") for n in range(1, 301)]
PROGRAM = f"""
import resource, sys
from pathlib import Path
from biomedllama_cli.corpus.bucket import bundles, fetch_articles
from biomedllama_cli.corpus.executor import resumable_on_signals
from biomedllama_cli.errors import UserError
from biomedllama_cli.settings.prepare import BucketSettings, SelectionSettings

bundles.ARTICLES_PER_BUNDLE = 40
settings = BucketSettings(inventory="{DATE}", bucket_url=sys.argv[1], connections={CONNECTIONS})
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    with resumable_on_signals():
        result = fetch_articles(settings, SelectionSettings(), Path(sys.argv[2]))
except UserError as error:
    print(error.message, file=sys.stderr)
    sys.exit(int(error.exit_code))
print(result.kept, sum(result.dropped.values()))
"""


def start(server: BucketServer, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, server.url, str(folder), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "src"},
    )  # fmt: skip


def finish(server: BucketServer, folder: Path) -> str:
    process = start(server, folder)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out.strip()


def wait_for_requests(server: BucketServer, count: int, process: subprocess.Popen[str]) -> None:
    while server.requests.total() < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def read_results(folder: Path) -> dict[str, bytes]:
    """Return what a later stage reads: bundles and refusals."""
    names = [*folder.rglob("*.tar"), *folder.rglob("*.refused.jsonl")]
    assert not list(folder.rglob("*.new"))
    assert not list(folder.rglob("*.partial"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with BucketServer(build_objects(PAPERS)) as server:
        assert finish(server, folder) == "270 30"
    results = read_results(folder)
    assert len(results) == 8
    return results


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_fetch_goes_on_with_what_was_not_there_yet(
    tmp_path: Path, expected: dict[str, bytes], seed: int
) -> None:
    draw = random.Random(seed)
    with BucketServer(build_objects(PAPERS), latency=0.004) as server:
        kills = sorted(draw.sample(range(20, 550), 3))
        for count in kills:
            process = start(server, tmp_path)
            wait_for_requests(server, count, process)
            process.kill()
            process.wait()
        assert finish(server, tmp_path) == "270 30"
        asked = Counter({key: n for key, n in server.requests.items() if "inventory" not in key})
    assert read_results(tmp_path) == expected
    assert len(asked) == 300 + 270
    # In flight, or fetched and not saved: as many again as there are connections.
    assert asked.total() - len(asked) <= len(kills) * 2 * CONNECTIONS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("requests", [100, 400])
def test_a_signal_stops_at_once_and_loses_only_what_was_in_flight(
    tmp_path: Path, expected: dict[str, bytes], number: signal.Signals, requests: int
) -> None:
    with BucketServer(build_objects(PAPERS), latency=0.004) as server:
        process = start(server, tmp_path)
        wait_for_requests(server, requests, process)
        begin = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - begin < 3
        assert process.returncode == 75, errors
        assert number.name in errors
        assert finish(server, tmp_path) == "270 30"
        asked = Counter({key: n for key, n in server.requests.items() if "inventory" not in key})
    assert read_results(tmp_path) == expected
    assert asked.total() - len(asked) <= CONNECTIONS


def test_staged_articles_damaged_by_a_power_cut_are_fetched_again(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with BucketServer(build_objects(PAPERS), latency=0.004) as server:
        process = start(server, tmp_path)
        wait_for_requests(server, 450, process)
        process.kill()
        process.wait()
        staged = sorted(tmp_path.rglob("*.partial/*.xml"))
        assert staged
        staged[0].write_bytes(b"\0" * staged[0].stat().st_size)
        assert finish(server, tmp_path) == "270 30"
    assert read_results(tmp_path) == expected


@pytest.mark.parametrize("largest_file", [20_000, 60_000])  # no room for the database; for the first bundle
def test_a_disk_without_room_is_one_sentence_and_the_fetch_goes_on_afterwards(
    tmp_path: Path, expected: dict[str, bytes], largest_file: int
) -> None:
    with BucketServer(build_objects(PAPERS)) as server:
        process = start(server, tmp_path, str(largest_file))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 6, errors
        assert errors.count("\n") == 1
        assert "download_dir" in errors
        assert finish(server, tmp_path) == "270 30"
    assert read_results(tmp_path) == expected
