"""Threads and what the core says of them: every call is safe under the GIL, which free-threaded builds keep."""

import random
import sys
import threading

import pytest

from fastroute import Server
from fastroute._core import pool_arguments
from fastroute.errors import NoServerAvailable, UsageError
from fastroute.routing.policies import POLICIES
from fastroute.routing.pool import Pool

SEED = 20261122


@pytest.mark.parametrize("policy", POLICIES)
def test_threads_that_select_request_and_change_the_pool_at_once(policy):
    names = [f"s{i}" for i in range(12)]
    pool = Pool(
        "app",
        [Server(f"10.0.0.{i}:80", name=name, weight=1 + i % 3) for i, name in enumerate(names)],
        policy=policy,
        slots=512,
        seed=2,
        slow_start={"window": 0.05},
        panic=0.2,
    )
    wrong: list[BaseException] = []
    stop = threading.Event()

    def guarded(work, number):
        draw = random.Random(SEED + number)
        try:
            while not stop.is_set():
                work(draw)
        except BaseException as error:
            wrong.append(error)

    def use(draw):
        try:
            pool.select(f"k{draw.random()}")
            pool.select_many([None, "a", b"b"])
            with pool.request(f"k{draw.randrange(50)}") as selection:
                pool.candidates("k", 3)
                if draw.random() < 0.2:
                    selection.failed()
            pool.statistics()
        except NoServerAvailable:
            pass

    def change(draw):
        name = draw.choice(names)
        order = draw.randrange(4)
        if order == 0:
            pool.update([Server(f"10.0.0.{i}:80", name=n) for i, n in enumerate(names) if draw.random() < 0.8])
        elif name in {server.name for server in pool.servers}:
            try:
                if order == 1:
                    pool.set_weight(name, draw.choice([0, 1, 5, 65535]))
                else:
                    pool.set_state(name, draw.choice(["ready", "ready", "down", "draining", "ejected"]))
            except UsageError as error:  # another thread removed it in between
                if "is not in pool" not in str(error):
                    raise

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [
        threading.Thread(target=guarded, args=(work, n)) for n, work in enumerate((use, use, use, change, change))
    ]
    try:
        for thread in threads:
            thread.start()
        threads[0].join(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not wrong, (SEED, wrong)
    assert all(row.in_flight == 0 for row in pool.statistics().servers)


def test_a_request_that_begins_while_its_slot_is_given_away_stays_counted_where_it_began(monkeypatch):
    first, second = Server("10.0.0.1:80", name="first"), Server("10.0.0.2:80", name="second")
    pool = Pool("app", [first])
    late = pool.request()  # selected, and not yet begun
    pool.update([])
    real, begun = pool_arguments.eligible_of, []

    def while_the_change_is_computed(*given):
        if not begun:
            begun.append(late.__enter__())
        return real(*given)

    monkeypatch.setattr(pool_arguments, "eligible_of", while_the_change_is_computed)
    pool.update([second])
    assert begun
    assert [row.in_flight for row in pool.statistics().servers] == [0]
    late.__exit__(None, None, None)
    (row,) = pool.statistics().servers
    assert (row.in_flight, row.in_flight_zone, row.requests_total) == (0, 0, 0)


def test_the_gil_is_on_behind_the_import():
    assert getattr(sys, "_is_gil_enabled", lambda: True)()
