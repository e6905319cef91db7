"""Bindings with copies on two real memcached nodes: replicas agree while nodes die, return empty and are exchanged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

import fastroute.sync
from fastroute import Affinity, Memcached, Pool, Router, Server
from fastroute.affinity.record import Record
from fastroute.clock import ManualClock
from fastroute.errors import ConnectError, MemcacheDown
from tests.support.ages import grow_old
from tests.support.memcached import Memcached as MemcachedServer

SECRET = b"an identity secret of at least 32 bytes"
SERVERS = [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 8)]


class Replica:
    """One balancer with a zone of its own, whose candidates are random: agreement is not luck."""

    def __init__(self, nodes: list[str], **store) -> None:
        self.store = Memcached(nodes, timeout="2s", **store)  # a starved machine must not look like a lost node
        self.pool = Pool("app", SERVERS, policy="random", seed=id(self) & 0xFFFF)
        self.affinity = Affinity(self.store, identity_secret=SECRET, near_ttl="1ms")
        self.router = Router(self.pool, affinity=self.affinity)
        self.view = next(iter(self.affinity._binders))

    async def route(self, key: str) -> str:
        return (await self.router.route(key)).server.name

    async def records(self, key: str) -> list[Record | None]:
        """What each home of the key holds."""
        name = self.affinity._name(self.view, self.view.fingerprint(key.encode()))
        return [Record.unpack((await home.get(name)).value) for home in self.store.homes_of(name)]


@contextlib.asynccontextmanager
async def replicas(count: int, nodes: list[str], **store):
    made = [Replica(nodes, **store) for _ in range(count)]
    try:
        await asyncio.gather(*(one.store.start() for one in made))
        yield made
    finally:
        for one in made:
            await one.affinity.aclose()
            await one.store.aclose()


async def answers(fleet: list[Replica], keys: list[str]) -> dict[str, set[str]]:
    """Every server that any of the replicas named for each key, all asked at once."""
    found: dict[str, set[str]] = {key: set() for key in keys}
    for some in (keys[start : start + 100] for start in range(0, len(keys), 100)):
        pairs = list(itertools.product(some, fleet))
        for (key, _), name in zip(pairs, await asyncio.gather(*(one.route(key) for key, one in pairs)), strict=True):
            found[key].add(name)
    return found


@pytest.fixture
def two_nodes():
    with MemcachedServer() as first, MemcachedServer() as second:
        yield first, second


async def test_thousand_keys_claimed_at_once_through_six_replicas_outlive_either_node(two_nodes):
    first, second = two_nodes
    nodes = [first.address, second.address]
    keys = [f"user-{n}" for n in range(1000)]
    async with replicas(6, nodes, copies=2) as fleet:
        before = await answers(fleet, keys)
        assert all(len(names) == 1 for names in before.values())
        for key in keys[:200]:
            held = await fleet[0].records(key)
            assert held[0] is not None
            assert held[0] == held[1]
    for dying in (first, second):
        dying.kill()
        async with replicas(2, nodes, copies=2) as fleet:  # nothing is known near
            assert await answers(fleet, keys) == before
        dying.start()
        async with replicas(1, nodes, copies=2) as fleet:  # each key is seen once: read repair
            assert await answers(fleet, keys) == before
            while fleet[0].affinity._touches or not fleet[0].affinity._toucher.done():
                await asyncio.sleep(0.01)


async def test_concurrent_claims_agree_while_a_node_dies(two_nodes):
    first, second = two_nodes
    async with replicas(4, [first.address, second.address], copies=2) as fleet:
        keys = [f"user-{n}" for n in range(300)]
        asking = asyncio.ensure_future(answers(fleet, keys))
        async with asyncio.timeout(40):  # in the middle of it
            while not sum(node.requests for node in fleet[0].store.statistics()) > 100:
                await asyncio.sleep(0)
        first.kill()
        during = await asking
        grow_old(*(one.affinity for one in fleet))
        after = await answers(fleet, keys)
        assert all(len(names) == 1 for names in after.values())
        known = [key for key in keys if during[key] == after[key]]
        # Claimed in the same moment with and without the dead node: may differ for that moment (no quorum of two).
        assert len(known) >= len(keys) * 0.9


async def test_failovers_of_eight_replicas_make_one_transition_each(two_nodes):
    async with replicas(8, [two_nodes[0].address]) as fleet:
        keys = [f"user-{n}" for n in range(200)]
        await answers(fleet, keys)
        first = {key: [await one.router.route(key) for one in fleet] for key in keys}
        error = ConnectError("refused", server="x")
        for key in keys:
            moved = await asyncio.gather(
                *(one.router.move(given, error) for one, given in zip(fleet, first[key], strict=True))
            )
            assert len({(s.server.name, s.term, s.generation) for s in moved}) == 1
            assert (moved[0].term, moved[0].generation) == (first[key][0].term, 2)
            assert moved[0].server is not first[key][0].server
        assert int(two_nodes[0].statistics()["cas_hits"]) == len(keys)


async def test_failovers_with_copies_are_on_both_nodes_when_the_request_goes_on(two_nodes):
    first, second = two_nodes
    async with replicas(3, [first.address, second.address], copies=2) as fleet:
        keys = [f"user-{n}" for n in range(100)]
        await answers(fleet, keys)
        for key in keys:
            given = [await one.router.route(key) for one in fleet]
            error = ConnectError("refused", server=given[0].server.name)
            moved = await asyncio.gather(*(one.router.move(s, error) for one, s in zip(fleet, given, strict=True)))
            assert len({(s.server.name, s.generation) for s in moved}) == 1
            held = await fleet[0].records(key)
            assert held[0] == held[1]
            assert held[0].generation == 2


async def test_new_binding_costs_two_commands_with_one_copy_and_six_with_two(two_nodes):
    first, second = two_nodes
    for copies, commands in ((1, 2), (2, 6)):
        async with replicas(1, [first.address, second.address], copies=copies) as (one,):
            before = sum(node.requests for node in one.store.statistics())
            await one.router.route(f"fresh-{copies}")
            assert sum(node.requests for node in one.store.statistics()) - before == commands


async def test_moved_list_of_nodes_moves_nobody_and_splits_nobody(two_nodes):
    old, new = two_nodes
    clock = ManualClock()
    change = {"previous_nodes": [old.address], "grace": 3600, "clock": clock}
    keys = [f"user-{n}" for n in range(200)]
    async with replicas(2, [old.address]) as still_old, replicas(2, [new.address], **change) as changed:
        known = await answers(still_old, keys[:100])
        assert await answers(changed, keys[:100]) == known
        mixed = await answers([*still_old, *changed], keys)
        assert all(len(names) == 1 for names in mixed.values())
        moved = await changed[0].router.move(await changed[0].router.route(keys[0]), ConnectError("", server=""))
        mixed[keys[0]] = {moved.server.name}
        grow_old(*(one.affinity for one in (*still_old, *changed)))
        assert await answers(still_old, keys) == mixed
        for one in changed:
            while one.affinity._touches or not one.affinity._toucher.done():
                await asyncio.sleep(0.01)
        clock.advance(3601)
        old.kill()
        assert await answers(changed, keys) == mixed
        assert [len(one.store.nodes) for one in changed] == [1, 1]
    async with replicas(2, [new.address]) as fresh:
        assert await answers(fresh, keys) == mixed


async def test_released_key_is_nobodys_on_every_copy_and_the_result_says_so(two_nodes):
    first, second = two_nodes
    async with replicas(1, [first.address, second.address], copies=2) as (one,):
        await one.route("u")
        assert await one.router.release("u") == "released"
        assert [record.released for record in await one.records("u")] == [True, True]
        assert await one.router.release("u") == "absent"
        await one.route("u")
        for node, left in ((second, 1), (first, 0)):
            node.kill()
            async with asyncio.timeout(40):
                while len(one.store.up_nodes) > left:
                    await asyncio.sleep(0.01)
            with pytest.raises(MemcacheDown):
                await one.router.release("u")
        assert one.affinity.statistics.releases == {"released": 1, "absent": 1, "down": 2}


async def test_blocking_and_asyncio_replicas_agree_with_copies(two_nodes):
    first, second = two_nodes
    nodes = [first.address, second.address]
    with (
        fastroute.sync.Memcached(nodes, copies=2, timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET, near_ttl="1ms") as affinity,
    ):
        blocking = fastroute.sync.Router(Pool("app", SERVERS, policy="random"), affinity=affinity)
        async with replicas(1, nodes, copies=2) as (one,):
            before = {}
            for number in range(60):
                key = f"user-{number}"
                if number % 2:
                    before[key] = blocking.route(key).server.name
                    assert await one.route(key) == before[key]
                else:
                    before[key] = await one.route(key)
                    assert blocking.route(key).server.name == before[key]
                held = await one.records(key)
                assert held[0] == held[1]
            first.kill()
            assert {key: blocking.route(key).server.name for key in before} == before
            moved = blocking.move(blocking.route("user-0"), ConnectError("", server=""))
            grow_old(one.affinity)
            assert await one.route("user-0") == moved.server.name
            with pytest.raises(MemcacheDown):
                blocking.release("user-1")
            assert all(record is None or record.released for record in await one.records("user-1"))


async def test_token_of_before_a_kill_and_restart_is_never_sent(two_nodes):
    node, _ = two_nodes
    async with replicas(2, [node.address]) as (one, other):
        reply = await one.store.add("k", b"mine")
        read = await one.store.get("k")
        node.restart()
        async with asyncio.timeout(40):
            while not (one.store.up_nodes and other.store.up_nodes):
                await one.store.get("k")
                await other.store.get("k")
                await asyncio.sleep(0.01)
            while not (await other.store.set("k", b"theirs")).known:
                await asyncio.sleep(0.01)
        theirs = await other.store.get("k")
        _, stands = await one.store.cas_then_get("k", b"overwritten", read.token)
        assert (reply.known, stands.value) == (True, theirs.value)
        assert one.store.statistics()[0].stale_tokens == 1
        told = node.statistics()
        assert (told["cas_hits"], told["cas_badval"]) == ("0", "0")
