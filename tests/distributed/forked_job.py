"""Jobs of processes that are forked from one which has imported everything once: a start costs no seconds."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable


def run_job(world_size: int, ranks_per_node: int, story: Callable[[], None]) -> None:
    """Run a story in every rank of a job of forked processes; ends this program where one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = set()
    for rank in range(world_size):
        child = os.fork()
        if child:
            children.add(child)
            continue
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % ranks_per_node),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(ranks_per_node),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        try:
            story()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    while children:
        child, status = os.wait()
        children.discard(child)
        if status:
            for other in children:
                os.kill(other, 9)
            sys.exit(f"a rank of a job of {world_size} processes failed")
