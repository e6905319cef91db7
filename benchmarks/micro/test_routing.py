"""Near affinity hit through `route_nowait`: the cost of a sticky decision that shared memory already knows.

Warm: 1,000 keys over and over, in a zone that holds 1 M bindings. Random: all keys in random order, so that each costs
its cache misses; the fingerprint alone over the same keys is the yardstick (its misses are those of the key objects).
"""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from fastroute import Affinity, Memcached, Pool, Router, Server, Zone
from fastroute._core.zone_push import PushBoard
from fastroute.affinity.push import store_digest

BINDINGS = 1_000_000
WARM = 1_000
SEED = 20261122


@pytest.fixture(scope="module")
def million():
    """A router over a zone with a million bindings, and their keys."""
    draw = random.Random(SEED)
    keys = [b"%024x" % draw.getrandbits(96) for _ in range(BINDINGS)]
    pool = Pool("bench", [Server(f"10.0.0.{n}:80", name=f"web-{n}") for n in range(1, 11)])
    zone = Zone(None, size="64MiB")
    affinity = Affinity(zone=zone)
    router = Router(pool, affinity=affinity, key="cookie:sid")
    view = next(iter(affinity._binders))
    for number, key in enumerate(keys):
        view.claim(view.fingerprint(key), number % 10, number + 1, 1)
    assert all(view.lookup(view.fingerprint(key)) is not None for key in keys[::997])
    yield router, view, keys
    asyncio.run(affinity.aclose())
    zone.close()


def each(call, keys):
    for key in keys:
        call(key)


def run(benchmark, group, label, call, keys, *, ours=True):
    benchmark.group = group
    benchmark.extra_info.update(operations=len(keys), label=label, ours=ours)
    benchmark.pedantic(each, (call, keys), rounds=9, warmup_rounds=1)


def test_near_hit_of_warm_keys(benchmark, million):
    router, _, keys = million
    run(
        benchmark,
        "near affinity hit, 1,000 warm keys of 24 bytes",
        "Router.route_nowait",
        router.route_nowait,
        keys[:WARM],
    )


def test_len_of_the_same_keys(benchmark, million):
    _, _, keys = million
    run(
        benchmark,
        "near affinity hit, 1,000 warm keys of 24 bytes",
        "len(key), the loop's own cost",
        len,
        keys[:WARM],
        ours=False,
    )


def test_near_hit_of_random_keys(benchmark, million):
    router, _, keys = million
    shuffled = random.Random(SEED).sample(keys, len(keys))
    run(benchmark, "near affinity hit, random keys out of 1 M", "Router.route_nowait", router.route_nowait, shuffled)


def test_fingerprint_of_random_keys(benchmark, million):
    _, view, keys = million
    shuffled = random.Random(SEED).sample(keys, len(keys))
    run(
        benchmark,
        "near affinity hit, random keys out of 1 M",
        "the fingerprint alone",
        view.fingerprint,
        shuffled,
        ours=False,
    )


@pytest.fixture(scope="module")
def watched():
    """A router over entries whose near_ttl has passed and which a push channel watches."""
    store = Memcached(["127.0.0.1:1"])  # never asked
    pool = Pool("bench", [Server(f"10.0.0.{n}:80", name=f"web-{n}") for n in range(1, 11)])
    zone = Zone(None, size="64MiB")
    affinity = Affinity(store, zone=zone, near_ttl="1ms")
    router = Router(pool, affinity=affinity, key="cookie:sid")
    view = affinity.views[0]
    board = PushBoard(affinity.table, store_digest(store), 1)
    now_ms = time.monotonic_ns() // 1_000_000
    board.lease()
    board.serve()
    board.lose()
    view.set_manual_ms(now_ms + 1_000)
    board.set_manual_ms(now_ms + 1_000)
    board.extend(now_ms + 3_600_000)
    draw = random.Random(SEED)
    keys = [b"%024x" % draw.getrandbits(96) for _ in range(WARM)]
    view.expect(view.guard())
    for number, key in enumerate(keys):
        view.learn(view.fingerprint(key), number % 10, number + 1, 1)
    view.expect(None)
    view.set_manual_ms(0)
    while router.route_nowait(keys[0]) is None or time.monotonic_ns() // 1_000_000 < now_ms + 1_500:
        time.sleep(0.05)
    assert all(router.route_nowait(key) is not None for key in keys)
    yield router, keys
    asyncio.run(affinity.aclose())
    zone.close()


def test_near_hit_of_warm_keys_that_a_push_channel_watches(benchmark, watched):
    router, keys = watched
    run(
        benchmark,
        "near affinity hit, 1,000 warm keys of 24 bytes",
        "Router.route_nowait, watched by the push channel",
        router.route_nowait,
        keys,
    )
