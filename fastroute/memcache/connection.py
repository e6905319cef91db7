"""One pipelined connection to one memcached node: made in the background, kept, given up when it is late, made again.

What it is: the sockets and timers around a MetaCodec (fastroute/_core/mc_meta), which holds the protocol and the queue.
What it is not: it does not know keys (client.py) or other nodes (cluster.py).

Rules of this file
- Nobody waits for a node that is known to be away: requests are answered DOWN until a new connection answered a probe.
- They wait, within their time limit, before the first connection, and while a connection that the other side ended is
  made again: an ended connection says nothing about the node. A refused or unanswered attempt does.
- One write per turn of the event loop carries everything that was asked in it. A request beside which nothing is asked,
  as the one before it, is written at once: waiting for the turn's end would cost a turn and bring no company.
- One coarse timer watches the oldest request; all have the same time limit, so the oldest is due first. What is late
  ends the connection: its answer, when it comes after all, finds nobody to be given to.
- One task per node makes connections, one at a time, with growing, jittered pauses: a restarted store is not stormed.
  Names are resolved anew for each.

The circuit. One late answer opens it: the answer to a late request costs the connection in any case, so that the first
request that is late is the only batch that waits. The half-open state is one attempt at a time with one probe in it,
which now has to come back within a request's time limit: a node that accepts but answers late (a stopped process, a
path with more delay than the limit, a black hole behind a proxy) stays out. A node that answers probes and is late
again with requests, TRIPS_MAX times without a stable connection between, is tried every 5 s instead of every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import socket
import ssl
from collections.abc import Callable
from typing import cast

from fastroute._core.mc_meta import MetaCodec
from fastroute.errors import UsageError

__all__ = ["NodeConnection"]

CONNECT_TIMEOUT_S = 1.0
"""Limit of one attempt, from the first SYN to the answer to the probe; TLS and a lost SYN (1 s in Linux) included."""
RECONNECT_PAUSE_MIN_S = 0.02
"""First pause after a connection that had worked; a memcached restarts in some 20 ms."""
RECONNECT_PAUSE_MAX_S = 1.0
"""Longest pause: bounds how long a node that is back stays unused."""
RECONNECT_PAUSE_JITTER_RATIO = 0.5
"""Pauses are drawn from (1 - ratio .. 1) of their length, so that a fleet does not come back in one burst."""
STABLE_S = 5.0
"""A connection that lived this long resets the pauses; one that always breaks at once does not."""
TRIPS_MAX = 3
"""So many time limits missed without a stable connection between: answering probes proves nothing any more."""
RECONNECT_PAUSE_TRIPPED_S = 5.0
"""Longest pause then. Each try costs the requests of one time limit: with the default of 50 ms, 1 % of the time."""
REOPEN_LIVED_S = 1.0
"""A connection that lived this long is made again at once when the other side ends it, and requests wait for it."""
TICKS_PER_TIMEOUT = 5
"""The watch looks this often per time limit: a request ends between 1.0 and 1.2 time limits."""
GRACE_S = 0.001
"""A late answer gets one more turn of the loop to be read: the loop itself may have been held up, not the store."""


class NodeConnection:
    """Keeps a codec connected.

    Args:
        where: (host, port) or the path of a unix socket.
        codec: what writes and reads.
        timeout_s: time limit of a request, the codec's own.
        tls: context for TLS, or None.
        server_hostname: name to check the certificate against; None takes the host.
        username, password: credentials of memcached -Y, or None.
    """

    def __init__(
        self,
        where: tuple[str, int] | str,
        codec: MetaCodec,
        *,
        timeout_s: float,
        tls: ssl.SSLContext | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.codec = codec
        self._where = where
        self._tls = tls
        self._username, self._password = username, password
        self._timeout_s = timeout_s
        self._tick_s = timeout_s / TICKS_PER_TIMEOUT
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._link: _Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._tried: asyncio.Event = asyncio.Event()
        self._probing = False
        self._timeouts_seen = 0
        self.attempts_failed = 0
        self.trips = 0
        self.trips_in_a_row = 0
        codec.attach(_no_loop, _no_loop, self.start, self._came_up, self._failed)

    def start(self) -> None:
        """Begin to connect, in the running event loop; the second call does nothing.

        Raises:
            UsageError: there is no running event loop.
        """
        if self._task is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError("the asynchronous store is used inside a running event loop") from None
        self._loop = loop
        self.codec.attach(
            loop.create_future,
            functools.partial(loop.call_soon, self._flush),
            self.start,
            self._came_up,
            self._failed,
        )
        self.codec.on_burst = self._flush
        self.codec.opening()
        self._task = loop.create_task(self._keep_connected())

    async def wait_tried(self) -> None:
        """Return when the first attempt is over, with or without success."""
        await self._tried.wait()

    async def aclose(self) -> None:
        """Close for good; what waits is answered UNKNOWN or DOWN. The second call does nothing."""
        self.codec.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        link, self._link = self._link, None
        if link is not None:
            link.abort()
            await link.lost
        self._tried.set()

    # ------------------------------------------------------------------ connecting

    async def open_beside(self, make: Callable[[bytes], asyncio.Protocol]) -> asyncio.Protocol:
        """Another connection to the node, with its address (resolved again) and TLS.

        Args:
            make: makes the protocol from what is to be sent first: the credentials as memcached -Y takes them, which it
                answers with STORED; empty without credentials.

        Raises:
            OSError: it could not be made. The caller sets the time limit.
        """
        loop = asyncio.get_running_loop()
        secret = f"{self._username} {self._password}".encode()
        credentials = b"" if self._username is None else b"set fastroute 0 0 %d\r\n%b\r\n" % (len(secret), secret)
        if isinstance(self._where, str):
            name = "localhost" if self._tls is not None else None
            _, made = await loop.create_unix_connection(
                lambda: make(credentials), self._where, ssl=self._tls, server_hostname=name
            )
        else:
            host, port = self._where
            _, made = await loop.create_connection(lambda: make(credentials), host, port, ssl=self._tls)
        return made

    async def _keep_connected(self) -> None:
        assert self._loop is not None
        pause_s = RECONNECT_PAUSE_MIN_S
        while True:
            link = await self._connect()
            self._tried.set()
            if link is not None:
                up_s = self._loop.time()
                await asyncio.shield(link.lost)
                if self._loop.time() - up_s >= STABLE_S:
                    pause_s, self.trips_in_a_row = RECONNECT_PAUSE_MIN_S, 0
                if self.codec.timeouts != self._timeouts_seen:
                    self._timeouts_seen = self.codec.timeouts
                    self.trips += 1
                    self.trips_in_a_row += 1
                elif self.codec.opening_first:
                    continue
            await asyncio.sleep(pause_s * (1 - RECONNECT_PAUSE_JITTER_RATIO * random.random()))  # noqa: S311
            flaps = self.trips_in_a_row >= TRIPS_MAX
            pause_s = min(2 * pause_s, RECONNECT_PAUSE_TRIPPED_S if flaps else RECONNECT_PAUSE_MAX_S)

    async def _connect(self) -> _Link | None:
        # One attempt: connect, say hello, wait for the answer. None when it failed; the codec knows why.
        assert self._loop is not None
        loop = self._loop
        began_s = loop.time()
        hello = self.codec.hello(self._username, self._password)
        link = self._link = _Link(self, self.codec, loop)
        self._probing = True
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if isinstance(self._where, str):
                    name = "localhost" if self._tls is not None else None
                    await loop.create_unix_connection(lambda: link, self._where, ssl=self._tls, server_hostname=name)
                else:
                    host, port = self._where
                    await loop.create_connection(lambda: link, host, port, ssl=self._tls)
            assert link.transport is not None
            link.transport.write(hello)
            left_s = began_s + CONNECT_TIMEOUT_S - loop.time()
            if self.trips_in_a_row:  # half-open: what is late again with a probe would be late with requests
                left_s = min(left_s, self._timeout_s + GRACE_S)
            await asyncio.wait([link.came_up], timeout=left_s)
            if not link.came_up.done():
                raise TimeoutError
            link.came_up.result()
            link.up_s = loop.time()
            return link
        except TimeoutError:
            self._attempt_failed(link, "no connection, or no answer to the probe, within the time limit")
        except Exception as error:  # refused, unreachable, no such name, TLS: whatever it is, the next attempt follows
            self._attempt_failed(link, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            link.abort()
            raise
        finally:
            self._probing = False
        return None

    @property
    def state(self) -> str:
        """ "idle", "connecting" (requests wait), "up", "away", "probing" (away, an attempt is under way), "closed"."""
        name = ("idle", "connecting", "up", "away", "closed")[self.codec.state]
        return "probing" if name == "away" and self._probing else name

    def _attempt_failed(self, link: _Link, reason: str) -> None:
        self.attempts_failed += 1
        self.codec.fail(self.codec.failure or reason if link.broken else reason)
        link.abort()
        if self._link is link:
            self._link = None

    def _came_up(self) -> None:
        if self._link is not None and not self._link.came_up.done():
            self._link.came_up.set_result(None)

    def _failed(self, reason: str) -> None:
        # The codec gave the connection up: what it said is not to be read any further.
        link = self._link
        if link is not None:
            link.broken = True
            link.abort()
            if not link.came_up.done():
                link.came_up.set_exception(ConnectionError(reason))

    def _lost(self, link: _Link, error: Exception | None) -> None:
        if not link.came_up.done():
            link.came_up.set_exception(ConnectionError("closed by the node before it answered the probe"))
        if link is self._link:
            self._link = None
            if not link.broken:
                reason = "closed by the node" if error is None else f"{type(error).__name__}: {error}"
                assert self._loop is not None
                if link.up_s and self._loop.time() - link.up_s >= REOPEN_LIVED_S:
                    self.codec.reopen(reason)
                else:
                    self.codec.fail(reason)

    # ------------------------------------------------------------------ requests

    def _flush(self) -> None:
        # Called once per turn of the loop in which something was asked, and when many requests wait within one.
        link = self._link
        if link is not None and not link.paused:
            link.send(self.codec)
        if self._timer is None:
            assert self._loop is not None
            self._timer = self._loop.call_later(self._tick_s, self._watch)

    def _watch(self) -> None:
        self._timer = None
        codec = self.codec
        assert self._loop is not None
        if not codec.in_flight:
            return
        after_s = self._tick_s
        if not codec.overdue():
            self._late = False
        elif codec.opening_first:
            codec.away("no connection yet")
            return
        elif self._late:
            self._late = False
            codec.expire()
            return
        else:
            self._late = True
            after_s = GRACE_S
        self._timer = self._loop.call_later(after_s, self._watch)


class _Link(asyncio.Protocol):
    """One connection, from its attempt to its end."""

    def __init__(self, owner: NodeConnection, codec: MetaCodec, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self.up_s = 0.0  # when it had answered its probe
        self._descriptor = -1  # for direct sends; none over TLS
        self.broken = False  # the codec has already been told, or told us
        self.lost: asyncio.Future[None] = loop.create_future()
        self.came_up: asyncio.Future[None] = loop.create_future()
        self.came_up.add_done_callback(_retrieve)
        self._owner = owner
        # Straight into the compiled decoder, which is deaf to a connection that was replaced.
        self.data_received = codec.inlet().data_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        connected = transport.get_extra_info("socket")
        if connected is not None and transport.get_extra_info("ssl_object") is None:
            self._descriptor = connected.fileno()
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, codec: MetaCodec) -> None:
        """Send now rather than at the end of the loop's turn, as far as the socket takes it."""
        transport = self.transport
        if transport is None:  # still connecting: the codec keeps what is asked until the node has answered a probe
            return
        # A closing transport may have closed the descriptor already, and its number may be somebody else's by now.
        if self._descriptor >= 0 and not transport.is_closing() and not transport.get_write_buffer_size():
            data = codec.send(self._descriptor)
        else:
            data = codec.take()
        if data:  # full, or broken: the transport waits, or finds out
            transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._descriptor = -1
        if not self.lost.done():
            self.lost.set_result(None)
        self._owner._lost(self, error)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._owner._flush()

    def abort(self) -> None:
        """Close without waiting; connection_lost follows if there was a connection."""
        if self.transport is not None:
            self.transport.abort()
        elif not self.lost.done():
            self.lost.set_result(None)


def _retrieve(future: asyncio.Future[None]) -> None:
    # An attempt that nobody waits for any more must not be reported as forgotten.
    if not future.cancelled():
        future.exception()


def _no_loop() -> asyncio.Future[None]:
    raise UsageError("the asynchronous store is used inside a running event loop")
