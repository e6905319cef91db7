"""What a check's command leaves behind when the worker that ran it is killed: nothing."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator

import pytest

from tests.support.admin import until
from tests.support.fleet import Process, free_ports, running, start_replica, start_upstreams, unlink_zone

ZONE = f"checkcommands{os.getpid()}"


def stat(pid: int) -> list[str]:
    """Of /proc/PID/stat, from the state on; [] when it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def runs(pid: int) -> bool:
    return bool(found := stat(pid)) and found[0] not in "ZX"


class Stage:
    """A replica of two workers whose check is a program that starts another one and never ends."""

    def __init__(self, replica: Process, pids: pathlib.Path) -> None:
        self.replica, self.pids = replica, pids

    def begun(self) -> list[int]:
        """(the command, what it started) of the command that began last."""
        until(lambda: self.pids.exists(), f"the command runs: {self.replica.output()[-2000:]}")
        found = [int(pid) for pid in self.pids.read_text().split()]
        self.pids.unlink()
        return found


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Iterator[Stage]:
    upstream, web = free_ports(2)
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $$ $! > {pids}.new && mv {pids}.new {pids}; wait"
    check = (
        '[pools.app.health]\ncheck = "command"\ninterval = "200ms"\ntimeout = "60s"\n'
        f'command = ["/bin/sh", "-c", "{script}"]\n'
    )
    with running(*start_upstreams(tmp_path, [upstream])):
        keys = {"port": web, "upstream_ports": [upstream], "zone": ZONE, "sticky_more": check}
        replica = start_replica(tmp_path, "fr", workers=2, **keys)
        with running(replica):
            yield Stage(replica, pids)
    unlink_zone(ZONE)


def test_a_killed_worker_leaves_nothing_of_its_command_and_another_worker_asks(stage: Stage) -> None:
    command, started = stage.begun()
    worker = int(stat(command)[1])
    assert worker != stage.replica.pid
    os.kill(worker, signal.SIGKILL)
    until(lambda: not runs(command) and not runs(started), "both are gone")
    again, _ = stage.begun()
    assert int(stat(again)[1]) not in (worker, stage.replica.pid)


def test_a_replica_that_is_stopped_leaves_nothing_of_its_commands(stage: Stage) -> None:
    pids = stage.begun()
    os.kill(stage.replica.pid, signal.SIGTERM)
    assert stage.replica.popen.wait(20) == 0
    until(lambda: not any(map(runs, pids)), "both are gone")


def test_a_command_goes_with_a_replica_whose_processes_are_all_killed(stage: Stage) -> None:
    command, started = stage.begun()
    try:
        os.kill(stage.replica.pid, signal.SIGKILL)  # its workers go with it, by the kernel
        until(lambda: not runs(command), "the command is gone")
    finally:
        os.kill(started, signal.SIGKILL)  # nobody is left who knew of it
