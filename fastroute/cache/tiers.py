"""What the asyncio and the blocking cache have in common: near tier, names, envelopes, counts. Nothing here waits.

Not here: when the store is asked and who computes (shared.py, sync.py), the claim's decisions (lease.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastroute.cache.codec import HEAD_BYTES, MAC_BYTES, Codec, Entry
from fastroute.cache.keys import Key, KeySpace
from fastroute.cache.lease import LEASE_S, LEASE_S_MAX, LEASE_S_MIN, Lifetime, Outcome
from fastroute.cache.near import MISS, NEAR_TTL_S, NearCache, approximate_size_bytes, near_limits_ms
from fastroute.cache.statistics import CacheStatistics, Counters
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import CacheError, UsageError
from fastroute.model import parse_duration_s, parse_size_bytes

__all__ = ["AWAY_COMPUTATIONS_MAX", "ITEM_BYTES_MAX", "MISS", "Name", "Tiers"]

AWAY_COMPUTATIONS_MAX = 32
"""Computations at once while the store is away: what is behind the cache must not meet the whole fleet's misses."""

ITEM_BYTES_MAX = 1_000_000
"""Longest sealed value: memcached's default item limit is 1 MiB with key and header; larger ones are not stored."""


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
        clock: Clock = SYSTEM,
    ) -> None:
        self.keys = KeySpace(fleet, namespace)
        self.namespace = namespace
        self.near_ttl_s = parse_duration_s(near_ttl, name="near_ttl")
        self.lease_s = parse_duration_s(lease, name="lease")
        if not LEASE_S_MIN <= self.lease_s <= LEASE_S_MAX:
            raise UsageError(f"lease {lease!r}: accepted are {LEASE_S_MIN:g} to {LEASE_S_MAX:g} seconds")
        self._codec = Codec(secret)
        self._envelope_bytes = HEAD_BYTES + (0 if secret is None else MAC_BYTES)
        self._clock = clock
        self._near = NearCache(
            parse_size_bytes(near_bytes, name="near_bytes"),
            clock_ms=0 if clock is SYSTEM else int(clock.monotonic_s() * 1000),
        )
        # On an injected clock the near cache is moved along before each look; on the machine's it reads its own.
        self._near_get = self._near.get if clock is SYSTEM else self._near_get_on_clock
        self._counters = Counters()
        self._closed = False

    def statistics(self) -> CacheStatistics:
        """Counts of this namespace in this process since the cache was made."""
        return CacheStatistics.of(self.namespace, self._near.statistics(), self._counters)

    def _check_open(self) -> None:
        if self._closed:
            raise CacheError("the cache is closed")

    def _name(self, near_key: str | bytes, key: Key) -> Name:
        digest = self.keys.digest(key)
        return Name(near_key, digest, self.keys.store_key(digest))

    def _wall_ms(self) -> int:
        return int(self._clock.wall_s() * 1000)

    def _near_get_on_clock(self, near_key: str | bytes) -> Any:
        self._near.set_clock_ms(int(self._clock.monotonic_s() * 1000))
        return self._near.get(near_key)

    @staticmethod
    def _life(value: object, lifetime: Lifetime) -> tuple[int, int]:
        """(ttl_ms, stale_ms) of a computed value."""
        return (lifetime.ttl_ms, lifetime.stale_ms) if value is not None else (lifetime.negative_ms, 0)

    def _seal(self, name: Name, payload: bytes, ttl_ms: int, stale_ms: int, compute_ms: int) -> bytes | None:
        """The envelope, None when it is too large for the store (counted)."""
        if len(payload) + self._envelope_bytes > ITEM_BYTES_MAX:
            self._counters.too_large += 1
            return None
        return self._codec.seal(
            name.digest, payload, made_ms=self._wall_ms(), ttl_ms=ttl_ms, stale_ms=stale_ms, compute_ms=compute_ms
        )

    def _near_fill(self, near_key: str | bytes, ticket: int, value: Any, fresh_ms: int, stale_ms: int) -> None:
        """Keep a value that was made now."""
        unasked_ms, keep_ms = near_limits_ms(fresh_ms, fresh_ms + stale_ms, self.near_ttl_s)
        self._near.finish_fill(near_key, ticket, value, approximate_size_bytes(value), unasked_ms, keep_ms)

    def _use(self, name: Name, entry: Entry, outcome: Outcome, ticket: int) -> Any:
        """Keep and count a value of the store; returns it."""
        age_ms = entry.age_ms(self._wall_ms())
        fresh_ms, kept_ms = entry.ttl_ms - age_ms, entry.ttl_ms + entry.stale_ms - age_ms
        unasked_ms, keep_ms = near_limits_ms(fresh_ms, kept_ms, self.near_ttl_s)
        self._near.finish_fill(name.near, ticket, entry.value, approximate_size_bytes(entry.value), unasked_ms, keep_ms)
        if outcome is Outcome.FRESH:
            self._counters.hits_far += 1
        else:
            self._counters.stale_served += 1
        self._counters.bytes_read += entry.size_bytes + self._envelope_bytes
        return entry.value

    def _near_while_away(self, near_key: str | bytes, default: Any) -> Any:
        """The near value until its stale limit; `default` where there is none."""
        found = self._near.lookup(near_key)
        if isinstance(found, tuple):
            self._counters.near_while_away += 1
            return found[0]
        return default
