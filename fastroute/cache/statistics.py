"""What a cache counted, per namespace: what sharing gives (hits, waits instead of work) and costs (bytes, time).

Timeouts are `unknown`, not misses: a store that is slow does not look like a store that is empty.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from fastroute._core.near_cache import NearStatistics

__all__ = ["CacheStatistics", "Counters"]


@dataclasses.dataclass(slots=True)
class Counters:
    """The counts while they run; see CacheStatistics for their meaning."""

    hits_far: int = 0
    misses: int = 0
    stale_served: int = 0
    stale_on_error: int = 0
    near_while_away: int = 0
    joined: int = 0
    waits: int = 0
    computations: int = 0
    computations_away: int = 0
    compute_errors: int = 0
    refreshes: int = 0
    refreshes_early: int = 0
    stored: int = 0
    overtaken: int = 0
    too_large: int = 0
    split: int = 0
    deleted: int = 0
    purges: int = 0
    pushed: int = 0
    push_losses: int = 0
    unknown: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_packed: int = 0
    compute_time_s: float = 0.0
    read_time_s: float = 0.0
    wait_time_s: float = 0.0
    rejected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counts of one SharedCache since it was made.

    Attributes:
        namespace: whose counts.
        near: the near cache's own counts; `near.hits` are requests answered without the store.
        hits_far: answered with a fresh value of the store.
        misses: the store had nothing usable.
        stale_served: answered with a stale value of the store, while one process refreshes it.
        stale_on_error: answered with a value over its stale time, because computing a new one failed.
        near_while_away: answered from the near cache beyond its unasked time, because the store was away.
        joined: callers that waited for a computation or read of this process instead of starting one.
        waits: keys for which this process waited for the computation of another one: stampedes avoided.
        computations: calls of `compute`, refreshes included; computations_away of them without the store.
        compute_errors: of those, how many raised.
        refreshes: computations in the background while the stale value was served.
        refreshes_early: of those, how many of a value that was still fresh.
        stored: values written; split of them in parts.
        overtaken: computed values that were not written because the key changed meanwhile.
        too_large: values over the store's limit, not written.
        deleted, purges: keys that were deleted, tags and namespaces that were purged, by this process.
        pushed: near values, tags and namespaces forgotten because the store announced a change by somebody else;
            push_losses: times all near values had to be asked for again because announcements may have been missed.
        unknown: store requests without an answer (timeouts, store away, refused).
        bytes_read, bytes_written: of sealed values; bytes_packed: of those written, before compression.
        compute_time_s, read_time_s, wait_time_s: total time in `compute`, in the first question to the store of each
            request of get_or_compute, and waiting for other processes.
        rejected: why stored values were not used: format, key, mac, corrupt, expired,
            purged, part -> count.
    """

    namespace: str
    near: NearStatistics
    hits_far: int
    misses: int
    stale_served: int
    stale_on_error: int
    near_while_away: int
    joined: int
    waits: int
    computations: int
    computations_away: int
    compute_errors: int
    refreshes: int
    refreshes_early: int
    stored: int
    overtaken: int
    too_large: int
    split: int
    deleted: int
    purges: int
    pushed: int
    push_losses: int
    unknown: int
    bytes_read: int
    bytes_written: int
    bytes_packed: int
    compute_time_s: float
    read_time_s: float
    wait_time_s: float
    rejected: dict[str, int]

    @property
    def hits_near(self) -> int:
        """Requests answered without the store."""
        return self.near.hits

    @property
    def stampedes_avoided(self) -> int:
        """Callers that would have computed what somebody else was computing."""
        return self.joined + self.waits

    @property
    def saved_time_s(self) -> float:
        """What sharing gave less what it cost, estimated: hits x the mean computation, less reading and waiting.

        Negative where values are cheaper to compute than to share.
        """
        if not self.computations:
            return 0.0
        mean_s = self.compute_time_s / self.computations
        return (self.hits_near + self.hits_far + self.stale_served) * mean_s - self.read_time_s - self.wait_time_s

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {**dataclasses.asdict(self), "near": self.near._asdict()}

    @classmethod
    def of(cls, namespace: str, near: NearStatistics, counters: Counters) -> CacheStatistics:
        """A frozen copy."""
        counts = {field.name: getattr(counters, field.name) for field in dataclasses.fields(counters)}
        counts["rejected"] = dict(counters.rejected)
        return cls(namespace=namespace, near=near, **counts)
