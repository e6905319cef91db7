"""A model of memcached 1.6.18, byte for byte where the product talks to it; tests compare it with the real one.

What it is: the meta commands and their answers, TTLs on a clock of one second, CAS numbers of the whole process,
expiry, flush, eviction, slab page moves, refusal for memory, `watch mutations evictions` and the counters around it.
What it is not: networks (network.py), threads, memory.

Semantics that matter here, all verified against 1.6.18 (docs/design/agreement-simulation.md):
- A TTL of n lives more than n-1 and at most n seconds. CAS numbers start at 1 with the process and never repeat in it.
- `ms` that is refused for memory deletes what stood. A slab page move changes an item's CAS and says nothing.
- Watchers hear of stores and evictions only; not of deletes, touches, expiry or flush. Lines can be lost in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_from_bytes

from fastroute.memcache.watch_lines import CLOCK_AHEAD_S

TTL_DATE_S = 2_592_000
"""A TTL beyond 30 days is a date."""

WATCHERS_MAX = 20
KEY_BYTES_MAX = 250


class Item:
    """One stored value. expires: second of the process's clock, 0 for never."""

    __slots__ = ("cas", "expires", "flags", "value")

    def __init__(self, value: bytes, flags: int, cas: int, expires: int) -> None:
        self.value, self.flags, self.cas, self.expires = value, flags, cas, expires


class Session:
    """The server's end of one connection."""

    __slots__ = ("buffer", "closed", "given", "number", "owner", "watching")

    def __init__(self, number: int, owner: Any = None) -> None:
        self.number, self.owner = number, owner
        self.buffer = b""
        self.closed = False
        self.watching: tuple[bytes, ...] = ()
        self.given: set[int] = set()  # CAS numbers that were read on this connection


Changed = Callable[[bytes, bytes | None, bytes | None, str, Session | None], None]


