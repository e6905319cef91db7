"""The memcached client's cost per operation beside emcache, aiomcache and pymemcache, on one real memcached.

32 tasks do `get` of a 32-byte value one after the other each (on uvloop); the figure is wall time over operations,
client and server sharing the machine. Threads do not help pymemcache (GIL): it is measured alone, as in a synchronous
program.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastroute.memcache import Memcached
from tests.support import memcached

TASKS = 32
GETS_PER_TASK = 400
VALUE = b"v" * 32
GROUP = f"memcached client, {TASKS} tasks"

Get = Callable[[int], Awaitable[object]]

KEYS = [f"key:{number:08d}" for number in range(TASKS)]
KEYS_BYTES = [key.encode() for key in KEYS]


@pytest.fixture(scope="module")
def process() -> Iterator[memcached.Memcached]:
    with memcached.Memcached() as process:
        yield process


@asynccontextmanager
async def fastroute_get(process: memcached.Memcached) -> AsyncIterator[Get]:
    async with Memcached(process.address, timeout="5s") as store:
        for key in KEYS:
            await store.set(key, VALUE)
        yield lambda n: store.get(KEYS[n])


@asynccontextmanager
async def fastroute_claim(process: memcached.Memcached) -> AsyncIterator[Get]:
    async with Memcached(process.address, timeout="5s") as store:
        yield lambda n: store.add_then_get(KEYS[n], VALUE, 60)


def emcache_get(connections: int) -> Any:
    @asynccontextmanager
    async def client(process: memcached.Memcached) -> AsyncIterator[Get]:
        emcache = pytest.importorskip("emcache")
        client = await emcache.create_client(
            [emcache.MemcachedHostAddress("127.0.0.1", process.port)],
            timeout=None,
            min_connections=connections,
            max_connections=connections,
        )
        try:
            for key in KEYS_BYTES:
                await client.set(key, VALUE)
            yield lambda n: client.get(KEYS_BYTES[n])
        finally:
            await client.close()

    return client


@asynccontextmanager
async def aiomcache_get(process: memcached.Memcached) -> AsyncIterator[Get]:
    aiomcache = pytest.importorskip("aiomcache")
    client = aiomcache.Client("127.0.0.1", process.port, pool_size=TASKS)
    try:
        for key in KEYS_BYTES:
            await client.set(key, VALUE)
        yield lambda n: client.get(KEYS_BYTES[n])
    finally:
        await client.close()


CLIENTS: dict[str, tuple[Any, bool]] = {
    "fastroute get, 1 connection": (fastroute_get, True),
    "fastroute add_then_get, 1 connection": (fastroute_claim, True),
    "emcache get, 2 connections": (emcache_get(2), False),
    "emcache get, 32 connections": (emcache_get(32), False),
    "aiomcache get, 32 connections": (aiomcache_get, False),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", CLIENTS)
def test_client(benchmark: Any, process: memcached.Memcached, name: str) -> None:
    uvloop = pytest.importorskip("uvloop")
    make, ours = CLIENTS[name]
    benchmark.extra_info.update(operations=TASKS * GETS_PER_TASK, label=name, ours=ours)

    async def task(get: Get, n: int) -> None:
        for _ in range(GETS_PER_TASK):
            await get(n)

    async def one_round(get: Get) -> None:
        await asyncio.gather(*(task(get, n) for n in range(TASKS)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        holder = make(process)
        get = runner.run(holder.__aenter__())
        try:
            benchmark.pedantic(lambda: runner.run(one_round(get)), rounds=15, warmup_rounds=2)
        finally:
            runner.run(holder.__aexit__(None, None, None))


@pytest.mark.benchmark(group=GROUP)
def test_pymemcache_get_alone(benchmark: Any, process: memcached.Memcached) -> None:
    from pymemcache.client.base import Client

    benchmark.extra_info.update(operations=1000, label="pymemcache get, synchronous, alone", ours=False)
    client = Client(("127.0.0.1", process.port), no_delay=True, default_noreply=False, timeout=5, connect_timeout=5)
    client.set(KEYS[0], VALUE)
    try:
        benchmark.pedantic(lambda: [client.get(KEYS[0]) for _ in range(1000)], rounds=15, warmup_rounds=2)
    finally:
        client.close()
