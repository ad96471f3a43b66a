"""A connection between the launchers of two nodes: lines of JSON that tell how a node is, bounded, never code."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from biomedllama_cli.errors import ExitCode

HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS = 40.0
"""A launcher that has said nothing for so long has died with its machine, or the network between has."""
OWN_PAUSE_SECONDS = 10.0
"""Who has not listened for so long was stopped itself, and knows nothing of the others' silence."""
SEND_SECONDS = 10.0
MAX_LINE_BYTES = 2**16
MAX_TEXT = 2_000
MAX_TRACE = 8_000

Message = dict[str, Any]
Kind = Literal[
    "halted", "interrupted", "killed", "gone", "refused", "failed", "disconnected", "saved", "stopped", "done"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
TROUBLE: tuple[Kind, ...] = KINDS[:7]
"""What ends the job on the other nodes too."""


@dataclass(frozen=True)
class Ending:
    """How a node's part of one start ended.

    Attributes:
        kind: by a signal between two stages (what is finished is kept), by one with nothing saved, a killed rank, a
            lost launcher, an error a user can mend, an unexpected one, a lost connection, saved after a signal, stopped
            for another node, or well. The earlier of these is the cause of the later.
        node: its number.
        message: one sentence, or an empty string.
        hint: what to do about it, or an empty string.
        trace: the traceback of an unexpected error, or an empty string.
        exit_code: of the launcher.
        age_seconds: how long ago it was noticed.
        asked: whether its launcher was asked to stop; of the cause, whether that of any node was.
    """

    kind: Kind
    node: int
    message: str = ""
    hint: str = ""
    trace: str = ""
    exit_code: int = 0
    age_seconds: float = 0.0
    asked: bool = False

    def to_message(self) -> Message:
        """Return the ending as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: object) -> Ending:
        r"""Return an ending that another launcher has sent.

        >>> Ending.from_message({"kind": "killed", "node": 1, "message": "Rank 1\x1b[2J was killed."}).message
        'Rank 1 [2J was killed.'

        Raises:
            ValueError: it is none.
        """
        if not isinstance(message, dict) or message.get("kind") not in KINDS:
            raise ValueError("no ending")
        code = read_number(message, "exit_code", 0)
        if code not in list(ExitCode):
            raise ValueError("no exit code of ours")
        age = message.get("age_seconds", 0.0)
        return cls(
            kind=message["kind"],
            node=read_number(message, "node", 0),
            message=clean(message.get("message"), MAX_TEXT),
            hint=clean(message.get("hint"), MAX_TEXT),
            trace=clean(message.get("trace"), MAX_TRACE, lines=True),
            exit_code=code,
            age_seconds=float(age) if isinstance(age, int | float) and 0 <= age < 1e6 else 0.0,
            asked=message.get("asked") is True,
        )


def clean(text: object, limit: int, *, lines: bool = False) -> str:
    """Return a text of another machine without what a terminal would take for a command, and not longer than that.

    The end of a long text is kept: it names the error.
    """
    kept = "[^\\x20-\\x7e\\xa0-\\uffff\\n]" if lines else "[^\\x20-\\x7e\\xa0-\\uffff]"
    return re.sub(kept, " ", text)[-limit:] if isinstance(text, str) else ""


def read_number(message: Message, name: str, default: int | None = None) -> int:
    """Return a whole number of a message.

    Raises:
        ValueError: it is none.
    """
    value = message.get(name, default)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{name} is no number")
    return value


class LostError(Exception):
    """The other launcher is gone, or what is on the other side is none."""


class Line:
    """One connection, looked at from time to time.

    Args:
        connection: an open socket, owned from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._received = b""
        self.opened = self._heard = self._looked = time.monotonic()
        self._sent = 0.0
        self._broken = False

    def send(self, message: Message) -> None:
        """Send a message; that the other is gone shows when it is listened to."""
        self._sent = time.monotonic()
        line = json.dumps(message).encode("ascii") + b"\n"
        try:
            self._socket.settimeout(SEND_SECONDS)
            self._socket.sendall(line)
            self._socket.setblocking(False)
        except OSError:
            self._broken = True

    def receive(self) -> list[Message]:
        """Return the messages that have come, and show the other that this launcher lives.

        Raises:
            LostError: the other has closed, says what no launcher says, or nothing for long.
        """
        now = time.monotonic()
        if now - self._looked > OWN_PAUSE_SECONDS:
            self._heard = now
        self._looked = now
        closed = self._read()
        *lines, self._received = self._received.split(b"\n")
        messages = [_parse(line) for line in lines]
        if messages:
            self._heard = now
        elif closed or self._broken:
            raise LostError("the connection is closed")
        if now - self._heard > SILENCE_SECONDS:
            raise LostError(f"nothing was heard for {SILENCE_SECONDS:.0f} s")
        if now - self._sent > HEARTBEAT_SECONDS:
            self.send({})
        return [message for message in messages if message]

    def _read(self) -> bool:
        """Read what is there; return whether the other has closed."""
        while True:
            try:
                data = self._socket.recv(MAX_LINE_BYTES)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not data:
                return True
            self._received += data
            if len(self._received) > 4 * MAX_LINE_BYTES:
                raise LostError("too much at once")

    def finish(self, seconds: float) -> None:
        """Close when the other has, which then has read all that was sent; or after that many seconds."""
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError, LostError):
            self._socket.shutdown(socket.SHUT_WR)
            while time.monotonic() < end and not self._read():
                self._received = b""
                time.sleep(0.05)
        self.close()

    def close(self) -> None:
        """Close at once."""
        self._socket.close()


def _parse(line: bytes) -> Message:
    try:
        message = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise LostError("not the language of a launcher")
    return message
