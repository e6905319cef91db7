"""A `table` ring made from another one is, to the bit, the ring that a whole build makes."""

import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core.ring_table import BLOCK_CELLS, TableRing

CELLS = 2 * BLOCK_CELLS + 100
Rows = dict[str, tuple[int, int]]
"""Key -> weight, slot."""


def columns(ring: TableRing) -> list[bytes]:
    return [ring.column(rank) for rank in (0, 1, 2)]


def built(rows: Rows, cells: int = CELLS) -> TableRing:
    return TableRing(rows, [row[0] for row in rows.values()], [row[1] for row in rows.values()], cells=cells)


def changed(ring: TableRing, rows: Rows) -> TableRing:
    return ring.changed(rows, [row[0] for row in rows.values()], [row[1] for row in rows.values()])


def step(rows: Rows, chance: random.Random, weights: list[int]) -> Rows:
    """Another set: a server gone, come, come into the slot of one that goes, or of another weight."""
    after, kind = dict(rows), chance.choice(["leave", "join", "weigh", "weigh", "replace", "drain"])
    if not rows:
        kind = "join"
    name = chance.choice(sorted(rows) or [""])
    if kind in ("leave", "replace"):
        del after[name]
    if kind == "replace":
        after[f"new-{chance.randrange(10**6)}"] = (chance.choice(weights), rows[name][1])
    if kind == "join":
        free = min(set(range(len(rows) + 1)) - {slot for _, slot in rows.values()})
        after[chance.choice(["web-3", "web-7", f"new-{chance.randrange(10**6)}"])] = (chance.choice(weights), free)
        if len({slot for _, slot in after.values()}) < len(after):
            return rows
    if kind == "weigh":
        after[name] = (chance.choice(weights), rows[name][1])
    if kind == "drain":
        after[name] = (0, rows[name][1])
    return after


def walk(seed: int, servers: int, steps: int, weights: list[int], cells: int = CELLS) -> tuple[int, int]:
    """Random changes, each compared with the whole build: how many were derived, how many cells were raced again."""
    chance = random.Random(seed)
    rows = {f"web-{i}": (chance.choice(weights), i) for i in range(servers)}
    ring, derived, raced_again = built(rows, cells), 0, 0
    for _ in range(steps):
        rows = step(rows, chance, weights)
        ring = changed(ring, rows)
        assert columns(ring) == columns(built(rows, cells)), f"seed {seed}"
        derived += ring.derived
        raced_again += ring.raced_again
    return derived, raced_again


@given(st.integers(0, 2**32), st.integers(2, 40), st.sampled_from([[1], [1, 2, 3], [0, 1, 100], [1, 65535]]))
@settings(max_examples=40, deadline=None)
def test_every_change_gives_the_ring_of_a_whole_build(seed, servers, weights):
    walk(seed, servers, 12, weights)


def test_a_long_walk_is_mostly_derived_and_races_cells_again():
    derived, raced_again = walk(7, 60, 150, [1, 2, 3])
    assert derived > 120
    assert raced_again > 20


def test_equal_times_are_settled_by_the_key():
    """Weights so large that times have few digits: many are equal."""
    assert walk(11, 400, 25, [65535, 65534], cells=16)[0] > 15


def test_a_ring_from_which_one_was_made_stays_as_it_was_and_makes_another():
    rows = {f"web-{i}": (1, i) for i in range(50)}
    ring = built(rows)
    before, fewer = columns(ring), {name: row for name, row in rows.items() if name != "web-4"}
    first, second = changed(ring, fewer), changed(ring, fewer)
    assert (first.derived, second.derived) == (True, False)
    assert columns(first) == columns(second) == columns(built(fewer))
    assert columns(ring) == before


def test_servers_gone_one_by_one_and_back_give_the_first_ring_again():
    rows = {f"web-{i}": (1 + i % 2, i) for i in range(40)}
    ring = built(rows)
    before, left = columns(ring), dict(rows)
    for name in list(rows)[:20]:
        del left[name]
        ring = changed(ring, left)
    assert columns(ring) == columns(built(left))
    for name in list(rows)[:20]:
        left[name] = rows[name]
        ring = changed(ring, left)
    assert columns(ring) == before


def test_a_ring_made_from_one_without_records_is_built_whole():
    rows = {f"web-{i}": (1, i) for i in range(50)}
    ring = TableRing(rows, [1] * 50, cells=CELLS, keep=False)
    fewer = {name: row for name, row in rows.items() if name != "web-4"}
    made = changed(ring, fewer)
    assert not made.derived
    assert columns(made) == columns(built(fewer))


def test_rings_made_from_one_ring_by_several_threads_are_right():
    rows = {f"web-{i}": (1, i) for i in range(50)}
    ring, made = built(rows), {}
    sets = [{name: row for name, row in rows.items() if name != f"web-{gone}"} for gone in range(4)]
    threads = [threading.Thread(target=lambda i=i: made.update({i: changed(ring, sets[i])})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, rows_of in enumerate(sets):
        assert columns(made[i]) == columns(built(rows_of))
    assert sum(one.derived for one in made.values()) == 1
