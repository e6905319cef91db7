"""What a memcached node announces: `watch mutations evictions`, and the signs of life that make silence a proof.

Pure: WatchParser (bytes -> events), GidOrder (numbers -> gaps), facts_of (`stats` -> facts). With I/O: NodeWatch, one
node's two connections, one that watches and one that asks. Not here: affinity keys and what a loss means (push.py).

Facts of memcached 1.6.18 that shape this file:
  * Lines end in \\n; the microseconds of ts= are not padded; keys are %XX-encoded; every line has a number, gid.
  * Its logger sleeps up to a second when nothing happens, and what overflows meanwhile is dropped WITHOUT a word or a
    gid. A tiny write every BEAT_S keeps it awake; its line is the sign of life, and `stats` tells of drops (polled each
    STATISTICS_S, and once more before a channel that was in doubt is believed again).
  * gids come nearly in order: its threads are read in turn. A gap that is not closed within GAP_S is a doubt: each
    watcher that joins takes a number (seen: 10, 12), and so do lines that only other watchers asked for. Lines that
    were skipped are counted in `stats`, so it decides.
  * A watcher's connection never goes back to commands; at most 20 of them: the rest are refused with one line.
  * -Y: credentials first, also here.

Rules: a line that is none closes the connection and no more. Nothing is buffered but one unfinished line. No reply is
waited for without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import unquote_to_bytes

from fastroute.errors import MemcacheProtocolError
from fastroute.memcache.connection import NodeConnection

__all__ = [
    "BEAT_S",
    "LIVE_S",
    "Announced",
    "Announcement",
    "GidOrder",
    "NodeFacts",
    "NodeWatch",
    "Skipped",
    "WatchEvents",
    "WatchParser",
    "facts_of",
]

BEAT_S = 0.05
"""Period of the keep-awake write. Measured: sparse lines come within 1.6 ms at 20 ms, 6.5 ms at 100 ms, 1 s without."""
BEATS_MISSED = 3
"""So many periods without a sign of life, and the channel is not believed until it has proved itself."""
LIVE_S = BEAT_S * BEATS_MISSED
BEAT_KEYS = 256
"""The beat's number modulo this stands in its key, so that a line tells when it was sent: 12.8 s. A line that is later
than that would be taken for a newer one's, and what was announced between them for heard."""
BEAT_TTL_S = 60
STATISTICS_S = 1.0
"""`stats` is 2.2 KB; what was dropped in silence is found within this."""
GAP_S = 0.1
"""A gap between gids is closed by lines of memcached's other threads, which its logger reads in the same turn."""
GAPS_MAX = 1024
"""Missing gids at a time; more are a loss without a question."""
LINE_BYTES_MAX = 2048
"""memcached's own limit of a line: a key of 250 bytes, %-encoded, and some 150 bytes around it."""
STATISTICS_BYTES_MAX = 65536
RECEIVE_BUFFER_BYTES = 4 << 20
"""Asked of the kernel for the watching connection: a busy event loop must not make memcached skip lines."""
EARLY_MAX = 10_000
"""Announcements kept between the node's OK and the turn of the event loop in which somebody listens."""
ATTEMPT_S = 1.0
"""Limit of making a connection, and of the answers that begin it."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
"""Between attempts."""
REFUSED_S_MIN, REFUSED_S_MAX = 1.0, 60.0
"""Between attempts when the node answers and refuses to be watched."""

_LINE = re.compile(rb"ts=\d{1,12}\.\d{1,6} gid=(\d{1,20}) type=([a-z_]{1,32})(?: (.*))?", re.DOTALL)
_KEY = re.compile(rb"key=([!-~]{1,760})(?: |$)")
_STATUS = re.compile(rb" status=([a-z_]{1,32})(?: |$)")
_SKIPPED = re.compile(rb"skipped=(\d{1,19})")
_GID_MAX = 2**64 - 1
_FACTS_MAX = (2**32 - 1, 2**32 - 1, 2**32 - 1, 2**64 - 1)  # what a zone can keep of them


@dataclass(frozen=True, slots=True)
class Announced:
    """One numbered line: what happened to a key. kind: "stored", "evicted", or "other" for what changes nothing."""

    gid: int
    kind: str
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The node says that it dropped lines for this watcher."""

    count: int


Announcement = Announced | Skipped


