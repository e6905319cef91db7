"""What operators ordered for a whole fleet: one sealed record in the store, which every replica reads and keeps.

Record        what was ordered: entries by key, each with when and by whom; records merge. Pure.
FleetChanges  one replica's part: turn() reads and repairs, change() adds an entry.
Not here: seals and versions (messages), what an entry does to a replica (the `follow` that is handed in).

Theory of operation. Every replica holds the whole record, as the store does. An entry is one order: the state and
weight of one server, its membership, a release. The later entry of a key stands, so two records merge to the same
one in whatever order they meet: nothing is lost when two operators change at once, when the store is restarted, when
a replica comes back from a partition, or when somebody lays an old record back. Each turn a replica fetches the
record, merges it into its own, follows what is new to it, and writes its own back (compare-and-set) wherever the store
has less: so the first one that looks after a restart of the store restores it.
A message without the fleet's MAC is not believed, counted (fastroute.fleet.messages), and written over.

An order of the replica itself that is given later than the fleet's stands there until the fleet's next one.

Rules of this file: an entry is followed once per replica, also through reloads (what was followed stands in the
replica's notice); times are the clock of the replica that took the order, made to grow past what it knows of the key;
the record is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from fastroute.clock import SYSTEM, Clock
from fastroute.errors import MemcacheDown, MemcacheUnknown, UsageError
from fastroute.fleet.messages import Fetched

__all__ = ["ENTRIES_MAX", "POLL_S", "Entry", "FleetChanges", "Record"]

POLL_S = 0.4
"""Between two looks: with a worker's look of 0.1 s less than the second that a fleet is promised."""

ENTRIES_MAX = 4096
"""In one record: some 100 bytes each, within a message's limit."""

NEUTRAL_KEPT_S = 7 * 86400.0
"""How long an entry that orders nothing any more is kept, so that an older one cannot come back."""

RELEASE_S = 600.0
"""A release that is older is not begun by a replica that starts."""

ATTEMPTS_MAX = 16
"""To write one change: others may be writing too."""

KIND, NAME = "changes", "all"

log = logging.getLogger("fastroute.fleet")


class Mailbox(Protocol):
    """What is needed of fastroute.fleet.messages.Mail."""

    async def fetch(self, kind: str, names: Iterable[str], *, any_age: bool = False) -> dict[str, Fetched]: ...
    async def replace(
        self, kind: str, name: str, body: Any, ttl_s: float, *, instead_of: Fetched, above: int = 0
    ) -> int | None: ...


class Entry:
    """One order.

    Attributes:
        key: ("order" | "member" | "release", pool, server).
        value: plain data: of an order {"state", "weight", "deadline_at"}; of membership {"added": {...}} or
            {"removed": True}; of a release {}.
        at_us: when, microseconds of wall clock.
        by: who.
    """

    __slots__ = ("at_us", "by", "key", "value")

    def __init__(self, key: tuple[str, str, str], value: dict[str, Any], at_us: int, by: str) -> None:
        self.key, self.value, self.at_us, self.by = key, value, at_us, by

    @property
    def is_neutral(self) -> bool:
        """Does it order nothing?"""
        kind = self.key[0]
        return kind == "release" or (kind == "order" and not any(one is not None for one in self.value.values()))

    @property
    def rank(self) -> tuple[int, str, str]:
        """The highest of a key stands; the same on all replicas."""
        return self.at_us, self.by, repr(sorted(self.value.items(), key=lambda item: item[0]))

    def told(self) -> dict[str, Any]:
        """As JSON."""
        kind, pool, server = self.key
        return {"kind": kind, "pool": pool, "server": server, **self.value, "by": self.by, "at": self.at_us / 1e6}


class Record:
    """What was ordered, by key."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = {entry.key: entry for entry in entries}

    @classmethod
    def of(cls, body: Any) -> Record:
        """Of a message's body; entries that this version does not understand are kept out."""
        found = []
        for row in body if isinstance(body, list) else ():
            match row:
                case [str(kind), str(pool), str(server), dict(value), int(at_us), str(by)]:
                    if kind in ("order", "member", "release"):
                        found.append(Entry((kind, pool, server), value, at_us, by))
        return cls(found)

    def body(self) -> list[Any]:
        """As a message carries it, in one order."""
        return [[*entry.key, entry.value, entry.at_us, entry.by] for _, entry in sorted(self.entries.items())]

    def merged(self, other: Record) -> Record:
        """Both; the later entry of a key stands."""
        made = Record(self.entries.values())
        for key, entry in other.entries.items():
            mine = made.entries.get(key)
            if mine is None or entry.rank > mine.rank:
                made.entries[key] = entry
        return made

    def without_old(self, now_us: float) -> Record:
        """Without what has ordered nothing for NEUTRAL_KEPT_S."""
        before_us = now_us - NEUTRAL_KEPT_S * 1e6
        return Record(one for one in self.entries.values() if not (one.is_neutral and one.at_us < before_us))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.body() == other.body()

    __hash__ = None  # type: ignore[assignment]


