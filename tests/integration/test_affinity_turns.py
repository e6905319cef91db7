"""What a machine asks the store: one question per key when its time is up, one touch per key and quarter of its life,
however many processes share the zone and however many nodes hold the key. Commands are counted by the store itself.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from fastroute import Affinity, Memcached, Router, Zone
from tests.support.memcached import Memcached as MemcachedServer
from tests.support.push_worker import NEAR_TTL_S, SECRET, USERS, Worker, pool_of, zone_of

DEADLINE_S = 40.0


async def until(what, *, deadline_s: float = DEADLINE_S) -> float:
    """Seconds until what() holds."""
    began_s = time.monotonic()
    while not what():
        assert time.monotonic() - began_s < deadline_s, "it did not come to pass"
        await asyncio.sleep(0.001)
    return time.monotonic() - began_s


@pytest.fixture
def zone():
    name = f"turns-{os.getpid()}-{os.urandom(4).hex()}"
    with zone_of(name) as opened:
        yield opened
    Zone.unlink(name)


@pytest.fixture
def memcached():
    with MemcachedServer() as server:
        yield server


class Here:
    """A worker of the machine, in this process; entries live for near_ttl of a clock that the test holds."""

    def __init__(self, zone: Zone, *addresses: str) -> None:
        self.store = Memcached(addresses, copies=len(addresses), timeout="2s", watch=False)
        self.affinity = Affinity(self.store, identity_secret=SECRET, zone=zone, near_ttl="2s")
        self.router = Router(pool_of(), affinity=self.affinity, key="cookie:sid")
        self.view = self.affinity.views[0]

    async def __aenter__(self) -> Here:
        await self.store.start()
        return self

    async def __aexit__(self, *_) -> None:
        await self.affinity.aclose()
        await self.store.aclose()

    async def touched(self) -> None:
        while self.affinity._touches or (self.affinity._toucher is not None and not self.affinity._toucher.done()):
            await asyncio.sleep(0.001)

    @property
    def asked(self) -> int:
        return sum(node.requests for node in self.store.statistics())


def reads(server: MemcachedServer) -> int:
    """Reading commands so far; memcached counts one that slides the expiry as a touch."""
    counts = server.statistics()
    return int(counts["cmd_get"]) + int(counts["cmd_touch"])


def later(ms: int, *workers: Here) -> None:
    """All their clocks show now and so much."""
    now_ms = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000
    for worker in workers:
        worker.view.set_manual_ms(now_ms + ms)


async def seen_twice(worker: Here, *keys: str) -> None:
    for key in [*keys, *keys]:
        await worker.router.route(key)
        worker.affinity.touch_soon(worker.view, key.encode())
    await worker.touched()


async def test_one_process_asks_and_the_others_use_its_answer(zone, memcached):
    async with Here(zone, memcached.address) as one, Here(zone, memcached.address) as other:
        keys = [f"user-{n}" for n in range(20)]
        await seen_twice(one, *keys)
        later(3_000, one, other)
        assert not any(worker.router.route_nowait(key) for worker in (one, other) for key in keys)
        before = reads(memcached)
        found = await asyncio.gather(*(worker.router.route(key) for worker in (one, other) for key in keys))
        assert reads(memcached) - before == 20
        assert [selection.server for selection in found[:20]] == [selection.server for selection in found[20:]]


async def test_process_that_died_asking_is_waited_for_a_bounded_time(zone, memcached):
    async with Here(zone, memcached.address) as one:
        await seen_twice(one, "user")
        later(3_000, one)
        assert one.view.take_question(one.view.fingerprint(b"user")), "a process that asks, and is no more"
        began_s, asked = time.monotonic(), one.asked
        await one.router.route("user")
        assert 0.9 < time.monotonic() - began_s < 10, "half of the time limit of 2 s"
        assert one.asked == asked + 1
        later(6_000, one)
        began_s = time.monotonic()
        await one.router.route("user")
        assert time.monotonic() - began_s < 0.9, "the answer has ended the dead one's question"


async def test_question_that_ended_without_an_answer_is_the_next_ones(zone, memcached):
    async with Here(zone, memcached.address) as one, Here(zone, memcached.address) as other:
        await seen_twice(one, "user")
        later(3_000, one, other)
        await one.store.aclose()
        began_s = time.monotonic()
        await one.router.route("user")
        later(3_000, other)
        await other.router.route("user")
        assert time.monotonic() - began_s < 0.9


async def test_new_binding_is_one_round_trip_and_a_near_hit_none(zone, memcached):
    async with Here(zone, memcached.address) as one:
        await one.router.route("first")
        before, stats = one.asked, memcached.statistics()
        for n in range(10):
            await one.router.route(f"user-{n}")
        assert one.asked - before == 20, "add and read, in one write"
        after = memcached.statistics()
        assert int(after["cmd_set"]) - int(stats["cmd_set"]) == 10
        assert int(after["cmd_get"]) - int(stats["cmd_get"]) == 10
        before = one.asked
        assert all(one.router.route_nowait(f"user-{n}") for n in range(10) for _ in range(100))
        assert one.asked == before


async def test_copies_are_touched_once_per_machine_and_quarter_of_the_ttl(zone):
    with MemcachedServer() as first, MemcachedServer() as second:
        both = (first.address, second.address)
        async with Here(zone, *both) as one, Here(zone, *both) as other:
            keys = [f"user-{n}" for n in range(20)]
            await seen_twice(one, *keys)
            asked = [worker.asked for worker in (one, other)]
            for step in range(1, 10):  # 3 s each: every question is due, no touch is
                later(3_000 * step, one, other)
                await asyncio.gather(*(worker.router.route(key) for worker in (one, other) for key in keys))
            await one.touched()
            await other.touched()
            assert one.asked + other.asked - sum(asked) == 9 * 20, "one question of the home, per key"
            asked = [worker.asked for worker in (one, other)]
            later(500_000, one, other)  # a quarter of 30 m and 10 %
            await asyncio.gather(*(worker.router.route(key) for worker in (one, other) for key in keys))
            await one.touched()
            await other.touched()
            assert one.asked + other.asked - sum(asked) == 3 * 20, "a question, and a touch of both nodes"
            assert one.affinity.statistics.touches + other.affinity.statistics.touches == 40


@pytest.mark.parametrize("copies", [1, 2])
async def test_two_processes_cost_the_store_what_one_does(zone, copies):
    """Two real processes hammer 20 users without the push channel."""
    ttl_s, seconds = 8.0, 2.5
    servers = [MemcachedServer() for _ in range(copies)]
    addresses = ",".join(server.address for server in servers)
    made = [Worker(zone.name, addresses, ttl_s=ttl_s, mode="poll") for _ in range(2)]
    try:
        await until(lambda: all(int(server.statistics()["curr_items"]) >= USERS for server in servers))
        await until(lambda: all(int(server.statistics()["total_connections"]) >= 4 for server in servers))
        before = sum(reads(server) for server in servers)
        began_s = time.monotonic()
        await asyncio.sleep(seconds)  # what is measured is what happens in a time
        read = sum(reads(server) for server in servers) - before
        lasted_s = time.monotonic() - began_s
    finally:
        for worker in made:
            worker.end()
        for server in servers:
            server.stop()
    questions = USERS * (lasted_s / NEAR_TTL_S + 1)
    touches = USERS * (lasted_s / (ttl_s / 4 * 0.9) + 1) * copies
    print(f"{read} reads of {USERS} users, {copies} copies, in {lasted_s:.1f} s; at most {questions + touches:.0f}")
    assert 0 < read <= questions + touches
