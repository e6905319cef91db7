"""Time as an argument: what decides by time takes a Clock, so that a test can hold it still.

Monotonic seconds decide everything on one machine; wall-clock seconds only stamp what leaves it (cookies, records).
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM", "Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What the control plane asks for the time."""

    def monotonic_s(self) -> float:
        """Seconds that never go back, the same for all processes of this machine."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970, as the machine believes."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()


class ManualClock:
    """A clock for tests: stands still until it is moved."""

    def __init__(self, monotonic_s: float = 1_000_000.0, wall_s: float = 1_800_000_000.0) -> None:
        self._monotonic_s, self._wall_s = monotonic_s, wall_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def wall_s(self) -> float:
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._monotonic_s += seconds
        self._wall_s += seconds


SYSTEM: Clock = SystemClock()
