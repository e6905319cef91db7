"""Agreement with one of two nodes away, and what threads wait for while a node swallows connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from fastroute import Affinity, Memcached, Pool, Router, Server
from fastroute.errors import MemcacheDown
from fastroute.memcache import sync
from tests.support.ages import grow_old
from tests.support.memcached import Memcached as MemcachedServer

SECRET = b"an identity secret of at least 32 bytes"
SWALLOWED_S = 1.0  # the client's limit for making a connection


async def test_with_one_of_two_nodes_away_replicas_agree_on_every_key_and_nobody_moves():
    with MemcachedServer() as first, MemcachedServer() as second:
        fleet = []
        for _ in range(2):
            store = Memcached([first.address, second.address], timeout="1s")
            pool = Pool("app", [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 6)])
            affinity = Affinity(store, identity_secret=SECRET, near_ttl="50ms")
            fleet.append((store, affinity, Router(pool, affinity=affinity)))

        async def answers(keys: list[str]) -> dict[str, set[str]]:
            found = await asyncio.gather(*(router.route(key) for key in keys for _, _, router in fleet))
            names = [one.server.name for one in found]
            return {key: set(names[2 * n : 2 * n + 2]) for n, key in enumerate(keys)}

        async def until(nodes: int) -> None:
            async with asyncio.timeout(40):
                while any(len(store.up_nodes) != nodes for store, _, _ in fleet):
                    await asyncio.sleep(0.01)

        try:
            for store, _, _ in fleet:
                await store.start()
            known = [f"known-{n}" for n in range(60)]
            before = await answers(known)
            assert {len(one) for one in before.values()} == {1}
            first.kill()
            await until(1)
            assert not any(view.trust_stale for _, affinity, _ in fleet for view in affinity._binders)
            fresh = [f"fresh-{n}" for n in range(60)]
            assert await answers(known) == before
            during = await answers(fresh)
            assert {len(one) for one in during.values()} == {1}
            first.start()
            await until(2)
            grow_old(*(affinity for _, affinity, _ in fleet))  # every key asks the store again
            assert await answers(known) == before
            assert await answers(fresh) == during
        finally:
            for store, affinity, _ in fleet:
                await affinity.aclose()
                await store.aclose()


@pytest.fixture
def swallowing():
    """Address of a socket whose queue of connections is full: further ones get no answer at all."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_of_many_threads_one_waits_for_a_node_that_swallows_connections(swallowing):
    with sync.Memcached(swallowing) as store:
        with pytest.raises(MemcacheDown):
            store.get("key")
        store._away_until_s[0] = time.monotonic()  # the pause after it is over
        waited_s, started = [], threading.Barrier(6)

        def ask() -> None:
            started.wait()
            began_s = time.monotonic()
            with contextlib.suppress(MemcacheDown):
                store.get("key")
            waited_s.append(time.monotonic() - began_s)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(one > SWALLOWED_S / 2 for one in waited_s) == 1, waited_s
