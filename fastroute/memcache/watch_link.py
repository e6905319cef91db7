"""The two connections of a watched memcached node: one asks for `stats` and sends beats, the other one listens.

Not here: what lines mean (watch_lines.py), when to ask and what silence means (watch.py).

  * A watcher's connection never goes back to commands; at most 20 of them: the rest are refused with one line.
  * -Y: credentials first, also here.

Rules: a reply that is none closes the connection and no more. Nothing piles up towards a node that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

from fastroute.errors import MemcacheProtocolError
from fastroute.memcache.watch_lines import LINE_BYTES_MAX, Announcement, WatchParser

__all__ = ["Ask", "Link", "Listen"]

STATISTICS_BYTES_MAX = 65536
RECEIVE_BUFFER_BYTES = 4 << 20
"""Asked of the kernel for the watching connection: a busy event loop must not make memcached skip lines."""
EARLY_MAX = 10_000
"""Announcements kept between the node's OK and the turn of the event loop in which somebody listens."""


class Link(asyncio.Protocol):
    """One connection: credentials, then what it is for. `admitted` is done when the node has answered the beginning."""

    def __init__(self, credentials: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.ended: Exception | None = None
        self.admitted: asyncio.Future[bytes] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._credentials = credentials
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._credentials:
            self.transport.write(self._credentials)  # alone: memcached refuses a watch behind another command
        else:
            self.begin()

    def begin(self) -> None:
        """Send what the connection is for; the credentials were taken."""

    def received(self, data: bytes) -> None:
        """What comes after the answer to the credentials."""

    def data_received(self, data: bytes) -> None:
        if self.ended is not None:
            return
        if self._credentials:
            line, data = self.line(data)
            if line is None:
                return
            self._credentials = b""
            if line != b"STORED":
                self.end(MemcacheProtocolError(f"{line[:80]!r}: the store refused the credentials"))
                return
            self.begin()
        if data:
            self.received(data)

    def line(self, data: bytes) -> tuple[bytes | None, bytes]:
        """The first line and what is behind it; (None, b"") until it is whole."""
        line, newline, rest = (self._buffer + data).partition(b"\r\n")
        self._buffer = b"" if newline else line
        if newline:
            return line, rest
        if len(line) > LINE_BYTES_MAX:
            self.end(MemcacheProtocolError(f"{line[:80]!r} at the beginning of a connection"))
        return None, b""

    def send(self, data: bytes) -> None:
        # A node that does not read is found out by its silence; until then nothing piles up.
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.get_write_buffer_size() < LINE_BYTES_MAX:
            transport.write(data)

    def end(self, error: Exception) -> None:
        """Close, because of this, without waiting."""
        if self.ended is None:
            self.ended = error
        if not self.admitted.done():
            self.admitted.set_exception(error)
            self.admitted.exception()  # nobody may be waiting for it any more
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.end(error or ConnectionError("closed by the node"))
        if not self.gone.done():
            self.gone.set_result(None)


class Ask(Link):
    """The connection that asks for `stats` and sends the beats."""

    asked_s = 0.0
    waiting = False
    _first: dict[bytes, bytes] | None = None  # the answer to `stats`, while `stats settings` is asked
    _tell: Callable[[dict[bytes, bytes], float], None]

    def begin(self) -> None:
        self.admitted.set_result(b"")

    def ask(self, now_s: float, tell: Callable[[dict[bytes, bytes], float], None]) -> None:
        """`stats`; `tell` gets the answer and when it was asked for."""
        self.asked_s, self._tell, self.waiting, self._first = now_s, tell, True, None
        self.send(b"stats\r\n")

    async def statistics(self, now_s: float) -> dict[bytes, bytes]:
        """The answer to `stats`."""
        answers: list[dict[bytes, bytes]] = []
        come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(statistics: dict[bytes, bytes], _: float) -> None:
            answers.append(statistics)
            if not come.done():
                come.set_result(None)

        self.ask(now_s, tell)
        await asyncio.wait((come, self.gone), return_when=asyncio.FIRST_COMPLETED)
        if not answers:
            raise self.ended or ConnectionError("closed by the node")
        return answers[0]

    def received(self, data: bytes) -> None:
        self._buffer += data
        if not self.waiting or len(self._buffer) > STATISTICS_BYTES_MAX:
            self.end(MemcacheProtocolError(f"{self._buffer[:80]!r} for an answer"))
        elif self._buffer.endswith(b"END\r\n"):
            self._answered()
        elif self._buffer.endswith(b"\r\n") and not self._buffer.startswith(b"STAT "):
            self.end(MemcacheProtocolError(f"{self._buffer[:80]!r} for an answer to `stats`"))

    def _answered(self) -> None:
        lines, self._buffer = self._buffer.split(b"\r\n")[:-2], b""
        found = {}
        for line in lines:
            word, _, rest = line.partition(b" ")
            name, _, value = rest.partition(b" ")
            if word != b"STAT" or not name:
                self.end(MemcacheProtocolError(f"{line[:80]!r} in an answer to `stats`"))
                return
            found[name] = value
        if self._first is None and found.get(b"cmd_flush", b"0") != b"0":  # is one still to come? Asked only then
            self._first = found
            self.send(b"stats settings\r\n")
            return
        if self._first is not None:
            found = self._first | {b"oldest": found.get(b"oldest", b"0")}
        self.waiting = False
        self._tell(found, self.asked_s)


class Listen(Link):
    """The connection that watches; `admitted` is the node's answer, OK or why not."""

    def __init__(self, credentials: bytes) -> None:
        super().__init__(credentials)
        self._parser = WatchParser()
        self._tell: Callable[[list[Announcement]], None] | None = None
        self._early: list[Announcement] = []

    def begin(self) -> None:
        assert self.transport is not None
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.transport.write(b"watch mutations evictions\r\n")

    def tell(self, tell: Callable[[list[Announcement]], None]) -> None:
        """From here on announcements are told; those that came with the answer first."""
        early, self._early, self._tell = self._early, [], tell
        if early:
            tell(early)

    def received(self, data: bytes) -> None:
        if not self.admitted.done():
            line, data = self.line(data)
            if line is None:
                return
            self.admitted.set_result(line)
            if line != b"OK":
                return
        try:
            events = self._parser.feed(data)
        except MemcacheProtocolError as error:
            self.end(error)
            return
        if self._tell is not None:
            self._tell(events)
        elif len(self._early) + len(events) > EARLY_MAX:
            self.end(MemcacheProtocolError("more announcements than can be kept before they are listened to"))
        else:
            self._early += events
