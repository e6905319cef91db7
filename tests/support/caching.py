"""Proxies with a cache before scripted servers: real memcached, real sockets, raw clients."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from fastroute.config.schema import Config
from tests.support.fault_proxy import FaultProxy
from tests.support.memcached import Memcached
from tests.support.relaying import Client, Seen, client, configured, proxying, read_request, serving


def cached(ports: list[int], memcached: str, cache: str = "", **sections: str) -> Config:
    """As relaying.configured, with a cache of responses on these nodes."""
    top = sections.pop("top", "")
    if "timeout" not in cache:  # a starved test machine can hold memcached up for longer than the default 250 ms
        cache += '\ntimeout = "5s"'
    nodes = ", ".join(f'"{one}"' for one in memcached.split())
    listed = "".join(f"cache.{line}\n" for line in cache.splitlines() if line)
    return configured(ports, top=f"{top}\ncache.enabled = true\ncache.memcached = [{nodes}]\n{listed}", **sections)


@dataclass
class Origin:
    """A server that counts its requests and answers them by path."""

    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    go: dict[str, asyncio.Event] = field(default_factory=dict)
    delay_s: float = 0.0
    active: int = 0
    most: int = 0
    """Requests that were answered at once, at most."""
    port: int = 0
    seen: Seen = field(default_factory=Seen)

    def page(self, path: str, body: bytes | str, *lines: str, status: int = 200, cut: int = 0) -> None:
        self.pages[path] = Page(status, lines, body.encode() if isinstance(body, str) else body, cut)

    def count(self, path: str) -> int:
        return sum(asked == path for _, asked, _ in self.asked)

    def fields(self, path: str) -> dict[str, str]:
        return next(fields for _, asked, fields in reversed(self.asked) if asked == path)


@dataclass
class Page:
    status: int
    lines: tuple[str, ...]
    body: bytes
    cut: int = 0
    """Bytes after which the connection ends."""
    by: Callable[[str, dict[str, str]], Page] | None = None


@contextlib.asynccontextmanager
async def origin() -> AsyncIterator[Origin]:
    one = Origin()

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(seen, reader)
            lines = head.decode("latin-1").split("\r\n")
            method, path, _ = lines[0].split(" ")
            fields = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
            }
            one.asked.append((method, path, fields))
            one.active += 1
            one.most = max(one.most, one.active)
            gate = one.go.get(path)
            try:
                if gate is not None:
                    await gate.wait()
                if one.delay_s:
                    await asyncio.sleep(one.delay_s)
            finally:
                one.active -= 1
            page = one.pages.get(path, Page(404, (), b"none"))
            if page.by is not None:
                page = page.by(method, fields)
            tag = next((line[6:] for line in page.lines if line.lower().startswith("etag: ")), None)
            if tag is not None and fields.get("if-none-match") == tag:
                out = "HTTP/1.1 304 Not Modified\r\n" + "".join(f"{line}\r\n" for line in page.lines) + "\r\n"
                writer.write(out.encode("latin-1"))
                continue
            out = f"HTTP/1.1 {page.status} X\r\n" + "".join(f"{line}\r\n" for line in page.lines)
            if not any(re.match("(?i)transfer-encoding|content-length", line) for line in page.lines):
                out += f"Content-Length: {len(page.body)}\r\n"
            body = page.body if method != "HEAD" else b""
            if page.cut:
                writer.write((out + "\r\n").encode("latin-1") + body[: page.cut])
                await writer.drain()
                return
            writer.write((out + "\r\n").encode("latin-1") + body)
            await writer.drain()

    async with serving(handle) as (port, seen):
        one.port, one.seen = port, seen
        yield one


@contextlib.asynccontextmanager
async def replicas(
    count: int, ports: list[int], memcached: str, cache: str = "", **sections: str
) -> AsyncIterator[list[Client]]:
    """Clients of that many proxies, each with its own near cache and zone."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            proxy, port = await stack.enter_async_context(proxying(cached(ports, memcached, cache, **sections)))
            clients.append(await stack.enter_async_context(client(port)))
            clients[-1].proxy = proxy
        yield clients


@contextlib.asynccontextmanager
async def far_store(store: Memcached) -> AsyncIterator[tuple[Origin, FaultProxy, Client]]:
    """A server, one proxy, and its emptied store at the end of a way that can be made long: way.set("delay", 0.1)."""
    store.command("flush_all")
    async with (
        origin() as server,
        FaultProxy(store.port) as way,
        replicas(1, [server.port], way.address, 'timeout = "5s"') as (one,),
    ):
        yield server, way, one


def asked_and_waiting(clients: list[Client]) -> tuple[int, int]:
    """Requests that the proxies of these clients have had, and keys for which they waited for another replica."""
    proxies = [one.proxy for one in clients if one.proxy is not None]
    caches = [parts.responses for one in proxies for parts in one._parts.pools.values()]  # type: ignore[union-attr]
    waits = sum(cache.statistics().waits for cache in caches if cache is not None)
    return sum(one.statistics()["requests"] for one in proxies), waits


def status_of(fields: dict[str, str]) -> str:
    """The last member of Cache-Status: the proxy's."""
    return fields["cache-status"].split("\n")[-1]
