"""Other products as processes, and small upstreams that say who they are: what the rings' conformance tests share.

    with Upstreams(places) as upstreams:                # places: (host, port) to listen on; port 0 takes a free one
        with Product([binary, ...], port) as product:   # ready when it answers on 127.0.0.1:port
            product.answers("/equal", [b"key", ...])    # the names of the upstreams that took the keys (header X-Key)

Rules: loopback only; free ports; every process ends with its block; nothing sleeps to hope (readiness is an answer).
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

START_TIMEOUT_S = 60.0
_POLL_S = 0.01
_TIMEOUT_S = 30.0


class _Answer(asyncio.Protocol):
    """One connection of an upstream: HTTP requests without a body, or memcached's `get`."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.kept = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.kept += data
        while True:
            if self.kept.startswith(b"get "):
                line, end, rest = self.kept.partition(b"\r\n")
                reply = b"VALUE %s 16 %d\r\n%s\r\nEND\r\n" % (line[4:], len(self.name), self.name)
            else:
                _, end, rest = self.kept.partition(b"\r\n\r\n")
                reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(self.name), self.name)
            if not end:
                return
            self.kept = rest
            self.transport.write(reply)


class Upstreams:
    """Servers in a thread of their own; each answers every request with its name, "host:port" ("[v6]:port")."""

    def __init__(self, places: Iterable[tuple[str, int]]) -> None:
        self._wanted = list(places)
        self._sockets: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self.names: list[str] = []

    def __enter__(self) -> Upstreams:
        for host, port in self._wanted:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            made = socket.socket(family)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sockets.append(made)
            made.bind((host, port))
            found = made.getsockname()[1]
            self.names.append(f"[{host}]:{found}" if ":" in host else f"{host}:{found}")
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstreams", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_TIMEOUT_S)
        return self

    async def _listen(self) -> None:
        for made, name in zip(self._sockets, self.names, strict=True):
            text = name.encode()
            self._servers.append(await self._loop.create_server(lambda text=text: _Answer(text), sock=made))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIMEOUT_S)
        self._loop.close()
        for made in self._sockets:
            made.close()


class Product:
    """A proxy process under test, spoken to over one connection with keep-alive.

    Args:
        command: the process; its standard error goes to `log`.
        port: where it listens on 127.0.0.1.
        log: a file.
    """

    def __init__(self, command: Sequence[str], port: int, log: pathlib.Path) -> None:
        self.command, self.port, self.log = list(command), port, log

    def __enter__(self) -> Product:
        with self.log.open("wb") as log:
            # Not the sanitizers that the tests may run under: the product was not built for them.
            plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=plain)
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connection = socket.create_connection(("127.0.0.1", self.port), _TIMEOUT_S)
                break
            except ConnectionError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self._end()
                    raise AssertionError(f"{self.command[0]} did not start: {self.log.read_text()[-2000:]}") from None
                time.sleep(_POLL_S)
        self._file = self._connection.makefile("rb")
        return self

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(_TIMEOUT_S)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._connection.close()
        self._end()

    def answers(self, path: str, keys: Iterable[bytes]) -> list[str]:
        """Who took each key: bodies of the answers to GET path with the key as header X-Key."""
        return [self._ask(b"GET %s HTTP/1.1\r\nHost: a\r\nX-Key: %s\r\n\r\n" % (path.encode(), key)) for key in keys]

    def _ask(self, request: bytes) -> str:
        self._connection.sendall(request)
        status = self._file.readline()
        size = -1
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        assert status.split()[1:2] == [b"200"], (status, request, self.log.read_text()[-1000:])
        assert size >= 0, "an answer without its length"
        return self._file.read(size).decode()


def keys_of_all_kinds(count: int) -> list[bytes]:
    """Keys for a header: `count` plain ones, and some that are long, not ASCII, of one byte."""
    odd = [b"k", b"0", b"x" * 3000, "schlüssel".encode(), "鍵".encode(), bytes(range(0x80, 0x100)), b"a b", b"a,b;c=d"]
    return [f"/path/{i}?q={i * 7919}".encode() for i in range(count)] + odd


def has_ipv6() -> bool:
    """Is there an IPv6 loopback?"""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
