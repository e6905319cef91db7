"""Round robin: nginx's sequence, whatever the weights, however many workers, with and without sticky charges."""

import collections
import ctypes
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute import Server
from fastroute.routing.pool import Pool
from tests.support.policy_oracles import Smooth

WEIGHTS = st.lists(
    st.one_of(st.integers(1, 5), st.integers(1, 65535), st.sampled_from([65535, 65534, 32768, 1])),
    min_size=1,
    max_size=12,
)


def named(weights: list[int]) -> dict[str, int]:
    return {f"s{place:04}": weight for place, weight in enumerate(weights)}


def pool_of(weights: dict[str, int], **options) -> Pool:
    return Pool("app", [Server("10.0.0.1:80", name=name, weight=weight) for name, weight in weights.items()], **options)


class Cursor:
    """A stand-in for the zone: one cursor for every pool that asks."""

    def __init__(self, start: int = 0):
        self.cursor = ctypes.c_uint64(start)

    def cursor_address(self, fleet: str, pool: str) -> int:
        return ctypes.addressof(self.cursor)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS)
def test_the_sequence_is_nginx_s_whatever_the_weights(weights):
    pool, oracle = pool_of(named(weights)), Smooth(named(weights))
    assert [pool.select().name for _ in range(400)] == [oracle.pick() for _ in range(400)]


def test_the_sequence_of_many_servers_with_large_weights_is_nginx_s():
    draw = random.Random(7)
    weights = named([draw.randint(1, 65535) for _ in range(300)])
    pool, oracle = pool_of(weights), Smooth(weights)
    assert [pool.select().name for _ in range(3000)] == [oracle.pick() for _ in range(3000)]


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.randoms(use_true_random=False))
def test_workers_of_one_zone_continue_one_sequence_with_large_weights(weights, turns):
    zone, oracle = Cursor(), Smooth(named(weights))
    workers = [pool_of(named(weights), zone=zone) for _ in range(3)]
    assert [turns.choice(workers).select().name for _ in range(300)] == [oracle.pick() for _ in range(300)]


def test_a_worker_that_was_idle_for_long_keeps_the_shares():
    weights = {"a": 65535, "b": 32768, "c": 4001, "d": 1}
    zone = Cursor(10**9)
    counts = collections.Counter(pool_of(weights, zone=zone).select().name for _ in range(1))
    pool = pool_of(weights, zone=zone)
    counts.update(pool.select().name for _ in range(50_000))
    for name, weight in weights.items():
        assert counts[name] == pytest.approx(50_001 * weight / sum(weights.values()), abs=2.5)


def test_a_walked_sequence_repeats_after_its_period():
    weights = {"a": 65521, "b": 32749}  # primes: their sum is the period, too long to precompute
    pool = pool_of(weights)
    first = [pool.select().name for _ in range(98270)]
    assert collections.Counter(first) == weights
    assert [pool.select().name for _ in range(98270)] == first


@settings(max_examples=80, deadline=None)
@given(WEIGHTS, st.lists(st.one_of(st.none(), st.integers(0, 11)), max_size=200))
def test_charged_sticky_requests_move_the_sequence_as_in_nginx(weights, events):
    pool, oracle = pool_of(named(weights), charge_sticky=True), Smooth(named(weights))
    for sticky in events:
        if sticky is None:
            assert pool.select().name == oracle.pick()
        else:
            name = f"s{sticky % len(weights):04}"
            pool.charge_slot(pool.slot_of(name))
            oracle.sticky(name)


def test_sticky_requests_are_not_charged_by_default():
    pool = pool_of({"a": 1, "b": 1})
    for _ in range(5):
        pool.charge_slot(pool.slot_of("a"))
    assert [pool.select().name for _ in range(4)] == ["a", "b", "a", "b"]


def test_one_user_s_many_requests_do_not_starve_its_server():
    pool = pool_of({"a": 1, "b": 1, "c": 1}, charge_sticky=True)
    for _ in range(1000):
        pool.charge_slot(pool.slot_of("a"))
    assert collections.Counter(pool.select().name for _ in range(30))["a"] >= 9
