"""Who gives bindings and who takes them when a pool is evened out, and how many in a second. Pure.

Not here: which bindings (fastroute.affinity.shift), who asks and when (rebalance).

The rule: a server's fair share is its weight's part of the bindings on ready servers. A server with more than its
share, rounded up, gives what is above; one with less than its share, rounded down, takes what is missing, and in its
slow start no more than its effective weight's part. So nobody takes beyond its share, nobody gives below it, and what
is even stays as it is. Backups, servers of weight 0 and servers that are not ready neither give nor take, and do not
count.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Budget", "Member", "Plan", "plan_of"]


@dataclass(frozen=True, slots=True)
class Member:
    """One server as it is now."""

    name: str
    bindings: int
    weight: int = 1
    weight_effective: float | None = None
    """None: as its weight."""
    ready: bool = True
    backup: bool = False


@dataclass(slots=True)
class Plan:
    """What is still to be given and taken: server -> bindings."""

    gives: dict[str, int] = field(default_factory=dict)
    takes: dict[str, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Moves that are left."""
        return min(sum(self.gives.values()), sum(self.takes.values()))

    def givers(self) -> list[str]:
        """Who has most above its share first."""
        return sorted((name for name, count in self.gives.items() if count > 0), key=lambda name: -self.gives[name])

    def taker(self) -> str | None:
        """Who lacks most."""
        open_to = [name for name, count in self.takes.items() if count > 0]
        return max(open_to, key=lambda name: self.takes[name]) if open_to else None

    def moved(self, giver: str, taker: str) -> None:
        """One binding has moved."""
        self.gives[giver] -= 1
        self.takes[taker] -= 1

    def lost(self, giver: str) -> None:
        """A binding that counted as this server's turned out to be somebody else's."""
        self.gives[giver] -= 1


def plan_of(members: Iterable[Member]) -> Plan:
    """What would make a pool even."""
    counted = [one for one in members if one.ready and not one.backup and one.weight > 0]
    total, weights = sum(one.bindings for one in counted), sum(one.weight for one in counted)
    now = {one.name: one.weight if one.weight_effective is None else one.weight_effective for one in counted}
    weights_now = sum(now.values())
    plan = Plan()
    for one in counted:
        share = total * one.weight / weights
        ramp = total * now[one.name] / weights_now if weights_now > 0 else 0.0
        above, below = one.bindings - math.ceil(share), math.floor(min(share, ramp)) - one.bindings
        if above > 0:
            plan.gives[one.name] = above
        elif below > 0:
            plan.takes[one.name] = below
    return plan


class Budget:
    """At most `per_second` in any second, spread over it.

    Args:
        per_second: 1 or more.
        turn_s: how often it is asked: a turn gets its part of a second's.
    """

    def __init__(self, per_second: int, turn_s: float) -> None:
        self.per_second = per_second
        self._per_turn = max(1, math.ceil(per_second * turn_s))
        self._spent: collections.deque[float] = collections.deque()

    def allowed(self, now_s: float) -> int:
        """How many may follow now."""
        while self._spent and self._spent[0] <= now_s - 1.0:
            self._spent.popleft()
        return min(self._per_turn, self.per_second - len(self._spent))

    def spend(self, now_s: float) -> None:
        """One was made."""
        self._spent.append(now_s)
