"""Servers for tests of health, in a thread of the test: it says what they answer, and sees who asks.

with CheckedServers(3) as servers:
    servers.ports; servers[0].status = 503; servers[0].checks      # monotonic times of the checks
    servers[0].close(); servers[0].open()                          # the port is refused, and listens again
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from tests.support.ports import free_ports

WAIT_S = 30.0


class CheckedServer:
    """One HTTP server: checks (any request for /healthz) get `status` and `fields`, others 200 and who served them."""

    def __init__(self, port: int) -> None:
        self.port, self.name = port, f"up-{port}"
        self.status, self.fields, self.body = 200, {}, b""
        self.delay_s = 0.0
        self.checks: list[float] = []
        self.requests: list[float] = []
        self.pages: dict[str, bytes] = {}
        self.page_status = 200
        self.held: list[asyncio.StreamWriter] = []
        """Requests for /hold, which are not answered."""
        self.connections = 0
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._run: Any = None

    def open(self) -> None:
        self._run(self._open())

    def close(self) -> None:
        """Nobody listens any more, and all connections are gone."""
        self._run(self._close())

    @property
    def listening(self) -> bool:
        return self._socket is not None

    async def _open(self) -> None:
        # An accept loop of its own: asyncio's server loses a connection that it accepts while it is being closed.
        self._socket = one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", self.port))
        one.listen(1024)
        one.setblocking(False)
        self._tasks.add(asyncio.get_running_loop().create_task(self._accept(one)))

    async def _close(self) -> None:
        tasks, self._tasks = list(self._tasks), set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _accept(self, one: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            made, _ = await loop.sock_accept(one)
            task = loop.create_task(self._serve(made))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, made: socket.socket) -> None:
        self.connections += 1
        try:
            reader, writer = await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path = head.decode("latin-1").split(" ", 2)[:2]
                if path == "/healthz":
                    self.checks.append(time.monotonic())
                    status, body = self.status, self.body
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                else:
                    self.requests.append(time.monotonic())
                    if path == "/hold":
                        self.held.append(writer)
                        continue
                    status, body = self.page_status, self.pages.get(path, self.name.encode())
                fields = {"Content-Length": len(body), "X-Served-By": self.name, **self.fields}
                text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{text}\r\n".encode() + (b"" if method == "HEAD" else body))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


class CheckedServers:
    """Several of them, listening while the block runs."""

    def __init__(self, count: int) -> None:
        self.all = [CheckedServer(port) for port in free_ports(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def ports(self) -> list[int]:
        return [one.port for one in self.all]

    def __getitem__(self, index: int) -> CheckedServer:
        return self.all[index]

    def by_name(self, name: str) -> CheckedServer:
        return next(one for one in self.all if one.name == name)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def __enter__(self) -> CheckedServers:
        self._thread.start()
        for one in self.all:
            one._run = self.run
            one.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self.all:
            with contextlib.suppress(Exception):
                one.close()
        self.run(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    async def _settle(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
