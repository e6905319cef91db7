"""Selecting a server by a str key, beside what Python programs use today.

1,000 keys of 24 characters; a round is one pass over all of them, and len(str) in the same loop is the yardstick.
Targets: select <= 2.5 x len() for 2 to 1,000 servers, <= 4 x for 10,000; select_many <= 15, slots_of <= 6 ns per key.
"""

import array
import itertools
from typing import Any

import pytest

from fastroute import Server
from fastroute.routing.pool import Pool

KEYS = [f"session-{number:016d}" for number in range(1000)]
NODES = [f"10.0.{number // 250}.{number % 250}:8080" for number in range(10_000)]


def one_pass(call: Any) -> None:
    for key in KEYS:
        call(key)


def measure(benchmark: Any, call: Any, label: str, ours: bool = True) -> None:
    benchmark.extra_info.update(operations=len(KEYS), label=label, ours=ours)
    one_pass(call)
    benchmark(one_pass, call)


def pool_of(servers: int, policy: str = "hash") -> Pool:
    return Pool("app", [Server(node) for node in NODES[:servers]], policy=policy)


@pytest.mark.benchmark(group="selection", max_time=0.5)
@pytest.mark.parametrize("servers", [100, 2, 10, 1000, 10_000])
def test_select_by_hash(benchmark: Any, servers: int) -> None:
    measure(benchmark, pool_of(servers).select, f"fastroute select, hash, {servers} servers")


@pytest.mark.benchmark(group="selection", max_time=0.5)
@pytest.mark.parametrize("policy", ["round-robin", "random"])
def test_select_in_turn(benchmark: Any, policy: str) -> None:
    measure(benchmark, pool_of(100, policy).select, f"fastroute select, {policy}, 100 servers")


@pytest.mark.benchmark(group="selection", max_time=0.5)
def test_select_many(benchmark: Any) -> None:
    benchmark.extra_info.update(operations=len(KEYS), label="fastroute select_many, hash, 100 servers")
    benchmark(pool_of(100).select_many, KEYS)


@pytest.mark.benchmark(group="selection", max_time=0.5)
def test_slots_of(benchmark: Any) -> None:
    pool = pool_of(100)
    hashes, out = array.array("Q", map(pool.hash, KEYS)), array.array("H", bytes(2 * len(KEYS)))
    benchmark.extra_info.update(operations=len(KEYS), label="fastroute slots_of, 100 servers")
    benchmark(pool.slots_of, hashes, out)


@pytest.mark.benchmark(group="selection", max_time=0.5)
def test_yardstick_len(benchmark: Any) -> None:
    measure(benchmark, len, "len(str), the yardstick", ours=False)


@pytest.mark.benchmark(group="selection", max_time=0.5)
def test_uhashring(benchmark: Any) -> None:
    uhashring = pytest.importorskip("uhashring")
    measure(benchmark, uhashring.HashRing(nodes=NODES[:100]).get_node, "uhashring, 100 servers", ours=False)


@pytest.mark.benchmark(group="uhashring's get_node", max_time=0.5)
@pytest.mark.parametrize("hash_fn", ["ketama", None])
@pytest.mark.parametrize("ours", [True, False])
def test_uhashring_drop_in(benchmark: Any, ours: bool, hash_fn: str | None) -> None:
    module = "fastroute.integrations.uhashring" if ours else "uhashring"
    ring = pytest.importorskip(module).HashRing(NODES[:100], hash_fn=hash_fn)
    measure(benchmark, ring.get_node, f"{module}, {hash_fn or 'default'}, 100 nodes", ours=ours)


@pytest.mark.benchmark(group="uhashring's get_node", max_time=0.5)
def test_uhashring_drop_in_with_keys_never_seen(benchmark: Any) -> None:
    from fastroute.integrations.uhashring import HashRing

    ring, batches = HashRing(NODES[:100], hash_fn="ketama"), itertools.count()

    def fresh() -> tuple[tuple[Any, list[str]], dict[str, Any]]:
        batch = next(batches)
        return (ring.get_node, [f"session-{batch:08d}{number:08d}" for number in range(len(KEYS))]), {}

    def one_batch(call: Any, keys: list[str]) -> None:
        for key in keys:
            call(key)

    benchmark.extra_info.update(operations=len(KEYS), label="the same, ketama, keys never seen", ours=True)
    benchmark.pedantic(one_batch, setup=fresh, rounds=100)


@pytest.mark.benchmark(group="selection", max_time=0.5)
def test_jump_consistent_hash(benchmark: Any) -> None:
    jump, xxhash = pytest.importorskip("jump"), pytest.importorskip("xxhash")
    hash_of, bucket_of = xxhash.xxh64_intdigest, jump.hash

    def get_node(key: str) -> str:
        return NODES[bucket_of(hash_of(key.encode()), 100)]

    measure(benchmark, get_node, "jump-consistent-hash and xxhash, 100 servers", ours=False)


@pytest.mark.benchmark(group="selection", max_time=0.5, min_rounds=2, warmup=False)
def test_pymemcache_rendezvous(benchmark: Any) -> None:
    rendezvous = pytest.importorskip("pymemcache.client.rendezvous")
    benchmark.extra_info.update(operations=50, label="pymemcache RendezvousHash, 100 servers", ours=False)
    hasher = rendezvous.RendezvousHash(nodes=NODES[:100])

    def some() -> None:
        for key in KEYS[:50]:
            hasher.get_node(key)

    benchmark(some)


@pytest.mark.benchmark(group="ring build (ns per cell)", max_time=1.0, min_rounds=2, warmup=False)
@pytest.mark.parametrize(("servers", "cells"), [(100, 131_072), (1000, 1 << 20)])
def test_build_of_the_table_ring(benchmark: Any, servers: int, cells: int) -> None:
    from fastroute._core.ring_table import TableRing

    benchmark.extra_info.update(operations=cells, label=f"table, {servers} servers, {cells} cells")
    benchmark(TableRing, NODES[:servers], [1] * servers, cells=cells)
