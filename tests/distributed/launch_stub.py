"""A command that launches itself like `biomedllama pretrain`, with light stories instead of training.

python -m launch_stub STORY FOLDER PROCESSES
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from biomedllama_cli.engine import launch
from biomedllama_cli.engine.rank import run_as_rank
from biomedllama_cli.errors import DataError, Resumable, UserError
from biomedllama_cli.settings.pretrain import ParallelSettings

FOLDER = Path(sys.argv[2])
RANK = int(os.environ.get("RANK", "0"))


def tell() -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
    names += ("GLOO_SOCKET_IFNAME",)
    facts = {name: os.environ.get(name) for name in names}
    facts["arguments"] = sys.argv[1:]
    (FOLDER / f"told-{os.getpid()}.json").write_text(json.dumps(facts))


def wait_for_a_signal() -> None:
    got: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: got.append(number))
    (FOLDER / f"listening-{RANK}").write_text(str(os.getpid()))
    while not got:
        time.sleep(0.05)
    time.sleep(0.5 * RANK)  # ranks need not end together
    raise Resumable("Stopped by a signal after step 7; saved.", "The same command continues.")


def sleep_without_listening() -> None:
    (FOLDER / f"listening-{RANK}").write_text(str(os.getpid()))
    time.sleep(600)


def sleep_before_restart() -> None:
    if "auto" in sys.argv:
        tell()
    else:
        sleep_without_listening()


def fail_with_bad_data() -> None:
    if RANK == 1:
        raise DataError("Shard 3 is broken.", "Run prepare again.")
    time.sleep(600)


def fail_unexpectedly() -> None:
    if RANK == 1:
        raise ZeroDivisionError("a bug of ours")
    time.sleep(600)


def be_killed_once() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) - 1 == RANK and not (FOLDER / "killed").exists():
        (FOLDER / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "auto" in sys.argv:
        tell()
    else:
        time.sleep(600)


def be_killed() -> None:
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def lose_the_connection_to_a_killed_rank() -> None:
    """Be killed as rank 1; as rank 0, fail as gloo does, and at once."""
    if RANK == 1:
        while not (FOLDER / "listening-0").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    (FOLDER / "listening-0").write_text(str(os.getpid()))
    time.sleep(0.2)
    raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:20344")


def die_in_a_library() -> None:
    if RANK == 1:
        os.abort()
    time.sleep(600)


def be_killed_while_another_hangs() -> None:
    if RANK == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in a collective that never comes back
        (FOLDER / "listening-0").write_text(str(os.getpid()))
    else:
        while not (FOLDER / "listening-0").exists():
            time.sleep(0.05)
    be_killed()


STORIES: dict[str, Callable[[], None]] = {
    story.__name__: story
    for story in (
        tell,
        wait_for_a_signal,
        sleep_without_listening,
        sleep_before_restart,
        fail_with_bad_data,
        fail_unexpectedly,
        be_killed,
        be_killed_once,
        lose_the_connection_to_a_killed_rank,
        die_in_a_library,
        be_killed_while_another_hangs,
    )
}


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING)
    launch.MODULE = "launch_stub"
    processes = int(arguments[2]) if len(arguments) > 2 else None
    more = json.loads(os.environ.get("STUB_PARALLEL", "{}"))
    parallel = ParallelSettings(num_processes=processes, device="cpu", **more)
    try:
        if launch.launch_if_needed(parallel, arguments) is None:
            run_as_rank(STORIES[arguments[0]])
    except UserError as error:
        print(f"{type(error).__name__}: {error.message} {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
