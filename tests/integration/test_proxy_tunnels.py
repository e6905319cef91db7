"""Tunnels: WebSocket and other protocols that a server switches to, through the proxy."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import pytest
from aiohttp import web as aiohttp_web

from tests.support.relaying import Handler, Seen, always, answer, client, configured, proxying, serving, until

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, x-hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nX-Trap: Upgrade: foo\r\nUpgrade: %s\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
AGREE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Own: 1\r\n\r\n"


async def tunnel(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agrees, echoes until the client ends, then says goodbye."""
    seen.heads.append(await reader.readuntil(b"\r\n\r\n"))
    writer.write(AGREE)
    while data := await reader.read(65536):
        seen.received += len(data)
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")


async def test_bytes_go_both_ways_and_the_handshake_is_written_anew() -> None:
    async with serving(tunnel) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
        one.send(ASK, b"\r\n")
        status, fields = await one.head()
        assert (status, fields["connection"], fields["upgrade"], fields["x-own"]) == (101, "upgrade", "websocket", "1")
        assert seen.named("connection") == ["upgrade"]
        assert seen.named("upgrade") == ["websocket"]
        assert seen.named("sec-websocket-key") == ["dGhlIHNhbXBsZSBub25jZQ=="]
        assert seen.named("x-hop") == []
        for text in (b"\x81\x05hello", b"GET / HTTP/1.1\r\n\r\n"):
            one.send(text)
            assert await one.reader.readexactly(len(text)) == text
        found = proxy.statistics()
        assert (found["tunnels"], found["pools"]["app"].servers[0].in_flight) == (1, 1)
        one.writer.write_eof()
        assert await one.rest() == b"bye"
        await until(lambda: proxy.statistics()["tunnels"] == 0, "it has ended")
        found = proxy.statistics()
    assert (found["tunnels_total"], found["aborted_by_client"], found["truncated"]) == (1, 0, 0)
    assert found["pools"]["app"].servers[0].in_flight == 0


async def test_what_a_client_sends_ahead_reaches_the_server_after_it_agreed() -> None:
    async with serving(tunnel) as (port, _), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(ASK, b"\r\n", b"ahead")
        assert (await one.head())[0] == 101
        assert await one.reader.readexactly(5) == b"ahead"


