"""An application server for the soak: `python -m tests.soak.server PORT`; prints "ready".

GET /bytes?n=N&seed=S: N bytes that only S decides, with a length or (odd S) in chunks. POST /echo: the body. /ws: a
WebSocket that echoes binary messages. /page: an empty page for a browser. Everything else: 404. Bodies can be checked
by whoever knows N and S (body_of).
"""

from __future__ import annotations

import asyncio
import functools
import random
import sys

from aiohttp import web

PIECE = 16 << 10


@functools.lru_cache(maxsize=256)
def body_of(size: int, seed: int) -> bytes:
    """The bytes of a seed."""
    return random.Random(seed).randbytes(size)


async def _bytes(request: web.Request) -> web.StreamResponse:
    size, seed = int(request.query["n"]), int(request.query["seed"])
    body = body_of(size, seed)
    if seed % 2 == 0:
        return web.Response(body=body)
    answer = web.StreamResponse()
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    for at in range(0, size, PIECE):
        await answer.write(body[at : at + PIECE])
    await answer.write_eof()
    return answer


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _page(request: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>soak</title>", content_type="text/html")


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


async def _serve(port: int) -> None:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/bytes", _bytes)
    app.router.add_post("/echo", _echo)
    app.router.add_get("/ws", _socket)
    app.router.add_get("/page", _page)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
