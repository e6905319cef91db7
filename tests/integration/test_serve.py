"""The supervisor as a program: start, ready, restart, reload, drain, stop; over a stand-in for the proxy."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.fleet import Process, free_ports

WAIT_S = 40.0


def until(what: Callable[[], object], why: str) -> None:
    """Poll a condition that another process brings about."""
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, f"never: {why}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ask(port: int | str, send: str = "") -> tuple[int, str]:
    """(worker's pid, fleet) of the worker that answers."""
    with connect(port) as client:
        client.sendall(f"{send}\n".encode())
        pid, fleet = client.makefile().readline().split()
        return int(pid), fleet


def connect(where: int | str) -> socket.socket:
    if isinstance(where, int):
        return socket.create_connection(("127.0.0.1", where), timeout=WAIT_S)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(WAIT_S)
    client.connect(where)
    return client


class Replica(Process):
    """The supervisor with stand-in proxies."""

    def __init__(self, directory: pathlib.Path, port: int, *, env: dict[str, str] | None = None, **keys) -> None:
        self.config, self.port = directory / "fr.toml", port
        self.write(**keys)
        super().__init__([sys.executable, "-m", "tests.support.stand_in", str(self.config)], directory / "out", env)

    def write(self, *, fleet: str = "one", workers: int = 1, drain: float = 5, bind: str | None = None) -> None:
        address = bind or f'"127.0.0.1:{self.port}"'
        self.config.write_text(
            f'fleet = "{fleet}"\nworkers = {workers}\n[listeners.web]\nbind = {address}\npool = "app"\n'
            f'timeouts.drain = {drain}\n[[pools.app.servers]]\naddress = "127.0.0.1:1"\n'
        )

    def workers(self) -> set[int]:
        """Pids of the living children."""
        children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return {int(pid) for pid in children if alive(int(pid))}


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Replica]]:
    started: list[Replica] = []

    def make(*, ready: bool = True, **keys: object) -> Replica:
        replica = Replica(tmp_path, free_ports(1)[0], **keys)  # type: ignore[arg-type]
        started.append(replica)
        if ready:
            replica.wait_for_line("ready")
        return replica

    yield make
    for replica in started:
        replica.kill()
        replica.popen.wait(10)


def test_ready_is_one_line_and_every_worker_accepts(start):
    replica = start(workers=3)
    assert replica.output().splitlines() == ["ready"]
    pids = replica.workers()
    assert len(pids) == 3
    answered: set[int] = set()
    until(lambda: answered.add(ask(replica.port)[0]) or answered == pids, "each worker answered")


def test_sigterm_finishes_what_runs_refuses_what_is_new_and_ends_with_status_0(start):
    replica = start(workers=2)
    with connect(replica.port) as client:
        answers = client.makefile()
        client.sendall(b"hold\n")
        assert answers.readline()
        os.kill(replica.pid, signal.SIGTERM)

        def refused() -> bool:
            try:
                connect(replica.port).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused, "new connections refused")
        assert replica.popen.poll() is None
        client.sendall(b"bye\n")
        assert answers.readline() == "held\n"
    assert replica.popen.wait(10) == 0


def test_second_sigterm_stops_at_once(start):
    replica = start(drain=600)
    with connect(replica.port) as client:
        client.sendall(b"hold\n")
        assert client.recv(100)
        os.kill(replica.pid, signal.SIGTERM)
        until(lambda: "draining" in replica.output(), "the drain began")
        os.kill(replica.pid, signal.SIGTERM)
        assert replica.popen.wait(10) == 0


def test_drain_ends_at_its_limit_with_a_request_still_open(start):
    replica = start(drain=0.2)
    with connect(replica.port) as client:
        client.sendall(b"hold\n")
        assert client.recv(100)
        assert replica.stop() == 0


def test_killed_worker_is_replaced_on_the_same_socket_and_no_connection_is_refused(start):
    replica = start(workers=2)
    before = replica.workers()
    victim = sorted(before)[0]
    os.kill(victim, signal.SIGKILL)
    for _ in range(100):  # none of these may be refused, with or without the victim
        ask(replica.port)
    until(lambda: len(replica.workers()) == 2 and victim not in replica.workers(), "replaced")
    answered: set[int] = set()
    until(lambda: answered.add(ask(replica.port)[0]) or answered >= replica.workers(), "both answer again")
    assert replica.output().count("ready") == 1


def test_workers_die_with_a_killed_supervisor(start):
    replica = start(workers=2)
    pids = replica.workers()
    assert len(pids) == 2
    os.kill(replica.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids), "no worker is left")


def test_worker_that_cannot_start_ends_the_replica_with_status_1(start):
    replica = start(ready=False, workers=2, env={"STAND_IN_FAIL": "one"})
    assert replica.popen.wait(20) == 1
    assert "told to fail" in replica.output()
    assert "ready" not in replica.output().splitlines()


