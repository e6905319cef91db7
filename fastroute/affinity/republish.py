"""Bindings written back to a node of the store that has lost its records: restarted, or flushed.

The zone of a machine knows what its users were bound to. One process of the zone walks it, most recently used bindings
first, and claims each in the store (`ms ME` + `mg`, one round trip): what stands there by now is adopted, by the same
order of truth as everywhere (agreement). A binding that was decided while the store was away is written the same way.

Rules of this file:
  * Bounded: RATE_PER_S and CHUNK claims at a time, on the pipelined connection that requests use; a request waits
    behind at most one chunk.
  * A binding keeps the rest of its life: a user who does not come does not live longer by this.
  * Nothing is held: the table is read in chunks, without locks, while others write. What is written meanwhile writes
    itself.
  * A node that goes away again, or is late, holds the walk up; when it answers again the walk goes on where it was.
    Another life of it begins a walk of its own (push.py ends this one). Until a walk has ended the zone remembers the
    old life of the node, so that the next owner begins anew.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from fastroute._core.affinity_table import PROVISIONAL
from fastroute._core.affinity_table import Record as Entry
from fastroute.affinity.agreement import Answer, Command, Kind
from fastroute.affinity.binding import STORE_TTL_MIN_S, Binder
from fastroute.affinity.copies import claim, settle
from fastroute.affinity.record import Record, server_id

if TYPE_CHECKING:
    from fastroute._core.affinity_table import AffinityTable
    from fastroute._core.affinity_view import AffinityView
    from fastroute._core.zone_push import PushBoard
    from fastroute.affinity.table import Affinity
    from fastroute.memcache.cluster import Memcached

__all__ = ["RATE_PER_S", "Republisher", "walk"]

RATE_PER_S = 5_000
"""Bindings written per second and machine: 1 M in 200 s, and 2-3 % of a core of memcached."""
CHUNK = 50
"""Claims in flight together: 10 ms at RATE_PER_S."""
BANDS = 8
"""Passes over the table, by when a binding was used last: a pass over 1 M bindings reads memory for some 10 ms."""
SCAN = 1024
"""Records read at a time."""
SCAN_BUCKETS = 1024
"""Buckets (1 KiB each) read at a time, whatever they hold: some 0.5 ms of the event loop."""
TICK_MS = 64
TRIES_MAX = 3
"""Times that a claim without an answer is made, each when the node is up; then it is left to its user."""
AGAIN_S = 0.05
"""How often a node that is away is looked at."""


class Counts(Protocol):
    """Where the outcome is counted."""

    republished: int
    republish_adopted: int
    republish_failed: int


Task = tuple["Affinity", "AffinityView", bytes, Entry]


class Republisher:
    """One walk for one node.

    Args:
        affinities: whose bindings; those of other processes with other pools are theirs.
        board: for the time.
        store: the store.
        node: name of the node that lost its records.
        counts: where to count.
        only_provisional: those alone that were decided while the store was away.
        rate_per_s: bindings written per second.
    """

    def __init__(
        self,
        affinities: Sequence[Affinity],
        board: PushBoard,
        store: Memcached,
        node: str,
        counts: Counts,
        *,
        only_provisional: bool = False,
        rate_per_s: float = RATE_PER_S,
    ) -> None:
        self._affinities, self._board, self._store = affinities, board, store
        self._node, self._counts = node, counts
        self._rate_per_s, self._flags = rate_per_s, PROVISIONAL if only_provisional else 0

    async def run(self) -> None:
        """Walk all bands of all views."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        batch: list[Task] = []
        for one in self._all():
            if one is not None:
                batch.append(one)
            else:  # a stretch of the table was read
                await asyncio.sleep(0)
            if len(batch) == CHUNK:
                await self._write(batch)
                batch = []
                due_s = max(due_s + CHUNK / self._rate_per_s, loop.time())
                await asyncio.sleep(max(0.0, due_s - loop.time()))
        await self._write(batch)

    async def _write(self, batch: list[Task]) -> None:
        for _ in range(TRIES_MAX):
            written = await asyncio.gather(*(self._restore(*one) for one in batch))
            batch = [one for one, done in zip(batch, written, strict=True) if not done]
            if not batch:
                return
            while self._node not in self._store.up_nodes:  # noqa: ASYNC110  nobody announces it
                await asyncio.sleep(AGAIN_S)
        self._counts.republish_failed += len(batch)

    def _all(self) -> Iterator[Task | None]:
        """What is to be written, and None now and then."""
        for affinity in self._affinities:
            ttl_ticks = math.ceil(affinity.ttl_s * 1000 / TICK_MS)
            for entries in walk(affinity.table, ttl_ticks, self._board.now_tick, self._flags):
                yield None
                for fingerprint, entry in entries:
                    view = self._view_of(affinity, entry.slot)
                    if view is not None and self._lives_there(affinity, view, fingerprint):
                        yield affinity, view, fingerprint, entry

    def _lives_there(self, affinity: Affinity, view: AffinityView, fingerprint: bytes) -> bool:
        return any(node.name == self._node for node in affinity._homes(affinity._name(view, fingerprint)))

    @staticmethod
    def _view_of(affinity: Affinity, zone_slot: int) -> AffinityView | None:
        return next((view for view in affinity.views if view.slot_of_zone(zone_slot) >= 0), None)

    async def _restore(self, affinity: Affinity, view: AffinityView, fingerprint: bytes, entry: Entry) -> bool:
        """Write one binding; False: the store did not answer."""
        binder = affinity._binders[view]
        near = binder.near(fingerprint)
        if near is None or (near.term, near.generation) != (entry.term, entry.generation):
            return True  # released or moved since it was read: who did that wrote it
        name = affinity._name(view, fingerprint)
        homes = affinity._homes(name)
        left_ticks = max(0, entry.expires_tick - self._board.now_tick)
        left_s = max(STORE_TTL_MIN_S, math.ceil(left_ticks * TICK_MS / 1000))
        record = Record(entry.term, entry.generation, server_id(view.pool.server_at(near.slot).name), affinity._writer)
        steps = _steps(binder, fingerprint, record, entry, left_s, len(homes))
        kind = await affinity._drive(name, homes, steps, view)
        if kind in (Kind.UNKNOWN, Kind.DOWN):
            return False
        if kind is Kind.WON:
            self._counts.republished += 1
        else:
            self._counts.republish_adopted += 1
        return True


