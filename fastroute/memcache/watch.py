"""What a memcached node announces: `watch mutations evictions`, and the signs of life that make silence a proof.

NodeWatch: one node's two connections (watch_link.py), one that watches and one that asks, and what their lines
(watch_lines.py) prove. Not here: affinity keys and what a loss means (affinity/push.py).

memcached's logger sleeps up to a second when nothing happens, and what overflows meanwhile is dropped WITHOUT a word or
a gid. A tiny write every BEAT_S keeps it awake; its line is the sign of life, and `stats` tells of drops (polled each
STATISTICS_S, and once more before a channel that was in doubt is believed again).

Rules: a line that is none closes the connection and no more. No reply is waited for without a limit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, cast

from fastroute.errors import MemcacheProtocolError
from fastroute.memcache.connection import NodeConnection
from fastroute.memcache.watch_lines import Announcement, GidOrder, NodeFacts, Skipped, facts_of
from fastroute.memcache.watch_link import Ask, Link, Listen

__all__ = ["BEAT_S", "LIVE_S", "NodeFacts", "NodeWatch", "WatchEvents"]

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
ATTEMPT_S = 1.0
"""Limit of making a connection, and of the answers that begin it."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
"""Between attempts."""
REFUSED_S_MIN, REFUSED_S_MAX = 1.0, 60.0
"""Between attempts when the node answers and refuses to be watched."""


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
        self._ask: Ask | None = None
        self._listen: Listen | None = None
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
            ask = self._ask = cast(Ask, await self._connection.open_beside(Ask))
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
            listen = self._listen = cast(Listen, await self._connection.open_beside(Listen))
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

    def _drop(self) -> tuple[Link, ...]:
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
