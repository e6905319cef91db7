"""Every limit and time limit of docs/limits.md over real sockets: a test of its name, and its count."""

# ruff: noqa: SIM117 (a client belongs to its proxy, not beside it)
from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest

from fastroute.proxy.server import Proxy
from tests.support.fleet import Process, free_ports, running
from tests.support.relaying import (
    Client,
    Seen,
    always,
    answer,
    client,
    configured,
    echo,
    proxying,
    read_request,
    serving,
    until,
)

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST /in HTTP/1.1\r\nHost: a.example\r\n"


def hits(proxy: Proxy) -> dict[str, int]:
    """Which limits were met, and how often."""
    found: dict[str, int] = proxy.statistics()["limits_hit"]
    return {name: count for name, count in found.items() if count}


async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a request and never answers."""
    await read_request(seen, reader)
    await reader.read()


def trickling(head: bytes, piece: bytes, every_s: float) -> Callable[..., object]:
    """Answers with a head, then with a piece again and again."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_s)

    return handle


BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"


async def refused(raw: bytes, status: int, name: str, *, limits: str) -> None:
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], limits=limits)) as (proxy, web),
        client(web) as one,
    ):
        one.send(raw)
        assert (await one.head())[0] == status
        await one.rest()
        assert hits(proxy) == {name: 1}
    assert seen.heads == []


async def test_limit_request_line_bytes() -> None:
    await refused(
        b"GET /" + b"x" * 256 + b" HTTP/1.1\r\n", 414, "request_line_bytes", limits="request_line_bytes = 256"
    )


async def test_limit_head_bytes() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1024
    await refused(raw, 431, "head_bytes", limits="head_bytes = 1024")


async def test_limit_fields() -> None:
    await refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 8, 431, "fields", limits="fields = 8")


async def test_limit_method_bytes() -> None:
    await refused(b"PROPPATCH / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method_bytes", limits="method_bytes = 8")


async def test_limit_body_bytes() -> None:
    await refused(POST + b"Content-Length: 11\r\n\r\n", 413, "body_bytes", limits="body_bytes = 10")
    await refused(POST + b"Transfer-Encoding: chunked\r\n\r\nb\r\n", 413, "body_bytes", limits="body_bytes = 10")


async def test_limit_connections() -> None:
    async with serving(echo) as (port, _), proxying(configured([port], limits="connections = 1")) as (proxy, web):
        async with client(web) as a, client(web) as b:
            assert (await a.get())[0] == 200
            assert (await b.response())[0] == 503
        assert hits(proxy) == {"connections": 1}


async def test_limit_connections_per_client() -> None:
    one_each = "connections_per_client = 1"
    async with serving(echo) as (port, _):
        async with proxying(configured([port], limits=one_each)) as (proxy, web), client(web) as a, client(web) as b:
            assert (await a.get())[0] == 200
            assert (await b.response())[0] == 503
            assert hits(proxy) == {"connections_per_client": 1}
        trusted = configured([port], limits=one_each, listener='trusted_proxies = ["127.0.0.0/8"]')
        async with proxying(trusted) as (proxy, web), client(web) as a, client(web) as b:
            assert (await a.get())[0] == (await b.get())[0] == 200
            assert hits(proxy) == {}


async def test_limit_requests_per_connection() -> None:
    config = "requests_per_connection = 2"
    async with serving(echo) as (port, _), proxying(configured([port], limits=config)) as (proxy, web):
        async with client(web) as one:
            assert "connection" not in (await one.get())[1]
            assert (await one.get())[1]["connection"] == "close"
            assert await one.rest() == b""
        assert hits(proxy) == {"requests_per_connection": 1}


async def test_limit_response_head_bytes() -> None:
    raw = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2000 + b"\r\nContent-Length: 0\r\n\r\n"
    config = "[pools.app.limits]\nresponse_head_bytes = 1024\n"
    async with serving(always(raw)) as (port, _), proxying(configured([port], pool=config)) as (proxy, web):
        async with client(web) as one:
            assert (await one.get())[0] == 502
        assert hits(proxy) == {"response_head_bytes": 1}


async def test_limit_pending() -> None:
    config = "max_connections = 1\n[pools.app.limits]\npending = 1\npending_time = '5s'\n"
    async with serving(silent) as (port, seen), proxying(configured([port], pool=config)) as (proxy, web):
        async with client(web) as a, client(web) as b, client(web) as c:
            a.send(GET)
            await until(lambda: seen.heads, "the first one is at the server")
            b.send(GET)
            await until(lambda: proxy.statistics()["requests"] == 2, "the second one waits")
            assert (await c.get())[0] == 503
            assert hits(proxy) == {"pending": 1}


