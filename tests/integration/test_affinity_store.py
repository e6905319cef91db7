"""Several replicas, each with a zone of its own, agree through a real memcached; and go on without it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fastroute import Affinity, Memcached, Pool, Router, Server
from fastroute.affinity.base import store_key
from fastroute.affinity.record import Record, server_id
from fastroute.errors import ConnectError
from tests.support.ages import grow_old
from tests.support.memcached import Memcached as MemcachedServer

SECRET = b"an identity secret of at least 32 bytes"


class Replica:
    """One balancer as it would be on its own machine."""

    def __init__(self, address: str, *, near_ttl: str = "2s", servers: int = 5) -> None:
        self.store = Memcached([address], timeout="1s")  # a loaded machine must not look like a store that is away
        self.pool = Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, servers + 1)])
        self.affinity = Affinity(self.store, identity_secret=SECRET, near_ttl=near_ttl)
        self.router = Router(self.pool, affinity=self.affinity, key="cookie:sid")

    async def route(self, key: str) -> str:
        return (await self.router.route(key)).server.name

    async def aclose(self) -> None:
        await self.affinity.aclose()
        await self.store.aclose()


@pytest.fixture
def memcached():
    with MemcachedServer() as server:
        yield server


@contextlib.asynccontextmanager
async def replicas(address: str, count: int, **options):
    made = [Replica(address, **options) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.aclose()


async def test_concurrent_first_requests_through_four_replicas_end_on_one_server(memcached):
    async with replicas(memcached.address, 4) as fleet:
        for start in range(0, 2000, 100):
            keys = [f"user-{n}" for n in range(start, start + 100)]
            answers = await asyncio.gather(*(one.route(key) for key in keys for one in fleet))
            for number, key in enumerate(keys):
                assert len(set(answers[4 * number : 4 * number + 4])) == 1, key


async def test_a_new_binding_costs_one_round_trip_and_a_near_hit_none(memcached):
    async with replicas(memcached.address, 1) as (one,):
        await one.route("warm")
        await asyncio.sleep(0)
        before = one.store.statistics()[0].requests
        await one.route("fresh")
        assert one.store.statistics()[0].requests - before <= 2, "the pair ms + mg, in one write"
        before = one.store.statistics()[0].requests
        view = next(iter(one.affinity._binders))
        fingerprint = view.fingerprint(b"fresh")
        binding = view.lookup(fingerprint)
        view.touch(fingerprint, binding.term, binding.generation)  # seen twice: nothing is left to renew
        for _ in range(100):
            assert one.router.route_nowait("fresh").reason == "affinity-near"
        assert one.store.statistics()[0].requests == before


async def test_moved_users_move_once_and_all_replicas_follow(memcached):
    async with replicas(memcached.address, 3) as fleet:
        keys = [f"user-{n}" for n in range(200)]
        before = {key: [await one.route(key) for one in fleet][0] for key in keys}  # noqa: RUF015  each one is asked
        for one in fleet:
            one.pool.set_state("S3", "down")
        answers = await asyncio.gather(*(one.route(key) for key in keys for one in fleet))
        for number, key in enumerate(keys):
            found = set(answers[3 * number : 3 * number + 3])
            assert len(found) == 1
            assert (found == {before[key]}) == (before[key] != "S3")
        for one in fleet:
            one.pool.set_state("S3", "ready")
        again = await asyncio.gather(*(one.route(key) for key in keys for one in fleet))
        assert again == answers, "no way back"


async def test_movers_with_the_same_evidence_make_one_transition(memcached):
    async with replicas(memcached.address, 4) as fleet:
        first = [await one.router.route("u") for one in fleet]
        error = ConnectError("refused", server=first[0].server.name)
        moved = await asyncio.gather(*(one.router.move(s, error) for one, s in zip(fleet, first, strict=True)))
        assert {(s.server.name, s.term, s.generation) for s in moved} == {(moved[0].server.name, first[0].term, 2)}
        assert moved[0].server.name != first[0].server.name


async def test_replica_learns_of_a_move_within_near_ttl(memcached):
    async with replicas(memcached.address, 2, near_ttl="100ms") as (one, two):
        first = await one.router.route("u")
        await two.route("u")
        moved = await one.router.move(first, ConnectError("refused", server=first.server.name))
        async with asyncio.timeout(40):
            while await two.route("u") != moved.server.name:
                await asyncio.sleep(0.01)


async def test_store_killed_keeps_every_known_user_and_agrees_on_strangers(memcached):
    async with replicas(memcached.address, 2, near_ttl="10ms") as (one, two):
        keys = [f"user-{n}" for n in range(100)]
        before = {key: await one.route(key) for key in keys}
        assert {key: await two.route(key) for key in keys} == before
        memcached.kill()
        grow_old(one.affinity, two.affinity)
        for replica in (one, two):
            assert {key: await replica.route(key) for key in keys} == before
        strangers = [f"stranger-{n}" for n in range(50)]
        assert [await one.route(key) for key in strangers] == [await two.route(key) for key in strangers]


async def test_store_restarted_empty_gets_its_bindings_back_and_nobody_moves(memcached):
    async with replicas(memcached.address, 2, near_ttl="10ms") as (one, two):
        keys = [f"user-{n}" for n in range(100)]
        before = {key: await one.route(key) for key in keys}
        await asyncio.gather(*(two.route(key) for key in keys))
        memcached.kill()
        await one.route("x")
        memcached.start()
        async with asyncio.timeout(40):
            while not (one.store.up_nodes and two.store.up_nodes):
                await asyncio.sleep(0.01)
            while any(view.trust_stale for r in (one, two) for view in r.affinity._binders):
                await asyncio.sleep(0.01)
        grow_old(one.affinity, two.affinity)  # every entry is verified when it is asked for
        for replica in (two, one):
            assert {key: await replica.route(key) for key in keys} == before
        async with replicas(memcached.address, 1) as (third,):
            assert {key: await third.route(key) for key in keys} == before


async def test_flushed_store_moves_nobody(memcached):
    async with replicas(memcached.address, 2, near_ttl="10ms") as (one, two):
        keys = [f"user-{n}" for n in range(100)]
        before = {key: await one.route(key) for key in keys}
        await asyncio.gather(*(two.route(key) for key in keys))
        memcached.command("flush_all")
        grow_old(one.affinity, two.affinity)
        for replica in (two, one):
            assert {key: await replica.route(key) for key in keys} == before


async def test_record_of_a_configured_server_written_by_somebody_else_is_followed(memcached):
    async with replicas(memcached.address, 1) as (one,):
        view = next(iter(one.affinity._binders))
        name = store_key("fr", "app", view.fingerprint(b"u"))
        await one.store.set(name, Record(5, 1, server_id("S4")).pack(), 60)
        assert await one.route("u") == "S4"


async def test_record_of_an_unknown_server_or_garbage_is_replaced(memcached):
    async with replicas(memcached.address, 2) as (one, two):
        view = next(iter(one.affinity._binders))
        for key, value in ((b"a", Record(5, 1, server_id("gone")).pack()), (b"b", b"garbage"), (b"c", b"")):
            name = store_key("fr", "app", view.fingerprint(key))
            await one.store.set(name, value, 60)
            assert await one.route(key.decode()) == await two.route(key.decode())
            assert Record.unpack((await one.store.get(name)).value) is not None


async def test_released_key_is_nobodys_in_the_store_and_gone_from_the_zone(memcached):
    async with replicas(memcached.address, 1) as (one,):
        await one.route("u")
        await one.router.release("u")
        view = next(iter(one.affinity._binders))
        reply = await one.store.get(store_key("fr", "app", view.fingerprint(b"u")))
        assert Record.unpack(reply.value).released
        assert view.lookup(view.fingerprint(b"u")) is None


async def test_raw_keys_never_reach_the_store(memcached):
    async with replicas(memcached.address, 1) as (one,):
        await one.route("session-id-that-is-secret")
        keys = memcached.all_keys()
        assert any(key.startswith("fr%3Aa%3Aapp%3A") for key in keys)
        assert not any("session-id" in key for key in keys)


async def test_binding_learned_from_a_response_is_known_to_other_replicas(memcached):
    async with replicas(memcached.address, 2) as (one, two):
        one.router.learn(b"new-session", one.pool.slot_of("S5"))
        assert await one.route("new-session") == "S5"
        assert await two.route("new-session") == "S5"