class MemcachedModel:
    """One process of memcached.

    Args:
        time_s: now, in seconds.
        started_s: where its clock of one second begins (the phase of its seconds).
        changed: told of each change of an item: (key, before, after, cause, session); cause is "store", "delete",
            "expiry", "flush", "eviction" or "refused".
        log: told of each line for watchers: (stream, line without gid and timestamp).
    """

    def __init__(
        self,
        time_s: Callable[[], float],
        started_s: float,
        changed: Changed | None = None,
        log: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self._time_s, self._started_s = time_s, started_s
        self._changed, self._log = changed, log
        self.items: dict[bytes, Item] = {}
        self.cas = 0
        self.gid = 0
        self._flush_s, self._flush_pending = -CLOCK_AHEAD_S, False  # in seconds of `uptime`
        self.refuse = False  # out of memory: the next stores are refused
        self.foreign_cas: list[str] = []  # compare-and-sets with a number that this connection has not read
        self.counters = {"cmd_flush": 0, "log_worker_dropped": 0, "log_watcher_skipped": 0, "log_watcher_sent": 0}

    def second(self) -> int:
        """The process's clock: whole seconds; it begins at 2, as memcached's does."""
        return math.floor(self._time_s() - self._started_s) + 2

    def _up_s(self) -> int:
        return int(self._time_s() - self._started_s)

    # -- what happens to it

    def expire_due(self) -> None:
        """Drop what has expired; memcached does it when somebody asks, which nobody can tell from this."""
        self.flush_due()
        now = self.second()
        for key in [key for key, item in self.items.items() if item.expires and item.expires <= now]:
            self._drop(key, "expiry", None)

    def flush(self, delay_s: int = 0) -> None:
        """flush_all; with a delay the records go then, and nothing says so but `oldest`."""
        self.counters["cmd_flush"] += 1
        self.cas += 1  # takes a number (until 1.6.25)
        self._flush_s = self._up_s() + delay_s - 1
        self._flush_pending = True
        self.flush_due()

    def flush_due(self) -> None:
        """Drop what a flush that was asked for earlier takes now."""
        if self._flush_pending and self._flush_s <= self._up_s():
            self._flush_pending = self._flush_s == self._up_s()  # what is stored in that second goes as well
            for key in list(self.items):
                self._drop(key, "flush", None)

    def evict(self, key: bytes) -> None:
        if key in self.items:
            item = self._drop(key, "eviction", None)
            if self._log is not None:
                line = b"type=eviction key=%b fetch=no ttl=900 la=0 clsid=1 size=%d" % (_quoted(key), len(item.value))
                self._log(b"evictions", line)

    def move_page(self, key: bytes) -> None:
        """A slab page was moved: the item has another CAS now (before 1.6.24)."""
        if key in self.items:
            self.cas += 1
            self.items[key].cas = self.cas

    def find(self, key: bytes) -> Item | None:
        """The live item."""
        self.flush_due()
        item = self.items.get(key)
        if item is None:
            return None
        if item.expires and item.expires <= self.second():
            self._drop(key, "expiry", None)
            return None
        return item

    def _drop(self, key: bytes, cause: str, session: Session | None) -> Item:
        item = self.items.pop(key)
        if self._changed is not None:
            self._changed(key, item.value, None, cause, session)
        return item

    # -- the protocol

    def feed(self, session: Session, data: bytes) -> bytes:
        """Bytes from a connection; the answers. Sets session.closed where memcached would close."""
        data = session.buffer + data
        answers: list[bytes] = []
        at = 0
        while not session.closed and not session.watching:
            end = data.find(b"\n", at)
            if end < 0:
                if len(data) - at > 2048:
                    session.closed = True
                break
            line = data[at : end - 1] if data[end - 1 : end] == b"\r" else data[at:end]
            words = line.split()
            verb = words[0] if words else b""
            if verb == b"mg":
                answers.append(self._get(session, words))
            elif verb == b"ms":
                size = int(words[2]) if len(words) > 2 and words[2].isdigit() else -1
                if len(words[1]) > KEY_BYTES_MAX or size < 0:
                    answers.append(b"CLIENT_ERROR bad command line format\r\n")
                    at = end + 1
                    continue
                if len(data) < end + 1 + size + 2:
                    break
                block = data[end + 1 : end + 1 + size]
                if data[end + 1 + size : end + 3 + size] != b"\r\n":
                    answers.append(b"CLIENT_ERROR bad data chunk\r\n")
                    at = end + 1 + size
                    continue
                answers.append(self._store(session, words, block))
                end = end + size + 2
            elif verb == b"set":  # as the keep-awake beat is written: `set KEY FLAGS TTL SIZE noreply`
                size = int(words[4])
                if len(data) < end + 1 + size + 2:
                    break
                block = data[end + 1 : end + 1 + size]
                self._store(session, [b"ms", words[1], words[4], b"T" + words[3]], block)
                if words[5:] != [b"noreply"]:
                    answers.append(b"STORED\r\n")
                end = end + size + 2
            elif verb == b"md":
                answers.append(self._delete(session, words))
            elif verb == b"mn":
                answers.append(b"MN\r\n")
            else:
                answers.append(self._other(session, words, line))
            at = end + 1
        session.buffer = data[at:]
        return b"".join(answers)

    def _get(self, session: Session, words: list[bytes]) -> bytes:
        key = words[1]
        if len(key) > KEY_BYTES_MAX:
            return b"CLIENT_ERROR bad command line format\r\n"
        if any(flag[:1] not in b"vctfskOTqb" for flag in words[2:]):
            return b"CLIENT_ERROR invalid flag\r\n"
        item = self.find(key)
        quiet = b"q" in words[2:]
        if item is None:
            marks = [b"k" + key if flag == b"k" else flag for flag in words[2:] if flag[:1] in b"Ok"]
            return b"" if quiet else b" ".join([b"EN", *marks]) + b"\r\n"
        shown = []
        with_value = False
        for flag in words[2:]:
            letter = flag[:1]
            if letter == b"v":
                with_value = True
            elif letter == b"c":
                session.given.add(item.cas)
                shown.append(b"c%d" % item.cas)
            elif letter == b"t":
                shown.append(b"t-1" if not item.expires else b"t%d" % ((item.expires - self.second()) & 0xFFFFFFFF))
            elif letter == b"f":
                shown.append(b"f%d" % item.flags)
            elif letter == b"s":
                shown.append(b"s%d" % len(item.value))
            elif letter == b"k":
                shown.append(b"k" + key)
            elif letter == b"O":
                shown.append(flag)
            elif letter == b"T":
                item.expires = self._deadline(int(flag[1:]))
        head = b" ".join([b"VA %d" % len(item.value) if with_value else b"HD", *shown])
        return head + b"\r\n" + item.value + b"\r\n" if with_value else head + b"\r\n"

    def _deadline(self, ttl_s: int) -> int:
        if ttl_s == 0:
            return 0
        if ttl_s < 0 or ttl_s > TTL_DATE_S:
            return 1  # a date long past, for a clock that began at the process's start
        return self.second() + ttl_s

    def _store(self, session: Session, words: list[bytes], block: bytes) -> bytes:
        key = words[1]
        ttl_s, client_flags, mode, wanted, quiet = 0, 0, b"S", -1, False
        returned = []
        for flag in words[3:]:
            letter = flag[:1]
            if letter == b"T":
                ttl_s = int(flag[1:])
            elif letter == b"F":
                client_flags = int(flag[1:])
            elif letter == b"M":
                mode = flag[1:2].upper()
            elif letter == b"C":
                wanted = int(flag[1:])
            elif letter == b"q":
                quiet = True
            elif letter in b"cOk":
                returned.append(flag)
            else:
                return b"CLIENT_ERROR invalid flag\r\n"
        item = self.find(key)
        if wanted > 0 and wanted not in session.given:
            self.foreign_cas.append(
                f"compare-and-set of {key!r} with {wanted}, not read on connection {session.number}"
            )
        cas = 0
        if self.refuse:
            if item is not None:
                self._drop(key, "refused", session)
            return b"SERVER_ERROR out of memory storing object\r\n"
        if wanted >= 0 and mode in (b"S", b"E"):
            word = b"HD" if item is not None and item.cas == wanted else b"EX" if item is not None else b"NF"
            if mode == b"E" and item is not None:
                word = b"NS"
        elif mode == b"E":
            word = b"HD" if item is None else b"NS"
        elif mode == b"R":
            word = b"HD" if item is not None else b"NS"
        else:
            word = b"HD"
        status = {b"HD": b"stored", b"NS": b"not_stored", b"EX": b"exists", b"NF": b"not_found"}[word]
        if word == b"HD":
            self.cas += 1
            cas = self.cas
            before = item.value if item is not None else None
            self.items[key] = Item(block, client_flags, cas, self._deadline(ttl_s))
            session.given.add(cas)
            if self._changed is not None:
                # `ms key 0 T-1` is the delete that watchers hear of; readers see nothing from then on.
                gone = self.items[key].expires == 1
                if gone:
                    del self.items[key]
                if before is not None or not gone:
                    self._changed(key, before, None if gone else block, "delete" if gone else "store", session)
        elif word == b"NS" and item is not None and mode == b"E":
            pass  # memcached bumps it in the LRU; nothing that is seen here
        if self._log is not None:
            command = b"cas" if wanted >= 0 else b"add" if mode == b"E" else b"set"
            line = b"type=item_store key=%b status=%b cmd=%b ttl=%d clsid=%d cfd=%d size=%d" % (
                _quoted(key), status, command, ttl_s & 0xFFFFFFFF, 1, session.number + 20, len(block),
            )  # fmt: skip
            self._log(b"mutations", line)
        if quiet and word == b"HD":
            return b""
        shown = [b"c%d" % cas if flag == b"c" else b"k" + key if flag == b"k" else flag for flag in returned]
        return b" ".join([word, *shown]) + b"\r\n"

    def _delete(self, session: Session, words: list[bytes]) -> bytes:
        key = words[1]
        item = self.find(key)
        quiet = b"q" in words[2:]
        marks = [b"k" + key if flag == b"k" else flag for flag in words[2:] if flag[:1] in b"Ok"]
        wanted = next((int(flag[1:]) for flag in words[2:] if flag[:1] == b"C"), -1)
        if wanted > 0 and wanted not in session.given:
            self.foreign_cas.append(f"delete of {key!r} with {wanted}, not read on connection {session.number}")
        if item is None:
            word = b"NF"
        elif wanted >= 0 and item.cas != wanted:
            word = b"EX"
        else:
            word = b"HD"
            self._drop(key, "delete", session)
        if quiet and word == b"HD":
            return b""
        return b" ".join([word, *marks]) + b"\r\n"

    def _other(self, session: Session, words: list[bytes], line: bytes) -> bytes:
        if words[:1] == [b"flush_all"]:
            self.flush(int(words[1]) if len(words) > 1 and words[1].isdigit() else 0)
            return b"OK\r\n"
        if words[:2] == [b"stats", b"settings"]:
            return b"STAT oldest %d\r\nEND\r\n" % (self._flush_s + CLOCK_AHEAD_S)
        if words[:1] == [b"stats"]:
            rows = [(b"pid", b"%d" % (4000 + int(self._started_s * 1000) % 30_000))]
            up_s = self._up_s()
            rows += [(b"uptime", b"%d" % up_s), (b"time", b"%d" % (int(self._started_s) + 1_795_000_000 + up_s))]
            rows += [(name.encode(), b"%d" % count) for name, count in self.counters.items()]
            return b"".join(b"STAT %b %b\r\n" % row for row in rows) + b"END\r\n"
        if words[:1] == [b"version"]:
            return b"VERSION 1.6.18\r\n"
        if words[:1] == [b"watch"]:
            if set(words[1:]) - {b"mutations", b"evictions"}:
                return b"ERROR\r\n"
            session.watching = tuple(words[1:])
            return b"OK\r\n"
        if words[:1] in ([b"GET"], [b"POST"]):
            session.closed = True
            return b""
        return b"ERROR\r\n"


def _quoted(key: bytes) -> bytes:
    return quote_from_bytes(key, safe="").encode()
