"""What the push channel must not do to bindings, to the event loop and to itself; over real memcached."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastroute import Memcached
from fastroute._core.affinity_table import ONCE, PROVISIONAL, AffinityTable, Record
from fastroute._core.zone import Zone
from fastroute._core.zone_push import NODES_MAX, NodeLife
from fastroute.affinity import push as push_module
from fastroute.affinity.agreement import TRIES_MAX, Answer, Heard
from fastroute.affinity.republish import Republisher, walk
from fastroute.clock import ManualClock
from fastroute.memcache.watch import NodeFacts, NodeWatch
from tests.integration.test_push_channel import Replica, until
from tests.support.memcached import Memcached as MemcachedServer


@pytest.fixture
def memcached():
    with MemcachedServer() as server:
        yield server


def ttl_of(server: MemcachedServer, name: bytes) -> int:
    """Seconds that the key has left in the store."""
    answer = server.command("mg " + name.decode() + " t")
    text = answer if isinstance(answer, str) else answer.decode()
    assert text.startswith("HD t"), text
    return int(text.split()[1][1:])


def entries_of(replica: Replica) -> list[tuple[bytes, Record]]:
    found: list[tuple[bytes, Record]] = []
    for chunk in walk(replica.affinity.table, 10**6, replica.affinity._push.board.now_tick):
        found += chunk
    return found


def republisher(replica: Replica, node: str) -> Republisher:
    channel = replica.affinity._push
    return Republisher(tuple(channel.members), channel.board, replica.store, node, channel.statistics)


async def test_binding_that_is_idle_here_does_not_shorten_the_life_of_one_that_is_busy_elsewhere(memcached):
    async with Replica(memcached.address, watch=False, ttl="30m") as one:
        await one.route("user")
        await until(lambda: bool(one.push.elected))
        [(_, entry)] = entries_of(one)
        assert entry.flags & ONCE
        name = one.name("user")
        memcached.command("touch " + name.decode() + " 1800")  # another machine saw the user a second time
        assert ttl_of(memcached, name) > 1700
        await republisher(one, memcached.address).run()
        assert one.push.republished == 1
        assert ttl_of(memcached, name) > 1700


async def test_binding_that_was_released_since_the_table_was_read_is_not_written_again(memcached):
    async with Replica(memcached.address, watch=False) as one:
        await one.route("user")
        await until(lambda: bool(one.push.elected))
        [(fingerprint, entry)] = entries_of(one)
        assert await one.router.release("user") == "released"
        await republisher(one, memcached.address)._restore(one.affinity, one.view, fingerprint, entry)
        assert entries_of(one) == []
        async with Replica(memcached.address, watch=False) as other:
            assert await other.router.release("user") == "absent"


async def test_walk_goes_on_where_it_was_when_the_node_was_late(memcached):
    async with Replica(memcached.address, watch=False) as one:
        await until(lambda: bool(one.push.elected))
        keys = [f"user-{n}" for n in range(500)]
        for key in keys:
            await one.route(key)
        written = one.push.republished
        real, asked = one.affinity._ask, 0

        async def ask(node, name, command):
            nonlocal asked
            asked += 1
            if 200 < asked <= 350:  # three chunks
                return Answer(Heard.UNKNOWN)
            return await real(node, name, command)

        one.affinity._ask = ask
        walk_ = republisher(one, memcached.address)
        await walk_.run()
        assert (one.push.republished - written, one.push.republish_failed) == (500, 0)
        assert asked <= 500 + 150 + TRIES_MAX * 50, "what was written is not written again"
        one.affinity._ask = real


def test_walk_reads_a_bounded_stretch_of_the_table_at_a_time():
    with Zone(None, "64MiB") as zone:
        table, now, ttl = AffinityTable(zone), 1_000_000, 28_125
        table.fill_for_test(0, 1_000_000, now, now + ttl)
        for flags in (0, PROVISIONAL):
            found, steps = 0, 0
            longest_s = []
            walking = walk(table, ttl, now, flags)
            while True:
                began_s = time.thread_time()
                chunk = next(walking, None)
                longest_s.append(time.thread_time() - began_s)
                if chunk is None:
                    break
                found, steps = found + len(chunk), steps + 1
            longest_s.sort()
            print(f"flags {flags}: {steps} steps, p99 {longest_s[len(longest_s) * 99 // 100] * 1000:.2f} ms")
            assert found == (0 if flags else 1_000_000)
            assert steps >= 8 * table.buckets // 1024


async def test_republishing_lets_others_run_though_a_batch_is_not_full(memcached):
    async with Replica(memcached.address, watch=False) as one:
        await one.route("user")
        await until(lambda: bool(one.push.elected))
        turns, ended = 0, False

        async def count() -> None:
            nonlocal turns
            while not ended:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await republisher(one, memcached.address).run()
        ended = True
        await counting
        assert turns >= 8 * one.affinity.table.buckets // 1024


async def test_error_that_nobody_foresaw_does_not_end_the_channel(memcached, monkeypatch, caplog):
    monkeypatch.setattr(push_module, "AGAIN_S", 0.05)
    real, left = NodeWatch.run, [2]

    async def run(self: NodeWatch) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("nobody foresaw this")
        await real(self)

    monkeypatch.setattr(NodeWatch, "run", run)
    async with Replica(memcached.address) as one:
        await until(lambda: one.mode == "push")
        assert one.push.elected == 3
        assert one.push.owner
        assert caplog.text.count("the push channel ended") == 2
        statistics = one.push
    assert not statistics.owner


async def test_node_whose_life_the_zone_cannot_keep_is_not_written_to_for_ever(memcached):
    async with Replica(memcached.address, watch=False) as one:
        await until(lambda: bool(one.affinity._push._nodes) and one.affinity._push._nodes[0]._seen is not None)
        channel = one.affinity._push
        for name in range(1, NODES_MAX + 1):
            channel.board.remember(name, NodeLife(1, 1, 1))
        for life in (1, 2):
            facts = NodeFacts(life, 1000, 0, 0, 0)
            node = NodeWatch(None, "10.9.9.9:1", beat_key=b"", events=channel)
            channel.facts(node, facts, True)
            await asyncio.gather(channel._mending["10.9.9.9:1"][1])
            before = channel._mending["10.9.9.9:1"]
            for _ in range(3):
                channel.facts(node, facts, False)
            assert channel._mending["10.9.9.9:1"] is before


async def test_touches_that_are_left_when_a_process_ends_are_for_another_one(memcached):
    with Zone(None, "1MiB") as zone:
        async with Replica(memcached.address, zone=zone) as one, Replica(memcached.address, zone=zone) as other:
            await one.pushed()
            for n in range(300):
                await one.route(f"user-{n}")
            for n in range(300):
                one.affinity.touch_soon(one.view, b"user-%d" % n)
            assert len(one.affinity._touches) == 300
            await asyncio.sleep(0)
            await one.affinity.aclose()
            short = [n for n in range(300) if ttl_of(memcached, one.name(f"user-{n}")) <= 60]
            assert short
            taken = [n for n in short if other.view.take_touch(other.view.fingerprint(b"user-%d" % n))]
            assert taken == short, "their records would end after a minute in the store, and not in the zone"


async def test_request_that_comes_when_the_affinity_is_closed_does_not_open_the_channel_again(memcached):
    with Zone(None, "1MiB") as zone:
        async with Replica(memcached.address, zone=zone) as one:
            await one.route("user")
            await one.affinity.aclose()
            await one.route("late")
            assert one.affinity._push is None
            assert (id(one.store), id(zone)) not in push_module._channels


async def test_view_made_after_a_change_of_the_nodes_belongs_to_the_channel_that_is_there(memcached):
    clock = ManualClock()
    store = Memcached(memcached.address, previous_nodes=["127.0.0.1:1"], grace=10, clock=clock)
    before = push_module.store_digest(store)
    clock.advance(11)
    store.homes_of(b"any")
    await asyncio.sleep(0)
    assert [node.name for node in store.nodes] == [memcached.address]
    assert push_module.store_digest(store) == before
    await store.aclose()
