"""Where the nodes of a job meet, and the network interface that leads there."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket

import psutil

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings

logger = logging.getLogger(__name__)

FAR_AWAY = "192.0.2.1"
"""An address of documentation (RFC 5737), which nobody has: the way there is the default route."""


def check_nodes(parallel: ParallelSettings) -> tuple[str, int] | None:
    """Check what is said of nodes, and return the meeting point (host, port); None for a job of one node.

    >>> check_nodes(ParallelSettings(nodes=2, node_rank=1, rendezvous="gpu01:29500"))
    ('gpu01', 29500)

    Raises:
        SettingsError: a node's number or the meeting point is missing, or contradicts the number of nodes.
    """
    nodes, rank = parallel.nodes, parallel.node_rank
    if rank is not None and rank >= nodes:
        raise SettingsError(
            f"node_rank is {rank}, but must be below the number of nodes, which is {nodes}.",
            "Give --nodes with the number of all nodes; the first one has --node-rank 0.",
        )
    if nodes == 1:
        if parallel.rendezvous is not None:
            raise SettingsError(
                f"rendezvous is {parallel.rendezvous}, but nodes is 1, so there is nobody to meet.",
                "Give --nodes with the number of all nodes, or leave --rendezvous out.",
            )
        return None
    if rank is None or parallel.rendezvous is None:
        missing = "node_rank" if rank is None else "rendezvous"
        raise SettingsError(
            f"nodes is {nodes}, so {missing} must be given.",
            "On each node: --nodes N --node-rank NUMBER --rendezvous HOST:PORT, where HOST is the node with number 0.",
        )
    return parse_rendezvous(parallel.rendezvous)


def parse_rendezvous(text: str) -> tuple[str, int]:
    """Return host and port of a meeting point.

    >>> parse_rendezvous("10.0.0.1:29500"), parse_rendezvous("[fd00::1]:29500")
    (('10.0.0.1', 29500), ('fd00::1', 29500))

    Raises:
        SettingsError: it is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 - 1:
        raise SettingsError(
            f"rendezvous is {text!r}, but must be HOST:PORT with a port from 1 to 65534.",
            "Take a port of node 0 that is free, and the next one as well: --rendezvous gpu01:29500",
        )
    return host, int(port)


def choose_interface(host: str, port: int) -> None:
    """Set the network interface of this process and its children to the one whose route leads to a host.

    Variables that the user has set stay as they are.

    Raises:
        SettingsError: the host is unknown, or no route leads there.
    """
    name = find_interface(host, port)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # = means exactly this name


def find_interface(host: str, port: int) -> str | None:
    """Return the network interface whose route leads to a host; None where none has that address.

    Many systems call their own name 127.0.1.1 (/etc/hosts). The way there leads to no other node, so that of the
    default route is taken, which is where others come from most often.

    Raises:
        SettingsError: the host is unknown, or no route leads there.
    """
    try:
        own = _find_own_address(host, port)
    except OSError as error:
        raise SettingsError(
            f"rendezvous {host}:{port} cannot be reached from here: {error.strerror or error}.",
            "Give the name or address of node 0 as this node sees it.",
        ) from error
    if ipaddress.ip_address(own).is_loopback and not _means_this_machine(host):
        name = None
        with contextlib.suppress(OSError):
            name = _find_name(_find_own_address(FAR_AWAY, port))
        if not {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"} <= os.environ.keys():
            logger.warning(
                "%s is %s on this machine, where no other node can reach it: %s; if the nodes do not find each other, "
                "give the address that they see, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME",
                *(
                    host,
                    own,
                    f"taking the network interface {name}" if name else "no network interface is chosen",
                ),
            )
        return name
    return _find_name(own)


def _find_own_address(host: str, port: int) -> str:
    """Return the address that packets to a host leave this machine with; one for other machines, where there is one."""
    found, wrong = [], OSError("it has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # of a datagram socket: sends nothing, only looks up the route
                found.append(str(probe.getsockname()[0]).partition("%")[0])
        except OSError as error:
            wrong = error
    if not found:
        raise wrong
    return min(found, key=lambda address: ipaddress.ip_address(address).is_loopback)


def _find_name(own: str) -> str | None:
    """Return the network interface that has an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == own for each in addresses):
            return str(name)
    return None


def _means_this_machine(host: str) -> bool:
    """Return whether a host is the loopback device by its own words.

    >>> _means_this_machine("127.0.0.1"), _means_this_machine("localhost"), _means_this_machine("gpu01")
    (True, True, False)
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
