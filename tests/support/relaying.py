"""A Proxy inside the test's event loop, servers that do what a test says, and clients that send and see raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from fastroute.config.load import loads
from fastroute.config.schema import Config
from fastroute.proxy.server import Proxy
from tests.support.loops import settled
from tests.support.ports import free_port as unused_port

SECRET = "a secret for tests of at least 32 bytes"
WAIT_S = 30.0
"""Longest wait for anything that must happen; it happens within milliseconds unless the machine is starved."""

Handler = Callable[["Seen", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Seen:
    """What a scripted server saw: heads and bodies of whole requests, in order."""

    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    received: int = 0
    sent: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection ended before its handler did."""
    go: asyncio.Event = field(default_factory=asyncio.Event)
    """For handlers that wait for the test."""

    def fields(self, at: int = -1) -> list[tuple[str, str]]:
        """Field lines of a head, names in lower case."""
        lines = self.heads[at].decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    def named(self, name: str, at: int = -1) -> list[str]:
        return [value for found, value in self.fields(at) if found == name]


async def read_request(
    seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None = None
) -> tuple[bytes, bytes]:
    """(head, body) of the next request; with a writer, clients that ask for a 100 get it."""
    head = await reader.readuntil(b"\r\n\r\n")
    if writer is not None and b"\r\nExpect: 100-continue\r\n" in head:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
        body = await reader.readexactly(int(length.group(1)))
    elif re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
    seen.heads.append(head)
    seen.bodies.append(body)
    seen.received += len(body)
    return head, body


def answer(body: bytes, status: int = 200, *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


async def echo(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keep-alive server: echoes a request's body, or its head when there is none."""
    while True:
        head, body = await read_request(seen, reader, writer)
        out = answer(body or head)
        if head.startswith(b"HEAD "):
            out = out[: out.index(b"\r\n\r\n") + 4]
        writer.write(out)
        await writer.drain()


def always(raw: bytes, *, close: bool = False) -> Handler:
    """A server that answers each whole request with these bytes."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(seen, reader)
            writer.write(raw)
            await writer.drain()
            if close:
                return

    return handle


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[int, Seen]]:
    """A scripted server on a free port: (port, what it saw)."""
    seen, tasks = Seen(), set[asyncio.Task[None]]()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen.connections += 1
        seen.open += 1
        try:
            await handler(seen, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.lost.set()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)
            seen.open -= 1
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        await settled()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def configured(
    ports: list[int],
    *,
    sticky: str = "",
    listener: str = "",
    limits: str = "",
    timeouts: str = "",
    pool: str = "",
    top: str = "",
) -> Config:
    """One listener `web`, one pool `app`; arguments are lines of TOML for their sections."""
    servers = "".join(
        f'[[pools.app.servers]]\nname = "s{n}"\naddress = "127.0.0.1:{p}"\n' for n, p in enumerate(ports, 1)
    )
    text = f'secret = "{SECRET}"\nzone = {{ name = "t-relay-{os.getpid()}-{unused_port()}", size = "1MiB" }}\n{top}\n'
    text += f'[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n{listener}\n'
    text += f"[listeners.web.limits]\n{limits}\n[listeners.web.timeouts]\n{timeouts}\n[pools.app]\n"
    text += servers + pool
    if sticky:
        text += f"\n[pools.app.sticky]\n{sticky}\n"
    return loads(text).config


@contextlib.asynccontextmanager
async def proxying(config: Config) -> AsyncIterator[tuple[Proxy, int]]:
    """A started Proxy on a free port: (proxy, port)."""
    from fastroute import Zone

    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen(128)
    one.setblocking(False)
    try:
        async with Proxy(config, sockets={"web": [one]}) as proxy:
            yield proxy, one.getsockname()[1]
    finally:
        one.close()
        Zone.unlink(config.zone.name)


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.proxy: Proxy | None = None
        """Where the test has it: the proxy it is connected to."""

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and fields of the next response head; repeated fields joined by a line feed."""
        async with asyncio.timeout(WAIT_S):
            raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = raw.split("\r\n")
        found: dict[str, str] = {}
        for line in lines[1:]:
            if line:
                name, _, value = line.partition(":")
                name = name.lower()
                found[name] = f"{found[name]}\n{value.strip()}" if name in found else value.strip()
        return int(lines[0].split(" ")[1]), found

    async def body(self, fields: dict[str, str]) -> bytes:
        async with asyncio.timeout(WAIT_S):
            if "content-length" in fields:
                return await self.reader.readexactly(int(fields["content-length"]))
            if fields.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                assert await self.reader.readexactly(2) == b"\r\n"
                return body
            return await self.reader.read()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response whole."""
        status, fields = await self.head()
        return status, fields, await self.body(fields)

    async def rest(self) -> bytes:
        """Everything until the proxy closes."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()

    async def get(self, path: str = "/", *lines: str) -> tuple[int, dict[str, str], bytes]:
        head = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: a.example", *lines))
        self.send(head.encode("latin-1"), b"\r\n")
        return await self.response()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset: its end alone could be a half-close."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    """A raw connection to the proxy."""
    one = Client(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))
    try:
        yield one
    finally:
        await one.close()


async def until(what: Callable[[], object], why: str) -> None:
    """Wait for what the loop brings about."""
    async with asyncio.timeout(WAIT_S):
        while not what():
            await asyncio.sleep(0.005)
    assert what(), why
