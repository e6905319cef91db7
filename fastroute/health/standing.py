"""Standing: the one state of each server in a process, out of everything that has a say in it.

Who has a say: an operator's order; checks (down, joining, restarted); this process's own connects (refused); outlier
ejection here and by the keeper; contents that differ. Each sets and takes back its own mark and knows nothing of the
others; the strongest decides:

    order maintenance or draining > joining (maintenance) > checks, refused (down) > outlier, ejected (ejected)
    > keep-bound (draining) > ready

Not here: when marks come and go (proxy.forward, proxy.seat, fastroute.fleet.probes).
Rules of this file: state_of is pure; a mark on a server that is not in the pool is remembered and changes nothing, so
that marks and changes of membership may come in any order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from fastroute._core.pool import Pool
from fastroute.health.verdict import Verdict

__all__ = ["Mark", "Standing", "state_of"]

Mark = Literal["joining", "checks", "refused", "outlier", "ejected", "keep-bound"]

_STATE_OF: tuple[tuple[str, str], ...] = (
    ("joining", "maintenance"),
    ("checks", "down"),
    ("refused", "down"),
    ("outlier", "ejected"),
    ("ejected", "ejected"),
    ("keep-bound", "draining"),
)


def state_of(order: str | None, marks: Collection[str]) -> str:
    """A server's state.

    Args:
        order: an operator's: "draining", "maintenance", or None.
        marks: of health.
    """
    if order is not None:
        return order
    return next((state for mark, state in _STATE_OF if mark in marks), "ready")


class Standing:
    """The states of one pool's servers in this process.

    Args:
        pool: whose states nobody else sets.
        ramps: does the pool have a slow start?
    """

    def __init__(self, pool: Pool, *, ramps: bool = False) -> None:
        self.pool, self._ramps = pool, ramps
        self._orders: dict[str, str] = {}
        self._marks: dict[str, set[str]] = {}
        self._restarts: dict[str, int] = {}

    def order(self, name: str, state: str | None) -> None:
        """What an operator ordered; None takes it back."""
        if state is None or state == "ready":
            self._orders.pop(name, None)
        else:
            self._orders[name] = state
        self.settle(name)

    def mark(self, name: str, mark: Mark, on: bool) -> None:
        """Set a mark or take it back."""
        marks = self._marks.setdefault(name, set())
        if (mark in marks) != on:
            (marks.add if on else marks.discard)(mark)
            if not marks:
                del self._marks[name]
            self.settle(name)
        elif not marks:
            del self._marks[name]

    def has(self, name: str, mark: Mark) -> bool:
        """Is it set?"""
        return mark in self._marks.get(name, ())

    def count(self, mark: Mark) -> int:
        """How many servers have it."""
        return sum(mark in marks for marks in self._marks.values())

    def judge(self, name: str, verdict: Verdict) -> None:
        """What the keeper says."""
        before = self._restarts.get(name)
        self._restarts[name] = verdict.restarts
        ready = self._state(name) == "ready"
        self.mark(name, "joining", verdict.joining)
        self.mark(name, "checks", verdict.down)
        self.mark(name, "ejected", verdict.ejected)
        self.mark(name, "keep-bound", verdict.keep_bound)
        if before is not None and before != verdict.restarts and ready and self._state(name) == "ready":
            self.ramp(name)

    def ramp(self, name: str) -> None:
        """The server has restarted though nobody saw it down: its slow start begins."""
        if self._ramps and self._state(name) == "ready":
            self.pool.set_state(name, "down")  # what begins a ramp; nothing is picked in between
            self.pool.set_state(name, "ready")

    def settle(self, name: str) -> None:
        """Bring a server's state in the pool up to date."""
        state = self._state(name)
        if state is not None:
            wanted = state_of(self._orders.get(name), self._marks.get(name, ()))
            if wanted != state:
                self.pool.set_state(name, wanted)

    def settle_all(self) -> None:
        """Bring all of them up to date, after a change of membership."""
        for server in self.pool.servers:
            self.settle(server.name)

    def _state(self, name: str) -> str | None:
        return self.pool.state_of(name) if self.pool.slot_of(name) >= 0 else None