class WatchParser:
    """Lines of `watch mutations evictions`, however they are cut.

    Raises:
        MemcacheProtocolError: from feed(), for what is no such line; the connection is to be closed then.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Announcement]:
        """What these bytes announce; an unfinished line waits for its end."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LINE_BYTES_MAX:
            raise MemcacheProtocolError(f"a line of over {LINE_BYTES_MAX} bytes in a stream of announcements")
        return [_announcement(line) for line in lines]


def _announcement(line: bytes) -> Announcement:
    if len(line) > LINE_BYTES_MAX:
        raise MemcacheProtocolError(f"a line of {len(line)} bytes in a stream of announcements")
    found = _LINE.fullmatch(line)
    if found is None:
        skipped = _SKIPPED.fullmatch(line)
        if skipped is None:
            raise MemcacheProtocolError(f"{line[:80]!r} in a stream of announcements")
        return Skipped(int(skipped[1]))
    gid, what, rest = int(found[1]), found[2], found[3] or b""
    if gid > _GID_MAX:
        raise MemcacheProtocolError(f"{line[:80]!r}: a gid of more than 64 bits")
    if what not in (b"item_store", b"eviction", b"deleted"):
        return Announced(gid, "other")
    key = _KEY.match(rest)
    if key is None:
        raise MemcacheProtocolError(f"{line[:80]!r}: no key in an announcement")
    if what == b"item_store":
        status = _STATUS.search(rest, key.end() - 1)
        if status is None:
            raise MemcacheProtocolError(f"{line[:80]!r}: no status in an announcement")
        if status[1] != b"stored":  # not_stored, exists, not_found, too_large, no_memory: some of them delete (I12)
            return Announced(gid, "other" if status[1] in _CHANGES_NOTHING else "evicted", _decoded(key[1]))
        return Announced(gid, "stored", _decoded(key[1]))
    return Announced(gid, "evicted", _decoded(key[1]))


_CHANGES_NOTHING = (b"not_stored", b"exists", b"not_found")


def _decoded(key: bytes) -> bytes:
    return unquote_to_bytes(key) if b"%" in key else key


