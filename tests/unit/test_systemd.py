"""What a service manager hands over and is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fastroute.proxy.systemd import Notifier, handed_over


def listen(**more: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), **more}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, {}),
        (listen(), {}),
        (listen(LISTEN_FDS="2"), {"unknown": [3, 4]}),
        (listen(LISTEN_FDS="3", LISTEN_FDNAMES="a:b:a"), {"a": [3, 5], "b": [4]}),
        (listen(LISTEN_FDS="2", LISTEN_FDNAMES="a"), {"a": [3], "unknown": [4]}),
        (listen(LISTEN_FDS="x"), {}),
        (listen(LISTEN_FDS="-1"), {}),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {}),  # handed to another process
    ],
)
def test_sockets_are_those_handed_to_this_process(environment, found):
    assert handed_over(environment) == found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and its name for NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        if request.param == "path":
            one.bind(str(tmp_path / "notify"))
            yield one, str(tmp_path / "notify")
        else:
            one.bind("")  # the kernel chooses an abstract name
            yield one, "@" + one.getsockname()[1:].decode()


def test_what_is_told_arrives_in_one_message_each(manager):
    one, where = manager
    environment = {"NOTIFY_SOCKET": where}
    notifier = Notifier(environment)
    assert environment == {}  # no child speaks in our name
    notifier.ready("2 workers")
    assert one.recv(1000) == b"READY=1\nSTATUS=2 workers"
    notifier.reloading()
    first, second = one.recv(1000).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.removeprefix(b"MONOTONIC_USEC=").isdigit()
    notifier.stopping()
    assert one.recv(1000) == b"STOPPING=1"
    assert notifier.alive(100.0) is None  # no watchdog


def test_the_watchdog_is_fed_at_half_its_interval(manager):
    one, where = manager
    notifier = Notifier({"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.alive(100.0) == 101.5
    assert one.recv(1000) == b"WATCHDOG=1"
    assert notifier.alive(101.4) == 101.5
    with pytest.raises(BlockingIOError):
        one.recv(1000)
    assert notifier.alive(101.5) == 103.0
    assert one.recv(1000) == b"WATCHDOG=1"


def test_the_watchdog_of_another_process_is_not_fed(manager):
    _, where = manager
    assert Notifier({"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).alive(0.0) is None


def test_without_a_manager_nothing_is_told_and_nothing_fails(tmp_path):
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
