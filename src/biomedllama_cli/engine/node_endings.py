"""From what this node's processes raised to what other nodes are told of it, and back."""

from __future__ import annotations

import logging
import re
import time

from biomedllama_cli.engine.launch_job import CrashError, OthersFailedError, error_class
from biomedllama_cli.engine.node_line import Ending, Kind
from biomedllama_cli.engine.signals import StoppedAlone
from biomedllama_cli.errors import ExitCode, Resumable, UserError

logger = logging.getLogger(__name__)

_LOST_CONNECTION = re.compile(
    r"connection (was )?(closed|reset|refused|lost|aborted)|broken pipe|gloo|nccl|remote process exited"
    r"|Dist(Network|Store|Backend)Error|socket|timed? ?out|`accelerate launch` failed",
    re.IGNORECASE,
)


def describe_ending(error: BaseException | None, node: int, noticed: float | None) -> Ending:
    """Return how a node's part ended.

    >>> describe_ending(CrashError("Rank 0 of 2 failed: RuntimeError: Connection closed by peer"), 0, None).kind
    'disconnected'
    """
    age = 0.0 if noticed is None else time.monotonic() - noticed
    kind: Kind = "done"
    if isinstance(error, CrashError):
        kind = "killed" if error.killed else "failed"
        if _LOST_CONNECTION.search(error.message) and not error.killed:
            kind = "disconnected"
        return Ending(kind, node, error.message, error.hint, error.trace, int(error.exit_code), age)
    if isinstance(error, UserError):
        kind = "saved" if isinstance(error, Resumable) else "refused"
        if isinstance(error, StoppedAlone):
            kind = "halted"  # the others save nothing together with it: they end as well
        return Ending(kind, node, error.message, error.hint, "", int(error.exit_code), age)
    if isinstance(error, OthersFailedError):
        kind = "stopped"
    elif error is not None:
        return Ending("interrupted", node, exit_code=int(ExitCode.INTERRUPTED), age_seconds=age)
    return Ending(kind, node, age_seconds=age)


def to_error(cause: Ending, own: BaseException | None, node: int, nodes: int) -> BaseException | None:
    """Return what a launcher raises when the nodes have agreed on the cause; None where all went well.

    >>> killed = Ending("killed", 1, "Rank 1 of 2 was killed before it could say why.", exit_code=7)
    >>> to_error(killed, OthersFailedError(), 0, 2).message
    'Node 1 of 2: Rank 1 of 2 was killed before it could say why.'
    """
    if cause.kind == "done":
        return None
    if isinstance(own, StoppedAlone):
        own = Resumable(own.message, own.hint)  # alone among ranks: to who called it is what any stop is
    if (cause.node == node and not isinstance(own, OthersFailedError)) or (
        cause.kind in ("saved", "halted") and isinstance(own, Resumable)
    ):
        return own
    if cause.kind == "interrupted":
        logger.warning("node %d of %d was interrupted", cause.node, nodes)
        return KeyboardInterrupt()
    if cause.kind == "stopped":
        return CrashError("Every node was stopped for another one, and none has said why.")
    message = cause.message if cause.kind == "gone" else f"Node {cause.node} of {nodes}: {cause.message}"
    if cause.kind in ("refused", "saved", "halted"):
        return error_class(cause.exit_code)(message, cause.hint)
    trace = f"node {cause.node} of {nodes}, {cause.trace}" if cause.trace else ""
    return CrashError(message, cause.hint, trace)
