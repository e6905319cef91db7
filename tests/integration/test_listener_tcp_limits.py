"""Limits of TCP listeners: each ends or refuses what it is for, is counted under its own name, and lets go of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from fastroute.proxy.server import Proxy
from tests.integration.test_listener_tcp import connected, named, served, tcp
from tests.support.relaying import WAIT_S, proxying, until, unused_port


def hits(proxy: Proxy) -> dict[str, int]:
    return {name: count for name, count in proxy.statistics()["limits_hit"].items() if count}


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came until the proxy ended the connection."""
    found = b""
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                found += piece
    return found


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """One whose line of connections is full: a further one is neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port


@contextlib.asynccontextmanager
async def left_clean(proxy: Proxy) -> AsyncIterator[None]:
    """Afterwards nothing is open or in flight."""
    yield
    await until(
        lambda: (
            not proxy.statistics()["downstream_connections"]
            and not proxy.statistics()["upstream_open"]
            and not any(one.in_flight for one in proxy.statistics()["pools"]["app"].servers)
        ),
        "something is left",
    )


async def test_connections_beyond_the_limit_are_closed_and_counted_and_the_others_go_on():
    async with (
        served(named("1")) as port,
        proxying(tcp([port], listener="limits.connections = 2")) as (proxy, at),
        left_clean(proxy),
        connected(at) as (one, _),
        connected(at) as (two, writer),
    ):
        assert [await each.readline() for each in (one, two)] == [b"1\n"] * 2
        for _ in range(3):
            async with connected(at) as (reader, _):
                assert await ended(reader) == b""
        assert hits(proxy) == {"connections": 3}
        writer.write(b"still here")
        assert await two.readexactly(10) == b"still here"


async def test_connections_of_one_client_beyond_its_limit_are_counted_unless_it_is_trusted():
    async with served(named("1")) as port:
        listener = "limits.connections_per_client = 1"
        async with proxying(tcp([port], listener=listener)) as (proxy, at), left_clean(proxy):
            async with connected(at) as (one, _), connected(at) as (two, _):
                assert sorted([await ended(two), await one.readline()]) == [b"", b"1\n"]
            assert hits(proxy) == {"connections_per_client": 1}
        listener += '\ntrusted_proxies = ["127.0.0.0/8"]'
        async with proxying(tcp([port], listener=listener)) as (proxy, at), left_clean(proxy):
            async with connected(at) as (one, _), connected(at) as (two, _):
                assert [await each.readline() for each in (one, two)] == [b"1\n"] * 2
            assert hits(proxy) == {}


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a hello cut short"])
async def test_a_client_that_does_not_finish_its_hello_is_given_up(begin):
    async with served(named("1")) as port:
        config = tcp([port], listener='timeouts.head = "300ms"', sticky='on = "sni"')
        async with proxying(config) as (proxy, at), left_clean(proxy), connected(at) as (reader, writer):
            writer.write(begin)
            assert await ended(reader) == b""
            assert hits(proxy) == {"timeout_head": 1}


async def test_a_server_that_does_not_answer_the_connection_is_given_up_and_passed_over():
    with silent_port() as silent:
        pool = 'timeouts.connect = "300ms"'
        async with proxying(tcp([silent], pool=pool, retry=0)) as (proxy, at), left_clean(proxy):
            async with connected(at) as (reader, _):
                assert await ended(reader) == b""
            assert hits(proxy) == {"timeout_connect": 1}
        async with (
            served(named("2")) as port,
            proxying(tcp([silent, port], pool=pool, retry=1)) as (proxy, at),
            left_clean(proxy),
        ):
            for _ in range(2):
                async with connected(at) as (reader, writer):
                    assert await reader.readline() == b"2\n"
                    writer.write(b"more")
                    assert await reader.readexactly(4) == b"more"


async def test_where_every_server_refuses_the_client_is_closed_at_once():
    ports = [unused_port(), unused_port()]
    async with proxying(tcp(ports, retry=1)) as (proxy, at), left_clean(proxy), connected(at) as (reader, writer):
        writer.write(b"hello")
        assert await ended(reader) == b""
        assert proxy.statistics()["upstream_connect_failures"] == 2


@pytest.mark.parametrize(("limit", "counted"), [('pending_time = "300ms"', "pending_time"), ("pending = 1", "pending")])
async def test_who_waits_for_room_too_long_or_in_too_long_a_line_is_closed(limit, counted):
    async with served(named("1")) as port:
        pool = f"limits.{limit}\n" + ('limits.pending_time = "20s"' if counted == "pending" else "")
        config = with_room(tcp([port], pool=pool), 1)
        async with proxying(config) as (proxy, at), left_clean(proxy), connected(at) as (one, writer):
            assert await one.readline() == b"1\n"
            async with contextlib.AsyncExitStack() as stack:
                waiting = [(await stack.enter_async_context(connected(at)))[0] for _ in range(2)]
                ends = [asyncio.ensure_future(ended(each)) for each in waiting]
                if counted == "pending":
                    done, left = await asyncio.wait(ends, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
                    assert [each.result() for each in done] == [b""]
                    assert hits(proxy) == {"pending": 1}
                    writer.close()  # the other one's turn
                    (last,) = left
                    reader = waiting[ends.index(last)]
                    last.cancel()
                    await asyncio.gather(last, return_exceptions=True)
                    async with asyncio.timeout(WAIT_S):
                        assert await reader.readline() == b"1\n"
                else:
                    assert await asyncio.gather(*ends) == [b"", b""]
                    assert hits(proxy) == {"pending_time": 2}
                    writer.write(b"untouched")
                    assert await one.readexactly(9) == b"untouched"


def with_room(config, connections: int):
    """The same with a limit on its server."""
    pool = config.pools["app"]
    servers = tuple(msgspec.structs.replace(one, max_connections=connections) for one in pool.servers)
    return msgspec.structs.replace(config, pools={"app": msgspec.structs.replace(pool, servers=servers)})
