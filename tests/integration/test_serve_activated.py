"""A replica that a service manager started: its sockets, and what it says of itself."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.test_serve import ask, until
from tests.support.fleet import Process

WAIT_S = 40.0

# Becomes the replica with the sockets as descriptors 3, 4, ... and its own pid in LISTEN_PID, as systemd does.
START = """
import os, sys
given = [int(one) for one in sys.argv[1].split(",")]
high = [os.dup(one) for one in given]
for number, one in enumerate([os.dup2(one, 100 + i) for i, one in enumerate(high)]):
    os.dup2(one, 3 + number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "tests.support.stand_in", sys.argv[2]])
"""


class Activated(Process):
    def __init__(self, directory: pathlib.Path, sockets: list[socket.socket], binds: str, env: dict[str, str]) -> None:
        self.config = directory / "fr.toml"
        self.write(binds)
        fds = ",".join(str(one.fileno()) for one in sockets)
        names = {"LISTEN_FDS": str(len(sockets)), **env}
        passed = tuple(one.fileno() for one in sockets)
        super().__init__([sys.executable, "-c", START, fds, str(self.config)], directory / "out", names, passed)

    def write(self, binds: str, fleet: str = "one") -> None:
        self.config.write_text(
            f'fleet = "{fleet}"\nworkers = 2\n[listeners.web]\nbind = {binds}\npool = "app"\n'
            'timeouts.drain = 5\n[[pools.app.servers]]\naddress = "127.0.0.1:1"\n'
        )


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, dict[str, str]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind("")
        one.settimeout(WAIT_S)
        yield one, {"NOTIFY_SOCKET": "@" + one.getsockname()[1:].decode()}


@pytest.fixture
def listening(tmp_path: pathlib.Path) -> Iterator[list[socket.socket]]:
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    unix.bind(str(tmp_path / "s"))
    for one in (tcp, unix):
        one.listen(64)
    with tcp, unix:
        yield [tcp, unix]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Activated]]:
    started: list[Activated] = []

    def make(*given: object) -> Activated:
        started.append(Activated(tmp_path, *given))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for replica in started:
        replica.kill()
        replica.popen.wait(10)


def heard(manager: socket.socket, first: str) -> list[str]:
    """The lines of the next message, which begins with this."""
    while True:
        lines = manager.recv(4096).decode().split("\n")
        if lines != ["WATCHDOG=1"]:
            assert lines[0] == first
            return lines


def test_inherited_sockets_are_served_and_the_manager_hears_how_it_goes(start, manager, listening, tmp_path):
    tcp, unix = listening
    hears, told = manager
    replica = start(listening, '["fd:3", "systemd:inner"]', {**told, "LISTEN_FDNAMES": "outer:inner"})
    heard(hears, "READY=1")
    port, path = tcp.getsockname()[1], unix.getsockname()
    assert ask(port)[1] == ask(path)[1] == "one"
    replica.write('["systemd:outer", "systemd:inner"]', "two")
    os.kill(replica.pid, signal.SIGHUP)
    asked_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, stamp = heard(hears, "RELOADING=1")
    assert first == "RELOADING=1"
    assert abs(int(stamp.partition("=")[2]) - asked_us) < 20e6
    assert "reload done" in heard(hears, "READY=1")[1]
    until(lambda: ask(port)[1] == ask(path)[1] == "two", "the new workers")
    replica.write('"systemd:nobody"', "three")
    os.kill(replica.pid, signal.SIGHUP)
    heard(hears, "RELOADING=1")
    status = heard(hears, "READY=1")[1]
    assert "reload refused" in status
    assert "handed over are: inner, outer" in status
    os.kill(replica.pid, signal.SIGTERM)
    heard(hears, "STOPPING=1")
    assert replica.popen.wait(10) == 0
    assert pathlib.Path(path).exists()  # it is the manager's
    with socket.create_connection(("127.0.0.1", port)):  # which goes on listening
        pass


def test_the_watchdog_is_fed_while_it_runs(start, manager, listening):
    hears, told = manager
    start(listening[:1], '"fd:3"', {**told, "WATCHDOG_USEC": "200000"})
    beats = 0
    while beats < 5:
        beats += hears.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("binds", "message"),
    [
        ('"fd:9"', "descriptor 9 is no socket"),
        ('"systemd:web"', "handed over are: unknown"),
        ('"fd:3"', "no listening"),
    ],
)
def test_what_is_not_there_is_refused(start, manager, binds, message):
    with socket.socket() as idle:
        replica = start([idle], binds, {})
        assert replica.popen.wait(20) == 1
        assert message in replica.output()
