"""Writing the shared cache, without I/O: set, add, cas, touch, increment, delete, and the purges.

Rules of this file:
  - Before a write is asked for, the near value and what is under way in this process are forgotten; after it too, so
    that this process never serves what it has replaced.
  - A write without an answer is unknown: False to the caller, counted, and nothing is kept near.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastroute._core.mc_reply import DELETED, EXISTS, HIT, NOT_FOUND, STORED
from fastroute.cache.codec import Life, Manifest
from fastroute.cache.core import OVERTAKEN, Core
from fastroute.cache.generations import GENERATION_TTL_S, new_generation
from fastroute.cache.lease import Outcome, store_ttl_s
from fastroute.cache.reading import Ask, Gather, Steps, Version
from fastroute.cache.tiers import Name
from fastroute.errors import UsageError

__all__ = ["Writing"]

CHANGES_MAX = 8
"""Tries of a read-and-write that others keep overtaking."""


class Writing(Core):
    """The steps of every write; arguments as SharedCache's."""

    def _steps_set(self, name: Name, value: Any, life: Life, tags: tuple[bytes, ...]) -> Steps:
        """set: True when the store confirmed it."""
        payload, value = self._round_trip(value)
        self._forget(name.near)
        home = self._home(name.store)
        stamp = self._generations.stamp
        generation = yield from self._known_generation(home)
        numbers = (yield from self._tag_numbers(tags)) if tags else ()
        if generation is None or numbers is None:
            self._unknown("set")
            return False
        sealed = self._seal(name, payload, life, 0, generation, numbers)
        if sealed is None:
            # What is stored under the key is older than what the caller wanted there.
            yield Gather([Ask(one.expire_key, (name.store,)) for one in self._homes(name.store)])
            self._near.invalidate(name.near)
            return False
        ticket = self._begin_fill(name)
        status = yield from self._write(home, name, sealed, life, None)
        if status != STORED:
            self._near.invalidate(name.near)
            self._unknown("set")
            return False
        self._counters.bytes_packed += len(payload)
        self._keep(name.near, ticket, value, life, 0, tags, stamp, self._until_s(home, numbers))
        return True

    def _steps_set_if(
        self, name: Name, value: Any, version: Version | None, life: Life, tags: tuple[bytes, ...], what: str
    ) -> Steps:
        """add (version None) and cas: True when it was stored, False when there was something (else), or no answer."""
        payload, value = self._round_trip(value)
        if version is not None and version.digest != name.digest:
            raise UsageError("the version belongs to another key")
        self._forget(name.near)
        stamp = self._generations.stamp
        numbers = (yield from self._tag_numbers(tags)) if tags else ()
        status = EXISTS
        for _ in range(1 if version is not None else CHANGES_MAX):
            if version is not None:
                home, token = version.home, version.token
            else:
                seen = yield from self._read(name, False)
                if seen.outcome in (Outcome.FRESH, Outcome.STALE):
                    return False
                if seen.outcome is Outcome.AWAY:
                    status = -1
                    break
                home, token = seen.home, seen.token
            generation = yield from self._known_generation(home)
            if generation is None or numbers is None:
                status = -1
                break
            sealed = self._seal(name, payload, life, 0, generation, numbers)
            if sealed is None:
                return False
            ticket = self._begin_fill(name)
            status = yield from self._write(home, name, sealed, life, token, "add")
            if status == STORED:
                self._counters.bytes_packed += len(payload)
                self._keep(name.near, ticket, value, life, 0, tags, stamp, self._until_s(home, numbers))
                return True
            if status not in OVERTAKEN:
                break
        if status not in OVERTAKEN:
            self._unknown(what)
        return False

    def _steps_touch(self, name: Name, life: Life) -> Steps:
        """touch: True when there was a usable value and its life begins again."""
        for _ in range(CHANGES_MAX):
            home = self._home(name.store)
            seen = yield from self._read(name, False, home)
            if seen.outcome is Outcome.AWAY:
                break
            if seen.outcome not in (Outcome.FRESH, Outcome.STALE):
                return False
            reply = yield Ask(home.get, (name.store,))
            entry = self._codec.open(name.digest, reply.value) if reply.status == HIT and reply.value else ""
            if isinstance(entry, str) or entry.made_ms != seen.entry.made_ms:
                continue
            ttl_s = store_ttl_s(life)
            if type(entry.value) is Manifest:
                yield Gather([Ask(self._home(key).touch, (key, ttl_s)) for key in self._part_keys(name, entry.value)])
            if self._push is not None:
                self._push.expect(name.store)
            data = self._codec.change(reply.value, made_ms=self._wall_ms(), life=life)
            reply = yield Ask(home.cas_set, (name.store, data, reply.token, ttl_s))
            if reply.status == STORED:
                for other in self._homes(name.store):
                    if other is not home:
                        yield Ask(other.touch, (name.store, ttl_s))
                self._near.invalidate(name.near)
                return True
            if reply.status not in OVERTAKEN:
                break
        else:
            return False
        self._unknown("touch")
        return False

    def _steps_delete(self, name: Name) -> Steps:
        """delete: True when every node that may hold it confirmed."""
        self._forget(name.near)
        counter = self.keys.counter_key(name.digest)
        # An expired write, not `md`: only that one is announced to the watchers of every memcached version.
        asks = [Ask(home.expire_key, (name.store,)) for home in self._homes(name.store)]
        asks.append(Ask(self._homes(counter)[0].expire_key, (counter,)))
        replies = yield Gather(asks)
        self._near.invalidate(name.near)
        missing = sum(reply.status not in (STORED, DELETED, NOT_FOUND) for reply in replies)
        self._counters.deleted += 1
        if missing:
            self._unknown("delete", missing)
        return not missing

    def _steps_increment(self, name: Name, delta: int, initial: int | None, ttl_s: float) -> Steps:
        """increment: the number, None where there is none or no answer."""
        key = self.keys.counter_key(name.digest)
        reply = yield Ask(self._homes(key)[0].increment, (key, delta, initial, ttl_s))
        if reply.status == HIT:
            return int(reply.value)
        if reply.status != NOT_FOUND:
            self._unknown("increment")
        return None

    # ------------------------------------------------------------------ purges

    def _steps_purge_tags(self, digests: tuple[bytes, ...]) -> Steps:
        """Every value with one of these tags becomes a miss: True when the store confirmed all."""
        asks = []
        for digest in digests:
            self._generations.purged(digest)
            key = self._generations.key(digest)
            asks += [
                Ask(home.set, (key, new_generation(self._wall_ms()), GENERATION_TTL_S)) for home in self._homes(key)
            ]
        replies = yield Gather(asks)
        for digest in digests:
            self._generations.purged(digest)  # what was read meanwhile is not believed either
        return self._purged(replies)

    def _steps_purge_namespace(self) -> Steps:
        """Every value of the namespace becomes a miss: True when all nodes confirmed."""
        self._forget_all()
        key = self._generations.namespace_key
        number = new_generation(self._wall_ms())
        replies = yield Gather([Ask(home.set, (key, number, GENERATION_TTL_S)) for home in self._placement.nodes])
        self._forget_all()
        return self._purged(replies)

    def _purged(self, replies: Sequence[Any]) -> bool:
        missing = sum(reply.status != STORED for reply in replies)
        self._counters.purges += 1
        if missing:
            self._unknown("purge", missing)
        return not missing
