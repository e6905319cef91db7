"""The last minutes of a replica, for the dashboard: a ring of samples, and what happened, in words.

Not here: the figures themselves (fastroute.metrics.figures), monitoring (scrape /metrics for that: this is forgotten
when the replica is reloaded). Rules of this file: bounded in points, events and the time that a sample may take.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastroute._core.board import BOUNDS_S
from fastroute.metrics.figures import Figures, PoolFigures

__all__ = ["EVERY_S", "POINTS_MAX", "History", "quantile_s"]

EVERY_S = 2.0
"""Between two samples."""

POINTS_MAX = 300
"""Ten minutes."""

EVENTS_MAX = 300

POOLS_MAX = 64
"""Pools with series of their own; more are in the sum alone."""

EVENTS_PER_SAMPLE_MAX = 40
"""Flips told one by one; of more, their number."""


def quantile_s(counts: Sequence[int], share: float) -> float | None:
    """The duration below which this share of requests stayed, within its bucket by straight line; None without any.

    Args:
        counts: per bucket of BOUNDS_S, and one more above; not cumulative.
        share: 0..1.
    """
    total = sum(counts)
    if total <= 0:
        return None
    wanted, seen = share * total, 0
    for at, count in enumerate(counts):
        if count and seen + count >= wanted:
            low = BOUNDS_S[at - 1] if at else 0.0
            high = BOUNDS_S[at] if at < len(BOUNDS_S) else BOUNDS_S[-1]
            return float(low + (high - low) * (wanted - seen) / count)
        seen += count
    return float(BOUNDS_S[-1])


@dataclass
class _Totals:
    """What only grows, of one pool or of all."""

    requests: int = 0
    errors: int = 0
    moves: int = 0
    durations: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, pool: PoolFigures) -> None:
        self.requests += pool.requests
        self.errors += pool.own_responses["5xx"] + sum(one.responses["5xx"] for one in pool.servers)
        self.moves += pool.counted["moves_moved"]
        self.durations = [a + b for a, b in zip(self.durations, pool.duration_counts, strict=True)]


@dataclass
class _Point:
    at: float
    requests: float
    errors: float
    moves: int
    p50_ms: float | None
    p99_ms: float | None
    in_flight: int
    bindings: int


class History:
    """Of one replica."""

    def __init__(self) -> None:
        self._points: dict[str, collections.deque[_Point]] = {}
        self._before: dict[str, _Totals] = {}
        self._before_s = 0.0
        self._states: dict[tuple[str, str], str] = {}
        self._members: dict[str, set[str]] = {}
        self.events: collections.deque[dict[str, Any]] = collections.deque(maxlen=EVENTS_MAX)

    def note(self, kind: str, text: str, *, pool: str = "", server: str = "", to: str = "") -> None:
        """Remember that something happened."""
        self.events.append({"at": time.time(), "kind": kind, "text": text, "pool": pool, "server": server, "to": to})

    def sample(self, figures: Figures, now_s: float) -> None:
        """Take in a moment's figures.

        Args:
            now_s: monotonic.
        """
        self._flips(figures)
        totals = {"": _Totals()}
        for pool in figures.pools:
            totals[""].add(pool)
            if len(totals) <= POOLS_MAX:
                totals[pool.name] = _Totals()
                totals[pool.name].add(pool)
        passed_s = now_s - self._before_s
        for name, now in totals.items():
            before = self._before.get(name)
            if before is None or passed_s <= 0:
                continue
            of = [pool for pool in figures.pools if not name or pool.name == name]
            durations = [max(0, a - b) for a, b in zip(now.durations, before.durations, strict=True)]
            moved = max(0, now.moves - before.moves)
            point = _Point(
                time.time(),
                max(0, now.requests - before.requests) / passed_s,
                max(0, now.errors - before.errors) / passed_s,
                moved,
                _ms(quantile_s(durations, 0.5)),
                _ms(quantile_s(durations, 0.99)),
                sum(one.in_flight for pool in of for one in pool.servers),
                sum(pool.bindings or 0 for pool in of),
            )
            self._points.setdefault(name, collections.deque(maxlen=POINTS_MAX)).append(point)
            if name and moved:
                self.note("move", f"{moved} user{'s' if moved != 1 else ''} moved to another server", pool=name)
        self._before, self._before_s = totals, now_s

    def _flips(self, figures: Figures) -> None:
        found = []
        first = not self._states
        for pool in figures.pools:
            names = {one.name for one in pool.servers}
            known = self._members.get(pool.name)
            if known is not None and known != names:
                for verb, some in (("joined", names - known), ("left", known - names)):
                    for name in sorted(some)[:EVENTS_PER_SAMPLE_MAX]:
                        self.note("member", f"{name} {verb}", pool=pool.name, server=name)
            self._members[pool.name] = names
            for one in pool.servers:
                before = self._states.get((pool.name, one.name))
                if before is not None and before != one.state:
                    found.append((pool.name, one.name, before, one.state))
                self._states[pool.name, one.name] = one.state
        if first:
            return
        for pool_name, name, before, state in found[:EVENTS_PER_SAMPLE_MAX]:
            self.note("flip", f"{name}: {before} to {state}", pool=pool_name, server=name, to=state)
        if len(found) > EVENTS_PER_SAMPLE_MAX:
            self.note("flip", f"and {len(found) - EVENTS_PER_SAMPLE_MAX} more servers changed their state")

    def told(self, pool: str = "") -> dict[str, Any]:
        """Series as JSON; of one pool, or of all."""
        points = list(self._points.get(pool, ()))
        series: dict[str, list[Any]] = {
            key: [_rounded(getattr(point, key)) for point in points]
            for key in ("at", "requests", "errors", "moves", "p50_ms", "p99_ms", "in_flight", "bindings")
        }
        events = [one for one in reversed(self.events) if not pool or one["pool"] in ("", pool)]
        return {"every_s": EVERY_S, "pool": pool, **series, "events": events}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, 3)
