"""The shared cache without I/O: what is asked of the store, in which order, and what its answers lead to.

Not here: reading a key (reading.py), the other writes (writing.py).

Each operation is a generator: it yields a step, is sent its result, and returns what the caller gets. The drivers carry
steps out: shared.py (asyncio), sync.py (threads). So both ask the same and decide alike.

Steps: Ask (one request), Gather (several at once), Pause, Compute (call the caller's function while a lease is held),
Refresh (steps that replace a value of which there is a usable one; the result, if anybody waits for it).

How get_or_compute is answered, first match wins:
  1. near, fresh: no store, no task, no copy.
  2. a read or computation of this key that is under way in this process: its result (single flight, in the drivers).
  3. store, fresh; shortly before its end one reader refreshes it early.
  4. store, stale: at once; one process refreshes it.
  5. nothing usable, lease won: compute, store with the lease's cas, unless the key changed meanwhile.
  6. another process computes: wait for it; its death is survived within the lease.
  7. the store is away: near until the value's stale limit, then compute, a limited number at once.

Rules of this file:
  - No step's failure is the caller's, except what `compute` raised, and CacheError where `strict` asked for it.
  - A token is only used at the node that it was read from (Seen.home); the client refuses it on another connection.
  - Generations are read before a value is computed, so that a purge in between makes it a miss.
"""

from __future__ import annotations

import logging
from typing import Any

from fastroute._core.cache_flight import Fill
from fastroute._core.mc_reply import EXISTS, HIT, NOT_FOUND, NOT_STORED, STORED
from fastroute.cache.codec import Life, Manifest, Sealed
from fastroute.cache.lease import (
    WAIT_S_MAX,
    Claim,
    Lease,
    Lock,
    Outcome,
    Read,
    Seen,
    TakeOver,
    claim,
    soon_due,
    store_ttl_s,
)
from fastroute.cache.reading import Ask, Compute, Gather, Reading, Refresh, Steps
from fastroute.cache.tiers import MISS, Name

__all__ = ["OVERTAKEN", "Core", "Fill"]

OVERTAKEN = (EXISTS, NOT_FOUND, NOT_STORED)
"""Answers to a conditional write that somebody forestalled."""

_log = logging.getLogger("fastroute.cache")


