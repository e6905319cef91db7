"""The cache of responses while its nodes are away: no request fails for it, and fills are bounded in number."""

from __future__ import annotations

import asyncio
import contextlib

from tests.support.caching import origin, replicas, status_of
from tests.support.memcached import Memcached
from tests.support.relaying import client, until


async def test_memcached_may_die_and_come_back_under_load():
    with Memcached() as store:
        async with (
            origin() as server,
            replicas(2, [server.port], store.address, limits="requests_per_connection = 0") as clients,
        ):
            ports = [one.writer.get_extra_info("peername")[1] for one in clients]
            for n in range(40):
                server.page(f"/{n}", f"page {n}", "Cache-Control: max-age=1, stale-while-revalidate=1", f'ETag: "{n}"')
            answered, failed = [0], []
            stop = asyncio.Event()

            async def load(number: int) -> None:
                async with client(ports[number % 2]) as one:
                    at = number
                    while not stop.is_set():
                        at = (at * 7 + 3) % 40
                        status, _, body = await one.get(f"/{at}")
                        answered[0] += 1
                        if (status, body) != (200, f"page {at}".encode()):
                            failed.append((status, body))

            tasks = [asyncio.ensure_future(load(number)) for number in range(8)]

            async def some_more() -> None:
                wanted = answered[0] + 400
                await until(lambda: answered[0] >= wanted, "the load stands still")

            async def stale() -> None:
                asked = len(server.asked)
                await until(lambda: len(server.asked) > asked + 40, "nothing becomes stale")

            await some_more()
            store.kill()
            await some_more()
            await stale()
            await some_more()
            store.start()
            await some_more()
            await stale()
            await some_more()
            stop.set()
            await asyncio.gather(*tasks)
            assert not failed

            async def shared() -> None:
                for n in range(1000):
                    server.page(f"/new{n}", "hello", "Cache-Control: max-age=60")
                    await clients[0].get(f"/new{n}")
                    _, fields, _ = await clients[1].get(f"/new{n}")
                    if "; hit" in status_of(fields):
                        return
                    await asyncio.sleep(0.05)

            await asyncio.wait_for(shared(), 40.0)  # the replicas share again


async def test_without_the_store_servers_see_no_more_fills_at_once_than_configured():
    with Memcached() as store:
        async with (
            origin() as server,
            replicas(1, [server.port], store.address, "origin_max = 3") as (one,),
            contextlib.AsyncExitStack() as stack,
        ):
            port = one.writer.get_extra_info("peername")[1]
            server.page("/first", "x", "Cache-Control: max-age=60")
            await one.get("/first")
            store.kill()
            server.delay_s = 0.02
            many = [await stack.enter_async_context(client(port)) for _ in range(24)]
            for n in range(24):
                server.page(f"/{n % 12}", f"{n % 12}", *(("Cache-Control: max-age=60",) if n % 2 else ()))
            server.most = 0
            found = await asyncio.gather(*[of.get(f"/{n % 12}") for n, of in enumerate(many)])
            assert [(status, body) for status, _, body in found] == [(200, f"{n % 12}".encode()) for n in range(24)]
            assert server.most <= 3


async def test_what_is_near_answers_while_the_store_is_away():
    with Memcached() as store:
        async with origin() as server, replicas(1, [server.port], store.address, "near_ttl = 0.1") as (one,):
            server.page("/a", "hello", "Cache-Control: max-age=60")
            await one.get("/a")
            store.kill()
            await asyncio.sleep(0.15)  # the measurement, beyond near_ttl: the store is asked, and does not answer
            for _ in range(3):
                _, fields, body = await one.get("/a")
                assert body == b"hello"
                assert "; hit" in status_of(fields)
            assert server.count("/a") == 1


async def test_a_response_filled_without_the_store_is_kept_near():
    with Memcached() as store:
        store.kill()
        async with origin() as server, replicas(1, [server.port], store.address) as (one,):
            server.page("/a", "hello", "Cache-Control: max-age=60")
            assert (await one.get("/a"))[2] == b"hello"
            assert (await one.get("/a"))[2] == b"hello"
            assert server.count("/a") == 1
