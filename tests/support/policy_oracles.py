"""Small Python references for the policies: slow, obvious, independent of the compiled ones."""

import math
from fractions import Fraction


class Smooth:
    """nginx's smooth weighted round robin with its sticky charge (1.29.6)."""

    def __init__(self, weights: dict[str, int]):
        self.weights = dict(sorted((name, weight) for name, weight in weights.items() if weight))
        self.current = dict.fromkeys(self.weights, 0)
        self.total = sum(self.weights.values())

    def _add(self) -> None:
        for name, weight in self.weights.items():
            self.current[name] += weight

    def pick(self) -> str:
        self._add()
        best = max(self.weights, key=self.current.__getitem__)  # the first of equals
        self.current[best] -= self.total
        return best

    def sticky(self, name: str) -> None:
        if self.current[name] > -(self.total - self.weights[name]):
            self._add()
            self.current[name] -= self.total


def least(in_flight: dict[str, int], weights: dict[str, int]) -> set[str]:
    """Who may be picked: the least in flight by weight."""
    loads = {name: Fraction(in_flight[name], weights[name]) for name in in_flight if weights[name]}
    return {name for name, load in loads.items() if load == min(loads.values())}


def haproxy_slots(weights: list[int], total: int, factor_percent: int) -> list[int]:
    """HAProxy's chash_server_is_eligible: what each server may have in flight, `total` being what all have."""
    slots, cumulative, weight_sum = [], 0, sum(weights)
    tot_slots = ((total + 1) * factor_percent + 99) // 100
    per_weight, remainder = divmod(tot_slots, weight_sum)
    for weight in weights:
        own = weight * per_weight
        own += (cumulative + weight) * remainder // weight_sum - cumulative * remainder // weight_sum
        slots.append(max(own, 1))
        cumulative += weight
    return slots


class PeakEwma:
    """Finagle's cost metric of one server, times in milliseconds."""

    TAU_MS = 10_000.0

    def __init__(self) -> None:
        self.average, self.at = 0.0, None

    def observe(self, now: int, rtt: float) -> None:
        if self.at is None or rtt > self.average:
            self.average = rtt
        else:
            keep = math.exp(-(now - self.at) / self.TAU_MS)
            self.average = self.average * keep + rtt * (1 - keep)
        self.at = now

    def load(self, now: int, pending: int) -> float:
        if self.at is None:
            return 2.0**47 - 1 + pending if pending else 0.0
        return self.average * math.exp(-(now - self.at) / self.TAU_MS) * (pending + 1)
