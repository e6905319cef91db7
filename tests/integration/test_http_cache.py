"""The cache of responses over real sockets: one replica, a real memcached, a server that counts."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.caching import Page, cached, origin, replicas, status_of
from tests.support.relaying import client, proxying, until


@pytest.fixture
async def world(store):
    store.command("flush_all")
    async with origin() as server, replicas(1, [server.port], store.address) as (one,):
        yield server, one


async def test_a_fresh_response_answers_the_next_request(world):
    server, one = world
    server.page("/a", "hello", "Cache-Control: max-age=60", "X-Own: 1")
    first = await one.get("/a")
    second = await one.get("/a")
    assert (first[0], first[2], second[0], second[2]) == (200, b"hello", 200, b"hello")
    assert server.count("/a") == 1
    assert status_of(first[1]) == "fastroute; fwd=uri-miss; stored"
    assert status_of(second[1]).startswith("fastroute; hit; ttl=")
    assert second[1]["age"] == "0"
    assert second[1]["x-own"] == "1"
    assert "date" in second[1]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (('ETag: "x"',), "no-freshness"),
        (("Cache-Control: no-store, max-age=60",), "no-store"),
        (("Cache-Control: private, max-age=60",), "private"),
        (("Cache-Control: max-age=60", "Set-Cookie: a=b"), "set-cookie"),
        (("Cache-Control: max-age=60", "Vary: *"), "vary"),
        (("Cache-Control: max-age=60", "Transfer-Encoding: identity"), None),
    ],
)
async def test_what_may_not_be_stored_is_asked_for_each_time(world, lines, why):
    server, one = world
    server.page("/b", "hello", *lines)
    for _ in range(2):
        _, fields, _ = await one.get("/b")
    if why is None:  # the relay refuses it
        return
    assert server.count("/b") == 2
    assert status_of(fields).endswith(f"detail={why}")


async def test_a_client_that_asks_conditionally_gets_a_304_from_the_cache(world):
    server, one = world
    server.page("/c", "hello", "Cache-Control: max-age=60", 'ETag: "x"', "Content-Type: text/plain")
    await one.get("/c")
    one.send(b'GET /c HTTP/1.1\r\nHost: a.example\r\nIf-None-Match: W/"x"\r\n\r\n')
    status, fields = await one.head()
    assert (status, fields["etag"], server.count("/c")) == (304, '"x"', 1)
    assert "content-type" not in fields
    assert "content-length" not in fields
    status, _, body = await one.get("/c", 'If-None-Match: "other"')
    assert (status, body, server.count("/c")) == (200, b"hello", 1)


async def test_a_stale_response_is_confirmed_and_its_fields_are_updated(world):
    server, one = world
    server.page("/d", "hello", "Cache-Control: max-age=0", 'ETag: "x"', "X-Own: 1")
    await one.get("/d")
    server.page("/d", "never", "Cache-Control: max-age=60", 'ETag: "x"', "X-Own: 2")
    status, fields, body = await one.get("/d")
    assert (status, body, fields["x-own"]) == (200, b"hello", "2")
    assert server.fields("/d")["if-none-match"] == '"x"'
    assert "fwd=stale; fwd-status=304" in status_of(fields)
    _, fields, body = await one.get("/d")
    assert (body, fields["x-own"], server.count("/d")) == (b"hello", "2", 2)


async def test_who_waited_for_a_response_that_is_stale_at_once_has_it_confirmed(world):
    server, one = world
    server.page("/d2", "hello", "Cache-Control: max-age=0", 'ETag: "x"')
    server.go["/d2"] = asyncio.Event()
    async with client(one.writer.get_extra_info("peername")[1]) as two:
        first = asyncio.ensure_future(one.get("/d2"))
        await until(lambda: server.count("/d2"), "nobody asked")
        second = asyncio.ensure_future(two.get("/d2"))
        for _ in range(100):  # turns of the loop: time to begin to wait
            await asyncio.sleep(0)
        server.go["/d2"].set()
        found = await asyncio.gather(first, second)
    assert [body for _, _, body in found] == [b"hello"] * 2
    assert server.count("/d2") == 2
    assert "fwd-status=304" in status_of(found[1][1])


async def test_a_head_request_is_answered_from_a_get(world):
    server, one = world
    server.page("/e", "hello", "Cache-Control: max-age=60")
    await one.get("/e")
    one.send(b"HEAD /e HTTP/1.1\r\nHost: a.example\r\n\r\n")
    status, fields = await one.head()
    assert (status, fields["content-length"], server.count("/e")) == (200, "5", 1)
    assert (await one.get("/e"))[2] == b"hello"  # no byte of a body came before


async def test_a_head_request_alone_stores_nothing(world):
    server, one = world
    server.page("/e2", "hello", "Cache-Control: max-age=60")
    one.send(b"HEAD /e2 HTTP/1.1\r\nHost: a.example\r\n\r\n")
    status, fields = await one.head()
    assert (status, fields["content-length"]) == (200, "5")
    await one.get("/e2")
    assert server.count("/e2") == 2


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=1-2", 206, b"el", "bytes 1-2/5"),
        ("bytes=-2", 206, b"lo", "bytes 3-4/5"),
        ("bytes=3-", 206, b"lo", "bytes 3-4/5"),
        ("bytes=9-", 416, b"", "bytes */5"),
        ("bytes=0-0,2-3", 200, b"hello", None),
        ("lines=1-2", 200, b"hello", None),
    ],
)
async def test_one_range_is_cut_from_the_whole(world, asked, status, body, told):
    server, one = world
    server.page("/f", "hello", "Cache-Control: max-age=60", 'ETag: "x"')
    await one.get("/f")
    found = await one.get("/f", f"Range: {asked}")
    assert (found[0], found[2], found[1].get("content-range")) == (status, body, told)
    assert server.count("/f") == 1
    found = await one.get("/f", f"Range: {asked}", 'If-Range: "old"')
    assert (found[0], found[2]) == (200, b"hello")


async def test_partial_content_is_passed_and_never_stored(world):
    server, one = world
    server.page("/g", "he", "Cache-Control: max-age=60", "Content-Range: bytes 0-1/5", status=206)
    for _ in range(2):
        assert (await one.get("/g", "Range: bytes=0-1"))[0] == 206
    server.page("/g", "hello", "Cache-Control: max-age=60")
    assert (await one.get("/g"))[2] == b"hello"
    assert server.count("/g") == 3


async def test_variants_are_apart_and_normalised(world):
    server, one = world
    server.page("/h", "", "x")
    server.pages["/h"].by = lambda method, fields: Page(
        200,
        ("Cache-Control: max-age=60", "Vary: Accept-Language, X-Kind"),
        f"{fields.get('accept-language')} {fields.get('x-kind')}".encode(),
    )
    asked = ["Accept-Language: en, de", "Accept-Language: de,en", "Accept-Language: fr", "X-Kind: 1", "X-Kind: 2"]
    first = [(await one.get("/h", line))[2] for line in asked]
    assert server.count("/h") == 4
    assert first[0] == first[1]
    assert [(await one.get("/h", line))[2] for line in asked] == first
    assert server.count("/h") == 4


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "M-SEARCH"])
async def test_an_unsafe_request_makes_its_url_and_the_named_ones_unusable(world, method):
    server, one = world
    for path in ("/i", "/i/new", "/i/other", "/i/far"):
        server.page(path, "hello", "Cache-Control: max-age=60")
        await one.get(path)
    head = f"{method} /i HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx".encode()
    server.page("/i", "no", status=500)
    one.send(head)
    assert (await one.response())[0] == 500
    server.page(
        "/i", "yes", "Cache-Control: max-age=60", "Location: /i/new", "Content-Location: http://b.example/i/far"
    )
    await one.get("/i")
    assert server.count("/i") == 2  # the error changed nothing
    one.send(head)
    await one.response()
    for path in ("/i", "/i/new", "/i/other", "/i/far"):
        await one.get(path)
    assert [server.count(path) for path in ("/i", "/i/new", "/i/other", "/i/far")] == [4, 2, 1, 1]


async def test_cache_groups_are_invalidated_within_their_origin(world):
    server, one = world
    for path in ("/j1", "/j2"):
        server.page(path, "hello", "Cache-Control: max-age=60", f'Cache-Groups: "all", "{path}"')
        await one.get(path)
    server.page("/k", "ok", 'Cache-Group-Invalidation: "/j1"')
    one.send(b"POST /k HTTP/1.1\r\nHost: b.example\r\nContent-Length: 0\r\n\r\n")
    await one.response()
    await one.get("/j1")
    assert server.count("/j1") == 1
    one.send(b"POST /k HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    await one.response()
    await one.get("/j1")
    await one.get("/j2")
    assert (server.count("/j1"), server.count("/j2")) == (2, 1)


async def test_only_if_cached_is_a_504_where_there_is_nothing(world):
    server, one = world
    status, _, _ = await one.get("/l", "Cache-Control: only-if-cached")
    assert (status, server.count("/l")) == (504, 0)


async def test_an_incomplete_response_is_not_stored(world):
    server, one = world
    server.page("/m", "x" * 1000, "Cache-Control: max-age=60", cut=10)
    one.send(b"GET /m HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert (await one.head())[0] == 200
    await one.rest()


async def test_a_response_cut_short_is_asked_for_again(store):
    store.command("flush_all")
    async with origin() as server, proxying(cached([server.port], store.address)) as (_, port):
        server.page("/m", "x" * 1000, "Cache-Control: max-age=60", cut=10)
        async with client(port) as one:
            one.send(b"GET /m HTTP/1.1\r\nHost: a.example\r\n\r\n")
            await one.rest()
        server.page("/m", "y" * 1000, "Cache-Control: max-age=60")
        async with client(port) as one:
            assert (await one.get("/m"))[2] == b"y" * 1000
            assert (await one.get("/m"))[2] == b"y" * 1000
        assert server.count("/m") == 2


async def test_a_response_beyond_the_limit_passes_and_is_not_stored(store):
    store.command("flush_all")
    async with (
        origin() as server,
        proxying(cached([server.port], store.address, 'max_object_bytes = "4KiB"')) as (_, port),
        client(port) as one,
    ):
        server.page("/n", "x" * 5000, "Cache-Control: max-age=60")
        for _ in range(2):
            assert len((await one.get("/n"))[2]) == 5000
        assert server.count("/n") == 2


async def test_the_first_client_streams_while_the_object_fills(store):
    store.command("flush_all")
    go = asyncio.Event()

    async def slow(seen, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        seen.connections += 0
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n\r\nabc")
        await writer.drain()
        await go.wait()
        writer.write(b"def")
        await writer.drain()
        await reader.read()

    from tests.support.relaying import serving

    async with (
        serving(slow) as (server_port, seen),
        proxying(cached([server_port], store.address)) as (_, port),
        client(port) as one,
        client(port) as two,
    ):
        one.send(b"GET /o HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await one.head()
        assert await one.reader.readexactly(3) == b"abc"
        two.send(b"GET /o HTTP/1.1\r\nHost: a.example\r\n\r\n")
        go.set()
        assert await one.reader.readexactly(3) == b"def"
        status, fields, body = await two.response()
        assert (status, body, seen.connections) == (200, b"abcdef", 1)
        assert "collapsed" in status_of(fields)


async def test_stale_while_revalidate_answers_at_once_and_asks_in_the_background(world):
    server, one = world
    server.page("/p", "old", "Cache-Control: max-age=0, stale-while-revalidate=60", 'ETag: "1"')
    await one.get("/p")
    server.page("/p", "new", "Cache-Control: max-age=60", 'ETag: "2"')
    _, fields, body = await one.get("/p")
    assert body == b"old"
    assert "detail=stale-while-revalidate" in status_of(fields)
    await until(lambda: server.count("/p") == 2, "nobody asked")

    async def fresh():
        while (await one.get("/p"))[2] != b"new":
            await asyncio.sleep(0.01)

    await asyncio.wait_for(fresh(), 40)
    assert server.count("/p") == 2
    assert server.fields("/p")["if-none-match"] == '"1"'


async def test_stale_if_error_answers_when_the_server_fails(store):
    store.command("flush_all")
    async with (
        origin() as server,
        proxying(cached([server.port], store.address)) as (_, port),
        client(port) as one,
    ):
        server.page("/q", "old", "Cache-Control: max-age=0, stale-if-error=60")
        await one.get("/q")
        server.page("/q", "broken", status=503)
        status, fields, body = await one.get("/q")
        assert (status, body) == (200, b"old")
        assert "detail=stale-if-error" in status_of(fields)


@pytest.mark.parametrize("forbids", ["must-revalidate", "proxy-revalidate", "s-maxage=0", "no-cache"])
async def test_what_forbids_stale_is_obeyed_when_the_server_fails(world, forbids):
    server, one = world
    server.page("/r", "old", f"Cache-Control: max-age=0, stale-if-error=60, {forbids}", 'ETag: "1"')
    await one.get("/r")
    server.page("/r", "broken", status=503)
    status, _, body = await one.get("/r", "Cache-Control: max-stale")
    assert (status, body) == (503, b"broken")


async def test_authorization_is_stored_only_where_the_response_allows_it(world):
    server, one = world
    for path, more in (("/s1", ""), ("/s2", ", public"), ("/s3", ", must-revalidate")):
        server.page(path, "hello", f"Cache-Control: max-age=60{more}")
        await one.get(path, "Authorization: Basic eDp5")
        await one.get(path)
    assert [server.count(path) for path in ("/s1", "/s2", "/s3")] == [2, 1, 1]


async def test_what_servers_believe_of_a_request_is_not_cached_away(world):
    server, one = world
    server.page("/t", "hello", "Cache-Control: max-age=60")
    for line in ("X-Original-URL: /admin", "X-HTTP-Method-Override: DELETE", "X-Rewrite-Url: /admin"):
        await one.get("/t", line)
    assert server.count("/t") == 3
    await one.get("/t", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https")
    await one.get("/t")
    assert server.count("/t") == 4
    assert server.fields("/t")["x-forwarded-host"] == "a.example"


async def test_a_body_on_a_get_is_passed_and_nothing_is_stored(world):
    server, one = world
    server.page("/u", "hello", "Cache-Control: max-age=60")
    one.send(b"GET /u HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc")
    _, fields, _ = await one.response()
    await one.get("/u")
    assert server.count("/u") == 2
    assert "fwd=bypass" in status_of(fields)


async def test_hosts_are_one_whatever_their_case_and_default_port(world):
    server, one = world
    server.page("/v", "hello", "Cache-Control: max-age=60")
    for host in ("a.example", "A.Example", "a.example:80", "a.example:81"):
        one.send(f"GET /v HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await one.response()
    assert server.count("/v") == 2


async def test_fields_named_by_connection_are_not_stored(world):
    server, one = world
    server.page("/w", "hello", "Cache-Control: max-age=60", "Connection: X-Hop", "X-Hop: 1", "X-Own: 2")
    await one.get("/w")
    _, fields, _ = await one.get("/w")
    assert server.count("/w") == 1
    assert "x-hop" not in fields
    assert fields["x-own"] == "2"


async def test_a_4xx_is_stored_only_with_explicit_freshness(world):
    server, one = world
    server.page("/x", "bad", status=400)
    await one.get("/x")
    await one.get("/x")
    server.page("/y", "gone", "Cache-Control: max-age=60", status=404)
    await one.get("/y")
    assert (await one.get("/y"))[0] == 404
    assert (server.count("/x"), server.count("/y")) == (2, 1)


async def test_large_bodies_are_stored_in_parts_and_sent_whole(world):
    server, one = world
    body = bytes(range(256)) * 8192
    server.page("/z", body, "Cache-Control: max-age=60")
    for _ in range(2):
        assert (await one.get("/z"))[2] == body
    assert (await one.get("/z", "Range: bytes=100000-299999"))[2] == body[100000:300000]
    assert server.count("/z") == 1


async def test_a_stored_answer_is_logged_as_what_the_client_got(store, tmp_path):
    store.command("flush_all")
    path = tmp_path / "log"
    pool = f'[access_log]\nformat = "json"\npath = "{path}"\n'
    async with (
        origin() as server,
        proxying(cached([server.port], store.address, pool=pool)) as (_, port),
        client(port) as one,
    ):
        server.page("/log", "hello", "Cache-Control: max-age=60")
        for _ in range(3):
            await one.get("/log")
        await until(lambda: path.exists() and path.read_text().count("\n") == 3, "nothing was logged")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["status"], line["bytes"]) for line in lines] == [(200, 5)] * 3
