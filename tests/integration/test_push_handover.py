"""The push channel is handed over when its process drains: to those with the same list of nodes, or another one."""

from __future__ import annotations

import asyncio
import os

import pytest

from fastroute import Zone
from fastroute.proxy.server import Proxy
from tests.integration.test_push_channel import Replica, until
from tests.support.memcached import Memcached as MemcachedServer
from tests.support.push_worker import zone_of
from tests.support.relaying import Seen, answer, client, configured, proxying, read_request, serving


@pytest.fixture
def zone():
    name = f"handover-{os.getpid()}-{os.urandom(4).hex()}"
    with zone_of(name) as opened:
        yield opened
    Zone.unlink(name)


async def test_process_with_a_changed_list_of_nodes_has_the_channel_when_the_old_one_drains(zone):
    with MemcachedServer() as first, MemcachedServer() as second:
        async with (
            Replica(first.address, zone=zone) as old,
            Replica(first.address, second.address, zone=zone) as new,
        ):
            await old.pushed()
            assert old.push.owner
            assert not new.push.owner
            server = await new.route("user")
            await old.affinity.retire()
            await until(lambda: new.push.owner and new.mode == "push")
            assert await old.route("user") == server, "what it still has to do goes on"


async def slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(seen, reader)
        await seen.go.wait()
        writer.write(answer(b"at last"))


async def test_draining_proxy_gives_the_channel_up_before_its_last_request_ends():
    with MemcachedServer() as memcached:
        store = f'[store]\nmemcached = ["{memcached.address}"]\ntimeout = "1s"'
        async with (
            serving(slow) as (port, seen),
            proxying(configured([port], sticky='on = "client-ip"', top=store)) as (
                proxy,
                web,
            ),
        ):
            push = _push(proxy)
            await until(lambda: push.owner)
            async with client(web) as busy:
                busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: len(seen.heads) == 1)
                draining = asyncio.create_task(proxy.drain(10))
                await until(lambda: not push.owner)
                assert not draining.done()
                seen.go.set()
                assert (await busy.response())[0] == 200
            async with asyncio.timeout(40):
                await draining


def _push(proxy: Proxy):
    affinity = proxy._parts.pools["app"].affinity
    return affinity.statistics.push
