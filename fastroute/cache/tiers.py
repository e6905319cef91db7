"""What stands below the steps of both caches: near tier, names, generations, envelopes, counts. Nothing here waits.

Not here: when the store is asked and who computes (core.py, lease.py), how long waiting takes (shared.py, sync.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fastroute.cache.codec import COMPRESS_BYTES, ITEM_BYTES_MAX, OBJECT_BYTES_MAX, Codec, Entry, Life, Sealed, Tag
from fastroute.cache.generations import Generations, Tagged
from fastroute.cache.keys import Key, KeySpace
from fastroute.cache.lease import LEASE_S, LEASE_S_MAX, LEASE_S_MIN
from fastroute.cache.near import MISS, NEAR_TTL_S, NearCache, approximate_size_bytes, near_limits_ms
from fastroute.cache.push import PushInvalidation
from fastroute.cache.statistics import CacheStatistics, Counters
from fastroute.cache.values import Extension, Values
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import CacheError, UsageError
from fastroute.model import parse_duration_s, parse_size_bytes

__all__ = ["AWAY_COMPUTATIONS_MAX", "ITEM_BYTES_MAX", "MISS", "Name", "Tiers"]

AWAY_COMPUTATIONS_MAX = 32
"""Computations at once while the store is away: what is behind the cache must not meet the whole fleet's misses."""

NAMES_MAX, NAME_BYTES_MAX = 4096, 256
"""Names that are remembered: hot keys are asked for again each near_ttl, and their digest costs 2 us. At most 2 MiB."""

AWAY_COMPUTATIONS_LIMIT = 100_000
"""What may be asked for at most."""


class Name(NamedTuple):
    """What one key is called: by the near cache, in the value, by the store."""

    near: str | bytes
    digest: bytes
    store: str


