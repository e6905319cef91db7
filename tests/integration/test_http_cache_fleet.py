"""Several replicas, one memcached: an object filled, confirmed or purged through one is so on the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from tests.support.caching import asked_and_waiting, origin, replicas, status_of
from tests.support.relaying import Client, client, until


@pytest.fixture
async def world(store):
    store.command("flush_all")
    async with origin() as server, replicas(3, [server.port], store.address) as clients:
        yield server, clients


async def crowd(stack: contextlib.AsyncExitStack, clients: list[Client], count: int) -> list[Client]:
    """That many more clients, over the same proxies in turn."""
    ports = [one.writer.get_extra_info("peername")[1] for one in clients]
    return [await stack.enter_async_context(client(ports[n % len(ports)])) for n in range(count)]


async def test_what_one_replica_filled_is_a_hit_on_the_others(world):
    server, clients = world
    server.page("/a", "hello", "Cache-Control: max-age=60", "Vary: X-Kind")
    found = [await one.get("/a", "X-Kind: 1") for one in clients]
    assert [body for _, _, body in found] == [b"hello"] * 3
    assert "uri-miss" in status_of(found[0][1])
    assert all("; hit;" in status_of(fields) for _, fields, _ in found[1:])
    assert server.count("/a") == 1


async def test_fifty_requests_for_a_cold_object_through_three_replicas_ask_the_server_once(world):
    server, clients = world
    server.page("/b", "x" * 20000, "Cache-Control: max-age=60")
    server.go["/b"] = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        many = await crowd(stack, clients, 50)
        asked = [asyncio.ensure_future(one.get("/b")) for one in many]
        await until(lambda: server.count("/b"), "nobody asked")
        await until(lambda: asked_and_waiting(clients) == (50, 2), "all are there, and the other two replicas wait")
        server.go["/b"].set()
        found = await asyncio.gather(*asked)
    assert {(status, len(body)) for status, _, body in found} == {(200, 20000)}
    assert server.count("/b") == 1
    assert sum("collapsed" in status_of(fields) for _, fields, _ in found) >= 15


@pytest.mark.parametrize("more", ["", ", stale-while-revalidate=60"])
async def test_fifty_requests_for_a_stale_object_ask_the_server_once(world, more):
    server, clients = world
    server.page("/c", "hello", f"Cache-Control: max-age=1{more}", 'ETag: "1"')
    for one in clients:
        await one.get("/c")
    assert server.count("/c") == 1
    await asyncio.sleep(1.1)  # the measurement: its lifetime
    server.page("/c", "hello", "Cache-Control: max-age=60", 'ETag: "1"')
    async with contextlib.AsyncExitStack() as stack:
        many = await crowd(stack, clients, 50)
        found = await asyncio.gather(*[one.get("/c") for one in many])
        await until(lambda: server.count("/c") == 2, "nobody asked")
    assert {body for _, _, body in found} == {b"hello"}
    assert server.count("/c") == 2


async def test_what_cannot_be_stored_is_waited_for_once(world):
    server, clients = world
    server.page("/d", "mine", "Cache-Control: no-store")
    await clients[0].get("/d")
    server.go["/d"] = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        many = await crowd(stack, clients, 12)
        asked = [asyncio.ensure_future(one.get("/d")) for one in many]
        await until(lambda: server.count("/d") == 13, "they waited for each other")
        server.go["/d"].set()
        await asyncio.gather(*asked)


async def test_a_client_that_leaves_midway_leaves_the_filling_to_another(world):
    server, clients = world
    server.page("/e", "hello", "Cache-Control: max-age=60")
    server.go["/e"] = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        first, *others = await crowd(stack, clients, 7)
        first.send(b"GET /e HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await until(lambda: server.count("/e") == 1, "nobody asked")
        asked = [asyncio.ensure_future(one.get("/e")) for one in others]
        sock = first.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a half-close
        first.writer.transport.abort()
        await until(lambda: server.count("/e") == 2, "nobody took over")
        server.go["/e"].set()
        found = await asyncio.gather(*asked)
    assert {body for _, _, body in found} == {b"hello"}
    assert server.count("/e") == 2


async def test_an_unsafe_request_through_one_replica_is_seen_by_all(world):
    server, clients = world
    server.page("/f", "old", "Cache-Control: max-age=60")
    for one in clients:
        await one.get("/f")
    server.page("/f", "new", "Cache-Control: max-age=60")
    clients[0].send(b"POST /f HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    await clients[0].response()

    async def all_new():
        while [(await one.get("/f"))[2] for one in clients] != [b"new"] * 3:
            await asyncio.sleep(0.02)

    await asyncio.wait_for(all_new(), 40.0)  # near_ttl, and a moment
