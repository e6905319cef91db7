"""Bindings learned from servers' answers, through a real store: one decision for the fleet, moved by CAS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from fastroute import Affinity, Memcached, Pool, Router, Server
from fastroute._core.selection import Selection
from tests.support import memcached


@contextlib.asynccontextmanager
async def replicas(address: str, count: int) -> AsyncIterator[list[Router]]:
    async with contextlib.AsyncExitStack() as stack:
        routers = []
        for _ in range(count):
            store = await stack.enter_async_context(Memcached(address, timeout="5s"))
            affinity = await stack.enter_async_context(Affinity(store, near_ttl="1ms"))
            pool = Pool("app", [Server(f"127.0.0.1:{n}", name=f"s{n}") for n in (1, 2, 3)])
            routers.append(Router(pool, affinity=affinity))
        yield routers


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(40):
        while not what():
            await asyncio.sleep(0.002)


async def learn(router: Router, key: bytes, server: str) -> None:
    before = router.affinity.statistics.learned
    router.learn(key, router.pool.slot_of(server))
    await until(lambda: router.affinity.statistics.learned > before)


async def comes_to(router: Router, key: bytes, what: Callable[[Selection], object]) -> Selection:
    """Ask until it is so: what a replica found near is used for near_ttl, and no shorter than a tick of 64 ms."""
    async with asyncio.timeout(40):
        while not what(found := await router.route(key)):
            await asyncio.sleep(0.01)
    return found


async def test_a_learned_session_is_found_by_every_replica_and_moves_with_its_server() -> None:
    with memcached.Memcached() as process:
        async with replicas(process.address, 3) as (a, b, c):
            await learn(a, b"k", "s2")
            first = await b.route(b"k")
            assert (first.server.name, first.generation) == ("s2", 1)
            await learn(b, b"k", "s3")
            for router in (a, b, c):
                found = await comes_to(router, b"k", lambda found: found.generation == 2)
                assert (found.server.name, found.term) == ("s3", first.term)
            assert b.affinity.statistics.moves["learned"] == 1


async def test_learning_what_is_already_so_writes_nothing() -> None:
    with memcached.Memcached() as process:
        async with replicas(process.address, 2) as (a, b):
            await learn(a, b"k", "s2")
            await learn(b, b"k", "s2")
            assert (await b.route(b"k")).generation == 1
            assert not b.affinity.statistics.moves


async def test_while_the_store_is_away_a_session_learned_elsewhere_moves_nobody_on_a_guess() -> None:
    with memcached.Memcached() as process:
        async with replicas(process.address, 1) as (a,):
            await learn(a, b"k", "s2")
            process.kill()
            await until(lambda: not a.affinity.store.up_nodes)
            await learn(a, b"k", "s3")
            assert (await a.route(b"k")).server.name == "s2"


async def test_a_session_that_its_server_took_back_is_gone_for_every_replica() -> None:
    with memcached.Memcached() as process:
        async with replicas(process.address, 2) as (a, b):
            await learn(a, b"k", "s2")
            ended = (await b.route(b"k")).term
            b.forget(b"k")
            await until(lambda: b.affinity.statistics.forgotten)
            begun = (await b.route(b"k")).term
            assert begun != ended
            await comes_to(a, b"k", lambda found: found.term == begun)
