"""Picking by every ring dialect through a pool, and building it: 10, 1,000 and 10,000 servers of equal weight.

1,000 keys of 24 characters; a round is one pass over all of them; uhashring itself is the rival.
"""

import pytest

from benchmarks.micro.test_selection import NODES, measure
from fastroute import Server
from fastroute.routing.dialects import DIALECTS, build_ring
from fastroute.routing.pool import Pool


@pytest.mark.parametrize("servers", [10, 1000, 10_000])
@pytest.mark.parametrize("ring", sorted(DIALECTS))
def test_pick(benchmark, ring, servers):
    pool = Pool("bench", [Server(node) for node in NODES[:servers]], policy="hash", ring=ring)
    measure(benchmark, pool.select, f"select, {ring}, {servers} servers")


@pytest.mark.parametrize("servers", [10, 1000])
@pytest.mark.parametrize("ring", sorted(DIALECTS))
def test_build(benchmark, ring, servers):
    rows = [Server(node) for node in NODES[:servers]]
    benchmark.extra_info.update(operations=1, label=f"build, {ring}, {servers} servers", ours=True)
    benchmark(build_ring, ring, rows)


@pytest.mark.parametrize("hash_fn", [None, "ketama"])
def test_uhashring(benchmark, hash_fn):
    uhashring = pytest.importorskip("uhashring")
    ring = uhashring.HashRing(nodes=NODES[:10], hash_fn=hash_fn)
    measure(benchmark, ring.get_node, f"uhashring get_node, {hash_fn or 'default'}, 10 servers", ours=False)
