"""Entries and bindings grow old without anybody waiting: clocks are held ahead, records get less left to live."""

from __future__ import annotations

import time
import weakref
from typing import Any

from fastroute import Zone
from fastroute._core.affinity_table import WROTE, AffinityTable
from fastroute.affinity.base import identity_of, store_key
from tests.support.memcached import Memcached

__all__ = ["grow_old", "have_left", "keep_time"]

_ahead_ms: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""How far the clock of an affinity is ahead; those of one test are moved together."""


def grow_old(*affinities: Any, ms: int = 5_000) -> None:
    """Every near entry of these is older by so much, and not believed because of the push channel; once per call.

    The clock stands still from then on: what is asked now stays fresh until the next call, or keep_time().
    """
    ahead_ms = max(_ahead_ms.get(affinity, 0) for affinity in affinities) + ms
    now_ms = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000 + ahead_ms
    for affinity in affinities:
        _ahead_ms[affinity] = ahead_ms
        for view in affinity.views:
            view.set_manual_ms(now_ms)


def keep_time(*affinities: Any) -> None:
    """Show them the machine's clock again."""
    for affinity in affinities:
        _ahead_ms.pop(affinity, None)
        for view in affinity.views:
            view.set_manual_ms(0)


def have_left(
    left_s: int, zone_name: str, zone_size: str, *, secret: str, fleet: str = "fr", store: Memcached | None = None
) -> list[str]:
    """The bindings of a zone, and their records in the store, have this left to live: the keys of the records.

    They were used last so long ago. Nobody may use them meanwhile.
    """
    tick = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000) >> 6
    keys: list[str] = []
    with Zone(zone_name, zone_size, identity_of(secret.encode(), fleet)) as zone:
        table = AffinityTable(zone)
        found, _ = table.scan(0, 1 << 20, tick)
        for fingerprint, record in found:
            assert table.remove_record(fingerprint, tick) == WROTE
            older = record._replace(expires_tick=tick + left_s * 1000 // 64)
            assert table.claim_record(fingerprint, tick, older)[0] == WROTE
            keys.append(store_key(fleet, "app", fingerprint).decode())
            if store is not None:
                told = store.command(f"mg {keys[-1]} T{left_s}")
                assert told == b"HD\r\n", told
    return keys
