"""The launcher of a node but the first: says when it is ready and how it ended, and hears the rest."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from biomedllama_cli.engine.node_line import Ending, Line, LostError, read_number
from biomedllama_cli.engine.node_links import Waiting, choose_cause, describe_loss
from biomedllama_cli.errors import SettingsError, WorkerError
from biomedllama_cli.settings.pretrain import ParallelSettings

logger = logging.getLogger(__name__)


class OtherNode(Waiting):
    """A node but the first: says when it is ready and how it ended, and hears the rest.

    Args:
        parallel: of the command.
        place: host and port where node 0 listens.
        processes: of each node.
        count_signals: how often this launcher was asked to stop.
    """

    def __init__(
        self,
        parallel: ParallelSettings,
        place: tuple[str, int],
        processes: int,
        count_signals: Callable[[], int],
    ) -> None:
        super().__init__(parallel, processes, count_signals)
        self._place = place
        self._line: Line | None = None
        self._stop = False
        self._cause: Ending | None = None

    def start_together(self, attempt: int) -> int:
        """Say that this node is ready, again and again until node 0 has heard it, and wait for the start.

        Raises:
            WorkerError: node 0 does not answer, or no start came in time.
            SettingsError: node 0 runs another job.
            KeyboardInterrupt: this launcher was asked to stop, or before a restart that of node 0.
        """
        end, why = time.monotonic() + self._timeout, "nothing was heard from it"
        self._stop, self._cause = False, None
        if self._line is not None:
            self._line.send({"ready": attempt})
        while time.monotonic() < end:
            try:
                if self._line is None:
                    self._connect(attempt)
                assert self._line is not None
                for message in self._line.receive():
                    if "refused" in message:
                        raise SettingsError(
                            f"{message['refused']}.", "Give all nodes the same command but for --node-rank."
                        )
                    if "leaving" in message and attempt:
                        raise KeyboardInterrupt  # between two starts: node 0 was asked to stop
                    if "start" in message:
                        return read_number(message, "start")
                why = "other nodes are missing"
            except (OSError, LostError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                self._leave()
            self._pause()
        host, port = self._place
        raise WorkerError(
            f"Node 0 did not start the job within {self._timeout:g} s (launcher at {host}:{port}): {why}.",
            "Start the same command on all nodes, with --node-rank 0 on the one that --rendezvous names, and open "
            "its port and the next one; --rendezvous-timeout gives more time.",
        )

    def others_failed(self) -> bool:
        """Listen to node 0; return whether it has said to stop, or is gone."""
        if self._line is not None:
            try:
                for message in self._line.receive():
                    self._stop |= "stop" in message
                    if "cause" in message:
                        self._cause = Ending.from_message(message["cause"])
            except (LostError, ValueError) as error:
                logger.info("node 0 is gone: %s", error)
                self._leave()
        return self._stop or self._cause is not None or self._line is None

    def agree(self, ending: Ending) -> Ending:
        """Tell node 0 how this one ended, and return the cause that it tells."""
        if self._line is not None:
            self._line.send({"ending": ending.to_message()})
        signals = self._be_patient()
        while True:
            self.others_failed()
            if self._cause is not None:
                return self._cause
            if self._line is None:
                return choose_cause([ending, describe_loss(0, self._nodes)])
            self._pause(signals)

    def close(self) -> None:
        """Leave."""
        if self._line is not None and self._count_signals():
            self._line.send({"leaving": True})
        self._leave()

    def _connect(self, attempt: int) -> None:
        connection = socket.create_connection(self._place, timeout=3)
        self._line = Line(connection)
        self._line.send({"node": self._node, **self._facts})
        self._line.send({"ready": attempt})

    def _leave(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