class Core(Reading):
    """The steps of get_or_compute."""

    def _take_ticket(self, fill: Fill) -> None:
        """From here on a write elsewhere makes what is read or computed unfit for the near cache."""
        fill.stamp = self._generations.stamp
        name = fill.name
        if self._push is not None:
            self._push.know(name.store, name.near)
        fill.ticket = self._near.begin_fill(name.near)

    def _keep_computed(self, fill: Fill, value: Any, life: Life, until_s: float) -> None:
        self._keep(fill.name.near, fill.ticket, value, life, 0, fill.tags, fill.stamp, until_s)

    def _use_for(self, fill: Fill, seen: Seen) -> Any:
        return self._use(fill.name, seen, fill.ticket, fill.stamp)

    # ------------------------------------------------------------------ get_or_compute

    def _steps_fill(self, fill: Fill, home: Any = None, reply: Any = None) -> Steps:
        """get_or_compute beyond the near cache: the value. With `reply` the key was read already, at `home`."""
        name = fill.name
        if fill.ticket < 0:
            self._take_ticket(fill)
        seen = yield from self._read(name, True, home, reply)
        if seen.outcome is Outcome.FRESH:
            entry = seen.entry
            value = self._use_for(fill, seen)
            if entry.compute_ms and soon_due(entry, self._wall_ms()):
                yield Refresh(name.near, self._refresh(fill.again(), entry.made_ms, True))
            return value
        found: Claim = yield from self._claim(name, seen)
        if found.rejected:
            self._counters.rejected.update(found.rejected)
        seen = found.seen
        if found.outcome is Outcome.FRESH or found.outcome is Outcome.STALE:
            assert seen.entry is not None
            value = self._use_for(fill, seen)
            if found.outcome is Outcome.STALE:
                newer = yield Refresh(name.near, self._refresh(fill.again(), seen.entry.made_ms, False))
                value = value if newer is MISS else newer
            return value
        if found.outcome is Outcome.WON:
            self._counters.misses += 1
            with Lease(seen.home, name.store, found.token) as lease:
                copied = yield from self._read_copies(fill, found)
                if copied is not MISS:
                    return copied
                return (yield from self._compute(fill, lease, None))
        if found.outcome is Outcome.KEPT:
            self._counters.misses += 1
            return (yield from self._replace_kept(fill, found))
        if found.outcome is Outcome.AWAY:
            self._unknown("get_or_compute")
            value = self._near_while_away(name.near)
            if value is not MISS:
                return value
        return (yield from self._compute_alone(fill))

    def _claim(self, name: Name, first: Seen, waited_s_max: float = WAIT_S_MAX) -> Steps:
        steps = claim(first, waited_s_max=waited_s_max)
        answer: Any = None
        waited = False
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value
            if type(step) is Read:
                answer = yield from self._read(name, True)
            elif type(step) is TakeOver:
                home = step.seen.home
                answer = yield Ask(home.cas_set, (name.store, b"", step.seen.token, self.lease_s), home)
            elif type(step) is Lock:
                home = step.seen.home
                answer = yield Ask(home.get_or_lease, (_lock_key(name), self.lease_s), home)
            else:
                self._counters.waits += not waited
                waited = True
                answer = yield step

    def _read_copies(self, fill: Fill, found: Claim) -> Steps:
        """What another copy holds, put into the node that had nothing; MISS where there is none."""
        name = fill.name
        for home in self._homes(name.store)[1:]:
            if home is found.seen.home or not home.up:
                continue
            seen = yield from self._read(name, False, home)
            if seen.outcome is not Outcome.FRESH:
                continue
            payload = self._codec.values.pack(seen.entry.value)
            generation = self._generation(found.seen.home)
            life = _left(seen.entry, self._wall_ms())
            sealed = self._seal(name, payload, life, seen.entry.compute_ms, generation, seen.entry.tags)
            if sealed is not None:
                yield from self._write(found.seen.home, name, sealed, life, found.token)
            return self._use_for(fill, seen)
        return MISS

    def _compute(self, fill: Fill, lease: Lease, target: Any) -> Steps:
        """Compute under a lease and store with cas: over the lease's own stub (target None), or over an old value."""
        name, tags = fill.name, fill.tags
        generation = self._generation(lease.home)
        numbers = (yield from self._tag_numbers(tags)) if tags else ()
        try:
            value, compute_ms = yield Compute(fill.compute, lease)
            payload, value = self._round_trip(value)
        except Exception:
            # A failed refresh keeps its lock: the next try comes when it has run out, not with the next request.
            if target is None:
                yield Ask(lease.home.delete, (lease.key, lease.token))
            raise
        life = fill.lifetime.of_value(value)
        sealed = None
        if life.ttl_ms and numbers is not None:
            sealed = self._seal(name, payload, life, compute_ms, generation, numbers)
        overtaken = False
        if sealed is not None:
            status = yield from self._write(lease.home, name, sealed, life, lease.token if target is None else target)
            overtaken = status in OVERTAKEN
            self._counters.overtaken += overtaken
            self._counters.unknown += not overtaken and status != STORED
            self._counters.bytes_packed += len(payload) if status == STORED else 0
        if sealed is None or target is not None:
            yield Ask(lease.home.delete, (lease.key, lease.token))
        if life.ttl_ms and not overtaken and numbers is not None:
            self._keep_computed(fill, value, life, self._until_s(lease.home, numbers))
        return value

    def _compute_alone(self, fill: Fill) -> Steps:
        """Compute without the store, a limited number at once, and keep the value near."""
        value, compute_ms = yield Compute(fill.compute, None, fill.name.near)
        if compute_ms < 0:
            return value
        _, value = self._round_trip(value)
        life = fill.lifetime.of_value(value)
        if life.ttl_ms:
            self._keep_computed(fill, value, life, 1e18)
        return value

    def _refresh(self, fill: Fill, made_ms: int, early: bool) -> Steps:
        """One process of the fleet replaces a value: who gets the lock's lease, and still finds that value."""
        name = fill.name
        self._take_ticket(fill)
        home = self._home(name.store)
        locked = yield Ask(home.get_or_lease, (_lock_key(name), self.lease_s), home)
        if locked.status != HIT or not locked.won or locked.token is None:
            return MISS
        with Lease(home, _lock_key(name), locked.token) as lease:
            seen = yield from self._read(name, False, home)
            if seen.entry is None or seen.entry.made_ms != made_ms or seen.token is None:
                yield Ask(home.delete, (lease.key, lease.token))
                usable = seen.outcome is Outcome.FRESH or seen.outcome is Outcome.STALE
                return self._use_for(fill, seen) if usable else MISS
            self._counters.refreshes += 1
            self._counters.refreshes_early += early
            try:
                return (yield from self._compute(fill, lease, seen.token))
            except Exception as error:  # of compute: nobody needs it, the old value serves on
                _log.warning("refresh of a value in namespace %s failed: %r", self.namespace, error)
                return MISS

    def _replace_kept(self, fill: Fill, found: Claim) -> Steps:
        """Compute the successor of a value kept for errors; when that fails, the value is stale for a lease more."""
        name = fill.name
        home, entry = found.seen.home, found.seen.entry
        assert entry is not None
        with Lease(home, _lock_key(name), found.token) as lease:
            again = yield from self._read(name, False, home)
            if again.entry is None or again.entry.made_ms != entry.made_ms or again.outcome is not Outcome.KEPT:
                yield Ask(home.delete, (lease.key, lease.token))
                if again.outcome is Outcome.FRESH or again.outcome is Outcome.STALE:
                    return self._use_for(fill, again)
                return (yield from self._steps_fill(fill.again()))
            try:
                return (yield from self._compute(fill, lease, again.token))
            except Exception as error:
                _log.warning("an old value of namespace %s is served, its successor failed: %r", self.namespace, error)
        now_ms = self._wall_ms()
        over_ms = now_ms - entry.made_ms - entry.ttl_ms
        stale_ms = min(over_ms + round(self.lease_s * 1000), entry.error_ms)
        raw = yield Ask(home.get, (name.store,))
        if raw.status == HIT and raw.value and self._same(name, raw.value, entry.made_ms):
            life = Life(entry.ttl_ms, stale_ms, entry.error_ms)
            prolonged = self._codec.change(raw.value, life=life)
            left = Life(0, max(0, entry.error_ms - over_ms))
            yield Ask(home.cas_set, (name.store, prolonged, raw.token, store_ttl_s(left)))
        self._counters.stale_on_error += 1
        return entry.value

    def _same(self, name: Name, data: bytes, made_ms: int) -> bool:
        entry = self._codec.open(name.digest, data)
        return not isinstance(entry, str) and entry.made_ms == made_ms

    # ------------------------------------------------------------------ writing

    def _forget(self, near_key: str | bytes) -> None:
        """Forget a near value and what is under way: whoever asks after a write must not be given what began before."""
        self._near.invalidate(near_key)

    def _write(self, home: Any, name: Name, sealed: Sealed, life: Life, token: Any, function: str = "") -> Steps:
        """Store an envelope, its parts first, then on the copies: the status.

        Args:
            token: what must be there still; None for anything, or with `function` "add" for nothing.
        """
        ttl_s = store_ttl_s(life)
        if sealed.parts:
            keys = self._part_keys(name, Manifest(sealed.fill, len(sealed.parts), 0, b"", False))
            asks = []
            for key, part in zip(keys, sealed.parts, strict=True):
                asks += [Ask(one.set, (key, part, ttl_s)) for one in self._homes(key)]
            replies = yield Gather(asks)
            for reply in replies:
                if reply.status != STORED:
                    return reply.status
        if self._push is not None:
            self._push.expect(name.store)
        if token is not None:
            reply = yield Ask(home.cas_set, (name.store, sealed.envelope, token, ttl_s))
        else:
            reply = yield Ask(getattr(home, function or "set"), (name.store, sealed.envelope, ttl_s))
        if reply.status == STORED:
            self._counters.stored += 1
            self._counters.split += bool(sealed.parts)
            self._counters.bytes_written += sealed.size_bytes
            homes = self._homes(name.store)
            if len(homes) > 1:
                copies = []
                for other in homes:
                    if other is not home:
                        generation = yield from self._known_generation(other)
                        if generation is not None:
                            envelope = self._codec.change(sealed.envelope, generation=generation)
                            copies.append(Ask(other.set, (name.store, envelope, ttl_s)))
                yield Gather(copies)
        return reply.status


def _lock_key(name: Name) -> str:
    return name.store + ":r"


def _left(entry: Any, now_ms: int) -> Life:
    age_ms = entry.age_ms(now_ms)
    return Life(max(1, entry.ttl_ms - age_ms), entry.stale_ms, entry.error_ms)
