"""The near cache: values in this process, before the store is asked. What it keeps, and how: near_cache.pyx.

Here stands how long it may answer without asking: values of other replicas change in the store, and nobody tells this
process (a push channel comes later), so an entry is fresh for NEAR_TTL_S at most. That is the bound of staleness: a
write through one replica is seen by the others after at most NEAR_TTL_S plus the time of one read. An entry is kept
beyond that, until its value's own stale limit, for the time when the store is away.
"""

from __future__ import annotations

from fastroute._core.near_cache import MISS, NearCache, NearStatistics, approximate_size_bytes

__all__ = ["MISS", "NEAR_TTL_S", "NearCache", "NearStatistics", "approximate_size_bytes", "near_limits_ms"]

NEAR_TTL_S = 2.0
"""Longest time a near entry answers unasked: [store] near_ttl of the configuration, same default."""

STALE_RECHECK_MS = 250
"""The same for a value that is stale already: its successor is being computed somewhere."""


def near_limits_ms(
    fresh_left_ms: int, stale_left_ms: int, near_ttl_ms: int = int(NEAR_TTL_S * 1000)
) -> tuple[int, int]:
    """(fresh, keep) for NearCache.put of a value with so much life left.

    Args:
        fresh_left_ms: until its ttl is over; zero or less when it is stale.
        stale_left_ms: until its stale limit.
        near_ttl_ms: bound of staleness.
    """
    if fresh_left_ms > 0:
        unasked_ms = near_ttl_ms if near_ttl_ms < fresh_left_ms else fresh_left_ms
        return unasked_ms, stale_left_ms if stale_left_ms > fresh_left_ms else fresh_left_ms
    return max(0, min(near_ttl_ms, STALE_RECHECK_MS, stale_left_ms)), max(0, stale_left_ms)
