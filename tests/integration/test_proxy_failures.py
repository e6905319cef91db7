"""What becomes of requests when a server, a client or a limit gets in the way: answered, retried, or cut off."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.support.relaying import (
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
    unused_port,
)

POST = b"POST /in HTTP/1.1\r\nHost: a.example\r\n"
FAST = '[pools.app.timeouts]\nconnect = "1s"\nresponse = "300ms"\nidle = "60s"\n'


async def test_a_server_that_refuses_is_taken_out_and_the_request_goes_to_another() -> None:
    async with (
        serving(echo) as (port, seen),
        proxying(configured([unused_port(), port])) as (proxy, web),
        client(web) as one,
    ):
        for _ in range(6):
            assert (await one.get())[0] == 200
        found = proxy.statistics()
    assert len(seen.heads) == 6
    assert found["retries"] == {"tried": 1, "failed": 0, "over_budget": 0}
    assert [server.state for server in found["pools"]["app"].servers] == ["down", "ready"]


async def test_a_post_to_a_server_that_refuses_is_sent_to_another_with_its_whole_body() -> None:
    body = b"0123456789" * 100_000
    async with (
        serving(echo) as (port, seen),
        proxying(configured([unused_port(), port])) as (_, web),
        client(web) as one,
    ):
        one.send(POST, b"Content-Length: %d\r\n\r\n" % len(body), body)
        assert (await one.response())[2] == body
    assert seen.bodies == [body]


async def test_the_last_server_is_never_taken_out() -> None:
    config = configured([unused_port(), unused_port()])
    async with proxying(config) as (proxy, web), client(web) as one:
        for _ in range(4):
            status, fields, body = await one.get()
            assert (status, body) == (502, b"Bad Gateway\n")
            assert "connection" not in fields
        assert sorted(server.state for server in proxy.statistics()["pools"]["app"].servers) == ["down", "ready"]


async def test_without_retry_the_client_hears_of_the_refusal() -> None:
    config = configured([unused_port()], pool="[pools.app.retry]\nattempts = 0\n")
    async with proxying(config) as (proxy, web), client(web) as one:
        assert (await one.get())[0] == 502
        assert proxy.statistics()["retries"]["tried"] == 0


async def test_an_idle_connection_that_the_server_closed_costs_no_request() -> None:
    async def once(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.write(answer(b"ok"))  # says nothing of closing, and closes

    async with serving(once) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for _ in range(20):
            assert (await one.get())[0] == 200
        for _ in range(20):
            one.send(POST, b"Content-Length: 2\r\n\r\nhi")
            assert (await one.response())[0] == 200
    assert len(seen.heads) == 40


async def test_a_get_whose_reused_connection_dies_unanswered_is_sent_once_more_and_a_post_is_not() -> None:
    async def second_dies(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.write(answer(b"ok"))
        await writer.drain()
        await read_request(seen, reader)
        writer.transport.abort()

    async with serving(second_dies) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
        assert (await one.get("/1"))[0] == 200
        assert (await one.get("/2"))[0] == 200
        assert [head.split(b" ")[1] for head in seen.heads] == [b"/1", b"/2", b"/2"]
        one.send(POST, b"Content-Length: 2\r\n\r\nhi")
        assert (await one.response())[0] == 502
        assert proxy.statistics()["retries"]["tried"] == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"HTTP/1.1 102 P\r\n\r\n" * 200,
    ],
)
async def test_an_answer_that_is_not_acceptable_becomes_502_and_the_connection_is_not_used_again(raw: bytes) -> None:
    async with serving(always(raw)) as (port, seen), proxying(configured([port])) as (_, web):
        for _ in range(2):
            async with client(web) as one:
                one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                status, fields = await one.head()
                while status == 102:
                    status, fields = await one.head()
                assert status == 502
                assert await one.body(fields) == b"Bad Gateway\n"
    assert seen.connections == len(seen.heads) == 2


async def test_bytes_after_a_response_are_never_taken_for_the_next_one() -> None:
    raw = answer(b"mine") + answer(b"evil", 200)
    async with serving(always(raw)) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for _ in range(3):
            assert (await one.get())[2] == b"mine"
    assert seen.connections == 3


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True),
    ],
)
async def test_a_response_cut_short_looks_cut_short(raw: bytes, whole: bool) -> None:
    async with (
        serving(always(raw, close=True)) as (port, _),
        proxying(configured([port])) as (proxy, web),
        client(web) as one,
    ):
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = await one.rest()
        assert got.startswith(b"HTTP/1.1 200")
        assert got.endswith(b"0\r\n\r\n") is whole
        assert proxy.statistics()["truncated"] == (not whole)


async def test_a_body_without_framing_cut_short_resets_a_client_of_1_0() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    assert raw != chunked
    async with (
        serving(always(chunked, close=True)) as (port, _),
        proxying(configured([port])) as (_, web),
        client(web) as one,
    ):
        one.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await one.rest()


async def test_a_server_that_never_answers_becomes_504() -> None:
    async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        await reader.read()
        raise ConnectionError

    async with (
        serving(silent) as (port, seen),
        proxying(configured([port], pool=FAST)) as (proxy, web),
        client(web) as one,
    ):
        assert (await one.get())[0] == 504
        await until(seen.lost.is_set, "the server's connection is given up")
        assert proxy.statistics()["limits_hit"]["timeout_response"] == 1


async def test_a_client_that_leaves_takes_its_upstream_connection_with_it() -> None:
    async def endless(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    async with serving(endless) as (port, seen), proxying(configured([port])) as (proxy, web):
        async with client(web) as one:
            one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await one.head()
        await until(seen.lost.is_set, "the endless answer ends")
        await until(lambda: proxy.statistics()["upstream_open"] == 0, "no upstream connection is left")
        found = proxy.statistics()
    assert found["aborted_by_client"] == 1
    assert [server.in_flight for server in found["pools"]["app"].servers] == [0]


async def test_an_upload_that_breaks_off_is_never_a_whole_request_for_the_server() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (proxy, web):
        for framing in (b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
            seen.lost.clear()
            async with client(web) as one:
                one.send(POST, framing)
                await until(lambda: proxy.statistics()["upstream_open"] == 1, "the head went on")
            await until(seen.lost.is_set, "the server sees the end")
    assert seen.heads == []


@pytest.mark.parametrize(
    ("limits", "raw", "status", "counter"),
    [
        ("body_bytes = 1000", POST + b"Content-Length: 1001\r\n\r\n", 413, "body_bytes"),
        ("body_bytes = 1000", POST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n", 413, "body_bytes"),
        ("body_bytes = 10", POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"6\r\n123456\r\n" * 2, 413, "body_bytes"),
        ("head_bytes = 1024", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1024, 431, "head_bytes"),
        ("fields = 8", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 8 + b"\r\n", 431, "fields"),
        (
            "request_line_bytes = 256",
            b"GET /" + b"x" * 256 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            414,
            "request_line_bytes",
        ),
        ("method_bytes = 8", b"PROPPATCH / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method_bytes"),
        ("", b"nonsense\r\n\r\n", 400, ""),
        ("", b"GET / HTTP/1.1\r\n\r\n", 400, ""),
        ("", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, ""),
        ("", POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, ""),
        ("", POST + b"Expect: magic\r\n\r\n", 417, ""),
        ("", POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, ""),
    ],
)
async def test_what_is_not_acceptable_is_refused_before_a_server_hears_of_it(
    limits: str, raw: bytes, status: int, counter: str
) -> None:
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], limits=limits)) as (proxy, web),
        client(web) as one,
    ):
        one.send(raw)
        found, fields, body = await one.response()
        assert (found, fields["connection"]) == (status, "close")
        assert len(body) < 40
        one.send(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await one.rest() == b""
        counted = proxy.statistics()
    assert seen.heads == []
    assert counted["refused"] == 1
    assert not counter or counted["limits_hit"][counter] == 1


async def test_a_chunk_that_is_wrong_after_the_head_went_on_is_refused_and_the_server_sees_no_end() -> None:
    async with serving(echo) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
        one.send(POST, b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await until(lambda: proxy.statistics()["upstream_open"] == 1, "the head went on")
        one.send(b"oops\r\n")
        assert (await one.response())[0] == 400
        await until(seen.lost.is_set, "the server's connection is given up")
    assert seen.heads == []


async def test_connections_requests_and_clients_have_limits() -> None:
    async with serving(echo) as (port, _):
        async with proxying(configured([port], limits="connections = 2")) as (proxy, web):
            async with client(web) as a, client(web) as b:
                assert (await a.get())[0] == (await b.get())[0] == 200
                async with client(web) as c:
                    assert (await c.response())[0] == 503
            assert proxy.statistics()["limits_hit"]["connections"] == 1
            await until(lambda: proxy.statistics()["downstream_connections"] == 0, "all left")
            async with client(web) as d:
                assert (await d.get())[0] == 200
        async with proxying(configured([port], limits="connections_per_client = 1")) as (proxy, web), client(web) as a:
            assert (await a.get())[0] == 200
            async with client(web) as b:
                assert (await b.response())[0] == 503
        trusted = configured([port], limits="connections_per_client = 1", listener='trusted_proxies = ["127.0.0.1/32"]')
        async with proxying(trusted) as (_, web), client(web) as a, client(web) as b:
            assert (await a.get())[0] == (await b.get())[0] == 200
        async with proxying(configured([port], limits="requests_per_connection = 2")) as (_, web), client(web) as a:
            assert "connection" not in (await a.get())[1]
            assert (await a.get())[1]["connection"] == "close"
            assert await a.rest() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HT", 408),
        (b"", None),
        (POST + b"Content-Length: 5\r\n\r\nhe", 408),
        (POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 417),
    ],
)
async def test_a_client_that_stops_sending_is_not_waited_for(sent: bytes, status: int | None) -> None:
    timeouts = 'head = "300ms"\nbody = "300ms"\nidle = "300ms"'
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], timeouts=timeouts)) as (proxy, web),
        client(web) as one,
    ):
        one.send(sent)
        if status is None:
            assert await one.rest() == b""
        else:
            found, _ = await one.head()
            while found == 100:
                found, _ = await one.head()
            assert found == status
            assert (await one.rest()).count(b"HTTP/1.1") == 0
        await until(lambda: proxy.statistics()["upstream_open"] == 0, "nothing is left")
    assert seen.heads == []


async def test_an_idle_keep_alive_connection_ends_on_both_sides() -> None:
    pool = '[pools.app.timeouts]\nidle = "300ms"\n'
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], timeouts='idle = "300ms"', pool=pool)) as (proxy, web),
    ):
        async with client(web) as one:
            assert (await one.get())[0] == 200
            assert await one.rest() == b""
        await until(lambda: proxy.statistics()["upstream_open"] == 0, "the upstream connection ends too")
    assert seen.open == 0


def _narrow(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    one.setblocking(False)
    return one


async def test_a_client_that_reads_slowly_holds_its_server_back() -> None:
    size = 64 << 20

    async def big(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block = b"x" * 65536
        while seen.sent < size:
            writer.write(block)
            await writer.drain()
            seen.sent += len(block)

    async with serving(big) as (port, seen), proxying(configured([port])) as (_, web):
        one = _narrow(web)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(one, ("127.0.0.1", web))
        await loop.sock_sendall(one, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        before = -1
        while before != seen.sent:
            before = seen.sent
            await asyncio.sleep(0.2)
        # Kernel buffers on both sides, the proxy's 64 KiB and one read: nothing near the whole.
        assert 0 < seen.sent < 16 << 20
        got = 0
        while got < size:
            got += len(await loop.sock_recv(one, 1 << 20))
        one.close()
    assert seen.sent == size


async def test_a_server_that_reads_slowly_holds_its_client_back() -> None:
    size = 64 << 20

    async def slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await seen.go.wait()
        while seen.received < size:
            seen.received += len(await reader.read(1 << 20))
        writer.write(answer(b"ok"))
        await writer.drain()

    async with (
        serving(slow) as (port, seen),
        proxying(configured([port], limits="body_bytes = 0")) as (_, web),
        client(web) as one,
    ):
        one.send(POST, b"Content-Length: %d\r\n\r\n" % size)
        sent, block = 0, b"x" * 65536
        try:
            while sent < size:
                one.send(block)
                async with asyncio.timeout(0.5):
                    await one.writer.drain()
                sent += len(block)
        except TimeoutError:
            sent += len(block)
        assert sent < 32 << 20
        seen.go.set()
        while sent < size:
            one.send(block)
            await one.writer.drain()
            sent += len(block)
        assert (await one.response())[0] == 200
    assert seen.received == size


async def test_a_client_that_reads_nothing_at_all_is_given_up() -> None:
    async def big(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with serving(big) as (port, seen), proxying(configured([port], timeouts='idle = "300ms"')) as (proxy, web):
        one = _narrow(web)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", web))
        await asyncio.get_running_loop().sock_sendall(one, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: proxy.statistics()["downstream_connections"] == 1, "it is there")
        await until(lambda: proxy.statistics()["limits_hit"]["timeout_send"] == 1, "the time limit passes")
        await until(seen.lost.is_set, "the server is let go")
        one.close()


async def test_a_reset_client_leaves_nothing_behind() -> None:
    async with serving(echo) as (port, _), proxying(configured([port])) as (proxy, web):
        for _ in range(20):
            one = socket.create_connection(("127.0.0.1", web))
            one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        await until(lambda: proxy.statistics()["downstream_accepted"] == 20, "all came")
        await until(lambda: proxy.statistics()["downstream_connections"] == 0, "all left")
        assert [server.in_flight for server in proxy.statistics()["pools"]["app"].servers] == [0]


async def test_a_client_that_asks_much_and_reads_nothing_is_not_answered_into_memory() -> None:
    size, count = 1 << 20, 60

    async def big(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(seen, reader)
            writer.write(answer(b"x" * size))
            await writer.drain()

    async with serving(big) as (port, seen), proxying(configured([port])) as (_, web):
        one = _narrow(web)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(one, ("127.0.0.1", web))
        await loop.sock_sendall(one, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * count)
        before = -1
        while before != len(seen.heads):
            before = len(seen.heads)
            await asyncio.sleep(0.2)
        assert 0 < before < count // 2
        got = 0
        while got < size * count:
            got += len(await loop.sock_recv(one, 1 << 20))
        one.close()
    assert len(seen.heads) == count
