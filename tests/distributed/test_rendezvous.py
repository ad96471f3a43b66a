"""Which network interface leads to the other nodes, for the names that machines have."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from biomedllama_cli.engine import rendezvous
from biomedllama_cli.errors import SettingsError

NAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
ROUTES = {"127.0.1.1": "127.0.0.1", "127.0.0.1": "127.0.0.1", "10.0.0.1": "10.0.0.1"}
"""The address that packets to another leave with."""


class Probe:
    """A datagram socket of a machine with two interfaces, `lo` and `eth0`."""

    default_route = True

    def __init__(self, *given: object) -> None:
        self.own = ""

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *given: object) -> None:
        return None

    def connect(self, address: tuple[str, int]) -> None:
        routes = {**ROUTES, rendezvous.FAR_AWAY: "10.0.0.1"} if self.default_route else ROUTES
        if address[0] not in routes:
            raise OSError(101, "Network is unreachable")
        self.own = routes[address[0]]

    def getsockname(self) -> tuple[str, int]:
        return self.own, 40000


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str | None]]:
    """Return a function that names the interface to `gpu01`, which has the given addresses, and tells what was set."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # which is put back in the end
        monkeypatch.delenv(name)

    def look_up(host: str, port: int, **more: Any) -> list[Any]:
        return [(2, 2, 17, "", (each, port)) for each in known.get(host, [host])]

    known: dict[str, list[str]] = {}
    cards = {"lo": "127.0.0.1", "eth0": "10.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "socket", Probe)
    interfaces = {name: [type("Card", (), {"address": address})] for name, address in cards.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)

    def choose(host: str, *addresses: str) -> list[str | None]:
        known["gpu01"] = list(addresses)
        rendezvous.choose_interface(host, 29500)
        return [os.environ.get(name) for name in NAMES]

    return choose


def test_a_machine_that_calls_itself_loopback_takes_the_way_to_others(call, caplog) -> None:
    assert call("gpu01", "127.0.1.1") == ["eth0", "=eth0"]
    assert "gpu01 is 127.0.0.1 on this machine" in caplog.text


def test_a_machine_that_calls_itself_loopback_and_knows_no_way_is_warned(call, caplog, monkeypatch) -> None:
    monkeypatch.setattr(Probe, "default_route", False)
    assert call("gpu01", "127.0.1.1") == [None, None]
    assert "set GLOO_SOCKET_IFNAME" in caplog.text
    for name in NAMES:
        monkeypatch.setenv(name, "ib0")
    caplog.clear()
    assert call("gpu01", "127.0.1.1") == ["ib0", "ib0"]
    assert caplog.text == ""


def test_of_several_addresses_one_for_other_machines_is_taken(call, caplog) -> None:
    assert call("gpu01", "127.0.1.1", "192.168.9.9", "10.0.0.1") == ["eth0", "=eth0"]
    assert caplog.text == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1"])
def test_who_asks_for_loopback_gets_it(host: str, call, caplog) -> None:
    assert call(host) == ["lo", "=lo"]
    assert caplog.text == ""


def test_a_host_without_a_route_is_refused(call) -> None:
    with pytest.raises(SettingsError, match="cannot be reached from here: Network is unreachable"):
        call("gpu01", "192.168.9.9")