class GidOrder:
    """Watches the numbers of the lines: which are missing, and since when. Time is an argument, in seconds."""

    def __init__(self) -> None:
        self._next = -1
        self._missing: dict[int, float] = {}

    def see(self, gid: int, now_s: float) -> bool:
        """A line came. False: so many are missing that it is a loss already."""
        if self._next < 0 or gid == self._next:
            self._next = gid + 1
        elif gid < self._next:
            self._missing.pop(gid, None)
        elif gid - self._next + len(self._missing) > GAPS_MAX:
            self._next = gid + 1
            self._missing.clear()
            return False
        else:
            self._missing.update(dict.fromkeys(range(self._next, gid), now_s + GAP_S))
            self._next = gid + 1
        return True

    def overdue(self, now_s: float) -> bool:
        """Has a gap stayed open for too long? It is forgotten then: one doubt is enough."""
        if not self._missing or now_s < next(iter(self._missing.values())):
            return False
        self._missing.clear()
        return True

    def forgive(self) -> None:
        """The missing ones are accounted for (the node said how many it skipped)."""
        self._missing.clear()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What `stats` says of a node that matters here."""

    pid: int
    start_s: int
    flushes: int
    worker_dropped: int
    watcher_skipped: int


def facts_of(statistics: Mapping[bytes, bytes]) -> NodeFacts:
    """The facts in an answer to `stats`.

    Raises:
        MemcacheProtocolError: one of them is missing or no number.
    """
    try:
        number = {name: int(statistics[name]) for name in (b"pid", b"time", b"uptime", b"cmd_flush")}
        if not all(0 <= value <= most for value, most in zip(number.values(), _FACTS_MAX, strict=True)):
            raise ValueError("numbers in range")
        dropped = int(statistics.get(b"log_worker_dropped", b"0"))
        skipped = int(statistics.get(b"log_watcher_skipped", b"0"))
    except (KeyError, ValueError) as error:
        raise MemcacheProtocolError(f"the answer to `stats` lacks {error}") from None
    return NodeFacts(number[b"pid"], number[b"time"] - number[b"uptime"], number[b"cmd_flush"], dropped, skipped)


class WatchEvents(Protocol):
    """Who is told. None of these may wait or raise."""

    def announced(self, key: bytes, evicted: bool) -> None:
        """The key was written, or evicted."""

    def lost(self, node: NodeWatch, cause: str) -> None:
        """Announcements of this node may have been missed, or will be: cause is one word."""

    def doubted(self, node: NodeWatch, cause: str) -> None:
        """Whether announcements were missed is not known until alive() or lost() is told."""

    def alive(self, node: NodeWatch) -> None:
        """node.alive_s moved ahead."""

    def facts(self, node: NodeWatch, facts: NodeFacts, first: bool) -> None:
        """`stats` was answered; first: on a new connection, so that the node may have been away."""


class NodeWatch:
    """One node's channel.

    Args:
        connection: the node's ordinary connection, for its address, TLS and credentials.
        name: the node's name.
        beat_key: prefix of this machine's keep-awake keys; they end in a number below BEAT_KEYS.
        events: who is told.
        watch: False: only `stats` is asked.
        monotonic_s: the clock of alive_s, the machine's own.

    Attributes:
        alive_s: all that the node announced before this moment was heard; 0 when that is not known.
        lines: announcements so far.
        refused: what the node said when it refused to be watched, else None.
    """

    def __init__(
        self,
        connection: NodeConnection,
        name: str,
        *,
        beat_key: bytes,
        events: WatchEvents,
        watch: bool = True,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.alive_s = 0.0
        self.lines = 0
        self.refused: str | None = None
        self._connection, self._beat_key, self._events, self._watch = connection, beat_key, events, watch
        self._now_s = monotonic_s
        self._ask: _Ask | None = None
        self._listen: _Listen | None = None
        self._gids = GidOrder()
        self._sent_s = [0.0] * BEAT_KEYS
        self._beats = 0
        self._heard_s = 0.0
        self._doubted = True  # no sign of life is believed before `stats` was asked once more
        self._whole = False  # a loss is worth telling
        self._floor_s = 0.0
        self._seen: NodeFacts | None = None
        self._refused_for_s = REFUSED_S_MIN
        self._watch_again_s = 0.0

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Keep both connections until cancelled; they are closed when this ends."""
        pause_s = PAUSE_S_MIN
        try:
            while True:
                try:
                    await self._once()
                    pause_s = PAUSE_S_MIN
                except (OSError, TimeoutError, MemcacheProtocolError) as error:
                    self._lose("protocol" if isinstance(error, MemcacheProtocolError) else "reconnect")
                self._drop()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
        finally:
            await self._aclose()

    async def _once(self) -> None:
        """From an attempt that succeeds to the end of its connections."""
        async with asyncio.timeout(ATTEMPT_S):
            ask = self._ask = cast(_Ask, await self._connection.open_beside(_Ask))
            self._seen = None
            self._take(facts_of(await ask.statistics(self._now_s())))
        due_s = self._now_s() + STATISTICS_S
        while True:
            if self._watch and self._listen is None and self._now_s() >= self._watch_again_s:
                await self._begin_to_watch()
            await asyncio.sleep(BEAT_S)
            for end in (ask, self._listen):
                if end is not None and end.ended is not None:
                    self._lose("protocol" if isinstance(end.ended, MemcacheProtocolError) else "reconnect")
                    return
            now_s = self._now_s()
            suspicious = self._tick(now_s)
            if ask.waiting:
                if now_s - ask.asked_s > ATTEMPT_S:
                    raise TimeoutError
            elif suspicious or now_s >= due_s:
                due_s = now_s + STATISTICS_S
                ask.ask(now_s, self._answered)

    async def _begin_to_watch(self) -> None:
        async with asyncio.timeout(ATTEMPT_S):
            listen = self._listen = cast(_Listen, await self._connection.open_beside(_Listen))
            answer = await listen.admitted
        if answer != b"OK":
            self._listen = None
            listen.end(ConnectionError("refused"))
            self.refused = answer.decode("latin-1")[:80]
            self._watch_again_s = self._now_s() + self._refused_for_s
            self._refused_for_s = min(2 * self._refused_for_s, REFUSED_S_MAX)
            self._whole = True
            self._lose("refused")
            return
        self.refused, self._refused_for_s = None, REFUSED_S_MIN
        self._gids = GidOrder()
        self._whole = self._doubted = True
        self._heard_s, self._floor_s = 0.0, self._now_s()
        listen.tell(self._heard)

    def _drop(self) -> tuple[_End, ...]:
        """Close both connections; what was open."""
        ends = tuple(end for end in (self._ask, self._listen) if end is not None and end.transport is not None)
        for end in ends:
            end.end(ConnectionError("closed here"))
        self._ask = self._listen = None
        self.alive_s = 0.0
        return ends

    async def _aclose(self) -> None:
        ends = self._drop()
        if ends:
            await asyncio.wait([end.gone for end in ends], timeout=ATTEMPT_S)

    # ------------------------------------------------------------------ what is heard

    def distrust(self) -> None:
        """Something was lost: only signs of life that are asked for from now on count."""
        self.alive_s = 0.0
        self._floor_s = self._now_s()

    def _lose(self, cause: str) -> None:
        self.distrust()
        if self._whole:
            self._whole = cause not in (
                "reconnect",
                "protocol",
                "refused",
            )  # these are told once until it is watched again
            self._events.lost(self, cause)

    def _doubt(self, cause: str) -> None:
        if not self._doubted:
            self._doubted = True
            self.alive_s = 0.0  # nor do the other nodes' signs of life speak for this one
            self._events.doubted(self, cause)

    def _heard(self, events: list[Announcement]) -> None:
        now_s = self._now_s()
        self.lines += len(events)
        for event in events:
            if isinstance(event, Skipped):
                self._gids.forgive()
                self._lose("skipped")
                continue
            if not self._gids.see(event.gid, now_s):
                self._lose("gaps")
            if event.kind == "other":
                continue
            if event.key.startswith(self._beat_key):
                self._beat_heard(event.key, now_s)
            else:
                self._events.announced(event.key, event.kind == "evicted")

    def _beat_heard(self, key: bytes, now_s: float) -> None:
        number = key[len(self._beat_key) :]
        if not number.isdigit() or len(number) > 3 or int(number) >= BEAT_KEYS:
            return
        sent_s = self._sent_s[int(number)]
        self._heard_s = now_s
        if self._doubted or sent_s < self._floor_s or sent_s <= self.alive_s:
            return
        self.alive_s = sent_s
        self._events.alive(self)

    def _tick(self, now_s: float) -> bool:
        """Send the beat and look at what is missing. True: `stats` is to be asked now."""
        if self._listen is None or self._ask is None:
            return False
        slot = self._beats % BEAT_KEYS
        self._beats += 1
        self._sent_s[slot] = now_s
        self._ask.send(b"set %b%d 0 %d 1 noreply\r\n1\r\n" % (self._beat_key, slot, BEAT_TTL_S))
        if self._gids.overdue(now_s):
            self._doubt("gap")
        if now_s - max(self.alive_s, self._floor_s) > LIVE_S:
            self._doubt("silence")
        return self._doubted and now_s - self._heard_s < LIVE_S  # it is heard: has it dropped anything?

    def _answered(self, statistics: dict[bytes, bytes], asked_s: float) -> None:
        try:
            facts = facts_of(statistics)
        except MemcacheProtocolError as error:
            if self._ask is not None:
                self._ask.end(error)  # the next beat finds it ended
            return
        self._take(facts)
        if self._doubted and asked_s - LIVE_S < self._heard_s:  # asked because it was heard again
            self._doubted = False
            self._floor_s = max(self._floor_s, asked_s)  # silence begins anew

    def _take(self, facts: NodeFacts) -> None:
        seen, self._seen = self._seen, facts
        self._events.facts(self, facts, seen is None)
        if seen is None:
            return
        if (facts.pid, facts.flushes) != (seen.pid, seen.flushes) or abs(facts.start_s - seen.start_s) > 1:
            self._lose("restart" if facts.flushes == seen.flushes else "flush")
        elif (facts.worker_dropped, facts.watcher_skipped) != (seen.worker_dropped, seen.watcher_skipped):
            self._lose("dropped")


class _End(asyncio.Protocol):
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
            self.transport.write(self._credentials)
        self.begin()

    def begin(self) -> None:
        """Send what the connection is for; the credentials are on their way."""

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


class _Ask(_End):
    """The connection that asks for `stats` and sends the beats."""

    asked_s = 0.0
    waiting = False
    _tell: Callable[[dict[bytes, bytes], float], None]

    def begin(self) -> None:
        self.admitted.set_result(b"")

    def ask(self, now_s: float, tell: Callable[[dict[bytes, bytes], float], None]) -> None:
        """`stats`; `tell` gets the answer and when it was asked for."""
        self.asked_s, self._tell, self.waiting = now_s, tell, True
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
        self.waiting = False
        self._tell(found, self.asked_s)


class _Listen(_End):
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
