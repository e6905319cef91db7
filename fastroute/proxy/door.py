"""Accepting connections that owe something before they are a client's: a PROXY header, a TLS handshake.

Not here: plain listeners, whose connections the event loop accepts by itself; what a PROXY header is (proxy_protocol).
What a connection does once it is open is the relay's.

Rules of this file:
- The PROXY header comes first, before TLS, is never looked for where it is not configured, and is never missing where
  it is: from a peer that is not trusted, or without a header, nothing is served.
- Of the socket exactly the header is read; what stands behind it is the client's.
- Whoever is at the door counts against the limits on connections, and has the time of a head (`timeouts.head`).
- What fails at the door is counted and closed without a word: it is the peer's fault, and anybody can make it happen.
- A process that has no descriptor left waits a moment instead of spinning.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastroute.proxy.proxy_protocol import HEADER_BYTES_MAX, Header, ProxyProtocolError, parse_header

__all__ = ["Door"]

BURST = 64
"""Connections accepted in one turn of the loop; asyncio's own accept takes up to its backlog, 100."""

AGAIN_S = 1.0
"""Wait after an accept that failed for want of descriptors or memory; asyncio's ACCEPT_RETRY_DELAY."""

log = logging.getLogger("fastroute.proxy")


class Counts(Protocol):
    """What a door counts with: http_wire.Engine."""

    def count_handshake(self, ok: bool) -> None: ...
    def count_proxy_header(self, ok: bool) -> None: ...


class Gate(Protocol):
    """Whose connections these are: http_relay.Relay or tcp_relay.TcpRelay."""

    def make(self) -> Any: ...
    def make_for(self, source: tuple[str, int] | None, destination: tuple[str, int] | None) -> Any: ...
    def turns_away(self, address: str | None, waiting: int, of_address: int) -> bool: ...


class Door:
    """One listening socket.

    Args:
        sock: bound, listening, non-blocking; the door's from now on.
        gate: makes the protocols, and says when there are too many.
        context: of the TLS handshake; None: there is none.
        trusts: whose PROXY headers count, by address; peers of unix sockets are asked for one too, and believed. None:
            connections begin without a header.
        limit_s: for everything at the door.
        counts: where handshakes and headers are counted.
    """

    def __init__(
        self,
        sock: socket.socket,
        gate: Gate,
        *,
        context: ssl.SSLContext | None,
        trusts: Callable[[str], bool] | None,
        limit_s: float,
        counts: Counts,
    ) -> None:
        self._sock, self._gate = sock, gate
        self._context, self._trusts, self._limit_s, self._counts = context, trusts, limit_s, counts
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_peer: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Connections at the door."""
        return len(self._tasks)

    def open(self) -> None:
        """Accept from now on."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def shut(self) -> None:
        """Accept no more; those at the door go on."""
        if self._loop is not None and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._sock.close()

    async def abort(self) -> None:
        """Nobody is at the door any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            connection.setblocking(False)
            peer = address[0] if isinstance(address, tuple) else None
            if self._trusts is not None and peer is not None and not self._trusts(_plain(peer)):
                self._counts.count_proxy_header(False)
                connection.close()
            elif self._gate.turns_away(peer, len(self._tasks), self._of_peer.get(peer, 0) if peer else 0):
                connection.close()
            else:
                if peer:
                    self._of_peer[peer] = self._of_peer.get(peer, 0) + 1
                self._start(self._admit(connection), peer)

    def _rest(self, error: OSError) -> None:
        assert self._loop is not None
        log.error("accepting failed: %s; this process has reached a limit of its own", error)
        self._loop.remove_reader(self._sock.fileno())
        self._again = self._loop.call_later(AGAIN_S, self.open)

    def _start(self, work: Coroutine[Any, Any, None], peer: str | None) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._left(done, peer))

    def _left(self, task: asyncio.Task[None], peer: str | None) -> None:
        self._tasks.discard(task)
        if peer:
            left = self._of_peer.pop(peer) - 1
            if left:
                self._of_peer[peer] = left
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection failed at the door; this is a bug in fastroute, please report it", exc_info=error)

    async def _admit(self, connection: socket.socket) -> None:
        assert self._loop is not None
        make = self._gate.make
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._trusts is not None:
                header = await self._header(connection)
                if header is None:
                    connection.close()
                    return
                make = lambda: self._gate.make_for(header.source, header.destination)  # noqa: E731
            tls: dict[str, Any] = {}
            if self._context is not None:
                tls = {"ssl": self._context, "ssl_handshake_timeout": self._limit_s}
            await self._loop.connect_accepted_socket(make, connection, **tls)
        except OSError as error:  # ssl.SSLError is one
            if self._context is not None:
                self._counts.count_handshake(False)
            connection.close()
            log.debug("a TLS handshake failed: %s", error)
        except BaseException:
            connection.close()
            raise
        else:
            if self._context is not None:
                self._counts.count_handshake(True)

    async def _header(self, connection: socket.socket) -> Header | None:
        """The connection's PROXY header; None: it is refused."""
        assert self._loop is not None
        have = b""
        header = None
        try:
            async with asyncio.timeout(self._limit_s):
                while header is None:
                    try:
                        seen = connection.recv(HEADER_BYTES_MAX, socket.MSG_PEEK)
                    except (BlockingIOError, InterruptedError):
                        await self._readable(connection)
                        continue
                    if not seen:
                        raise ProxyProtocolError("the connection ended")
                    header = parse_header(have + seen)
                    # All of a part belongs to the header: it is taken, so that only more of it wakes us again.
                    have += connection.recv(len(seen) if header is None else header.size - len(have))
        except (ProxyProtocolError, OSError) as error:  # TimeoutError is an OSError
            self._counts.count_proxy_header(False)
            log.debug("a connection without an acceptable PROXY header: %s", error)
            return None
        self._counts.count_proxy_header(True)
        return header

    async def _readable(self, connection: socket.socket) -> None:
        assert self._loop is not None
        ready: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(connection.fileno(), wake)
        try:
            await ready
        finally:
            self._loop.remove_reader(connection.fileno())


def _plain(address: str) -> str:
    """IPv4 within IPv6 as IPv4, no zone."""
    return address.removeprefix("::ffff:").partition("%")[0]