class Tiers:
    """Base of both caches; arguments as SharedCache's.

    Raises:
        UsageError: an argument that is not accepted.
    """

    def __init__(
        self,
        *,
        namespace: str,
        near_bytes: int | str = "64MiB",
        secret: str | bytes | Sequence[str | bytes] | None = None,
        fleet: str = "fr",
        near_ttl: float | str = NEAR_TTL_S,
        lease: float | str = LEASE_S,
        extensions: Iterable[Extension] = (),
        compress_bytes: int | str = COMPRESS_BYTES,
        object_bytes_max: int | str = OBJECT_BYTES_MAX,
        away_computations_max: int = AWAY_COMPUTATIONS_MAX,
        strict: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        self.keys = KeySpace(fleet, namespace)
        self.namespace = namespace
        self.near_ttl_s = parse_duration_s(near_ttl, name="near_ttl")
        self._near_ttl_ms = int(self.near_ttl_s * 1000)
        self.lease_s = parse_duration_s(lease, name="lease")
        if not LEASE_S_MIN <= self.lease_s <= LEASE_S_MAX:
            raise UsageError(f"lease {lease!r}: accepted are {LEASE_S_MIN:g} to {LEASE_S_MAX:g} seconds")
        if not 1 <= away_computations_max <= AWAY_COMPUTATIONS_LIMIT:
            raise UsageError(
                f"away_computations_max {away_computations_max!r}: accepted are 1 to {AWAY_COMPUTATIONS_LIMIT}"
            )
        self.strict = strict
        self._away_max = away_computations_max
        self._codec = Codec(
            secret,
            values=Values(extensions),
            compress_bytes=parse_size_bytes(compress_bytes, name="compress_bytes"),
            object_bytes_max=parse_size_bytes(object_bytes_max, name="object_bytes_max"),
        )
        self._plain = secret is None
        self._round_trip = self._codec.values.round_trip
        self._unpack = self._codec.values.unpack
        self._generations = Generations(self.keys, self.near_ttl_s)
        self._clock = clock
        self._system = clock is SYSTEM
        self._near_bytes = parse_size_bytes(near_bytes, name="near_bytes")
        self._near = NearCache(
            self._near_bytes,
            clock_ms=0 if clock is SYSTEM else int(clock.monotonic_s() * 1000),
        )
        # On an injected clock the near cache is moved along before each look; on the machine's it reads its own.
        self._near_get = self._near.get if clock is SYSTEM else self._near_get_on_clock
        self._push: PushInvalidation | None = None
        self._names: dict[str | bytes, Name] = {}
        self._counters = Counters()
        self._closed = False

    def statistics(self) -> CacheStatistics:
        """Counts of this namespace in this process since the cache was made."""
        push = self._push
        if push is not None:
            self._counters.pushed, self._counters.push_losses = push.invalidations, sum(push.losses.values())
        return CacheStatistics.of(self.namespace, self._near.statistics(), self._counters)

    def _begin_fill(self, name: Name) -> int:
        """Ticket for a value that the store is about to be asked for."""
        if self._push is not None:
            self._push.know(name.store, name.near)
        return self._near.begin_fill(name.near)

    def _check_open(self) -> None:
        if self._closed:
            raise CacheError("the cache is closed")

    def _name(self, near_key: str | bytes, key: Key) -> Name:
        name = self._names.get(near_key)
        if name is None:
            digest = self.keys.digest(key)
            name = Name(near_key, digest, self.keys.store_key(digest))
            if len(near_key) <= NAME_BYTES_MAX:
                if len(self._names) >= NAMES_MAX:
                    self._names.clear()
                self._names[near_key] = name
        return name

    def _wall_ms(self) -> int:
        return int((time.time() if self._system else self._clock.wall_s()) * 1000)

    def _now_s(self) -> float:
        return time.monotonic() if self._system else self._clock.monotonic_s()

    def _unknown(self, what: str, count: int = 1) -> None:
        """Count requests without an answer.

        Raises:
            CacheError: the caller asked to be told.
        """
        self._counters.unknown += count
        if self.strict:
            raise CacheError(f"{what} in namespace {self.namespace}: the store did not answer")

    # ------------------------------------------------------------------ near

    def _near_get_on_clock(self, near_key: str | bytes) -> Any:
        self._near.set_clock_ms(int(self._clock.monotonic_s() * 1000))
        return self._near.get(near_key)

    def _untag(self, near_key: str | bytes, tagged: Tagged) -> Any:
        """The value, MISS when one of its tags was purged since it was kept."""
        if self._generations.believes(tagged):
            return tagged.value
        self._near.invalidate(near_key)
        return MISS

    def _near_value(self, near_key: str | bytes) -> Any:
        """The fresh near value, or MISS."""
        value = self._near_get(near_key)
        return self._untag(near_key, value) if type(value) is Tagged else value

    def _near_while_away(self, near_key: str | bytes) -> Any:
        """The near value until its stale limit, or MISS."""
        if not self._system:
            self._near.set_clock_ms(int(self._clock.monotonic_s() * 1000))
        found = self._near.lookup(near_key)
        if not isinstance(found, tuple):
            return MISS
        value = found[0]
        if type(value) is Tagged:
            value = self._untag(near_key, value)
        self._counters.near_while_away += value is not MISS
        return value

    def _keep(
        self,
        near_key: str | bytes,
        ticket: int,
        value: Any,
        life: Life,
        age_ms: int,
        tags: tuple[bytes, ...],
        stamp: int,
        until_s: float,
    ) -> None:
        """Keep a value near; `until_s` is until when its generations may be believed."""
        fresh_ms = life.ttl_ms - age_ms
        self._keep_for(near_key, ticket, value, fresh_ms, fresh_ms + life.stale_ms, tags, stamp, until_s)

    def _keep_entry(self, near_key: str | bytes, ticket: int, stamp: int, entry: Entry, until_s: float) -> None:
        tags = tuple([tag.digest for tag in entry.tags]) if entry.tags else ()
        age_ms = self._wall_ms() - entry.made_ms
        fresh_ms = entry.ttl_ms - age_ms if age_ms > 0 else entry.ttl_ms
        self._keep_for(near_key, ticket, entry.value, fresh_ms, fresh_ms + entry.stale_ms, tags, stamp, until_s)

    def _keep_for(
        self,
        near_key: str | bytes,
        ticket: int,
        value: Any,
        fresh_ms: int,
        stale_left_ms: int,
        tags: tuple[bytes, ...],
        stamp: int,
        until_s: float,
    ) -> None:
        unasked_ms, keep_ms = near_limits_ms(fresh_ms, stale_left_ms, self._near_ttl_ms)
        if until_s < 1e18:
            believed_ms = int((until_s - self._now_s()) * 1000)
            if believed_ms < unasked_ms:
                unasked_ms = believed_ms if believed_ms > 0 else 0
        size_bytes = approximate_size_bytes(value)
        if tags:
            value = Tagged(value, tags, stamp)
        self._near.finish_fill(near_key, ticket, value, size_bytes, unasked_ms, keep_ms)

    # ------------------------------------------------------------------ envelopes

    def _seal(
        self, name: Name, payload: bytes, life: Life, compute_ms: int, generation: int, tags: Sequence[Tag] = ()
    ) -> Sealed | None:
        """The envelope, None when it is too large for the store (counted)."""
        sealed = self._codec.seal(
            name.digest,
            payload,
            made_ms=self._wall_ms(),
            ttl_ms=life.ttl_ms,
            stale_ms=life.stale_ms,
            error_ms=life.error_ms,
            compute_ms=compute_ms,
            generation=generation,
            tags=tags,
        )
        self._counters.too_large += sealed is None
        return sealed
