"""Lines that a memcached node announces, and what its `stats` say: bytes to values. Pure.

WatchParser (bytes -> events), GidOrder (numbers -> gaps), facts_of (`stats` -> facts). Not here: connections
(watch_link.py), signs of life and what silence means (watch.py).

Facts of memcached 1.6.18 that shape this file:
  * Lines end in \\n; the microseconds of ts= are not padded; keys are %XX-encoded; every line has a number, gid.
  * gids come nearly in order: its threads are read in turn. A gap that is not closed within GAP_S is a doubt: each
    watcher that joins takes a number (seen: 10, 12), and so do lines that only other watchers asked for. Lines that
    were skipped are counted in `stats`, so it decides.
  * A flush is counted when it is asked for. `flush_all 30` empties the node 30 s later and counts nothing then; only
    `stats settings` tells for when (`oldest`), by a clock that is CLOCK_AHEAD_S ahead of `uptime`.

Rules: a line that is none is refused, and no more. Nothing is buffered but one unfinished line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from fastroute.errors import MemcacheProtocolError

__all__ = [
    "Announced",
    "Announcement",
    "GidOrder",
    "NodeFacts",
    "Skipped",
    "WatchParser",
    "facts_of",
]

GAP_S = 0.1
"""A gap between gids is closed by lines of memcached's other threads, which its logger reads in the same turn."""
GAPS_MAX = 1024
"""Missing gids at a time; more are a loss without a question."""
LINE_BYTES_MAX = 2048
"""memcached's own limit of a line: a key of 250 bytes, %-encoded, and some 150 bytes around it."""
CLOCK_AHEAD_S = 60
"""memcached's own clock starts at this (ITEM_UPDATE_INTERVAL, memcached.h), `uptime` at 0."""
FLUSH_PENDING = 1 << 63
"""Added to the count of flushes while the last one is still to come."""

_LINE = re.compile(rb"ts=\d{1,12}\.\d{1,6} gid=(\d{1,20}) type=([a-z_]{1,32})(?: (.*))?", re.DOTALL)
_KEY = re.compile(rb"key=([!-~]{1,760})(?: |$)")
_STATUS = re.compile(rb" status=([a-z_]{1,32})(?: |$)")
_SKIPPED = re.compile(rb"skipped=(\d{1,19})")
_GID_MAX = 2**64 - 1
_FACTS_MAX = (2**32 - 1, 2**32 - 1, 2**32 - 1, 2**63 - 1)  # what a zone can keep of them


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
    """What `stats` says of a node that matters here. flushes changes when one is asked for, and when it comes."""

    pid: int
    start_s: int
    flushes: int
    worker_dropped: int
    watcher_skipped: int


def facts_of(statistics: Mapping[bytes, bytes]) -> NodeFacts:
    """The facts in an answer to `stats`, with `oldest` of `stats settings` where something was ever flushed.

    Raises:
        MemcacheProtocolError: one of them is missing or no number.
    """
    try:
        number = {name: int(statistics[name]) for name in (b"pid", b"time", b"uptime", b"cmd_flush")}
        if not all(0 <= value <= most for value, most in zip(number.values(), _FACTS_MAX, strict=True)):
            raise ValueError("numbers in range")
        dropped = int(statistics.get(b"log_worker_dropped", b"0"))
        skipped = int(statistics.get(b"log_watcher_skipped", b"0"))
        flushed_before_s = int(statistics.get(b"oldest", b"0"))
    except (KeyError, ValueError) as error:
        raise MemcacheProtocolError(f"the answer to `stats` lacks {error}") from None
    pending = flushed_before_s >= number[b"uptime"] + CLOCK_AHEAD_S  # what is stored in that second goes as well
    flushes = number[b"cmd_flush"] + (FLUSH_PENDING if pending else 0)
    return NodeFacts(number[b"pid"], number[b"time"] - number[b"uptime"], flushes, dropped, skipped)
