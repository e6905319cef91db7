"""Picks of each policy at 10, 100 and 1,000 servers, with equal and unequal weights, and what counting in a zone costs.

Keys, loop and yardstick are those of test_selection.py. Large weights: round robin walks nginx's sequence instead of
reading a table of it; least-connections compares fractions instead of numbers.
"""

from typing import Any

import pytest

from benchmarks.micro.test_selection import KEYS, NODES, measure
from fastroute import Pool, Server, Zone

POLICIES = ["round-robin", "least-connections", "two-choices", "peak-ewma", "prequal", "random"]


def pool_of(count: int, policy: str, large: bool = False, **options: Any) -> Pool:
    servers = [Server(node, weight=1 + 61 * place % 65535 if large else 1) for place, node in enumerate(NODES[:count])]
    return Pool("app", servers, policy=policy, **options)


@pytest.mark.benchmark(group="policies: select, equal weights", max_time=0.3)
@pytest.mark.parametrize("count", [10, 100, 1000])
@pytest.mark.parametrize("policy", POLICIES)
def test_select(benchmark: Any, policy: str, count: int) -> None:
    measure(benchmark, pool_of(count, policy).select, f"{policy}, {count} servers")


@pytest.mark.benchmark(group="policies: select, large weights", max_time=0.3)
@pytest.mark.parametrize("count", [10, 100, 1000])
@pytest.mark.parametrize("policy", POLICIES)
def test_select_with_large_weights(benchmark: Any, policy: str, count: int) -> None:
    measure(benchmark, pool_of(count, policy, True).select, f"{policy}, {count} servers")


@pytest.mark.benchmark(group="policies: select, equal weights", max_time=0.3)
def test_yardstick_len(benchmark: Any) -> None:
    measure(benchmark, len, "len(str), the yardstick", ours=False)


@pytest.mark.benchmark(group="policies: hash with max_load 1.25", max_time=0.3)
@pytest.mark.parametrize("count", [10, 100, 1000])
def test_bounded_hash(benchmark: Any, count: int) -> None:
    measure(benchmark, pool_of(count, "hash", max_load=1.25).select, f"hash, max_load 1.25, {count} servers")


@pytest.mark.benchmark(group="policies: least-connections over a zone's processes", max_time=0.3)
@pytest.mark.parametrize("count", [10, 100, 1000])
def test_least_connections_in_a_zone(benchmark: Any, count: int) -> None:
    with Zone(None, "64MiB") as zone:
        measure(benchmark, pool_of(count, "least-connections", zone=zone).select, f"1 process, {count} servers")


@pytest.mark.benchmark(group="policies: a request counted in and out", max_time=0.3)
@pytest.mark.parametrize("policy", ["round-robin", "least-connections", "peak-ewma", "prequal"])
def test_request(benchmark: Any, policy: str) -> None:
    pool = pool_of(100, policy)

    def some() -> None:
        for key in KEYS:
            with pool.request(key):
                pass

    benchmark.extra_info.update(operations=len(KEYS), label=f"with pool.request(key), {policy}, 100 servers", ours=True)
    benchmark(some)
