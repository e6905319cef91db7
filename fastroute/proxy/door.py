"""Accepting connections that owe something before they are a client's: a TLS handshake.

Not here: plain listeners, whose connections the event loop accepts by itself. What a connection does once it is open is
the relay's.

Rules of this file:
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

__all__ = ["Door"]

BURST = 64
"""Connections accepted in one turn of the loop; asyncio's own accept takes up to its backlog, 100."""

AGAIN_S = 1.0
"""Wait after an accept that failed for want of descriptors or memory; asyncio's ACCEPT_RETRY_DELAY."""

log = logging.getLogger("fastroute.proxy")


class Counts(Protocol):
    """What a door counts with: http_wire.Engine."""

    def count_handshake(self, ok: bool) -> None: ...


class Door:
    """One listening socket.

    Args:
        sock: bound, listening, non-blocking; the door's from now on.
        make: factory of protocols.
        turns_away: called with the peer's address as text (None: a unix socket's), how many are at the door, and how
            many of these from that address; True: this one is closed at once.
        context: of the handshake.
        limit_s: for everything at the door.
        counts: where handshakes are counted.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], asyncio.Protocol],
        turns_away: Callable[[str | None, int, int], bool],
        *,
        context: ssl.SSLContext,
        limit_s: float,
        counts: Counts,
    ) -> None:
        self._sock, self._make, self._turns_away = sock, make, turns_away
        self._context, self._limit_s, self._counts = context, limit_s, counts
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
            if self._turns_away(peer, len(self._tasks), self._of_peer.get(peer, 0) if peer else 0):
                connection.close()
                continue
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
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=self._limit_s
            )
        except OSError as error:  # ssl.SSLError is one
            self._counts.count_handshake(False)
            connection.close()
            log.debug("a TLS handshake failed: %s", error)
        except BaseException:
            connection.close()
            raise
        else:
            self._counts.count_handshake(True)
