"""Corners of the relay where a connection, a time limit or a decision could be lost: each was wrong once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastroute._core.http_upstream import ServerLine, Upstream
from fastroute._core.token import TokenCodec
from fastroute.config.schema import Config
from fastroute.proxy import forward
from fastroute.proxy.server import Proxy
from fastroute.proxy.upstream import open_upstream
from tests.support.relaying import (
    SECRET,
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

FAST = '[pools.app.timeouts]\nconnect = "1s"\nresponse = "300ms"\nidle = "60s"\n'


def narrow_listener() -> socket.socket:
    """A listening socket whose clients can leave only some tens of kilobytes unread in the kernel."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    one.bind(("127.0.0.1", 0))
    one.listen(16)
    one.setblocking(False)
    return one


@contextlib.asynccontextmanager
async def proxying_unix(config: Config, path: pathlib.Path) -> AsyncIterator[tuple[Proxy, str]]:
    """A started Proxy on a unix socket, which hands a client's hundreds of kilobytes over in one read."""
    from fastroute import Zone

    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    one.listen(16)
    one.setblocking(False)
    try:
        async with Proxy(config, sockets={"web": [one]}) as proxy:
            yield proxy, str(path)
    finally:
        one.close()
        Zone.unlink(config.zone.name)


@contextlib.asynccontextmanager
async def sent_at_once(path: str, data: bytes) -> AsyncIterator[Client]:
    """A client whose first bytes are in the kernel before the proxy looks; the loop is this test's too."""
    raw = socket.socket(socket.AF_UNIX)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    raw.setblocking(False)
    raw.connect(path)
    sent = raw.send(data)
    one = Client(*await asyncio.open_unix_connection(sock=raw))
    one.send(data[sent:])
    try:
        yield one
    finally:
        await one.close()


async def test_a_client_that_reads_nothing_leaves_no_paused_connection_to_the_next_one() -> None:
    body = b"x" * 40_000
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with serving(always(raw)) as (port, seen):
        config = configured([port], limits="requests_per_connection = 0", pool=FAST)
        async with proxying(config) as (_, web), client(web) as deaf, client(web) as one:
            deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
            deaf.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" * 400)
            count = -1
            while count != len(seen.heads):  # until the proxy asks for no more
                count = len(seen.heads)
                await asyncio.sleep(0.1)
            assert count < 400
            status, _, got = await one.get()
            assert (status, got) == (200, body)


async def test_a_server_that_reads_nothing_from_the_start_becomes_504(tmp_path: pathlib.Path) -> None:
    stuck = narrow_listener()
    head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5000000\r\n\r\n"
    config = configured([stuck.getsockname()[1]], pool=FAST)
    try:
        async with (
            proxying_unix(config, tmp_path / "web") as (proxy, path),
            sent_at_once(path, head + b"x" * 300_000) as one,
        ):
            async with asyncio.timeout(40):
                assert (await one.head())[0] == 504
            assert proxy.statistics()["pools"]["app"].servers[0].in_flight == 0
    finally:
        stuck.close()


