"""Servers with a limit: who waits for room, for how long, in which order; retries within a budget; ejection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.support.relaying import Client, Handler, Seen, always, answer, client, configured, proxying, serving, until

STICKY = 'on = "cookie:sid"'


def gated(most: list[int]) -> Handler:
    """A server that answers each request with its path once the test lets it go on; most[0]: requests at once."""
    inside = 0

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal inside
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.heads.append(head)
            inside += 1
            most[0] = max(most[0], inside)
            await seen.go.wait()
            inside -= 1
            writer.write(answer(head.split(b" ")[1]))

    return handle


@contextlib.asynccontextmanager
async def clients(port: int, count: int) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client(port)) for _ in range(count)]


def limited(ports: list[int], most: int = 1, limits: str = 'pending_time = "9s"', sticky: str = "", **more: str):  # type: ignore[no-untyped-def]
    config = configured(ports, sticky=sticky, pool=f"[pools.app.limits]\n{limits}\n", **more)
    pool = config.pools["app"]
    servers = tuple(msgspec.structs.replace(server, max_connections=most) for server in pool.servers)
    return msgspec.structs.replace(config, pools={"app": msgspec.structs.replace(pool, servers=servers)})


def waiting(proxy) -> int:  # type: ignore[no-untyped-def]
    return int(proxy._parts.pools["app"].waiting.count)


@pytest.mark.parametrize("sticky", ["", STICKY, 'on = "insert"'])
async def test_a_server_never_has_more_than_its_limit_and_everybody_is_answered_in_order(sticky: str) -> None:
    most = [0]
    async with (
        serving(gated(most)) as (port, seen),
        proxying(limited([port], 2, sticky=sticky)) as (proxy, web),
        clients(web, 8) as many,
    ):
        for n, one in enumerate(many):
            one.send(f"GET /{n} HTTP/1.1\r\nHost: a.example\r\nCookie: sid=one\r\n\r\n".encode())
            await until(lambda n=n: len(seen.heads) + waiting(proxy) == n + 1, "one more is in or waits")
        assert len(seen.heads) == 2
        seen.go.set()
        answers = [await one.response() for one in many]
        found = proxy.statistics()
    assert [body for _, _, body in answers] == [b"/%d" % n for n in range(8)]
    assert [head.split(b" ")[1] for head in seen.heads[2:]] == [b"/%d" % n for n in range(2, 8)]
    assert most[0] == 2
    assert found["pools"]["app"].servers[0].in_flight == 0


async def test_who_waits_too_long_gets_503_and_the_line_has_an_end() -> None:
    async with (
        serving(gated([0])) as (port, seen),
        proxying(limited([port], 1, 'pending = 2\npending_time = "100ms"')) as (proxy, web),
        clients(web, 4) as many,
    ):
        many[0].send(b"GET /0 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await until(lambda: seen.heads, "the first is in")
        for one in many[1:]:
            one.send(b"GET /n HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert [(await one.response())[0] for one in many[1:]] == [503, 503, 503]
        seen.go.set()
        assert (await many[0].response())[0] == 200
        limits = proxy.statistics()["limits_hit"]
    assert (limits["pending"], limits["pending_time"]) == (1, 2)
    assert len(seen.heads) == 1


async def test_a_bound_request_waits_for_its_server_though_another_is_free() -> None:
    async with (
        serving(gated([0])) as (first, seen1),
        serving(gated([0])) as (second, seen2),
        proxying(limited([first, second], 1, sticky=STICKY)) as (proxy, web),
        clients(web, 2) as (one, two),
    ):
        one.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\nCookie: sid=x\r\n\r\n")
        await until(lambda: seen1.heads or seen2.heads, "it is bound")
        home, other = (seen1, seen2) if seen1.heads else (seen2, seen1)
        two.send(b"GET /b HTTP/1.1\r\nHost: a.example\r\nCookie: sid=x\r\n\r\n")
        await until(lambda: waiting(proxy) == 1, "the second waits")
        home.go.set()
        assert [(await each.response())[2] for each in (one, two)] == [b"/a", b"/b"]
    assert (len(home.heads), len(other.heads)) == (2, 0)


async def test_who_leaves_while_waiting_is_not_sent() -> None:
    async with (
        serving(gated([0])) as (port, seen),
        proxying(limited([port])) as (proxy, web),
        clients(web, 3) as (one, two, three),
    ):
        for n, each in enumerate((one, two, three)):
            each.send(b"GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n" % n)
            await until(lambda n=n: len(seen.heads) + waiting(proxy) == n + 1, "one more")
        end = two.writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a half-close
        two.writer.transport.abort()
        await until(lambda: proxy.statistics()["aborted_by_client"] == 1, "the proxy knows")
        seen.go.set()
        assert [(await each.response())[2] for each in (one, three)] == [b"/0", b"/2"]
    assert [head.split(b" ")[1] for head in seen.heads] == [b"/0", b"/2"]


async def test_a_request_that_waits_for_a_connection_takes_one_that_frees() -> None:
    """The server accepts one connection; a second connect hangs in the backlog until its time is over."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    listening.setblocking(False)
    loop = asyncio.get_running_loop()
    port = listening.getsockname()[1]
    text = '[pools.app.timeouts]\nconnect = "60s"\n'
    fill: list[socket.socket] = []
    async with proxying(configured([port], pool=text)) as (proxy, web), clients(web, 2) as (one, two):
        one.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n")
        server, _ = await loop.sock_accept(listening)
        assert (await loop.sock_recv(server, 65536)).startswith(b"GET /a ")
        for _ in range(4):  # the backlog is full from here on
            extra = socket.socket()
            extra.setblocking(False)
            extra.connect_ex(("127.0.0.1", port))
            fill.append(extra)
        two.send(b"GET /b HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await until(lambda: proxy.statistics()["upstream_connects"] == 2, "it has begun to connect")
        await loop.sock_sendall(server, answer(b"first"))
        assert (await one.response())[2] == b"first"
        async with asyncio.timeout(20):
            assert (await loop.sock_recv(server, 65536)).startswith(b"GET /b ")
        await loop.sock_sendall(server, answer(b"second"))
        assert (await two.response())[2] == b"second"
        server.close()
    for each in (*fill, listening):
        each.close()


async def swallow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a request, waits for the test, and ends the connection without an answer."""
    seen.heads.append(await reader.readuntil(b"\r\n\r\n"))
    await seen.go.wait()


async def test_retries_of_what_reached_a_server_stay_within_the_budget() -> None:
    count = 30
    async with (
        serving(swallow) as (first, seen1),
        serving(swallow) as (second, seen2),
        proxying(configured([first, second], pool="[pools.app.retry]\nbudget = 0.2\n")) as (proxy, web),
        clients(web, count) as many,
    ):
        for one in many:
            one.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        await until(lambda: len(seen1.heads) + len(seen2.heads) == count, "all are in")
        seen1.go.set()
        seen2.go.set()
        assert [(await one.response())[0] for one in many] == [502] * count
        found = proxy.statistics()["retries"]
        lines = proxy._parts.pools["app"].lines
        assert (lines.active, lines.retrying) == (0, 0)
    assert found["over_budget"] > 0
    assert len(seen1.heads) + len(seen2.heads) == count + found["tried"]


async def test_a_server_that_fails_in_a_row_is_ejected_and_taken_back() -> None:
    outlier = '[pools.app.outlier]\nconsecutive = 3\neject = "200ms"\npanic = 0\n'
    async with (
        serving(always(answer(b"bad", 500))) as (bad, seen),
        serving(always(answer(b"good"))) as (good, _),
        proxying(configured([bad, good], pool=outlier)) as (proxy, web),
        client(web) as one,
    ):
        statuses = [(await one.get())[0] for _ in range(10)]
        assert statuses.count(500) == 3
        assert [server.state for server in proxy.statistics()["pools"]["app"].servers] == ["ejected", "ready"]
        assert len(seen.heads) == 3
        await until(
            lambda: [server.state for server in proxy.statistics()["pools"]["app"].servers] == ["ready", "ready"],
            "its time is over",
        )


async def test_no_more_than_the_share_is_ejected_and_one_answer_clears_the_count() -> None:
    outlier = '[pools.app.outlier]\nconsecutive = 2\neject = "30s"\nmax_ejected = 0.5\npanic = 0\n'
    async with (
        serving(always(answer(b"bad", 503))) as (first, _),
        serving(always(answer(b"bad", 503))) as (second, _),
        proxying(configured([first, second], pool=outlier)) as (proxy, web),
        client(web) as one,
    ):
        for _ in range(20):
            assert (await one.get())[0] == 503
        states = [server.state for server in proxy.statistics()["pools"]["app"].servers]
    assert sorted(states) == ["ejected", "ready"]


async def test_panic_is_the_reason_of_what_panic_chose() -> None:
    outlier = "[pools.app.outlier]\npanic = 0.9\n"
    async with (
        serving(always(answer(b"one"))) as (first, _),
        serving(always(answer(b"two"))) as (second, _),
        proxying(configured([first, second], pool=outlier, top="debug_headers = true")) as (proxy, web),
        client(web) as one,
    ):
        assert "reason=policy" in (await one.get())[1]["x-fastroute"]
        proxy._parts.pools["app"].pool.set_state("s1", "down")
        assert "reason=panic" in (await one.get())[1]["x-fastroute"]
