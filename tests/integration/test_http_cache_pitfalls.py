"""What other caches got wrong, each as a test: users meet, keys that are not the server's, poison, secrets told."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.support.caching import Page, cached, origin, replicas, status_of
from tests.support.relaying import client, proxying, unused_port

FRESH = "Cache-Control: max-age=60"


@pytest.fixture
async def world(store):
    store.command("flush_all")
    async with origin() as server, replicas(1, [server.port], store.address) as (one,):
        yield server, one


async def test_no_cookie_of_one_user_reaches_another_or_the_server_in_anothers_name(world):
    server, one = world
    server.page("/login", "hello ann", "Set-Cookie: session=ann", "Cache-Control: max-age=0")
    server.page("/page", "", FRESH)
    server.pages["/page"].by = lambda _, fields: Page(200, (FRESH,), fields.get("cookie", "nobody").encode())
    await one.get("/login", "Cookie: session=ann")
    async with client(one.writer.get_extra_info("peername")[1]) as two:
        assert (await two.get("/page"))[2] == b"nobody"
        assert "cookie" not in server.fields("/page")
        await two.get("/login")
        assert server.count("/login") == 2  # not ann's answer
        assert "cookie" not in server.fields("/login")
    assert "set-cookie" not in (await one.get("/page", "Cookie: session=ann"))[1]


async def test_the_refresh_in_the_background_is_not_asked_for_with_what_one_user_alone_may_see(world):
    """A stale copy that is refreshed for the sake of a user with credentials must not become what everybody sees."""
    server, one = world
    server.page("/swr", "for all", "Cache-Control: max-age=0, stale-while-revalidate=60")
    await one.get("/swr")
    server.pages["/swr"].by = lambda _, fields: (
        Page(200, (FRESH,), b"of ann") if "authorization" in fields else Page(200, (FRESH,), b"for all")
    )
    for _ in range(4):
        await one.get("/swr", "Authorization: Basic YW5uOng=")
    async with client(one.writer.get_extra_info("peername")[1]) as two:
        for _ in range(4):
            assert (await two.get("/swr"))[2] == b"for all"


@pytest.mark.parametrize(
    "targets",
    [
        ["/a/b", "/a%2Fb", "/a%2fb", "/a/./b", "/a//b", "/a/b/", "/A/b", "/%61/b"],
        ["/p", "/p;x=1", "/p%3Bx=1", "/p?", "/p?x=1", "/p%3Fx=1", "/p?x=1&y=2", "/p?y=2&x=1", "/p?X=1", "/p?x=%31"],
        ["/q/../q", "/q", "/q/%2e%2e/q", "/q%00", "/q%0d%0aX:1", "/q%20", "/q+"],
    ],
    ids=["segments and their spelling", "parameters and queries", "dots and controls"],
)
async def test_targets_that_a_server_may_tell_apart_are_apart_and_reach_it_byte_for_byte(world, targets):
    server, one = world
    for n, target in enumerate(targets):
        server.page(target, f"{n}", FRESH)
    for _ in range(2):
        assert [(await one.get(target))[2] for target in targets] == [b"%d" % n for n in range(len(targets))]
    assert [server.count(target) for target in targets] == [1] * len(targets)


@pytest.mark.parametrize(
    "target", ["/account.css", "/account/x.js", "/account;x.png", "/account%2fx.css", "/account?x.css", "/account.jpg/"]
)
async def test_nothing_is_stored_for_the_look_of_its_name(world, target):
    server, one = world
    for n in range(2):
        server.page(target, f"private {n}", "Content-Type: text/css", "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT")
        assert (await one.get(target))[2] == b"private %d" % n


@pytest.mark.parametrize(
    ("spoiled", "status"),
    [
        (b"GET /poison HTTP/1.1\r\nHost: a.example\r\nX-Big: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /poison HTTP/1.1\r\nHost: a.example\r\nX-Ctl: \x01\r\n\r\n", 400),
        (b"GET /poison HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /poison HTTP/1.1\r\nHost: a.example\r\nExpect: the-worst\r\n\r\n", 417),
    ],
    ids=["oversized", "control byte", "ambiguous", "expectation"],
)
async def test_what_is_refused_here_is_stored_nowhere_and_spoils_no_copy(world, spoiled, status):
    server, one = world
    port = one.writer.get_extra_info("peername")[1]
    server.page("/poison", "good", FRESH)

    async def attack() -> None:
        async with client(port) as attacker:
            attacker.send(spoiled)
            assert (await attacker.response())[0] == status

    await attack()
    assert server.count("/poison") == 0
    assert (await one.get("/poison"))[::2] == (200, b"good")
    await attack()
    assert (await one.get("/poison"))[::2] == (200, b"good")
    assert server.count("/poison") == 1


async def test_an_error_of_the_server_that_a_client_provoked_is_not_what_others_get(world):
    server, one = world
    server.page("/cpdos", "", "x")
    server.pages["/cpdos"].by = lambda _, fields: (
        Page(400, (), b"bad") if "x-bad" in fields else Page(200, (FRESH,), b"good")
    )
    assert (await one.get("/cpdos", "X-Bad: 1"))[0] == 400
    assert (await one.get("/cpdos"))[::2] == (200, b"good")


async def test_cache_status_tells_no_key_no_query_and_no_credential(world):
    server, one = world
    secret = "s3cr3t"
    target = f"/told?token={secret}"
    told = []
    for lines in (
        ("Cache-Control: max-age=60", "Vary: X-Key"),
        ("Cache-Control: no-store",),
        ("Cache-Control: max-age=0", 'ETag: "1"'),
        ("Cache-Control: private", f"Surrogate-Key: {secret}"),
    ):
        server.page(target, "x", *lines)
        for more in ((), (f"Authorization: Bearer {secret}",), (f"Cookie: a={secret}", f"X-Key: {secret}")):
            told.append((await one.get(target, *more))[1]["cache-status"])
        one.send(f"POST {target} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n".encode())
        told.append((await one.response())[1]["cache-status"])
    assert len(set(told)) > 4  # there was something to tell
    assert not [line for line in told if secret in line or "told" in line or "key=" in line or "a.example" in line]


async def test_a_purge_method_of_a_client_purges_nothing(world):
    server, one = world
    server.page("/kept", "hello", FRESH)
    await one.get("/kept")
    server.page("/kept", "no", status=405)
    one.send(b"PURGE /kept HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    assert (await one.response())[0] == 405  # the server's word: it was asked as for any method
    assert (await one.get("/kept"))[::2] == (200, b"hello")
    assert [method for method, path, _ in server.asked if path == "/kept"] == ["GET", "PURGE"]


# ---------------------------------------------------------------- servers that are gone


@pytest.mark.parametrize(
    ("says", "cache", "stands_in"),
    [
        ("max-age=0, stale-if-error=60", "stale_if_down = 0", True),
        ("max-age=0", "", True),  # stale_if_down
        ("max-age=0", "stale_if_down = 0", False),
        ("max-age=0", "stale_if_error = 60\nstale_if_down = 0", True),
        ("max-age=0, stale-if-error=60, must-revalidate", "stale_if_error = 60", False),
        ("max-age=0, no-cache", "", False),
    ],
    ids=["the response says so", "while it is down", "not even then", "configured", "must-revalidate", "no-cache"],
)
async def test_a_stale_response_stands_in_for_a_server_that_is_gone_where_that_is_allowed(
    store, says, cache, stands_in
):
    store.command("flush_all")
    async with contextlib.AsyncExitStack() as running:
        server = await running.enter_async_context(origin())
        async with proxying(cached([server.port], store.address, cache)) as (_, port), client(port) as one:
            server.page("/gone", "old", f"Cache-Control: {says}", 'ETag: "1"')
            assert (await one.get("/gone"))[2] == b"old"
            await running.aclose()
            status, fields, body = await one.get("/gone")
            if stands_in:
                assert (status, body) == (200, b"old")
                assert int(fields["age"]) >= 0
                assert "detail=" in status_of(fields)
            else:
                assert status in (502, 503, 504)


async def test_no_answer_of_our_own_about_a_server_that_is_gone_is_stored(store):
    store.command("flush_all")
    port = unused_port()
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while asked.append(await reader.readuntil(b"\r\n\r\n")) is None:
                writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    async with proxying(cached([port], store.address)) as (_, web), client(web) as one:
        assert (await one.get("/later"))[0] in (502, 503, 504)
        async with await asyncio.start_server(answer, "127.0.0.1", port):
            async with asyncio.timeout(20):
                while (found := await one.get("/later"))[0] != 200:
                    assert found[0] in (502, 503, 504)
                    await asyncio.sleep(0.02)
            assert found[2] == b"hello"
            assert (await one.get("/later"))[2] == b"hello"
            assert len(asked) == 1
