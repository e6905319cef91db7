"""Requests in flight over all processes of a zone: counted while they live, gone with a process that is killed."""

import collections
import os
import signal
import subprocess
import sys
import time

import pytest

from fastroute import Pool, Zone
from tests.support.load_worker import servers

SIZE = "1MiB"


@pytest.fixture
def name():
    made = f"loads-{os.getpid()}-{time.monotonic_ns()}"
    yield made
    Zone.unlink(made)


class Worker:
    def __init__(self, zone: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.load_worker", zone, SIZE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, order: str) -> str:
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self, sign: int | None = None) -> None:
        if sign is None:
            self.process.stdin.write("exit\n")
            self.process.stdin.flush()
        else:
            self.process.send_signal(sign)
        self.process.wait(20)
        self.process.stdin.close()
        self.process.stdout.close()


def zone_loads(pool: Pool) -> list[int]:
    return [row.in_flight_zone for row in pool.statistics().servers]


def test_requirement_8_all_processes_of_a_zone_count(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        workers = [Worker(name) for _ in range(2)]
        workers[0].ask("hold s0 3")
        workers[1].ask("hold s1 2")
        assert zone_loads(pool) == [3, 2, 0, 0]
        assert [row.in_flight for row in pool.statistics().servers] == [0, 0, 0, 0]
        picked = [workers[turn % 2].ask("pick 1") for turn in range(7)]
        assert collections.Counter(picked) == {"s1": 1, "s2": 3, "s3": 3}
        for worker in workers:
            worker.end()
        assert zone_loads(pool) == [0, 0, 0, 0]


def test_a_killed_process_leaves_no_ghosts(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        worker, other = Worker(name), Worker(name)
        worker.ask("hold s0 5")
        other.ask("hold s1 1")
        worker.end(signal.SIGKILL)
        zone.reap()
        assert zone_loads(pool) == [0, 1, 0, 0]
        other.end(signal.SIGKILL)
        assert zone.reap() == 1
        assert zone_loads(pool) == [0, 0, 0, 0]


def test_picks_reap_by_themselves(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        worker = Worker(name)
        worker.ask("hold s0 1")
        worker.end(signal.SIGKILL)
        until = time.monotonic() + 20
        while "s0" not in {pool.select().name for _ in range(8)}:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_stopped_process_is_still_counted(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        worker = Worker(name)
        worker.ask("hold s0 2")
        worker.process.send_signal(signal.SIGSTOP)
        assert zone.reap() == 0
        assert zone_loads(pool) == [2, 0, 0, 0]
        worker.process.send_signal(signal.SIGCONT)
        worker.end()


def test_a_row_of_a_killed_process_is_used_again(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        for _ in range(20):  # more than there are rows
            worker = Worker(name)
            worker.ask("hold s2 1")
            worker.end(signal.SIGKILL)
        worker = Worker(name)
        worker.ask("hold s2 1")
        zone.reap()
        assert zone_loads(pool) == [0, 0, 1, 0]
        worker.end()


def test_a_forked_child_counts_for_itself(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), policy="least-connections", zone=zone)
        held = pool.request_to("s0").__enter__()
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            request = pool.request_to("s1").__enter__()
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)
            del request
        os.read(ready[0], 1)
        assert zone_loads(pool) == [1, 1, 0, 0]
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        zone.reap()
        assert zone_loads(pool) == [1, 0, 0, 0]
        held.__exit__(None, None, None)
        for descriptor in (*ready, *go):
            os.close(descriptor)


def test_a_pool_that_goes_takes_its_count_along(name):
    with Zone(name, SIZE) as zone:
        pool = Pool("app", servers(), zone=zone)
        pool.request_to("s0").__enter__()
        other = Pool("app", servers(), zone=zone)
        assert zone_loads(other) == [1, 0, 0, 0]
        del pool
        assert zone_loads(other) == [0, 0, 0, 0]