async def test_a_server_that_does_not_agree_is_answered_in_http_and_so_is_what_follows() -> None:
    refusal = answer(b"no", 426, "Upgrade: websocket", "Connection: Upgrade")
    async with serving(always(refusal)) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(ASK, b"\r\n", b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert [(await one.response())[0] for _ in range(2)] == [426, 426]
    assert [head.split(b" ")[1] for head in seen.heads] == [b"/ws", b"/next"]


async def test_a_server_that_switches_unasked_is_not_believed() -> None:
    async with serving(always(AGREE)) as (port, _), proxying(configured([port])) as (_, web), client(web) as one:
        assert (await one.get())[0] == 502


def switching(to: str) -> Handler:
    """A server that switches to this, whatever was asked for, and echoes."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: {to}\r\n\r\n".encode())
        while data := await reader.read(65536):
            writer.write(data)

    return handle


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("websocket", "WebSocket"),
        ("Foo/1, bar", "foo/1"),
        ("foo/1,\tBAR ,, baz", "Bar"),
        ("foo/1, bar/2", "bar/2, foo/1"),
        ("foo/1, foo/2", "FOO/2"),
        ("foo", "foo/7"),  # one side names no version
        ("foo/7", "foo"),
    ],
)
async def test_a_server_may_switch_to_whatever_the_client_asked_for(asked: str, agreed: str) -> None:
    async with serving(switching(agreed)) as (port, _), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(UPGRADE % asked.encode())
        status, fields = await one.head()
        assert (status, fields["upgrade"]) == (101, agreed)
        one.send(b"to and fro")
        assert await one.reader.readexactly(10) == b"to and fro"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("websocket", "websockets"),
        ("websocket", "socket"),
        ("websocket", "foo"),
        ("websocket", "websocket, foo"),  # each layer has to be asked for
        ("foo/1", "foo/2"),
        ("foo/1, bar/2", "foo/2"),
        ("foo/1", "1"),
        ("h2c/1", "h2c/1"),  # is not offered on: nobody asked
        ("h2c, foo", "foo"),
    ],
)
async def test_a_switch_to_what_the_client_did_not_ask_for_is_a_bad_answer(asked: str, named: str) -> None:
    async with (
        serving(switching(named)) as (port, seen),
        proxying(configured([port])) as (proxy, web),
        client(web) as one,
    ):
        one.send(UPGRADE % asked.encode())
        status, fields, body = await one.response()
        assert (status, body) == (502, b"Bad Gateway\n")
        assert "upgrade" not in fields
        await until(lambda: seen.open == 0, "the server's connection has ended")
        found = proxy.statistics()
        server = found["pools"]["app"].servers[0]
        assert (found["tunnels_total"], found["upstream_open"]) == (0, 0)
        assert (server.in_flight, server.failures_total) == (0, 1)
        assert seen.connections == 1  # the server has acted on the request: nobody else is asked
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # the client's connection goes on in HTTP
        assert (await one.response())[0] == 502


async def test_connect_is_refused() -> None:
    async with serving(tunnel) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n")
        assert (await one.response())[0] == 501
    assert not seen.heads


async def test_tunnels_stick_and_new_ones_get_the_cookie() -> None:
    async with (
        serving(tunnel) as (first, seen1),
        serving(tunnel) as (second, seen2),
        proxying(configured([first, second], sticky='on = "insert"')) as (_, web),
    ):
        async with client(web) as one:
            one.send(ASK, b"\r\n")
            cookie = (await one.head())[1]["set-cookie"].split(";")[0]
        for _ in range(4):
            async with client(web) as one:
                one.send(ASK, f"Cookie: {cookie}\r\n\r\n".encode())
                assert (await one.head())[0] == 101
    assert sorted((len(seen1.heads), len(seen2.heads))) == [0, 5]


async def test_an_open_tunnel_keeps_its_binding_alive() -> None:
    async with (
        serving(tunnel) as (first, _),
        serving(tunnel) as (second, _),
        proxying(configured([first, second], sticky='on = "cookie:sid"\nttl = "1s"', top="debug_headers = true")) as (
            _,
            web,
        ),
        client(web) as one,
    ):
        one.send(ASK, b"Cookie: sid=x\r\n\r\n")
        home = (await one.head())[1]["x-fastroute"].split(";")[0]
        await asyncio.sleep(1.6)  # the measurement: more than its lifetime
        async with client(web) as other:
            other.send(ASK, b"Cookie: sid=x\r\n\r\n")
            assert (await other.head())[1]["x-fastroute"] == f"{home}; reason=affinity-near"


async def test_a_tunnel_in_which_nobody_sends_is_ended() -> None:
    async with serving(tunnel) as (port, seen):
        config = configured([port], timeouts='tunnel_idle = "300ms"')
        async with proxying(config) as (proxy, web), client(web) as one:
            one.send(ASK, b"\r\n")
            assert (await one.head())[0] == 101
            assert await one.rest() == b""
            found = proxy.statistics()
            await until(lambda: seen.open == 0, "the server's side has ended too")
    assert (found["limits_hit"]["timeout_tunnel"], found["tunnels"]) == (1, 0)


async def test_a_server_that_ends_ends_the_tunnel_after_its_last_bytes() -> None:
    async def leaves(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(AGREE + b"last words")

    async with serving(leaves) as (port, _), proxying(configured([port])) as (proxy, web), client(web) as one:
        one.send(ASK, b"\r\n")
        assert (await one.head())[0] == 101
        assert await one.rest() == b"last words"
        one.writer.write_eof()
        await until(lambda: proxy.statistics()["tunnels"] == 0, "both sides have ended")
        assert proxy.statistics()["upstream_open"] == 0


@pytest.mark.parametrize("slow", ["client", "nobody"])
async def test_much_goes_through_whole_and_within_bounds(slow: str) -> None:
    size = 4 << 20
    text = os.urandom(size)
    async with serving(tunnel) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        one.send(ASK, b"\r\n")
        assert (await one.head())[0] == 101
        one.writer.write(text)
        if slow == "client":  # it does not read: the server's echo, then its reading, stop well before the end
            one.reader._transport.pause_reading()  # type: ignore[attr-defined]
            before = -1
            while seen.received != before:
                before = seen.received
                await asyncio.sleep(0.2)
            one.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert await one.reader.readexactly(size) == text


async def test_a_websocket_client_and_server_that_we_did_not_write() -> None:
    async def handle(request: aiohttp_web.Request) -> aiohttp_web.WebSocketResponse:
        socket = aiohttp_web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data[::-1])
        return socket

    app = aiohttp_web.Application()
    app.router.add_get("/ws", handle)
    runner = aiohttp_web.AppRunner(app)
    await runner.setup()
    site = aiohttp_web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with (
            proxying(configured([port], sticky='on = "insert"')) as (_, web),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{web}/ws") as socket,
        ):
            for n in range(50):
                await socket.send_str(f"message {n}")
                assert await socket.receive_str() == f"message {n}"[::-1]
            await socket.send_str("x" * 300_000)
            assert await socket.receive_str() == "x" * 300_000
    finally:
        await runner.cleanup()