async def test_a_connection_that_ends_before_it_is_used_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slams(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(slams) as (port, _), proxying(configured([port])) as (proxy, web), client(web) as one:

        async def open_late(line: ServerLine, timeout_s: float, *more: Any, **named: Any) -> Upstream:
            upstream = await open_upstream(line, timeout_s, *more, **named)
            await until(lambda: proxy.statistics()["upstream_open"] == 0, "the server hung up")
            return upstream

        monkeypatch.setattr(forward, "open_upstream", open_late)
        async with asyncio.timeout(40):
            assert (await one.get())[0] == 502
        assert proxy.statistics()["pools"]["app"].servers[0].in_flight == 0


@pytest.mark.parametrize("attempts", [0, 1, 2])
async def test_a_request_that_servers_die_of_is_sent_no_more_often_than_configured(attempts: int) -> None:
    async def dies(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.transport.abort()

    async with serving(dies) as (port, seen), serving(dies) as (port2, seen2), serving(dies) as (port3, seen3):
        config = configured([port, port2, port3], pool=f"[pools.app.retry]\nattempts = {attempts}\n")
        async with proxying(config) as (_, web), client(web) as one:
            assert (await one.get())[0] == 502
    assert len(seen.heads) + len(seen2.heads) + len(seen3.heads) == 1 + attempts


async def test_a_cookie_that_knows_of_a_later_move_outranks_the_near_table() -> None:
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    minute = int(time.time() // 60)

    def cookie(server: str, generation: int, age: int) -> str:
        text = codec.sign_text(b"k" * 16, codec.server_digest(server), 77, generation, minute - age)
        return f"Cookie: fastroute={text}"

    async with serving(always(answer(b"1"))) as (port, _), serving(always(answer(b"2"))) as (port2, _):
        config = configured([port, port2], sticky='on = "insert"\nttl = "8m"')
        async with proxying(config) as (_, web), client(web) as one:
            assert (await one.get("/", cookie("s1", 1, 0)))[2] == b"1"
            _, fields, body = await one.get("/", cookie("s2", 2, 5))
            text = fields["set-cookie"].partition(";")[0].partition("=")[2]
            said = codec.verify_text(text)
            assert isinstance(said, tuple)
            assert (said[1], said[2], said[3]) == (codec.server_digest("s2"), 77, 2)
            assert body == b"2"


async def test_an_old_cookie_does_not_undo_a_move() -> None:
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    minute = int(time.time() // 60)
    async with serving(always(answer(b"1"))) as (port, _), serving(always(answer(b"2"))) as (port2, _):
        config = configured([port, port2], sticky='on = "insert"\nttl = "8m"')
        async with proxying(config) as (_, web), client(web) as one:
            for server, generation in (("s2", 2), ("s1", 1)):
                text = codec.sign_text(b"k" * 16, codec.server_digest(server), 77, generation, minute)
                _, fields, body = await one.get("/", f"Cookie: fastroute={text}")
                assert body == b"2"
            said = codec.verify_text(fields["set-cookie"].partition(";")[0].partition("=")[2])
            assert isinstance(said, tuple)
            assert (said[1], said[3]) == (codec.server_digest("s2"), 2)


async def test_a_server_that_answers_early_and_stalls_is_given_up_after_the_upload() -> None:
    async def half(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await asyncio.sleep(0.1)  # the proxy's sends stall meanwhile, and go on after
        await reader.readexactly(8_000_000)
        seen.go.set()
        await asyncio.sleep(60)

    async with serving(half) as (port, seen), proxying(configured([port], pool=FAST)) as (_, web), client(web) as one:
        one.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 8000000\r\n\r\n", b"x" * 8_000_000)
        assert (await one.head())[0] == 200
        async with asyncio.timeout(40):
            await seen.go.wait()
            assert await one.rest() == b"half"


async def test_a_connection_with_an_unread_request_in_it_is_not_used_again(tmp_path: pathlib.Path) -> None:
    lazy, loop, connections = narrow_listener(), asyncio.get_running_loop(), list[socket.socket]()

    async def serve() -> None:
        while True:
            accepted, _ = await loop.sock_accept(lazy)
            connections.append(accepted)
            await loop.sock_recv(accepted, 100)
            await loop.sock_sendall(accepted, answer(b"%d" % len(connections)))

    task = asyncio.create_task(serve())
    head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200000\r\n\r\n"
    config = configured([lazy.getsockname()[1]], pool=FAST)
    try:
        async with (
            proxying_unix(config, tmp_path / "web") as (_, path),
            sent_at_once(path, head + b"x" * 200_000) as one,
        ):
            assert (await one.response())[2] == b"1"
            assert (await one.get())[2] == b"2"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for accepted in connections:
            accepted.close()
        lazy.close()


async def test_a_pipelined_upload_may_take_longer_than_the_server_may_think() -> None:
    async with serving(echo) as (port, _), proxying(configured([port], pool=FAST)) as (_, web), client(web) as one:
        one.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        one.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n")
        assert (await one.response())[0] == 200
        await asyncio.sleep(0.8)  # the measurement: more than two response time limits
        one.send(b"body")
        status, _, body = await one.response()
        assert (status, body) == (200, b"body")


async def test_an_interim_response_does_not_set_the_balancers_cookie() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: fastroute=mine\r\nLink: </a>\r\n\r\n"
    async with (
        serving(always(hints + answer(b"ok"))) as (port, _),
        proxying(configured([port], sticky='on = "insert"')) as (_, web),
        client(web) as one,
    ):
        one.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        status, fields = await one.head()
        assert (status, fields) == (103, {"link": "</a>"})
        assert (await one.response())[0] == 200


async def test_a_request_that_could_not_wait_is_no_failure_of_its_server() -> None:
    stuck = narrow_listener()
    stuck.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for one in fillers:
        one.setblocking(False)
        one.connect_ex(stuck.getsockname())
    config = configured([stuck.getsockname()[1]], pool="[pools.app.limits]\npending = 1\n")
    try:
        async with proxying(config) as (proxy, web), client(web) as first, client(web) as second:
            first.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            await until(lambda: proxy.statistics()["upstream_connects"] == 1, "the first one waits")
            assert (await second.get())[0] == 503
            assert proxy.statistics()["pools"]["app"].servers[0].failures_total == 0
    finally:
        for one in (stuck, *fillers):
            one.close()


async def test_the_clients_of_a_unix_socket_are_not_counted_as_one_client(tmp_path: pathlib.Path) -> None:
    async with serving(echo) as (port, _):
        config = configured([port], limits="connections_per_client = 1")
        async with (
            proxying_unix(config, tmp_path / "web") as (_, path),
            sent_at_once(path, b"") as one,
            sent_at_once(path, b"") as other,
        ):
            assert [(await one.get())[0], (await other.get())[0]] == [200, 200]


async def test_a_worker_that_stops_leaves_the_unix_socket_to_the_others(tmp_path: pathlib.Path) -> None:
    async with proxying_unix(configured([2]), tmp_path / "web"):
        pass
    assert (tmp_path / "web").is_socket()


async def test_a_proxy_out_of_descriptors_blames_no_server_and_moves_no_user() -> None:
    async with serving(always(answer(b"1"), close=True)) as (port, seen), serving(always(answer(b"2"))) as (port2, _):
        config = configured([port, port2], sticky='on = "header:X-User"')
        async with proxying(config) as (proxy, web), client(web) as one:
            assert (await one.get("/", "X-User: u"))[2] == b"1"
            await until(lambda: seen.open == 0 and proxy.statistics()["upstream_open"] == 0, "nothing is idle")
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                assert (await one.get("/", "X-User: u"))[0] == 503
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            servers = proxy.statistics()["pools"]["app"].servers
            assert [(server.state, server.failures_total) for server in servers] == [("ready", 0), ("ready", 0)]
            assert (await one.get("/", "X-User: u"))[2] == b"1"
