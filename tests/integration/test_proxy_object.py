"""`Proxy` as an object in a running loop: start, addresses, drain, close; under asyncio and uvloop; foreign clients."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import httpx
import pytest
import uvloop

from fastroute.errors import FastrouteError
from fastroute.proxy.server import Proxy
from tests.support.relaying import (
    Client,
    Seen,
    answer,
    client,
    configured,
    echo,
    proxying,
    read_request,
    serving,
    until,
)


def under_both_loops(test: Callable[[pathlib.Path], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test of one coroutine once under asyncio's loop and once under uvloop's."""

    @pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(factory: Callable[[], asyncio.AbstractEventLoop], tmp_path: pathlib.Path) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test(tmp_path))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(seen, reader)
        await seen.go.wait()
        writer.write(answer(b"at last"))


@under_both_loops
async def test_addresses_are_where_it_accepts_and_everything_is_closed_at_the_end(tmp_path: pathlib.Path) -> None:
    async with serving(echo) as (port, _), proxying(configured([port])) as (proxy, web):
        assert proxy.addresses() == {"web": [("127.0.0.1", web)]}
        async with client(web) as one:
            assert (await one.get())[0] == 200
            await proxy.aclose()
            assert await one.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", web)
        await proxy.aclose()
        with pytest.raises(FastrouteError):
            await proxy.start()


@under_both_loops
async def test_a_unix_socket_serves_on_both_sides(tmp_path: pathlib.Path) -> None:
    path, behind = f"{tmp_path}/front.sock", f"{tmp_path}/back.sock"

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo_once(reader, writer)

    async def echo_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(Seen(), reader)
        writer.write(answer(head))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(connection, behind)
    front = socket.socket(socket.AF_UNIX)
    front.bind(path)
    front.listen()
    front.setblocking(False)
    config = configured([1234])
    import msgspec

    replaced = msgspec.structs.replace(config.pools["app"].servers[0], address=f"unix:{behind}")
    pools = {"app": msgspec.structs.replace(config.pools["app"], servers=(replaced,))}
    async with Proxy(msgspec.structs.replace(config, pools=pools), sockets={"web": [front]}) as proxy:
        assert proxy.addresses() == {"web": [path]}
        one = Client(*await asyncio.open_unix_connection(path))
        status, _, body = await one.get()
        assert status == 200
        assert b"\r\nX-Forwarded-For: unix:\r\n" in body
        await one.close()
    server.close()
    await server.wait_closed()


@under_both_loops
async def test_drain_lets_requests_end_says_close_and_accepts_nothing_new(tmp_path: pathlib.Path) -> None:
    async with serving(slow) as (port, seen), proxying(configured([port])) as (proxy, web):
        async with client(web) as idle, client(web) as busy:
            seen.go.set()
            await idle.get()
            seen.go.clear()
            busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: len(seen.heads) == 2, "the request is at the server")
            draining = asyncio.create_task(proxy.drain(10))
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", web)
            assert not draining.done()
            seen.go.set()
            status, fields, body = await busy.response()
            assert (status, fields["connection"], body) == (200, "close", b"at last")
            assert await busy.rest() == b""
        async with asyncio.timeout(40):
            await draining


@under_both_loops
async def test_drain_cuts_what_is_left_when_its_time_is_over(tmp_path: pathlib.Path) -> None:
    async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(seen, reader)
        assert await reader.read() == b""
        seen.lost.set()

    async with serving(silent) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as busy:
        busy.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(seen.heads) == 1, "the request is at the server")
        async with asyncio.timeout(40):
            await proxy.drain(0.1)
        assert await busy.rest() == b""
        await until(seen.lost.is_set, "the server's connection is closed")


@under_both_loops
async def test_bodies_and_keep_alive_work_under_this_loop(tmp_path: pathlib.Path) -> None:
    body = bytes(range(256)) * 8192
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web), client(web) as one:
        for _ in range(3):
            one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body), body)
            assert (await one.response())[2] == body
    assert seen.connections == 1


@under_both_loops
async def test_httpx_and_aiohttp_are_served(tmp_path: pathlib.Path) -> None:
    body = b"0123456789" * 50_000

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 10_000):
            yield body[at : at + 10_000]

    async with serving(echo) as (port, _), proxying(configured([port], sticky='on = "insert"')) as (proxy, web):
        url = f"http://127.0.0.1:{web}/"
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(url)).status_code == 200
            assert (await http.post(url, content=body)).content == body
            assert (await http.post(url, content=pieces())).content == body
            assert (await http.head(url)).content == b""
            assert "fastroute" in http.cookies
        async with aiohttp.ClientSession() as session:
            async with session.post(url, data=pieces()) as response:
                assert await response.read() == body
            answers = await asyncio.gather(*(session.get(url) for _ in range(50)))
            assert {one.status for one in answers} == {200}
            for one in answers:
                one.release()
        assert proxy.statistics()["responses"]["2xx"] == 55
    await asyncio.sleep(0)
    gc.collect()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@under_both_loops
async def test_curl_is_served_with_expect_and_chunks(tmp_path: pathlib.Path) -> None:
    body = b"a line of text\n" * 100_000
    async with serving(echo) as (port, seen), proxying(configured([port])) as (_, web):
        for extra in (["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["--http1.0"]):
            curl = await asyncio.create_subprocess_exec(
                "curl", "-sS", "--data-binary", "@-", *extra, f"http://127.0.0.1:{web}/",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await curl.communicate(body)
            assert (curl.returncode, out) == (0, body)
    assert seen.bodies == [body] * 3