async def test_limit_pending_time() -> None:
    config = "max_connections = 1\n[pools.app.limits]\npending_time = '200ms'\n"
    async with serving(silent) as (port, seen), proxying(configured([port], pool=config)) as (proxy, web):
        async with client(web) as a, client(web) as b:
            a.send(GET)
            await until(lambda: seen.heads, "the first one is at the server")
            assert (await b.get())[0] == 503
            assert hits(proxy) == {"pending_time": 1}


async def test_limit_timeout_head() -> None:
    async with serving(echo) as (port, _), proxying(configured([port], timeouts='head = "300ms"')) as (proxy, web):
        async with client(web) as one:
            one.send(b"GET / HT")
            assert (await one.response())[0] == 408
            assert hits(proxy) == {"timeout_head": 1}


async def test_limit_timeout_head_counts_from_the_first_byte_and_not_from_the_last() -> None:
    async with serving(echo) as (port, _), proxying(configured([port], timeouts='head = "500ms"')) as (_, web):
        async with client(web) as one:
            begun_s = time.monotonic()
            answered = asyncio.create_task(one.response())
            for byte in GET[:-1] * 10:
                one.send(bytes([byte]))
                done, _pending = await asyncio.wait({answered}, timeout=0.02)
                if done:
                    break
            assert (await answered)[0] in (400, 408)
            assert time.monotonic() - begun_s < 5


async def test_limit_timeout_body() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port], timeouts='body = "300ms"')) as (proxy, web):
        async with client(web) as one:
            one.send(POST, b"Content-Length: 5\r\n\r\nhe")
            assert (await one.response())[0] == 408
            assert hits(proxy) == {"timeout_body": 1}
    assert seen.heads == []


async def test_limit_timeout_idle() -> None:
    async with serving(echo) as (port, _), proxying(configured([port], timeouts='idle = "300ms"')) as (proxy, web):
        async with client(web) as one:
            assert (await one.get())[0] == 200
            assert await one.rest() == b""
            assert hits(proxy) == {"timeout_idle": 1}


