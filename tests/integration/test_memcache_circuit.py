"""The circuit per node: who waits for a store that is slow, silent, cut off or moved, and for how long."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from fastroute.memcache import DOWN, HIT, MISS, STORED, UNKNOWN, Memcached
from tests.integration.test_memcache_client import PATIENT, until
from tests.support import memcached
from tests.support.fault_proxy import FaultProxy


async def test_a_connection_that_is_cut_is_made_again_while_requests_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastroute.memcache.connection.REOPEN_LIVED_S", 0.0)
    with memcached.Memcached() as process:
        async with FaultProxy(process.port) as way, Memcached(way.address, timeout=PATIENT) as store:
            await until(lambda: store.up_nodes)
            generation = store.nodes[0].generation
            assert (await store.set("k", b"v")).status == STORED
            way.set("cut")
            await until(lambda: store.nodes[0].generation != generation)
            assert (await store.get("k")).status == HIT, "the node is there: nobody is told that it is away"
            assert store.statistics()[0].reconnects == 1
            assert store.statistics()[0].down == 0


async def test_a_token_of_a_cut_connection_is_void_before_the_next_one_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastroute.memcache.connection.REOPEN_LIVED_S", 0.0)
    with memcached.Memcached() as process:
        async with FaultProxy(process.port) as way, Memcached(way.address, timeout=PATIENT) as store:
            await store.set("k", b"v")
            token = (await store.get("k")).token
            assert token is not None
            way.set("cut")
            await until(lambda: store.nodes[0].generation != token.generation)
            reply = store.cas_set("k", b"overwritten", token)
            assert reply.done(), "refused here, not by the node"
            assert store.statistics()[0].stale_tokens == 1


async def test_a_cut_connection_behind_which_nobody_answers_costs_one_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastroute.memcache.connection.REOPEN_LIVED_S", 0.0)
    with memcached.Memcached() as process:
        async with FaultProxy(process.port) as way, Memcached(way.address, timeout="150ms") as store:
            await until(lambda: store.up_nodes)
            way.set("cut")
            way.set("drop")
            await until(lambda: store.statistics()[0].state != "up")
            assert (await store.get("k")).status == DOWN
            assert store.get("k").result().status == DOWN, "known to be away: answered at once"
            way.set("pass")
            await until(lambda: store.up_nodes)
            assert (await store.get("k")).status == MISS


async def test_a_node_that_answers_later_than_the_limit_stays_out_until_it_answers_in_time() -> None:
    with memcached.Memcached() as process:
        async with FaultProxy(process.port) as way, Memcached(way.address, timeout="150ms") as store:
            await until(lambda: store.up_nodes)
            way.set("delay", 0.4)
            replies = await asyncio.gather(*(store.get("k") for _ in range(10)))
            assert {reply.status for reply in replies} == {UNKNOWN}
            statistics = store.statistics()[0]
            attempts = statistics.attempts_failed
            await until(lambda: store.statistics()[0].attempts_failed >= attempts + 3)
            statistics = store.statistics()[0]
            assert (statistics.trips, statistics.connections) == (1, 1), "no probe was answered in time"
            assert store.get("k").result().status == DOWN
            assert statistics.state in ("away", "probing")
            way.set("pass")
            await until(lambda: store.up_nodes)
            assert (await store.get("k")).status == MISS


async def test_attempts_at_a_silent_node_come_one_at_a_time_with_growing_pauses() -> None:
    with memcached.Memcached() as process:
        async with FaultProxy(process.port) as way, Memcached(way.address, timeout="20ms") as store:
            await until(lambda: store.up_nodes)
            accepted = way.accepted
            way.set("drop")
            assert (await store.get("k")).status == UNKNOWN
            began_s = time.monotonic()
            while time.monotonic() < began_s + 1.0:
                assert all(reply.done() for reply in [store.get("k") for _ in range(20)])
                await asyncio.sleep(0.01)
            # 20, 40, 80 ... ms, each shortened by at most half, and 20 ms of probe: from 4 to 8 tries in a second
            assert 2 <= way.accepted - accepted <= 10


async def test_a_node_that_only_answers_probes_is_tried_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.fake_memcached import FakeMemcached

    pauses: list[float] = []

    async with FakeMemcached(lambda line: None) as fake, Memcached(fake.address, timeout="10ms") as store:
        sleep = asyncio.sleep

        async def note(pause_s: float, *rest: Any) -> None:
            pauses.append(pause_s)
            await sleep(0)

        monkeypatch.setattr("fastroute.memcache.connection.asyncio.sleep", note)
        deadline_s = time.monotonic() + 20
        while store.statistics()[0].trips < 10 and time.monotonic() < deadline_s:
            await store.get("k")
            await sleep(0)
        statistics = store.statistics()[0]
    assert statistics.trips >= 10
    assert max(pauses) > 1.0
    assert max(pauses) <= 5.0


async def test_a_host_name_is_resolved_again_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    home = ["127.0.0.1"]
    asked: list[str] = []

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if host in ("store.test", b"store.test"):
            asked.append(home[0])
            host = home[0]
        return resolve(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with memcached.Memcached() as one, memcached.Memcached(start=False) as two:
        two.host, two.port = "127.0.0.2", one.port
        async with Memcached(f"store.test:{one.port}", timeout=PATIENT) as store:
            assert (await store.set("k", b"one")).status == STORED
            one.kill()
            two.start()
            home[0] = "127.0.0.2"
            await until(lambda: store.up_nodes and store.statistics()[0].connections == 2)
            assert (await store.get("k")).status == MISS
            assert "127.0.0.2" in asked


async def test_round_trips_are_measured_about_once_per_write() -> None:
    with memcached.Memcached() as process:
        async with Memcached(process.address, timeout=PATIENT) as store:
            await asyncio.gather(*(store.get("k") for _ in range(100)))
            await store.get("k")
            statistics = store.statistics()[0]
            assert 2 <= statistics.roundtrips <= 30
            assert 0 < statistics.roundtrip_sum_s < 20
