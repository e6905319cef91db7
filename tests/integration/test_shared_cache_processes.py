"""The shared cache of several processes: a cold key is computed once, killed owners are followed, a store may go."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support.memcached import Memcached as Process

ANSWER_S = 40.0
"""Longest wait for anything that must happen; it happens within milliseconds unless the machine is starved."""


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with Process() as running:
        yield running


class Worker:
    """A tests.support.cache_worker in a process of its own."""

    def __init__(self, address: str, log: Path, lease: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cache_worker", address, str(log), lease],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def hear(self, what: str) -> Any:
        """The next message with this name; others before it are kept out."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if what in message:
                return message[what] if what != "done" else message["values"]
        raise AssertionError(f"the worker ended before it said {what!r}")

    def ask(self, key: str, tasks: int = 10) -> None:
        self.tell(do="ask", key=key, tasks=tasks, ttl=60, stale=0)

    def statistics(self) -> dict[str, Any]:
        self.tell(do="statistics")
        found: dict[str, Any] = self.hear("statistics")
        return found

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Workers:
    """Some of them; they end with the block."""

    def __init__(self, count: int, address: str, log: Path, lease: str = "5s") -> None:
        self.all = [Worker(address, log, lease) for _ in range(count)]
        for worker in self.all:
            worker.hear("ready")

    def __enter__(self) -> list[Worker]:
        return self.all

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.all:
            worker.kill()
            for pipe in (worker.process.stdin, worker.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def owner_of(log: Path, line: int) -> int:
    """pid of the line-th computation, once there is one."""
    deadline_s = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline_s:
        lines = log.read_text().splitlines() if log.exists() else []
        if len(lines) > line:
            return int(lines[line].split()[1])
        time.sleep(0.005)
    raise AssertionError("nobody computed")


def all_wait(workers: list[Worker]) -> None:
    """Until each has found the key taken, and all its tasks hang on one question."""
    deadline_s = time.monotonic() + ANSWER_S
    for worker in workers:
        while worker.statistics()["waits"] != 1:
            assert time.monotonic() < deadline_s, "a worker did not wait"


def test_eight_processes_with_ten_tasks_each_compute_a_cold_key_once(process: Process, tmp_path: Path) -> None:
    process.command("flush_all")
    log = tmp_path / "computed"
    with Workers(8, process.address, log) as workers:
        for worker in workers:
            worker.ask("cold")
        owner = owner_of(log, 0)
        all_wait([worker for worker in workers if worker.process.pid != owner])
        for worker in workers:
            worker.tell(do="go")
        values = [value for worker in workers for value in worker.hear("done")]
        assert values == [{"by": owner, "key": "cold"}] * 80
        assert len(log.read_text().splitlines()) == 1
        assert sum(worker.statistics()["hits_far"] for worker in workers) == 7


def test_an_owner_killed_midway_costs_one_more_computation_within_the_lease(process: Process, tmp_path: Path) -> None:
    process.command("flush_all")
    log = tmp_path / "computed"
    with Workers(4, process.address, log, lease="2s") as workers:
        for worker in workers:
            worker.ask("key")
        owner = owner_of(log, 0)
        left = [worker for worker in workers if worker.process.pid != owner]
        all_wait(left)
        next(worker for worker in workers if worker.process.pid == owner).kill()
        killed_s = time.monotonic()
        heir = owner_of(log, 1)
        took_s = time.monotonic() - killed_s
        for worker in left:
            worker.tell(do="go")
        values = [value for worker in left for value in worker.hear("done")]
        assert values == [{"by": heir, "key": "key"}] * 30
        assert heir != owner
        assert len(log.read_text().splitlines()) == 2
        assert took_s < 4.0, "the lease of 2 s, and pauses"


def test_processes_go_on_without_their_store(tmp_path: Path) -> None:
    log = tmp_path / "computed"
    with Process() as process, Workers(2, process.address, log) as workers:
        for worker in workers:
            worker.tell(do="go")
        workers[0].ask("key")
        assert len(workers[0].hear("done")) == 10
        process.kill()
        for worker in workers:
            worker.ask("key")
            worker.ask("other")
        for worker in workers:
            assert len(worker.hear("done")) == 10
            assert len(worker.hear("done")) == 10