def deaf(port: int) -> socket.socket:
    """A client that has asked and reads nothing."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    one.connect(("127.0.0.1", port))
    one.sendall(GET)
    one.setblocking(False)
    return one


async def test_limit_timeout_send() -> None:
    server = trickling(BIG, b"x" * 65536, 0)
    async with serving(server) as (port, seen), proxying(configured([port], timeouts='idle = "300ms"')) as (proxy, web):
        one = deaf(web)
        await until(lambda: hits(proxy) == {"timeout_send": 1}, "it is given up")
        await until(seen.lost.is_set, "and its server is let go")
        one.close()


async def test_limit_timeout_tunnel() -> None:
    async def switch(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await reader.read()

    async with (
        serving(switch) as (port, _),
        proxying(configured([port], timeouts='tunnel_idle = "300ms"')) as (
            proxy,
            web,
        ),
        client(web) as one,
    ):
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert (await one.head())[0] == 101
        assert await one.rest() == b""
        assert hits(proxy) == {"timeout_tunnel": 1}


async def test_limit_timeout_connect() -> None:
    full = socket.socket()  # whose line of connections is full: a further one is neither accepted nor refused
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    queued = [socket.socket() for _ in range(4)]
    for each in queued:
        each.setblocking(False)
        each.connect_ex(("127.0.0.1", port))
    config = '[pools.app.timeouts]\nconnect = "300ms"\n[pools.app.retry]\nattempts = 0\n'
    try:
        async with proxying(configured([port], pool=config)) as (proxy, web), client(web) as one:
            assert (await one.get())[0] == 504
            assert hits(proxy) == {"timeout_connect": 1}
    finally:
        for each in (full, *queued):
            each.close()


async def test_limit_timeout_response() -> None:
    config = '[pools.app.timeouts]\nresponse = "300ms"\n'
    async with serving(silent) as (port, _), proxying(configured([port], pool=config)) as (proxy, web):
        async with client(web) as one:
            assert (await one.get())[0] == 504
            assert hits(proxy) == {"timeout_response": 1}


async def test_limit_timeout_response_holds_between_two_reads_of_a_body_too() -> None:
    config = '[pools.app.timeouts]\nresponse = "300ms"\n'
    server = trickling(BIG, b"x", 60)
    async with serving(server) as (port, _seen), proxying(configured([port], pool=config)) as (proxy, web):
        async with client(web) as one:
            one.send(GET)
            assert len((await one.rest()).partition(b"\r\n\r\n")[2]) == 1
            assert hits(proxy) == {"timeout_response": 1}


async def test_limit_timeout_upstream_idle() -> None:
    config = '[pools.app.timeouts]\nidle = "300ms"\n'
    async with serving(echo) as (port, seen), proxying(configured([port], pool=config)) as (proxy, web):
        async with client(web) as one:
            assert (await one.get())[0] == 200
            await until(lambda: hits(proxy) == {"timeout_upstream_idle": 1}, "the unused connection ends")
            await until(lambda: seen.open == 0, "and the server knows")


@pytest.mark.parametrize("part", ["head", "body", "upload", "waiting"])
async def test_limit_timeout_total(part: str) -> None:
    server = {"head": silent, "body": trickling(BIG, b"x", 0.05), "upload": echo, "waiting": silent}[part]
    pool = "max_connections = 1\n" if part == "waiting" else ""
    pool += "[pools.app.limits]\npending_time = '20s'\n"
    async with serving(server) as (port, seen):
        config = configured([port], timeouts='total = "500ms"', pool=pool)
        async with proxying(config) as (proxy, web), client(web) as one:
            if part == "upload":
                one.send(POST, b"Content-Length: 1000\r\n\r\n")
                sending = asyncio.create_task(trickle(one, 0.05))
                assert (await one.response())[0] == 504
                sending.cancel()
            elif part == "body":
                one.send(GET)
                assert b"200 OK" in await one.rest()  # cut off: nothing else says that it is not whole
            else:
                if part == "waiting":
                    async with client(web) as first:
                        first.send(GET)
                        await until(lambda: seen.heads, "the only place is taken")
                        assert (await one.get())[0] == 504
                else:
                    assert (await one.get())[0] == 504
            assert hits(proxy)["timeout_total"] in (1, 2)
            assert [server.in_flight for server in proxy.statistics()["pools"]["app"].servers] == [0]


async def trickle(one: Client, every_s: float) -> None:
    while True:
        one.send(b"x")
        await asyncio.sleep(every_s)


async def test_limit_timeout_total_leaves_tunnels_and_idle_connections_alone() -> None:
    async with serving(echo) as (port, _), proxying(configured([port], timeouts='total = "800ms"')) as (proxy, web):
        async with client(web) as one:
            assert (await one.get())[0] == 200
            await asyncio.sleep(1.2)  # the measurement: longer than a request may take
            assert (await one.get())[0] == 200
            assert hits(proxy) == {}


RATE = ("min_rate_bytes = 1000", 'min_rate_grace = "500ms"\nbody = "10s"\nidle = "10s"')


async def test_limit_min_rate_request() -> None:
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], limits=RATE[0], timeouts=RATE[1])) as (proxy, web),
        client(web) as one,
    ):
        one.send(POST, b"Content-Length: 100000\r\n\r\n")
        sending = asyncio.create_task(trickle(one, 0.02))
        assert (await one.response())[0] == 408
        sending.cancel()
        assert hits(proxy) == {"min_rate_request": 1}
    assert seen.heads == []


async def test_limit_min_rate_request_spares_who_is_fast_enough_and_who_is_held_back() -> None:
    async def slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await seen.go.wait()
        writer.write(answer(b"%d" % len(await reader.readexactly(32 << 20))))
        await writer.drain()

    limits = RATE[0] + "\nbody_bytes = 0"
    async with serving(echo) as (port, _), serving(slow) as (slow_port, seen):
        config = configured([port], limits=limits, timeouts=RATE[1])
        async with proxying(config) as (proxy, web), client(web) as one:
            one.send(POST, b"Content-Length: 20000\r\n\r\n")
            for _ in range(20):  # twice the time of grace, at many times the least rate
                one.send(b"x" * 1000)
                await asyncio.sleep(0.05)
            assert (await one.response())[0] == 200
            assert hits(proxy) == {}
        config = configured([slow_port], limits=limits, timeouts=RATE[1])
        async with proxying(config) as (proxy, web), client(web) as one:
            one.send(POST, b"Content-Length: %d\r\n\r\n" % (32 << 20), b"x" * (32 << 20))
            await asyncio.sleep(1.2)  # the measurement: more than twice the time of grace
            seen.go.set()
            assert (await one.response())[2] == b"%d" % (32 << 20)
            assert hits(proxy) == {}


async def test_limit_min_rate_response() -> None:
    server = trickling(BIG, b"x" * 65536, 0)
    async with (
        serving(server) as (port, seen),
        proxying(configured([port], limits="min_rate_bytes = 1000000", timeouts=RATE[1])) as (proxy, web),
    ):
        one = deaf(web)
        begun_s, got = time.monotonic(), 0
        while hits(proxy) != {"min_rate_response": 1}:
            assert time.monotonic() - begun_s < 10
            with contextlib.suppress(BlockingIOError):
                got += len(one.recv(64))
            await asyncio.sleep(0.01)
        await until(seen.lost.is_set, "the server is let go")
        one.close()


async def test_limit_min_rate_server() -> None:
    pool = '[pools.app.limits]\nmin_rate_bytes = 1000\n[pools.app.timeouts]\nmin_rate_grace = "500ms"\n'
    for body in (b"Content-Length: 100000", b"Transfer-Encoding: chunked"):
        piece = b"x" if b"Length" in body else b"1\r\nx\r\n"
        server = trickling(b"HTTP/1.1 200 OK\r\n" + body + b"\r\n\r\n", piece, 0.02)
        async with serving(server) as (port, seen), proxying(configured([port], pool=pool)) as (proxy, web):
            async with client(web) as one:
                one.send(GET)
                rest = await one.rest()
                assert rest.startswith(b"HTTP/1.1 200")
                assert not rest.endswith(b"0\r\n\r\n")
                await until(seen.lost.is_set, "the server is given up")
                assert hits(proxy) == {"min_rate_server": 1}
                found = proxy.statistics()["pools"]["app"].servers[0]
                assert (found.in_flight, found.failures_total) == (0, 1)


async def test_limit_min_rate_server_spares_one_whose_client_reads_slowly() -> None:
    pool = '[pools.app.limits]\nmin_rate_bytes = 1000000\n[pools.app.timeouts]\nmin_rate_grace = "500ms"\n'
    server = trickling(BIG, b"x" * 65536, 0)
    async with serving(server) as (port, seen), proxying(configured([port], pool=pool)) as (proxy, web):
        one = deaf(web)
        await until(lambda: seen.heads, "it has asked")
        await asyncio.sleep(1.2)  # the measurement: more than twice the time of grace
        assert hits(proxy) == {}
        one.close()


async def test_limit_min_rate_off_costs_no_look() -> None:
    async with serving(echo) as (port, _), proxying(configured([port])) as (proxy, _web):
        assert proxy._engine is not None
        assert proxy._engine.watches == []


# ---- memory ----

GIB = 1 << 30
BLOCK = bytes(256 << 10)


def _status(pid: int, name: str) -> int:
    """A figure of /proc/PID/status in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def _pour(connection: socket.socket, head: bytes, size: int) -> None:
    with connection:
        connection.sendall(head)
        for _ in range(size // len(BLOCK)):
            connection.sendall(BLOCK)


def _drink(connection: socket.socket, size: int) -> int:
    buffer, got = bytearray(1 << 20), 0
    while got < size:
        count = connection.recv_into(buffer)
        if count == 0:
            break
        got += count
    return got


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_gibibyte_goes_through_each_way_within_one_mebibyte_of_memory(tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (port,) = free_ports(1)
        config = tmp_path / "fr.toml"
        config.write_text(
            f'[listeners.web]\nbind = "127.0.0.1:{port}"\npool = "app"\nlimits.body_bytes = 0\n'
            f'[[pools.app.servers]]\naddress = "127.0.0.1:{server.getsockname()[1]}"\n'
        )
        replica = Process([sys.executable, "-m", "fastroute", "serve", "-c", str(config)], tmp_path / "log")
        with running(replica):
            replica.wait_for_line("ready")
            (worker,) = (
                int(one) for one in pathlib.Path(f"/proc/{replica.pid}/task/{replica.pid}/children").read_text().split()
            )

            def down(size: int) -> int:
                with socket.create_connection(("127.0.0.1", port)) as one:
                    one.sendall(GET)
                    there, _ = server.accept()
                    there.recv(65536)
                    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
                    pouring = threading.Thread(target=_pour, args=(there, head, size))
                    pouring.start()
                    got = _drink(one, size)
                    pouring.join()
                    return got

            def up(size: int) -> int:
                with socket.create_connection(("127.0.0.1", port)) as one:
                    head = POST + b"Content-Length: %d\r\n\r\n" % size
                    pouring = threading.Thread(target=_pour, args=(one, head, size))
                    pouring.start()
                    there, _ = server.accept()
                    with there:
                        got = _drink(there, size)
                    pouring.join()
                    return got

            for way in (down, up):
                way(32 << 20)  # the first time everything is touched
            pathlib.Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak is that of from now on
            before = _status(worker, "VmRSS")
            assert down(GIB) >= GIB
            assert up(GIB) >= GIB
            assert _status(worker, "VmHWM") - before <= 1 << 20
