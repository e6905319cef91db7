"""What a draining proxy does with tunnels: WebSockets are told to go elsewhere, others end with the drain."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.relaying import Client, Seen, client, configured, proxying, serving, until

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
AGREE = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
GOING_AWAY = b"\x88\x02\x03\xe9"


def frame(payload: bytes, first: int = 0x82, *, masked: bool = False) -> bytes:
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mask | size])
    elif size < 1 << 16:
        head = bytes([first, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


async def open_tunnel(one: Client, protocol: bytes = b"websocket") -> None:
    one.send(ASK % protocol)
    assert (await one.head())[0] == 101


async def test_client_and_server_that_we_did_not_write_end_with_1001() -> None:
    codes: list[int | None] = []

    async def echoing(connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in connection:
                await connection.send(message)
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with serve(echoing, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with proxying(configured([port])) as (proxy, web):
            many = [await connect(f"ws://127.0.0.1:{web}/") for _ in range(50)]
            for n, one in enumerate(many):
                await one.send(f"{n}" * 1000)
                assert await one.recv() == f"{n}" * 1000
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            await proxy.drain(20)
            assert loop.time() - begun_s < 10  # everybody went by himself
            for one in many:
                with pytest.raises(websockets.ConnectionClosed):
                    await one.recv()
                assert one.close_code == 1001
        await until(lambda: len(codes) == 50, "the servers saw the end")
    assert set(codes) == {1001}


async def by_frames(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agrees, and sends the bytes of seen.bodies, one each time that the client sends something."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(AGREE)
    for piece in list(seen.bodies):
        seen.heads.append(await reader.read(65536))
        writer.write(piece)
    seen.heads.append(await reader.read(65536))


@pytest.mark.parametrize("size", [0, 5, 125, 126, 60_000, 70_000])
@pytest.mark.parametrize("masked", [False, True])
async def test_the_goodbye_waits_for_the_end_of_a_frame_and_nothing_follows_it(size: int, masked: bool) -> None:
    whole = frame(b"first") + frame(bytes(size), 0x02, masked=masked)
    cut = random.Random(size).randrange(8, len(whole))  # somewhere in the second frame
    async with serving(by_frames) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
        seen.bodies = [whole[:cut], whole[cut:] + frame(b"more", 0x80), frame(b"later")]
        await open_tunnel(one)
        one.send(b"go")
        assert await one.reader.readexactly(cut) == whole[:cut]
        draining = asyncio.create_task(proxy.drain(5))
        await until(lambda: proxy._engine is not None and proxy._engine.draining, "it drains")
        await asyncio.sleep(0)
        one.send(b"go")
        assert await one.reader.readexactly(len(whole) - cut) == whole[cut:]
        assert await one.reader.readexactly(4) == GOING_AWAY
        one.send(b"bye")
        await until(lambda: seen.heads[-1:] == [b"bye"], "what the client says still reaches the server")
        one.writer.close()
        await draining
        assert await one.reader.read() == b""


async def test_the_goodbye_may_stand_between_the_fragments_of_a_message() -> None:
    async with serving(by_frames) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
        seen.bodies = [frame(b"half", 0x02)]
        await open_tunnel(one)
        one.send(b"go")
        assert await one.reader.readexactly(6) == frame(b"half", 0x02)
        draining = asyncio.create_task(proxy.drain(5))
        assert await one.reader.readexactly(4) == GOING_AWAY
        one.writer.close()
        await draining


async def test_a_server_that_has_said_goodbye_is_not_spoken_for() -> None:
    own = frame(b"\x03\xe8done", 0x88)
    async with serving(by_frames) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
        seen.bodies = [own]
        await open_tunnel(one)
        one.send(b"go")
        assert await one.reader.readexactly(len(own)) == own
        await proxy.drain(0.3)
        assert await one.rest() == b""


async def test_a_server_that_has_ended_its_side_still_hears_the_client_after_the_goodbyes() -> None:
    async def ends_its_side(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(AGREE + frame(b"last"))
        writer.write_eof()
        while data := await reader.read(65536):
            seen.heads.append(data)

    async with (
        serving(ends_its_side) as (port, seen),
        proxying(configured([port])) as (proxy, web),
        client(web) as one,
        client(web) as other,
    ):
        await open_tunnel(one)
        assert await one.rest() == frame(b"last")  # and the end: nothing may be written after it
        draining = asyncio.create_task(proxy.drain(5))
        assert await other.rest() == b""  # it carried nothing: by now the goodbyes have been said
        one.send(b"bye")
        await until(lambda: seen.heads == [b"bye"], "what the client says still reaches the server")
        one.writer.close()
        await draining


@pytest.mark.parametrize("protocol", [b"websocket", b"x-own"])
async def test_a_tunnel_that_does_not_end_is_cut_when_the_drain_is_over(protocol: bytes) -> None:
    async def stays(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(AGREE.replace(b"WebSocket", protocol))
        while data := await reader.read(65536):
            writer.write(data)

    async with serving(stays) as (port, _), proxying(configured([port])) as (proxy, web), client(web) as one:
        await open_tunnel(one, protocol)
        draining = asyncio.create_task(proxy.drain(0.5))
        if protocol == b"websocket":
            assert await one.reader.readexactly(4) == GOING_AWAY
        else:
            one.send(b"still")
            assert await one.reader.readexactly(5) == b"still"
        await draining
        assert await one.rest() == b""
        assert proxy.statistics()["tunnels"] == 0


async def test_every_split_of_the_servers_frames_gives_the_same_boundaries() -> None:
    frames = [frame(b"a"), frame(b""), frame(b"b" * 126), frame(b"c" * 300, masked=True), frame(b"d" * 70_000)]
    whole = b"".join(frames)
    for seed in range(8):
        pick = random.Random(seed)
        cuts = sorted(pick.sample(range(1, len(whole)), 12))
        if seed < 4:  # within the headers
            cuts = sorted({*range(1, 12), *cuts[-3:]})
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        async with serving(by_frames) as (port, seen), proxying(configured([port])) as (proxy, web), client(web) as one:
            seen.bodies = pieces
            await open_tunnel(one)
            got = b""
            for piece in pieces:
                one.send(b"go")
                got += await one.reader.readexactly(len(piece))
            assert got == whole
            draining = asyncio.create_task(proxy.drain(5))
            assert await one.reader.readexactly(4) == GOING_AWAY
            one.writer.close()
            await draining
