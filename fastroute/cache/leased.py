"""LeasedCache: a SharedCache whose values are made elsewhere: whoever wins the lease is told so, and stores when it
has the value. What get_or_compute does in one call stands here in three: find, put, release.

Why: an HTTP response passes through while it is stored, its lifetime and tags are known only when its head is there,
and it may turn out to be nothing that is stored.

Not here: what a value is, and how long it is good for (fastroute.http_cache); the claim itself (lease.py).

Rules of this file: as the driver's; a Hold is given to put or release exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from fastroute._core.mc_reply import HIT, STORED
from fastroute.cache.codec import Life
from fastroute.cache.core import OVERTAKEN, Fill
from fastroute.cache.driver import _Renewal
from fastroute.cache.generations import purged_since
from fastroute.cache.lease import Lease, Lifetime, Outcome
from fastroute.cache.near import MISS
from fastroute.cache.reading import Ask, Steps
from fastroute.cache.shared import SharedCache
from fastroute.cache.tiers import Name

__all__ = ["Found", "Hold", "LeasedCache", "Moment"]

_UNTIMED = Lifetime.of(1)


class Hold:
    """The right to fill a key, renewed until it is given back.

    Attributes:
        key: the key that is filled.
        lease: of the store; None where the store is away or nobody was asked: then nothing is stored there.
        target: what is replaced: a token, or None for the lease's own stub.
    """

    __slots__ = ("anything", "fill", "key", "lease", "renewal", "target")

    def __init__(self, key: str, fill: Fill, lease: Lease | None, target: Any, anything: bool = False) -> None:
        self.key, self.fill, self.lease, self.target, self.anything = key, fill, lease, target, anything
        self.renewal: _Renewal | None = None


class Moment(NamedTuple):
    """When a process began to make what a key stands for."""

    ticket: int
    stamp: int


class Found(NamedTuple):
    """What `find` came to.

    Attributes:
        value: the value, or None.
        hold: this caller fills the key.
        away: the store did not answer; `value` is then a near one, or None.
        alone: others held the key for as long as one may wait.
    """

    value: Any = None
    hold: Hold | None = None
    away: bool = False
    alone: bool = False


class LeasedCache(SharedCache):
    """Arguments as SharedCache's. Keys are str."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._holds: set[Hold] = set()

    async def aclose(self) -> None:
        """As SharedCache's; holds that nobody has given back are, so that no replica waits for their leases to end."""
        await asyncio.gather(*[self.release(hold) for hold in self._holds])
        await super().aclose()

    def near(self, key: str) -> Any:
        """The near value, or MISS. Asks nobody."""
        return self._near_value(key)

    def near_while_away(self, key: str) -> Any:
        """The near value until its last limit, or MISS."""
        return self._near_while_away(key)

    @property
    def near_cache(self) -> Any:
        """The compiled near cache, for readers that are compiled too."""
        return self._near

    def moment(self, key: str) -> Moment:
        """Now, for is_current later."""
        return Moment(self._begin_fill(self._any_name(key)), self._generations.stamp)

    def is_current(self, key: str, since: Moment) -> bool:
        """Has nobody written or deleted the key since, or purged anything, as far as this process was told?"""
        return since.stamp == self._generations.stamp and self._near.undisturbed(key, since.ticket)

    async def find(self, key: str, *, wait_s: float, leased: bool = True) -> Found:
        """The value, or the right to fill it; waits while another process fills it.

        Args:
            key: the key.
            wait_s: longest wait for others.
            leased: False only looks.
        """
        return self._holding(await self._run(self._steps_find(key, wait_s, leased)))

    async def lock(self, key: str, same: Callable[[Any], bool]) -> Found:
        """The right to replace the value there is, for one process of the fleet.

        Args:
            key: the key.
            same: whether a value is the one that is to be replaced; another one is returned as it is.
        """
        return self._holding(await self._run(self._steps_lock(key, same)))

    def unleased(self, key: str, *, stored: bool = False, since: Hold | None = None) -> Hold:
        """A Hold without a lease: put keeps the value near, and in the store too if `stored`.

        Args:
            since: another Hold under which what is put was made: what was deleted or purged since then stays so.
        """
        self._check_open()
        fill = self._begun(self._any_name(key))
        if since is not None:
            fill.ticket, fill.stamp = since.fill.ticket, since.fill.stamp
        return Hold(key, fill, None, None, stored)

    async def put(
        self, hold: Hold, value: Any, ttl_ms: int, tags: Sequence[str] = (), *, key: str = "", made_ms: int = 0
    ) -> bool:
        """Store what was filled and give the hold back; True when the store confirmed it.

        Args:
            hold: from find or lock.
            value: plain data, or of a registered type.
            ttl_ms: how long it is kept.
            tags: under which it can be purged.
            key: another key than the hold's: then the hold is only given back.
            made_ms: wall clock at which making it began: a purge of a tag or the namespace since then forbids storing.
                0: not compared.
        """
        await self._end_renewal(hold)
        return bool(await self._run(self._steps_put(hold, value, Life(max(1, ttl_ms)), tags, made_ms)))

    def deleting(self, key: str) -> Coroutine[Any, Any, bool]:
        """As delete, to be awaited; the store is written to before this returns, so that whoever is told of the
        deletion after this call, and asks another process, finds it done.
        """
        return self._run_ahead(self._steps_delete(self._any_name(key)))

    def purging_tags(self, tags: Sequence[str]) -> Coroutine[Any, Any, bool]:
        """As purge_tags, and the store is written to before this returns, as by `deleting`."""
        return self._run_ahead(self._steps_purge_tags(self._generations.digests(tags)))

    async def release(self, hold: Hold) -> None:
        """Give the hold back unfilled: whoever waits may fill it."""
        await self._end_renewal(hold)
        if hold.lease is not None and not self._closed:
            await hold.lease.home.delete(hold.lease.key, hold.lease.token)

    # ------------------------------------------------------------------ steps

    def _holding(self, found: Found) -> Found:
        if found.hold is not None and found.hold.lease is not None:
            found.hold.renewal = _Renewal(found.hold.lease, self.lease_s)
            self._holds.add(found.hold)
        return found

    async def _end_renewal(self, hold: Hold) -> None:
        self._holds.discard(hold)
        renewal, hold.renewal = hold.renewal, None
        if renewal is not None:
            await renewal.end()

    def _begun(self, name: Name) -> Fill:
        fill = Fill(name, _nothing, _UNTIMED)
        self._take_ticket(fill)
        return fill

    def _steps_find(self, key: str, wait_s: float, leased: bool) -> Steps:
        name = self._any_name(key)
        fill = self._begun(name)
        seen = yield from self._read(name, leased)
        if leased and seen.outcome is not Outcome.FRESH:
            claimed = yield from self._claim(name, seen, wait_s)
            if claimed.rejected:
                self._counters.rejected.update(claimed.rejected)
            if claimed.pauses:  # what was begun before is not what there is now
                fill = self._begun(name)
            if claimed.outcome is Outcome.WON:
                self._counters.misses += 1
                with Lease(claimed.seen.home, name.store, claimed.token) as lease:
                    copied = yield from self._read_copies(fill, claimed)
                if copied is not MISS:
                    return Found(copied)
                return Found(None, Hold(key, fill, lease, None))
            if claimed.outcome is Outcome.ALONE:
                return Found(alone=True)
            seen = claimed.seen
            if claimed.outcome is Outcome.AWAY:
                seen = seen._replace(outcome=Outcome.AWAY)
        if seen.outcome in (Outcome.FRESH, Outcome.STALE, Outcome.KEPT):
            return Found(self._use_for(fill, seen))
        if seen.outcome is Outcome.AWAY:
            self._unknown("find")
            value = self._near_while_away(name.near)
            return Found(None if value is MISS else value, away=True)
        return Found()

    def _steps_lock(self, key: str, same: Callable[[Any], bool]) -> Steps:
        name = self._any_name(key)
        fill = self._begun(name)
        home = self._home(name.store)
        lock_key = name.store + ":r"
        locked = yield Ask(home.get_or_lease, (lock_key, self.lease_s), home)
        if locked.status != HIT:
            return Found(away=True)
        lease = Lease(home, lock_key, locked.token) if locked.won and locked.token is not None else None
        with lease or contextlib.nullcontext():
            seen = yield from self._read(name, False, home)
        if lease is None:
            if seen.entry is not None and not same(seen.entry.value):
                return Found(self._use_for(fill, seen))
            return Found()
        if seen.entry is None or seen.token is None or not same(seen.entry.value):
            yield Ask(home.delete, (lease.key, lease.token))
            if seen.outcome is Outcome.AWAY:
                return Found(away=True)
            return Found(self._use_for(fill, seen) if seen.entry is not None else None, alone=seen.entry is None)
        self._counters.refreshes += 1
        return Found(None, Hold(key, fill, lease, seen.token))

    def _steps_put(self, hold: Hold, value: Any, life: Life, tags: Sequence[str], made_ms: int) -> Steps:
        fill, lease = hold.fill, hold.lease
        name = fill.name
        fill.tags = self._generations.digests(tags)
        payload, value = self._round_trip(value)
        if lease is None and not hold.anything:
            self._keep_computed(fill, value, life, 1e18)
            return False
        if lease is None and not self._near.undisturbed(name.near, fill.ticket):
            return False  # deleted since, or filled by somebody else
        home = lease.home if lease is not None else self._home(name.store)
        generation = yield from self._known_generation(home)
        numbers = (yield from self._tag_numbers(fill.tags)) if fill.tags else ()
        sealed = None
        if generation is not None and purged_since(generation, made_ms):
            numbers = None
        if numbers and any(purged_since(tag.generation, made_ms) for tag in numbers):
            numbers = None
        if generation is not None and numbers is not None:
            held = self._generation(home) if lease is not None else generation
            sealed = self._seal(name, payload, life, 0, held, numbers)
        status = -1
        if sealed is not None:
            token = None if lease is None else lease.token if hold.target is None else hold.target
            status = yield from self._write(home, name, sealed, life, token)
            self._counters.overtaken += status in OVERTAKEN
            self._counters.unknown += status not in OVERTAKEN and status != STORED
            self._counters.bytes_packed += len(payload) if status == STORED else 0
        if lease is not None and (hold.target is not None or sealed is None):
            yield Ask(lease.home.delete, (lease.key, lease.token))
        if status not in OVERTAKEN and numbers is not None:
            self._keep_computed(fill, value, life, self._until_s(home, numbers))
        return status == STORED


def _nothing() -> None:
    raise AssertionError("a hold is filled by its holder")