class FleetChanges:
    """One replica's part.

    Args:
        mail: over the store, sealed.
        follow: does what an entry says; raises UsageError where this replica cannot, which is told and tried again when
            the entry changes or the replica is reloaded.
        followed: entries that were followed before: key -> at_us.
        known: the record of before.
        keep: called with (record's body, followed) when either changes.
        clock: stamps entries.
    """

    def __init__(
        self,
        mail: Mailbox,
        follow: Callable[[Entry], None],
        *,
        known: Any = None,
        followed: dict[tuple[str, str, str], int] | None = None,
        keep: Callable[[list[Any], dict[tuple[str, str, str], int]], None] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.record = Record.of(known)
        self.refusals: dict[tuple[str, str, str], tuple[int, str]] = {}
        """Entries that this replica cannot follow: key -> (at_us, why)."""
        self.sees = False
        """Did the store answer at the last look?"""
        self.seen_s = 0.0
        self.restored = 0
        """How often this replica wrote back what the store had lost."""
        self._mail, self._follow, self._clock, self._keep = mail, follow, clock, keep
        self._followed = dict(followed or {})
        self._turning = asyncio.Lock()

    async def turn(self) -> None:
        """Look at the store: follow what is new, restore what it lost."""
        async with self._turning:
            found = (await self._mail.fetch(KIND, [NAME], any_age=True))[NAME]
            self.sees = found.known
            if not found.known:
                return
            self.seen_s = time.time()
            theirs = Record.of(found.message.body if found.message is not None else None)
            self._take(self.record.merged(theirs))
            mine = self.record.without_old(self._clock.wall_s() * 1e6)
            if mine.entries and not _covers(theirs, mine) and await self._write(mine, found) and not theirs.entries:
                self.restored += 1
                log.warning("fleet: what was ordered is back in the store, which had lost it")

    async def order(
        self, pool: str, server: str, state: str | None, weight: int | None, deadline_at: float | None, by: str
    ) -> None:
        """State and weight of a server, on all replicas.

        Raises:
            MemcacheDown, MemcacheUnknown: the store did not take it.
            UsageError: the record is full.
        """
        value = {"state": state, "weight": weight, "deadline_at": deadline_at}
        await self.change(("order", pool, server), value, by)

    async def add(self, pool: str, server: str, told: dict[str, Any], by: str) -> None:
        """Take a server into a pool, on all replicas. Raises as order()."""
        await self.change(("member", pool, server), {"added": told}, by)

    async def remove(self, pool: str, server: str, by: str) -> None:
        """Take a server out of a pool, on all replicas. Raises as order()."""
        await self.change(("member", pool, server), {"removed": True}, by)

    async def release(self, pool: str, server: str, by: str) -> None:
        """Move all bindings of a server away, on all replicas. Raises as order()."""
        await self.change(("release", pool, server), {}, by)

    async def change(self, key: tuple[str, str, str], value: dict[str, Any], by: str) -> None:
        """Leave an entry in the store; this replica follows it when it returns."""
        async with self._turning:
            for _ in range(ATTEMPTS_MAX):
                found = (await self._mail.fetch(KIND, [NAME], any_age=True))[NAME]
                if not found.known:
                    raise MemcacheDown("the store does not answer: the fleet was not told")
                theirs = Record.of(found.message.body if found.message is not None else None)
                self._take(self.record.merged(theirs))
                wanted = self.record.without_old(self._clock.wall_s() * 1e6)
                before = wanted.entries.get(key)
                at_us = max(int(self._clock.wall_s() * 1e6), before.at_us + 1 if before is not None else 0)
                entry = Entry(key, value, at_us, by)
                wanted = wanted.merged(Record([entry]))
                if len(wanted.entries) > ENTRIES_MAX:
                    raise UsageError(f"the fleet keeps at most {ENTRIES_MAX} orders; take some back first")
                if await self._write(wanted, found):
                    self._followed[key] = at_us  # who ordered it does it here himself, and says what came of it
                    self._take(wanted)
                    return
            raise MemcacheUnknown("the store did not take the change; giving it again is safe")

    def told(self) -> dict[str, Any]:
        """As JSON: what holds, and what this replica makes of it."""
        entries = []
        for key, entry in sorted(self.record.entries.items()):
            if entry.key[0] == "order" and entry.is_neutral:
                continue
            refused = self.refusals.get(key)
            note = refused[1] if refused is not None and refused[0] == entry.at_us else ""
            entries.append({**entry.told(), "followed": not note, "note": note})
        return {
            "store": self.sees,
            "version": max((entry.at_us for entry in self.record.entries.values()), default=0),
            "restored": self.restored,
            "entries": entries,
        }

    async def _write(self, record: Record, instead_of: Fetched) -> bool:
        above = instead_of.message.version if instead_of.message is not None else 0
        return bool(await self._mail.replace(KIND, NAME, record.body(), 0, instead_of=instead_of, above=above))

    def _take(self, record: Record) -> None:
        """Hold this record, and follow what is new in it."""
        changed = record != self.record
        self.record = record
        for key, entry in sorted(record.entries.items()):
            refused = self.refusals.get(key)
            if self._followed.get(key, 0) >= entry.at_us or (refused is not None and refused[0] == entry.at_us):
                continue
            if key[0] == "release" and entry.at_us < (self._clock.wall_s() - RELEASE_S) * 1e6:
                self._followed[key] = entry.at_us
                continue
            try:
                self._follow(entry)
            except UsageError as error:
                self.refusals[key] = (entry.at_us, str(error))
                log.warning("fleet: an order by %s for %s/%s is not followed here: %s", entry.by, *key[1:], error)
                continue
            self.refusals.pop(key, None)
            self._followed[key] = entry.at_us
            changed = True
        self._followed = {key: at_us for key, at_us in self._followed.items() if key in record.entries}
        if changed and self._keep is not None:
            self._keep(record.body(), self._followed)


def _covers(one: Record, other: Record) -> bool:
    """Does one record hold all that the other does?"""
    return all(key in one.entries and one.entries[key].rank >= entry.rank for key, entry in other.entries.items())
