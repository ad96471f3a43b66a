"""What the launchers of several nodes tell each other: when a start begins, that it failed, and the cause.

Node 0 listens on the port after that of the rendezvous, the others connect. A launcher that is killed loses its
connections, a machine that dies falls silent; both are seen by the others, which stop their processes and either end
with the cause or start again together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from biomedllama_cli.engine.first_node import FirstNode
from biomedllama_cli.engine.node_line import Ending
from biomedllama_cli.engine.other_node import OtherNode
from biomedllama_cli.settings.pretrain import ParallelSettings


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


def open_link(
    parallel: ParallelSettings,
    place: tuple[str, int] | None,
    processes: int,
    count_signals: Callable[[], int],
) -> NodeLink:
    """Return the link to the launchers of the other nodes.

    Raises:
        SettingsError: node 0 cannot listen.
    """
    if place is None:
        return AloneLink()
    host, port = place[0], place[1] + 1
    if parallel.node_rank == 0:
        return FirstNode(parallel, port, processes, count_signals)
    return OtherNode(parallel, (host, port), processes, count_signals)
