"""Near entries grow old without anybody waiting: the clocks of an affinity's views are held ahead of the machine's."""

from __future__ import annotations

import time
import weakref
from typing import Any

__all__ = ["grow_old", "keep_time"]

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
