"""What is simulated. Each function is pure in its arguments and the seed, and returns plain data.

tail          latency per policy under heavy-tailed work on servers of unequal and changing speed (Prequal's table)
restart       a server that comes back under least connections, with and without slow start
bounded_load  the load of each server under `hash` with max_load and keys of unequal popularity
"""

from __future__ import annotations

import math
import random
from typing import Any

from benchmarks.simulate.engine import Events, SimulatedServer
from benchmarks.simulate.fleet import Fleet

WORK_MS = 20.0
WORK_SIGMA = 1.0
"""Log-normal work: mean 20 ms, the 99th percentile at 6 times the mean."""

SLOW_SHARE, SLOW_SPEED, PHASE_MS = 0.15, 0.4, 4000.0
"""Antagonists: at any time 15 % of the servers run at 0.4 of their speed, for 4 s on average; the others go faster."""

POLICIES = ("round-robin", "random", "least-connections", "two-choices", "peak-ewma", "prequal", "prequal, probes")
"""With "prequal" the only probes are responses; with "prequal, probes" the active ones of the paper are sent too."""


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted `values` lie."""
    return values[min(len(values) - 1, int(share * len(values)))]


def heavy_tailed_ms(chance: random.Random) -> float:
    """Work of one request."""
    return WORK_MS * math.exp(chance.gauss(0.0, WORK_SIGMA) - WORK_SIGMA**2 / 2)


def _poisson(events: Events, chance: random.Random, per_ms: float, until_ms: float, arrive: Any) -> None:
    def next_one() -> None:
        arrive()
        if events.now_ms < until_ms:
            events.at(events.now_ms + chance.expovariate(per_ms), next_one)

    events.at(chance.expovariate(per_ms), next_one)


def _antagonise(events: Events, chance: random.Random, server: SimulatedServer, slow: bool) -> None:
    """Alternate between the two speeds, so that the average is 1."""
    fast = (1 - SLOW_SHARE * SLOW_SPEED) / (1 - SLOW_SHARE)
    server.set_speed(SLOW_SPEED if slow else fast)
    mean_ms = PHASE_MS if slow else PHASE_MS * (1 - SLOW_SHARE) / SLOW_SHARE
    events.at(events.now_ms + chance.expovariate(1 / mean_ms), lambda: _antagonise(events, chance, server, not slow))


def tail(
    policy: str,
    load: float,
    *,
    servers: int = 20,
    replicas: int = 4,
    requests: int = 20_000,
    seed: int = 1,
    cores: float = 2.0,
) -> dict[str, Any]:
    """Latency of a policy at a load (share of the servers' capacity); the first fifth is not counted."""
    events, chance = Events(), random.Random(seed)
    machines = [SimulatedServer(events, f"s{i:03d}", cores=cores) for i in range(servers)]
    for i, machine in enumerate(machines):
        _antagonise(events, chance, machine, i < SLOW_SHARE * servers)
    name, _, probes = policy.partition(", ")
    fleet = Fleet(events, machines, name, replicas=replicas, seed=seed, probes=bool(probes))
    latencies: list[float] = []
    timeouts = rif_max = 0
    per_ms = load * servers * cores / WORK_MS
    until_ms = requests / per_ms
    work = random.Random(seed + 1)

    def arrive() -> None:
        began_ms = events.now_ms

        def done(latency_ms: float, served: bool) -> None:
            nonlocal timeouts
            if began_ms >= until_ms / 5:
                latencies.append(latency_ms)
                timeouts += not served

        fleet.request(heavy_tailed_ms(work), done)

    def watch() -> None:
        nonlocal rif_max
        rif_max = max(rif_max, *(machine.in_flight for machine in machines))
        events.at(events.now_ms + 50, watch)

    events.at(until_ms / 5, watch)
    _poisson(events, chance, per_ms, until_ms, arrive)
    events.run(until_ms + fleet.timeout_ms + 1)
    latencies.sort()
    return {
        "policy": policy,
        "load": load,
        "replicas": replicas,
        "servers": servers,
        "requests": len(latencies),
        "p50_ms": round(percentile(latencies, 0.5), 1),
        "p90_ms": round(percentile(latencies, 0.9), 1),
        "p99_ms": round(percentile(latencies, 0.99), 1),
        "timeouts_ratio": round(timeouts / len(latencies), 5),
        "in_flight_max": rif_max,
    }


def restart(
    *,
    slow_start: bool = True,
    policy: str = "least-connections",
    replicas: int = 4,
    servers: int = 10,
    load: float = 0.6,
    window_s: float = 5.0,
    bin_s: float = 0.5,
    seed: int = 1,
) -> dict[str, Any]:
    """One server goes and comes back after 2 s: per bin of time its picks beside what its ramp allows.

    Servers have 100 processors and requests take 100 ms, so that some 60 are in flight on each: a server that comes
    back with none is what least connections would send everything to.
    """
    events, chance, work = Events(), random.Random(seed), random.Random(seed + 1)
    machines = [SimulatedServer(events, f"s{i:03d}", cores=100.0) for i in range(servers)]
    options = {"slow_start": {"window": window_s, "aggression": 1.0, "min_weight": 0.1}} if slow_start else {}
    fleet = Fleet(events, machines, policy, replicas=replicas, seed=seed, **options)
    down_ms, back_ms = 1000.0, 3000.0
    end_ms = back_ms + window_s * 1000 + 2000
    bins = round((end_ms - back_ms) / 1000 / bin_s)
    picks, its = [0] * bins, [0] * bins

    def count(name: str) -> None:
        at = int((events.now_ms - back_ms) / 1000 // bin_s)
        if 0 <= at < bins:
            picks[at] += 1
            its[at] += name == "s004"

    fleet.on_pick = count
    per_ms = load * (servers - 1) * 100 / 100.0
    scale = 100.0 / WORK_MS

    def arrive() -> None:
        fleet.request(scale * heavy_tailed_ms(work), lambda _ms, _served: None)

    _poisson(events, chance, per_ms, end_ms, arrive)
    events.at(down_ms, lambda: fleet.set_state("s004", "down"))
    events.at(back_ms, lambda: fleet.set_state("s004", "ready"))
    events.run(end_ms)
    rows = []
    for i in range(bins):
        ramp = min(1.0, max(0.1, (i + 1) * bin_s / window_s))  # at the end of the bin
        share = ramp / (servers - 1 + ramp)
        rows.append(
            {
                "second": (i + 0.5) * bin_s,
                "picks": its[i],
                "allowed": round(picks[i] * share, 1),
                "share_of_fair": round(its[i] / picks[i] * servers, 4),
                "ramp_of_fair": round(share * servers, 4),
            }
        )
    return {"policy": policy, "slow_start": slow_start, "replicas": replicas, "window_s": window_s, "bins": rows}


def bounded_load(
    max_load: float | None,
    *,
    servers: int = 20,
    keys: int = 2000,
    requests: int = 20_000,
    load: float = 0.6,
    seed: int = 1,
    floor: int = 4,
) -> dict[str, Any]:
    """`hash` with a bound: the largest load over the average, as the bound counts it (with the request that comes)."""
    events, chance = Events(), random.Random(seed)
    machines = [SimulatedServer(events, f"s{i:03d}", cores=64.0) for i in range(servers)]
    options = {"max_load": max_load, "max_load_floor": floor} if max_load else {}
    fleet = Fleet(events, machines, "hash", replicas=1, seed=seed, **options)
    per_ms = load * servers * 64 / WORK_MS
    until_ms = requests / per_ms
    popularity = [1 / (rank + 1) ** 0.9 for rank in range(keys)]
    names = [f"key-{rank}" for rank in range(keys)]
    draw = random.Random(seed + 2)
    drawn = iter(draw.choices(names, popularity, k=requests * 2))
    work = random.Random(seed + 1)
    worst, over, homes, kept, counted, samples = 0.0, 0, {}, 0, 0, []
    key = ""

    def picked(name: str) -> None:
        nonlocal worst, over, kept, counted
        total = sum(machine.in_flight for machine in machines) + 1
        mine = fleet.servers[name].in_flight + 1
        counted += 1
        kept += homes.setdefault(key, name) == name
        if total >= 16 * servers:  # below, whole requests are coarse beside the average
            worst = max(worst, mine * servers / total)
        if max_load:
            over += mine > max(floor, math.ceil(max_load * total / servers))
        if counted % 20 == 0:
            samples.append(round(max(machine.in_flight for machine in machines) * servers / total, 3))

    fleet.on_pick = picked

    def arrive() -> None:
        nonlocal key
        key = next(drawn)
        fleet.request(heavy_tailed_ms(work), lambda _ms, _served: None, key)

    _poisson(events, chance, per_ms, until_ms, arrive)
    events.run(until_ms)
    return {
        "max_load": max_load or 0,
        "requests": counted,
        "largest_over_average": round(worst, 3),
        "picks_over_the_bound": over,
        "first_home_share": round(kept / counted, 4),
        "samples": samples,
    }
