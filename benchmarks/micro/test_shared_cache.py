"""What a request through the shared cache costs: near hit, far hit, and both kinds of cache; one caller at a time.

Beside: the store's own get, which a far hit is built on. memcached is a process of its own on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute.cache.shared import SharedCache
from fastroute.cache.sync import SharedCache as BlockingSharedCache
from fastroute.memcache.cluster import Memcached
from fastroute.memcache.sync import Memcached as BlockingMemcached
from tests.support.memcached import Memcached as Process

ROUND = 200
VALUE = {"name": "a user", "roles": ["reader", "writer"], "number": 12345, "ratio": 0.5}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Process() as process:
        yield process.address


def compute() -> Any:
    return VALUE


@pytest.mark.benchmark(group=f"shared cache, {ROUND} requests")
@pytest.mark.parametrize("kind", ["near hit", "far hit", "store get"])
def test_shared_cache_request(benchmark: Any, address: str, kind: str) -> None:
    with asyncio.Runner() as runner:
        store = Memcached([address], timeout="1s")
        cache = SharedCache(store, namespace="bench")

        async def near_hits() -> None:
            for _ in range(ROUND):
                await cache.get_or_compute("user:0000000000000000007", compute, ttl=3600)

        async def far_hits() -> None:
            for _ in range(ROUND):
                cache._near.invalidate("user:0000000000000000007")
                await cache.get_or_compute("user:0000000000000000007", compute, ttl=3600)

        async def gets() -> None:
            for _ in range(ROUND):
                await store.get("user:0000000000000000007")

        async def start() -> None:
            await store.start()
            await near_hits()

        async def end() -> None:
            await cache.aclose()
            await store.aclose()

        run = {"near hit": near_hits, "far hit": far_hits, "store get": gets}[kind]
        runner.run(start())
        benchmark(lambda: runner.run(run()))
        runner.run(end())


@pytest.mark.benchmark(group=f"shared cache, {ROUND} requests")
@pytest.mark.parametrize("kind", ["blocking near hit", "blocking far hit"])
def test_blocking_cache_request(benchmark: Any, address: str, kind: str) -> None:
    with (
        BlockingMemcached([address], timeout="1s") as store,
        BlockingSharedCache(store, namespace="bench") as cache,
    ):

        def requests() -> None:
            for _ in range(ROUND):
                if kind == "blocking far hit":
                    cache._near.invalidate("user:0000000000000000007")
                cache.get_or_compute("user:0000000000000000007", compute, ttl=3600)

        requests()
        benchmark(requests)
