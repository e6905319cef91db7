"""Homes of keys over the nodes of a store, and over the old list and the new one while it is changed."""

from __future__ import annotations

import collections

import pytest

from fastroute._core.mc_meta import HOMES_MAX, home_of, homes_of, seed_of
from fastroute.clock import ManualClock
from fastroute.errors import UsageError
from fastroute.memcache.placement import Placement

NODES = [f"10.0.0.{n}:11211" for n in range(1, 6)]
KEYS = [b"fr:a:app:%022d" % n for n in range(2000)]


def homes(placement: Placement, key: bytes) -> list[str]:
    return [placement.names[index] for index in placement.homes_of(key)]


def test_homes_are_the_nodes_by_falling_score_and_the_first_is_home_of():
    seeds = tuple(seed_of(node) for node in NODES)
    for key in KEYS[:200]:
        alone = [home_of(key, seeds)]
        while len(alone) < len(seeds):  # the next home is the home without those before it
            rest = [n for n in range(len(seeds)) if n not in alone]
            alone.append(rest[home_of(key, tuple(seeds[n] for n in rest))])
        for count in (1, 2, 3, 5):
            assert list(homes_of(key, seeds, count)) == alone[:count]
        assert list(homes_of(key, seeds, HOMES_MAX)) == alone


def test_homes_do_not_depend_on_the_order_of_the_list_and_spread_evenly():
    one, other = Placement(NODES, copies=2), Placement(NODES[::-1], copies=2)
    assert all(homes(one, key) == homes(other, key) for key in KEYS)
    for rank in (0, 1):
        shares = collections.Counter(homes(one, key)[rank] for key in KEYS)
        assert all(300 < count < 500 for count in shares.values())


def test_a_node_that_leaves_hands_its_keys_to_their_second_homes():
    five, four = Placement(NODES, copies=2), Placement(NODES[:4], copies=1)
    for key in KEYS:
        first, second = homes(five, key)
        assert homes(four, key) == [second if first == NODES[4] else first]


def test_old_order_decides_and_new_homes_follow_for_the_grace_window():
    clock = ManualClock()
    change = Placement(NODES[:4], copies=2, previous_nodes=NODES[1:], grace="1h", clock=clock)
    old, new = Placement(NODES[1:], copies=2), Placement(NODES[:4], copies=2)
    assert change.names == (*NODES[:4], NODES[4])
    for key in KEYS[:300]:
        expected = homes(old, key)
        assert homes(change, key) == expected + [name for name in homes(new, key) if name not in expected]
    clock.advance(3600)
    assert not change.in_grace
    assert all(homes(change, key) == homes(new, key) for key in KEYS[:300])


def test_a_list_that_did_not_change_has_no_grace_window():
    assert not Placement(NODES, previous_nodes=NODES[::-1]).in_grace
    assert not Placement(NODES[:2], previous_nodes=NODES, grace=0).in_grace


@pytest.mark.parametrize(
    "options",
    [
        {"copies": 0},
        {"copies": 4},
        {"copies": True},
        {"copies": "2"},
        {"grace": "61d"},
        {"previous_nodes": ["nonsense"]},
    ],
)
def test_placement_that_cannot_be_is_refused(options):
    with pytest.raises(UsageError):
        Placement(NODES, **options)
    with pytest.raises(UsageError):
        Placement(NODES[:1], copies=2)


@pytest.mark.parametrize("count", [0, -1, HOMES_MAX + 1])
def test_number_of_homes_out_of_range_is_refused(count):
    with pytest.raises(UsageError):
        homes_of(b"k", (1, 2), count)