def _steps(
    binder: Binder, fingerprint: bytes, record: Record, entry: Entry, left_s: int, homes: int
) -> Generator[Command, Answer, Kind]:
    # What stands there already keeps its lifetime: other machines may have seen the user since this one did (I8).
    decision = yield from claim(record, left_s, full_ttl_s=binder.ttl_s, homes=homes)
    decision = yield from settle(decision, left_s, homes=homes)  # the node that lost it may be a follower
    stands = decision.record
    if stands is not None:
        binder.confirm(fingerprint, stands, expires_tick=entry.expires_tick if stands.same_decision(record) else 0)
    return decision.kind


def walk(
    table: AffinityTable, ttl_ticks: int, now_tick: int, any_flags: int = 0
) -> Iterator[list[tuple[bytes, Entry]]]:
    """All live records, recently used ones first, in chunks of about SCAN; lock-free, while others write.

    Args:
        table: the zone's.
        ttl_ticks: the idle lifetime, whose share left tells how recently a record was used.
        now_tick: now.
        any_flags: only records with one of these flags; 0 for all.
    """
    edges = [now_tick + ttl_ticks * band // BANDS for band in range(BANDS - 1, 0, -1)]
    until = 0xFFFFFFFF
    for after in (*edges, now_tick):
        bucket: int | None = 0
        while bucket is not None:
            found, bucket = table.scan(
                bucket,
                SCAN,
                now_tick,
                any_flags=any_flags,
                expires_after=after,
                expires_until=until,
                buckets_max=SCAN_BUCKETS,
            )
            yield found
        until = after
