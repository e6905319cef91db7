"""When a request is tried again, and when not: a test per rule (RFC 9110, 9.2.2; docs/limits.md)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.relaying import (
    Handler,
    Seen,
    answer,
    client,
    configured,
    echo,
    proxying,
    read_request,
    serving,
    unused_port,
)

RETRIES = "[pools.app.retry]\nattempts = %d\n"


def swallow(after: int = 0, start: bytes = b"") -> Handler:
    """Answers so many requests, then takes one and ends the connection; `start`: what it still says."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(after):
            await read_request(seen, reader)
            writer.write(answer(b"ok"))
            await writer.drain()
        await read_request(seen, reader)
        writer.write(start)
        await writer.drain()

    return handle


@contextlib.asynccontextmanager
async def several(*handlers: Handler) -> AsyncIterator[tuple[list[int], list[Seen]]]:
    async with contextlib.AsyncExitStack() as stack:
        started = [await stack.enter_async_context(serving(one)) for one in handlers]
        yield [port for port, _ in started], [seen for _, seen in started]


@pytest.mark.parametrize("attempts", [0, 1, 2])
async def test_each_attempt_goes_to_another_server(attempts: int) -> None:
    async with several(swallow(), swallow(), swallow(), swallow()) as (ports, seen):
        async with proxying(configured(ports, pool=RETRIES % attempts)) as (_, web), client(web) as one:
            assert (await one.get())[0] == 502
        assert sorted(len(each.heads) for each in seen) == [0] * (3 - attempts) + [1] * (attempts + 1)


async def test_a_refusal_costs_nobody_anything_and_any_method_goes_on_to_others_only() -> None:
    async with serving(echo) as (port, seen):
        config = configured([unused_port(), unused_port(), port], pool=RETRIES % 2)
        async with proxying(config) as (proxy, web), client(web) as one:
            one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            assert (await one.response())[2] == b"hi"
            assert proxy.statistics()["upstream_connect_failures"] <= 2
    assert seen.bodies == [b"hi"]


async def test_an_idempotent_request_is_sent_again_with_its_body_while_that_is_at_hand() -> None:
    async with several(swallow(1)) as (ports, (seen,)):
        async with proxying(configured(ports)) as (_, web), client(web) as one:
            assert (await one.get())[0] == 200
            one.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            assert (await one.response())[0] == 200
        assert seen.bodies == [b"", b"hello", b"hello"]


async def test_a_body_of_which_more_went_on_is_not_at_hand_and_is_not_sent_again() -> None:
    async with several(swallow(1), swallow(1)) as (ports, seen):
        async with proxying(configured(ports)) as (proxy, web), client(web) as one:
            for _ in ports:
                assert (await one.get())[0] == 200
            one.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", b"x" * 100_000)
            async with asyncio.timeout(40):
                while proxy.statistics()["requests"] < 3:
                    await asyncio.sleep(0.005)
            one.send(b"x" * 100_000)
            assert (await one.response())[0] == 502
        assert sum(body == b"x" * 200_000 for each in seen for body in each.bodies) == 1


async def test_a_post_that_reached_a_server_is_not_sent_again() -> None:
    async with several(swallow(), swallow()) as (ports, seen):
        async with proxying(configured(ports)) as (proxy, web), client(web) as one:
            one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
            assert (await one.response())[0] == 502
            assert proxy.statistics()["retries"]["tried"] == 0
        assert sorted(len(each.heads) for each in seen) == [0, 1]


async def test_nothing_is_sent_again_once_a_byte_of_an_answer_came() -> None:
    async with several(swallow(0, b"HTTP/1.1 20"), echo) as (ports, seen):
        async with proxying(configured(ports)) as (_, web), client(web) as one:
            assert (await one.get())[0] == 502
        assert [len(each.heads) for each in seen] == [1, 0]


async def test_a_server_that_is_silent_too_long_is_not_asked_again_nor_is_another() -> None:
    async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        await reader.read()

    config = '[pools.app.timeouts]\nresponse = "300ms"\n'
    async with several(silent, echo) as (ports, seen):
        async with proxying(configured(ports, pool=config)) as (_, web), client(web) as one:
            assert (await one.get())[0] == 504  # it may be at work on it
        assert [len(each.heads) for each in seen] == [1, 0]
