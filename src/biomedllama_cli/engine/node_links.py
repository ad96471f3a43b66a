"""What the launchers of several nodes tell each other: when a start begins, that it failed, and the cause.

Node 0 listens on the port after that of the rendezvous, the others connect. A launcher that is killed loses its
connections, a machine that dies falls silent; both are seen by the others, which stop their processes and either end
with the cause or start again together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from biomedllama_cli.engine.node_line import KINDS, Ending
from biomedllama_cli.errors import ExitCode
from biomedllama_cli.settings.pretrain import ParallelSettings

POLL_SECONDS = 0.1
PATIENCE = 2
"""So many signals more do not end the wait for what all nodes have come to, which may be that they have saved."""


class NodeLink(Protocol):
    """The other launchers of a job, as one of them sees them."""

    def start_together(self, attempt: int) -> int:
        """Wait until every node is ready, and return the number of the start, the same on all."""
        ...

    def others_failed(self) -> bool:
        """Look at the other nodes; return whether this one must stop for them."""
        ...

    def agree(self, ending: Ending) -> Ending:
        """Tell how this node's part ended, and return the ending of all."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class AloneLink:
    """A job of one node."""

    def start_together(self, attempt: int) -> int:
        """Return the number as it is."""
        return attempt

    def others_failed(self) -> bool:
        """Return that no other has failed."""
        return False

    def agree(self, ending: Ending) -> Ending:
        """Return the ending as it is."""
        return ending

    def close(self) -> None:
        """Do nothing."""


class Waiting:
    """What both sides need while they wait."""

    def __init__(self, parallel: ParallelSettings, processes: int, count_signals: Callable[[], int]) -> None:
        self._nodes, self._node = parallel.nodes, parallel.node_rank or 0
        self._timeout = parallel.rendezvous_timeout
        self._count_signals = count_signals
        self._facts = {
            "nodes": parallel.nodes,
            "num_processes": processes,
            "max_restarts": parallel.max_restarts,
        }

    def _pause(self, signals: int = 0) -> None:
        """Wait a moment.

        Raises:
            KeyboardInterrupt: more than so many signals have asked this launcher to stop.
        """
        if self._count_signals() > signals:
            raise KeyboardInterrupt
        time.sleep(POLL_SECONDS)

    def _be_patient(self) -> int:
        """Return how many signals must have come before the end of all nodes is waited for no longer."""
        return self._count_signals() + PATIENCE


def choose_cause(endings: list[Ending]) -> Ending:
    """Return the ending that the others follow from.

    >>> lost = Ending("disconnected", 0, "Connection closed by peer", age_seconds=3.2)
    >>> choose_cause([lost, Ending("killed", 1, "Rank 1 was killed.", age_seconds=3.0)]).node
    1
    """
    asked = any(each.asked for each in endings)
    if any(each.kind == "saved" for each in endings):
        # All save together; who has no word to say was only slower than the end of the others, and of their store.
        endings = [each for each in endings if each.kind not in ("interrupted", "halted")]
    cause = min(endings, key=lambda each: (KINDS.index(each.kind), -each.age_seconds))
    return replace(cause, asked=asked)


def describe_loss(node: int, nodes: int) -> Ending:
    """Return the ending of a node that is heard of no more."""
    return Ending(
        "gone",
        node,
        f"Node {node} of {nodes} is gone: its launcher was killed, or the machine or the network died.",
        "Look at that machine; the same command on all nodes continues from the newest checkpoint.",
        exit_code=int(ExitCode.WORKER),
    )
