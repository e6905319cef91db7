"""What checks make of a server: rise and fall, how soon to ask again, when to back off. Pure: values in, values out.

Status      what the checks of one server came to so far; after() is the next one.
heaviness   whether an answer was slower or larger than a check should be.
wait_s      how long until the next check.
Not here: asking (checks), who asks and who believes (fastroute.fleet.probes), what the pool does (standing).

Rules of this file. The first result decides at once, either way (HAProxy: a server starts with one failure to go);
later `fall` failures in a row take a server down and `rise` successes bring it back. While results contradict the
state, the next check comes after `fast_interval`. An answer that is heavy doubles the wait, up to HEAVY_FACTOR_MAX;
a light one halves it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = [
    "HEAVY_BYTES",
    "HEAVY_FACTOR_MAX",
    "JITTER_RATIO",
    "Flip",
    "Status",
    "after",
    "backed_off",
    "heaviness",
    "wait_s",
]

JITTER_RATIO = 0.1
"""Each wait is drawn from +- 10 % of itself, so that checks of many servers do not stay in step and their rate is kept.
HAProxy's documentation recommends spread-checks 2 to 5 % of 10 s, Envoy's interval_jitter has no default."""

HEAVY_BYTES = 65_536
"""An answer to a check that is longer is no light page any more; bodies are read no further."""

HEAVY_TIME_RATIO = 0.5
"""Of the time limit: an answer that takes longer is slow."""

HEAVY_FACTOR_MAX = 8
"""Longest wait after heavy answers, as a multiple of the interval."""

Flip = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of one server as its checks say.

    Attributes:
        up: None until the first result.
        against: results in a row that contradict `up`.
        heavy_factor: what waits are multiplied by: 1 unless answers were heavy.
    """

    up: bool | None = None
    against: int = 0
    heavy_factor: int = 1

    @property
    def changing(self) -> bool:
        """Did the last result contradict the state?"""
        return self.against > 0


def after(status: Status, ok: bool, *, rise: int, fall: int) -> tuple[Status, Flip | None]:
    """The status after one more result, and the flip it makes.

    Args:
        rise, fall: results in a row that a flip takes, at least 1.
    """
    if status.up is None:
        return replace(status, up=ok, against=0), "up" if ok else "down"
    if ok == status.up:
        return (replace(status, against=0) if status.against else status), None
    against = status.against + 1
    if against >= (rise if ok else fall):
        return replace(status, up=ok, against=0), "up" if ok else "down"
    return replace(status, against=against), None


def heaviness(seconds: float, size_bytes: int, timeout_s: float) -> str | None:
    """Why an answer is heavier than a check should be; None when it is not."""
    if size_bytes > HEAVY_BYTES:
        return f"the answer has more than {HEAVY_BYTES // 1024} KiB"
    if seconds > timeout_s * HEAVY_TIME_RATIO:
        return f"the answer took {seconds * 1000:.0f} ms of {timeout_s * 1000:.0f} ms"
    return None


def backed_off(status: Status, heavy: bool) -> Status:
    """The status after an answer that was heavy, or was not."""
    factor = min(status.heavy_factor * 2, HEAVY_FACTOR_MAX) if heavy else max(status.heavy_factor // 2, 1)
    return status if factor == status.heavy_factor else replace(status, heavy_factor=factor)


def wait_s(status: Status, *, interval_s: float, fast_interval_s: float, draw: float) -> float:
    """Seconds until the next check.

    Args:
        interval_s: as configured. fast_interval_s: while the state may be about to change; 0: the same.
        draw: a random number 0..1.
    """
    base_s = fast_interval_s if status.changing and fast_interval_s else interval_s
    return base_s * status.heavy_factor * (1 + JITTER_RATIO * (2 * draw - 1))
