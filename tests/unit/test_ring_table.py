"""The `table` ring: equal to its definition, deterministic, complete, refusing what it cannot hold."""

import array
import hashlib

import pytest

from fastroute._core.ring_table import BLOCK_CELLS, CELLS_MAX, TableRing, gap
from fastroute.errors import UsageError
from tests.support import selection_oracles as oracles


def named(ring: TableRing, names: list[str]) -> list[tuple[str, ...]]:
    return [tuple(names[slot] for slot in ring.choices(cell)) for cell in range(ring.cells)]


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1},
        {"a": 1, "b": 1},
        {"a": 1, "b": 2, "c": 3},
        {"a": 1, "b": 1, "c": 1, "d": 1},
        {"a": 7, "b": 0, "c": 100, "d": 1, "e": 2},
        {f"10.0.0.{i}:80": 1 + i % 3 for i in range(30)},
        {"a": 1000, "b": 1, "c": 1, "d": 1},
        {"a": 65535, "b": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("cells", [16, 100, 256])
def test_table_equals_the_reference(weights, cells):
    ring = TableRing(weights, weights.values(), cells=cells)
    assert named(ring, list(weights)) == oracles.race(weights, cells)


def test_a_table_of_several_blocks_equals_the_reference():
    weights = {f"10.0.0.{i}:80": 1 + i % 3 for i in range(8)}
    ring = TableRing(weights, weights.values(), cells=BLOCK_CELLS + 77)
    assert named(ring, list(weights)) == oracles.race(weights, BLOCK_CELLS + 77, BLOCK_CELLS)


def test_gap_equals_the_reference_of_whole_numbers():
    for low in (0, 1, 2, 3, 1000, 2**31 - 1, 2**31, 2**31 + 12345, 2**32 - 2, 2**32 - 1, *range(7, 2**32, 33554467)):
        assert gap(low) == oracles.gap(low)


def test_table_is_the_same_on_every_platform():
    ring = TableRing([f"web-{i}" for i in range(10)], range(1, 11), cells=4096)
    digest = hashlib.sha256(b"".join(ring.column(rank) for rank in (0, 1, 2))).hexdigest()
    assert digest == "0ccf32ef05c6e7ce7eb5cff2c2135c2a22b28921f8f0377964d7264e4465c34c"


@pytest.mark.parametrize("servers", [1, 2, 3, 4, 50, 300])
def test_every_cell_lists_three_distinct_servers_or_all(servers):
    ring = TableRing([f"s{i}" for i in range(servers)], [1] * servers, cells=2000)
    for cell in range(2000):
        listed = ring.choices(cell)
        assert len(set(listed)) == len(listed) == min(3, servers)


def test_slots_are_labels():
    names = [f"s{i}" for i in range(9)]
    plain = TableRing(names, [1] * 9, cells=512)
    labelled = TableRing(names, [1] * 9, [100 + 7 * i for i in range(9)], cells=512)
    for cell in range(512):
        assert labelled.choices(cell) == tuple(100 + 7 * slot for slot in plain.choices(cell))


def test_a_server_of_weight_zero_is_listed_nowhere():
    ring = TableRing(["a", "b", "c"], [1, 0, 1], cells=512)
    assert ring.server_count == 2
    assert {slot for cell in range(512) for slot in ring.choices(cell)} == {0, 2}


def test_a_ring_without_servers_lists_nothing():
    ring = TableRing([], [], cells=16)
    assert (ring.server_count, ring.choices(0), ring.column(0)) == (0, (), b"")


@pytest.mark.parametrize("servers", [10, 100])
def test_shares_follow_the_weights_as_closely_as_chance_allows(servers):
    weights = [1 + i % 4 for i in range(servers)]
    ring = TableRing([f"10.1.0.{i}:80" for i in range(servers)], weights)
    cells_of = [0] * servers
    for slot in array.array("H", ring.column(0)):
        cells_of[slot] += 1
    for weight, found in zip(weights, cells_of, strict=True):
        share = weight / sum(weights)
        deviation = (131072 * share * (1 - share)) ** 0.5
        assert abs(found - 131072 * share) < 5 * deviation


def test_cells_left_out_are_empty_and_the_others_as_in_the_whole_table():
    names, cells = [f"s{i}" for i in range(20)], 1000
    only = bytes(cell % 7 == 0 for cell in range(cells))
    whole, part = TableRing(names, [1] * 20, cells=cells), TableRing(names, [1] * 20, cells=cells, only=only)
    for cell in range(cells):
        assert part.choices(cell) == (whole.choices(cell) if only[cell] else ())


def test_ranking_holds_every_server_once():
    ring = TableRing([f"s{i}" for i in range(20)], [1] * 20, cells=64)
    for cell in range(64):
        assert sorted(ring.ranking(cell)) == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((["a", "a"], [1, 1]), {}, "all different"),
        ((["a", "b"], [1, 1], [3, 3]), {}, "all different"),
        ((["a", "b"], [1]), {}, "2 keys, 1 weights"),
        ((["a"], [-1]), {}, "weight -1"),
        ((["a"], [65536]), {}, "weight 65536"),
        ((["a"], [1], [65535]), {}, "accepted are 0 to 65534"),
        ((["a"], [1], [-1]), {}, "accepted are 0 to 65534"),
        ((["a"], [1]), {"cells": 15}, "from 16"),
        ((["a"], [1]), {"cells": CELLS_MAX + 1}, "from 16"),
        ((["a"], [1]), {"cells": 16, "only": b"1"}, "one byte per cell"),
    ],
)
def test_what_a_ring_cannot_hold_is_refused(arguments, keywords, message):
    with pytest.raises(UsageError, match=message):
        TableRing(*arguments, **keywords)


@pytest.mark.parametrize("cell", [-1, 16, 1.5, "1"])
def test_a_cell_outside_the_table_is_refused(cell):
    with pytest.raises(UsageError, match="cell"):
        TableRing(["a"], [1], cells=16).choices(cell)