def test_reload_runs_the_new_configuration_and_refuses_no_connection(start):
    replica = start(workers=1)
    old = replica.workers()
    replica.write(fleet="two", workers=2)
    os.kill(replica.pid, signal.SIGHUP)
    fleets = []
    until(lambda: fleets.append(ask(replica.port)[1]) or fleets[-20:] == ["two"] * 20, "the new configuration answers")
    until(lambda: len(replica.workers()) == 2 and not old & replica.workers(), "the old worker is gone")
    replica.write(fleet="three", workers=1)
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: fleets.append(ask(replica.port)[1]) or fleets[-20:] == ["three"] * 20, "fewer workers answer alone")


def test_reload_of_a_bad_file_is_refused_and_the_old_configuration_stays(start):
    replica = start()
    pids = replica.workers()
    replica.config.write_text(replica.config.read_text().replace("workers", "wrokers"))
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: "refused" in replica.output(), "refused")
    assert f'{replica.config}:2: unknown key "wrokers"; did you mean "workers"?' in replica.output()
    assert ask(replica.port)[0] in pids
    assert replica.workers() == pids


def test_reload_whose_workers_fail_is_refused_and_the_old_workers_stay(start):
    replica = start(env={"STAND_IN_FAIL": "bad"})
    pids = replica.workers()
    replica.write(fleet="bad-one")
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: "reload refused" in replica.output(), "refused")
    until(lambda: replica.workers() == pids, "the failed workers are gone")
    assert ask(replica.port)[1] == "one"
    replica.write(fleet="good")
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: ask(replica.port)[1] == "good", "the next reload works")


def test_reload_of_the_same_content_changes_nothing(start):
    replica = start()
    pids = replica.workers()
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: "nothing has changed" in replica.output(), "said so")
    assert replica.workers() == pids


def test_reload_moves_to_another_address_and_leaves_the_old_one(start):
    replica = start()
    old, new = replica.port, free_ports(1)[0]
    replica.write(bind=f'"127.0.0.1:{new}"')
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: "reload done" in replica.output(), "done")
    assert ask(new)

    def gone() -> bool:
        try:
            connect(old).close()
        except ConnectionRefusedError:
            return True
        return False

    until(gone, "the old address is closed")


def test_worker_that_ignores_the_drain_is_killed(start):
    replica = start(drain=0)
    with connect(replica.port) as client:
        client.sendall(b"stop\n")
        assert client.recv(100)
        os.kill(replica.pid, signal.SIGTERM)
        assert replica.popen.wait(20) == 0
    assert "did not stop in time: killed" in replica.output()


def test_taken_port_names_listener_and_address_and_starts_nothing(start):
    replica = start(workers=2)  # another fastroute is "another program" too
    command = [sys.executable, "-m", "tests.support.stand_in", str(replica.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"listener 'web' cannot bind 127.0.0.1:{replica.port}: it is taken by another program; stop that one or choose "
        "another port"
    ]


def test_unix_socket_is_shared_by_all_workers_survives_them_and_is_removed_at_the_end(start, tmp_path):
    path = str(tmp_path / "s")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()  # what a killed program leaves behind
    bind = f'["127.0.0.1:{free_ports(1)[0]}", "unix:{path}"]'
    replica = start(workers=2, bind=bind)
    answered: set[int] = set()
    until(lambda: answered.add(ask(path)[0]) or answered == replica.workers(), "both answer")
    os.kill(min(answered), signal.SIGKILL)
    until(lambda: len(replica.workers()) == 2 and replica.workers() != answered, "replaced")
    assert ask(path)[1] == "one"
    replica.write(fleet="two", bind=bind)
    os.kill(replica.pid, signal.SIGHUP)
    until(lambda: ask(path)[1] == "two" and len(replica.workers()) == 1, "reloaded")
    assert replica.stop() == 0
    assert not os.path.exists(path)


def test_storm_of_reloads_ends_with_the_last_configuration_and_leaks_nothing(start):
    replica = start(workers=2)
    descriptors = len(os.listdir(f"/proc/{replica.pid}/fd"))
    for number in range(30):
        replica.write(fleet=f"f{number}", workers=1 + number % 3)
        os.kill(replica.pid, signal.SIGHUP)
        if number % 10 == 9:
            until(lambda fleet=f"f{number}": ask(replica.port)[1] == fleet, "reloaded")
    replica.write(fleet="last", workers=2)
    os.kill(replica.pid, signal.SIGHUP)
    fleets: list[str] = []
    until(lambda: fleets.append(ask(replica.port)[1]) or fleets[-20:] == ["last"] * 20, "the last one answers alone")
    until(lambda: len(replica.workers()) == 2, "two workers")
    # The third socket of an earlier configuration stays with a worker: connections may wait in it.
    until(lambda: len(os.listdir(f"/proc/{replica.pid}/fd")) <= descriptors + 1, "descriptors are closed")


def test_sigterm_during_a_reload_stops_both_generations(start):
    replica = start(workers=2)
    for number in range(5):
        replica.write(fleet=f"f{number}", workers=2)
        os.kill(replica.pid, signal.SIGHUP)
    os.kill(replica.pid, signal.SIGTERM)
    assert replica.popen.wait(20) == 0
