"""Starts of the command line as forks of a process that has imported everything: a start takes a second.

The tests and scripts that kill runs use them.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

LONGEST_SECONDS = 120.0


def start(arguments: list[str], ranks: int, said: Path) -> list[int]:
    """Fork the processes of one start; each is the command line, or one rank of it, and writes beside `said`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process_ids = []
    for rank in range(ranks):
        process_id = os.fork()
        if process_id == 0:
            try:
                become(arguments, rank, ranks, port, said)
            finally:
                os._exit(99)
        process_ids.append(process_id)
    return process_ids


def become(arguments: list[str], rank: int, ranks: int, port: int, said: Path) -> None:
    """Be one start of the command."""
    for stream in (1, 2):
        os.dup2(os.open(f"{said}.{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if ranks > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ.update({name: str(value) for name, value in places.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    from biomedllama_cli.cli.app import run

    sys.argv = ["biomedllama", *arguments]
    code = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for(process_ids: list[int], seconds: float = LONGEST_SECONDS) -> list[int]:
    """Wait for the end of processes and return their exit codes, negative for a signal; those that stay are killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < len(process_ids):
        for process_id in process_ids:
            if process_id not in codes:
                found, status = os.waitpid(process_id, os.WNOHANG)
                if found:
                    codes[process_id] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for process_id in set(process_ids) - set(codes):
                os.kill(process_id, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.001)
    return [codes[process_id] for process_id in process_ids]


def read_output(said: Path) -> str:
    """Return what the processes of a start have said, for a message."""
    return "\n".join(path.read_text() for path in sorted(said.parent.glob(f"{said.name}.*")))[-3000:]
