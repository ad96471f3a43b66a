"""The launcher of node 0, seen by the others: counts them in, collects how they ended, and tells the cause."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from biomedllama_cli.engine.node_line import TROUBLE, Ending, Line, LostError, Message, read_number
from biomedllama_cli.engine.node_links import Waiting, choose_cause, describe_loss
from biomedllama_cli.errors import SettingsError, WorkerError
from biomedllama_cli.settings.pretrain import ParallelSettings

logger = logging.getLogger(__name__)

TELL_SECONDS = 30.0
"""How long the other nodes have to tell their endings after the first failure."""
CLOSE_SECONDS = 5.0
GREETING_SECONDS = 10.0
MAX_STRANGERS = 32
"""Connections that have not said yet which node they are."""


class FirstNode(Waiting):
    """Node 0: counts the others in, collects the endings, and tells the cause.

    Args:
        parallel: of the command.
        port: to listen on.
        processes: of each node.
        count_signals: how often this launcher was asked to stop.

    Raises:
        SettingsError: the port is taken.
    """

    def __init__(
        self, parallel: ParallelSettings, port: int, processes: int, count_signals: Callable[[], int]
    ) -> None:
        super().__init__(parallel, processes, count_signals)
        self._strangers: list[Line] = []
        self._lines: dict[int, Line] = {}
        self._ready: dict[int, int] = {}
        self._endings: dict[int, tuple[Ending, float]] | None = (
            None  # with when it was noticed; None: nothing runs
        )
        self._told = False
        self._refused, self._asked = "", False
        self._server = _listen(port)
        self._server.setblocking(False)

    def start_together(self, attempt: int) -> int:
        """Wait until all others are ready, and tell them to start.

        Raises:
            WorkerError: not all came in time.
            KeyboardInterrupt: this launcher was asked to stop, or before a restart another one.
        """
        end, said = time.monotonic() + self._timeout, time.monotonic() + 5
        self._endings, self._told, self._asked = None, False, False
        while len(self._ready) < self._nodes - 1:
            self._look()
            if self._asked and attempt:
                raise KeyboardInterrupt  # between two starts: the others will not come
            missing = [node for node in range(1, self._nodes) if node not in self._ready]
            if time.monotonic() > min(end, said) and missing:
                if time.monotonic() > end:
                    raise WorkerError(
                        f"Of {self._nodes} nodes, {_name(missing)} did not come within {self._timeout:g} s"
                        f"{self._refused}.",
                        "Start the same command there with its own --node-rank, or look into its messages; "
                        "--rendezvous-timeout gives more time.",
                    )
                logger.info("waiting for %s", _name(missing))
                said += 30
            self._pause()
        number = max(attempt, *self._ready.values())
        self._ready.clear()
        self._endings = {}
        self._tell({"start": number})
        return number

    def others_failed(self) -> bool:
        """Look at the others; at the first failure of one, tell the rest to stop."""
        self._look()
        assert self._endings is not None
        if any(each.kind in TROUBLE for each, _ in self._endings.values()) and not self._told:
            self._told = True
            self._tell({"stop": True})
        return self._told

    def agree(self, ending: Ending) -> Ending:
        """Collect the endings of all nodes, choose the cause and tell it."""
        assert self._endings is not None
        self._note(self._node, ending)
        since, signals = time.monotonic(), self._be_patient()
        while len(self._endings) < self._nodes:
            if not self.others_failed():
                since = time.monotonic()
            elif time.monotonic() - since > TELL_SECONDS:
                break
            self._pause(signals)
        now = time.monotonic()
        cause = choose_cause(
            [replace(each, age_seconds=now - noticed) for each, noticed in self._endings.values()]
        )
        self._tell({"cause": cause.to_message()})
        self._endings = None
        return cause

    def close(self) -> None:
        """Wait until the others have read what was told, for a moment, and leave."""
        if self._count_signals():
            self._tell({"leaving": True})
        self._server.close()
        for line in self._strangers:
            line.close()
        end = time.monotonic() + CLOSE_SECONDS
        for line in self._lines.values():
            line.finish(max(0.0, end - time.monotonic()))

    def _tell(self, message: Message) -> None:
        for line in self._lines.values():
            line.send(message)

    def _look(self) -> None:
        """Let in who knocks, and read what has come."""
        with contextlib.suppress(OSError):  # BlockingIOError: nobody knocks
            while len(self._strangers) < MAX_STRANGERS:
                self._strangers.append(Line(self._server.accept()[0]))
        for line in list(self._strangers):
            self._greet(line)
        for node, line in list(self._lines.items()):
            try:
                for message in line.receive():
                    self._hear(node, message)
            except (LostError, ValueError) as error:
                logger.info("node %d is gone: %s", node, error)
                line.close()
                del self._lines[node]
                self._ready.pop(node, None)
                if self._endings is not None and node not in self._endings:
                    self._note(node, describe_loss(node, self._nodes))

    def _greet(self, line: Line) -> None:
        """Let a node in that belongs to this job; whoever else is on the line is left alone."""
        try:
            messages = line.receive()
            if not messages:
                if time.monotonic() - line.opened > GREETING_SECONDS:
                    raise LostError("it says nothing")
                return
            node = read_number(messages[0], "node")
            facts = {name: read_number(messages[0], name) for name in self._facts}
        except (LostError, ValueError) as error:
            logger.debug("a stranger on the port of the launchers: %s", error)
            self._strangers.remove(line)
            line.close()
            return
        self._strangers.remove(line)
        other = [name for name, value in self._facts.items() if facts[name] != value]
        if other or not 0 < node < self._nodes:
            name = other[0] if other else "node_rank"
            here, there = self._facts.get(name, "1 or more"), facts.get(name, node)
            refusal = f"{name} is {here} on node 0, but {there} on node {node}"
            logger.warning("a launcher was sent away: %s", refusal)
            self._refused = f"; the last one that was sent away: {refusal}"
            line.send({"refused": refusal})
            line.finish(1)
        elif node in self._lines:
            line.close()  # it knocks again, and the other may be found dead by then
        else:
            self._lines[node] = line
            with contextlib.suppress(ValueError):
                for message in messages[1:]:
                    self._hear(node, message)

    def _hear(self, node: int, message: Message) -> None:
        if "ready" in message:
            self._ready[node] = read_number(message, "ready")
        elif "leaving" in message:
            logger.warning("node %d was asked to stop", node)
            self._asked = True
        elif "ending" in message and self._endings is not None:
            self._note(node, replace(Ending.from_message(message["ending"]), node=node))

    def _note(self, node: int, ending: Ending) -> None:
        assert self._endings is not None
        self._endings[node] = (ending, time.monotonic() - ending.age_seconds)


def _listen(port: int) -> socket.socket:
    """Listen on all addresses of this machine, also where it has none of IPv6."""
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise SettingsError(
            f"port {port}, the one after that of the rendezvous, cannot be listened on: {error.strerror or error}.",
            "Take a rendezvous whose port and the next one are free on node 0.",
        ) from error


def _name(nodes: list[int]) -> str:
    """Return the nodes for a sentence.

    >>> _name([3]), _name([1, 2])
    ('node 3', 'nodes 1, 2')
    """
    return ("nodes " if len(nodes) > 1 else "node ") + ", ".join(map(str, nodes))
