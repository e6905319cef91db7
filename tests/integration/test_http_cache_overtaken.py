"""A deletion or purge while a response is being filled: who comes after it gets nothing that began before it."""

from __future__ import annotations

import asyncio
import time

import pytest

import fastroute
from fastroute.cache.leased import LeasedCache
from tests.support.caching import Page, far_store, origin, replicas
from tests.support.relaying import client, until

FRESH = "Cache-Control: max-age=60"


def posting(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n".encode()


async def test_a_response_that_is_still_being_stored_is_not_served_after_its_deletion(store):
    async with far_store(store) as (server, way, one):
        way.set("delay", 0.1)
        server.page("/a", "old", FRESH)
        assert (await one.get("/a"))[2] == b"old"
        server.page("/a", "new", FRESH)
        one.send(posting("/a"))
        await one.response()
        assert (await one.get("/a"))[2] == b"new"


@pytest.fixture
async def filling(store):
    """A server whose answer to the first request for /a is held back, that request, and two clients more."""
    store.command("flush_all")
    async with origin() as server, replicas(1, [server.port], store.address) as (one,):
        port = one.writer.get_extra_info("peername")[1]
        async with client(port) as two, client(port) as three:
            server.page("/a", "old", FRESH, 'Cache-Groups: "g"')
            gate = server.go["/a"] = asyncio.Event()
            first = asyncio.ensure_future(one.get("/a"))
            await until(lambda: server.count("/a") == 1, "nobody asked")
            yield server, gate, first, two, three
            await first


async def test_who_comes_after_a_deletion_does_not_wait_for_a_fill_that_began_before_it(filling):
    server, gate, first, two, _ = filling
    del server.go["/a"]
    two.send(posting("/a"))
    await two.response()
    server.page("/a", "new", FRESH)
    assert (await two.get("/a"))[2] == b"new"
    server.page("/a", "old", FRESH)
    gate.set()
    assert (await first)[2] == b"old"
    server.page("/a", "newer", FRESH)
    assert (await two.get("/a"))[2] == b"new"


async def test_who_comes_after_a_purge_of_its_group_does_not_get_a_fill_that_began_before_it(filling):
    server, gate, first, two, three = filling
    before = asyncio.ensure_future(two.get("/a"))
    server.page("/group", "ok", 'Cache-Group-Invalidation: "g"')
    three.send(posting("/group"))
    await three.response()
    after = asyncio.ensure_future(three.get("/a"))
    answers = iter(("old", "new", "new"))
    server.pages["/a"].by = lambda *_: Page(200, (FRESH, 'Cache-Groups: "g"'), next(answers).encode())
    gate.set()
    assert (await first)[2] == b"old"
    assert (await before)[2] in (b"old", b"new")
    assert (await after)[2] == b"new"


async def test_the_first_fill_of_a_varying_response_does_not_outlive_the_purge_of_its_group(store):
    store.command("flush_all")
    varying = ("Vary: Accept-Language", FRESH, 'Cache-Groups: "g"')
    async with origin() as server, replicas(1, [server.port], store.address) as (one,):
        port = one.writer.get_extra_info("peername")[1]
        async with client(port) as two:
            server.page("/v", "old", *varying)
            gate = server.go["/v"] = asyncio.Event()
            first = asyncio.ensure_future(one.get("/v"))
            await until(lambda: server.count("/v") == 1, "nobody asked")
            server.page("/group", "ok", 'Cache-Group-Invalidation: "g"')
            two.send(posting("/group"))
            await two.response()
            gate.set()
            assert (await first)[2] == b"old"
            server.page("/v", "new", *varying)
            del server.go["/v"]
            assert (await one.get("/v"))[2] == b"new"
            assert (await two.get("/v"))[2] == b"new"


async def test_a_value_of_no_kind_of_ours_keeps_nobody_waiting(store):
    store.command("flush_all")
    async with origin() as server, replicas(1, [server.port], store.address) as (one,):
        server.page("/a", "page", FRESH)
        assert (await one.get("/a"))[2] == b"page"
        responses = next(parts.responses for parts in one.proxy._parts.pools.values())
        key = next(name for name in responses._cache._names if name.endswith("/a"))
        assert await responses._cache.set(key, 5, ttl=60)
        responses._cache._near.clear()
        assert (await one.get("/a"))[2] == b"page"
        assert not responses._flights


async def test_a_mistake_at_the_end_of_a_fill_keeps_nobody_waiting(store, monkeypatch):
    def mistaken(*_: object, **__: object) -> None:
        raise ValueError("on purpose")

    store.command("flush_all")
    async with origin() as server, replicas(1, [server.port], store.address) as (one,):
        server.page("/a", "page", FRESH)
        responses = next(parts.responses for parts in one.proxy._parts.pools.values())
        with monkeypatch.context() as patched:
            patched.setattr("fastroute.proxy.caching_fill.make_stored", mistaken)
            assert (await one.get("/a"))[2] == b"page"
            await until(lambda: not responses._flights and not responses._cache._holds, "somebody would wait")
        assert (await one.get("/a"))[2] == b"page"


async def test_what_was_filled_during_a_purge_of_the_namespace_is_not_stored(store):
    store.command("flush_all")
    async with (
        fastroute.Memcached([store.address], timeout="5s") as nodes,
        LeasedCache(nodes, namespace="n", watch=False) as one,
        LeasedCache(nodes, namespace="n", watch=False) as two,
    ):
        for purging in (one, two):
            hold = (await one.find("k", wait_s=0)).hold
            assert hold is not None
            began_ms = round(time.time() * 1000)
            assert await purging.purge_namespace()
            await one.put(hold, "old", 60_000, made_ms=began_ms)
            for asking in (one, two):
                assert (await asking.find("k", wait_s=0, leased=False)).value is None


async def test_what_nobody_had_leased_is_not_stored_after_its_deletion(store):
    store.command("flush_all")
    async with (
        fastroute.Memcached([store.address], timeout="5s") as nodes,
        LeasedCache(nodes, namespace="n", watch=False) as cache,
    ):
        hold = cache.unleased("k", stored=True)
        assert await cache.delete("k")
        assert not await cache.put(hold, "old", 60_000)
        assert (await cache.find("k", wait_s=0, leased=False)).value is None
        hold = cache.unleased("other", stored=True)
        assert await cache.delete("k")
        assert not await cache.put(cache.unleased("k", stored=True, since=hold), "old", 60_000)
        assert await cache.put(cache.unleased("k", stored=True), "new", 60_000)
        assert (await cache.find("k", wait_s=0, leased=False)).value == "new"


async def test_a_replica_that_is_closed_while_it_fills_gives_the_key_back(store):
    store.command("flush_all")
    patient = 'lease = "30s"\nwait = "30s"'
    async with origin() as server, replicas(1, [server.port], store.address, patient) as (one,):
        server.page("/a", "hello", FRESH)
        gate = server.go["/a"] = asyncio.Event()
        async with replicas(1, [server.port], store.address, patient) as (two,):
            two.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
            await until(lambda: server.count("/a") == 1, "nobody asked")
            waits = asyncio.ensure_future(one.get("/a"))
        del server.go["/a"]
        gate.set()
        assert (await waits)[2] == b"hello"
