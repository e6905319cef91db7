"""Sweeps: outlier ejection by share of failures and by latency, over all workers of a replica. The keeper's.

What a server did comes from the board: the sums of all workers, compared with those of the sweep before. Not here: the
rules (fastroute.health.sweep, fastroute.health.outlier), failures in a row (the relay sees them, in each worker).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastroute._core.board import Board
from fastroute.clock import Clock
from fastroute.health.outlier import Outliers
from fastroute.health.sweep import Window, suspects
from fastroute.model import STATES

if TYPE_CHECKING:
    from fastroute.metrics.layout import Columns
    from fastroute.proxy.build import Parts, PoolParts

__all__ = ["Sweeps", "sweeps_anything"]

log = logging.getLogger("fastroute.health")

_READY, _EJECTED = STATES.index("ready"), STATES.index("ejected")
_5XX = 5


def sweeps_anything(parts: Parts) -> bool:
    """Is there a pool whose servers are swept?"""
    return any(_is_swept(one) for one in parts.pools.values())


def _is_swept(parts: PoolParts) -> bool:
    outlier = parts.config.outlier
    return outlier is not None and bool(outlier.failure_ratio or outlier.latency_factor)


class Sweeps:
    """The sweeps of one replica's pools.

    Args:
        parts: of the worker that sweeps.
        board, columns: of the replica.
        clock: monotonic.
    """

    def __init__(self, parts: Parts, board: Board, columns: Columns, clock: Clock) -> None:
        self._board, self._columns, self._clock = board, columns, clock
        self._pools = {name: one for name, one in parts.pools.items() if _is_swept(one)}
        self._due_s: dict[str, float] = {}
        self._before: dict[tuple[str, str], tuple[int, int]] = {}
        self._outliers: dict[str, Outliers] = {}
        self.until_s: dict[tuple[str, str], float] = {}
        """Who is out, until when."""

    def turn(self) -> bool:
        """Sweep what is due and take back whose time is over; has anything changed?"""
        now_s = self._clock.monotonic_s()
        back = [key for key, until_s in self.until_s.items() if until_s <= now_s]
        for key in back:
            del self.until_s[key]
            log.warning("pool %s: server %s is taken back after its ejection", *key)
        changed = bool(back)
        for name, parts in self._pools.items():
            outlier = parts.config.outlier
            assert outlier is not None
            due_s = self._due_s.get(name)
            if due_s is None:  # the first look is what the next one is compared with
                self._windows(name, parts)
                self._due_s[name] = now_s + outlier.interval_s
            elif now_s >= due_s:
                self._due_s[name] = now_s + outlier.interval_s
                changed |= self._sweep(name, parts, now_s)
        return changed

    def _sweep(self, name: str, parts: PoolParts, now_s: float) -> bool:
        outlier = parts.config.outlier
        assert outlier is not None
        windows, ready, ejected = self._windows(name, parts)
        found = suspects(
            windows,
            failure_ratio=outlier.failure_ratio,
            latency_factor=outlier.latency_factor,
            min_requests=outlier.min_requests,
        )
        rule = self._outliers.get(name)
        if rule is None:
            rule = self._outliers[name] = Outliers(
                eject_s=outlier.eject_s, max_ejected_ratio=outlier.max_ejected_ratio, longest_s=outlier.max_eject_s
            )
        changed = False
        for server, why in found:
            out_s = rule.failed(
                server, now_s=now_s, servers=len(parts.pool), ejected=len(ejected), others_ready=len(ready - {server})
            )
            if out_s is not None:
                self.until_s[name, server] = now_s + out_s
                ejected.add(server)
                ready.discard(server)
                changed = True
                log.warning("pool %s: server %s is ejected for %.0f s: %s", name, server, out_s, why)
        return changed

    def _windows(self, name: str, parts: PoolParts) -> tuple[list[Window], set[str], set[str]]:
        """(what the ready servers did since the last look, who is ready, who is ejected)."""
        columns = self._columns.servers[name]
        servers = [server.name for server in parts.pool.servers if columns.get(server.name)]
        windows, ready, ejected = [], set(), set()
        for server, sums in zip(servers, self._board.server_sums([columns[one] for one in servers]), strict=True):
            responses, requests, failures, _, _, latency_ns, _, _, states = sums
            failures += responses[_5XX]
            before_requests, before_failures = self._before.get((name, server), (requests, failures))
            self._before[name, server] = requests, failures
            if states[_EJECTED]:
                ejected.add(server)
            elif states[_READY]:
                ready.add(server)
                windows.append(Window(server, requests - before_requests, failures - before_failures, latency_ns / 1e9))
        return windows, ready, ejected
