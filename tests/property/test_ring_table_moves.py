"""What a change of the set of servers moves in the `table` ring: that server's own share and nothing else."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core.ring_table import TableRing

CELLS = 512
WEIGHTS = st.one_of(st.integers(1, 4), st.integers(0, 100), st.sampled_from([1000, 65535]))
SETS = st.dictionaries(st.text("abcdefgh0123.:-", min_size=1, max_size=12), WEIGHTS, min_size=1, max_size=12)


def table(weights: dict[str, int]) -> list[tuple[str, ...]]:
    names = list(weights)
    ring = TableRing(names, [weights[name] for name in names], cells=CELLS)
    return [tuple(names[slot] for slot in ring.choices(cell)) for cell in range(CELLS)]


@given(SETS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_list_does_not_matter(weights, shuffler: random.Random):
    names = list(weights)
    shuffler.shuffle(names)
    assert table({name: weights[name] for name in names}) == table(weights)


@given(SETS, st.data())
@settings(max_examples=100, deadline=None)
def test_removing_a_server_moves_only_its_cells(weights, data):
    gone = data.draw(st.sampled_from(sorted(weights)))
    before, after = table(weights), table({name: weight for name, weight in weights.items() if name != gone})
    for old, new in zip(before, after, strict=True):
        kept = tuple(name for name in old if name != gone)
        assert new[: len(kept)] == kept, "a server other than the removed one lost a place"


@given(SETS, WEIGHTS)
@settings(max_examples=100, deadline=None)
def test_adding_a_server_moves_cells_only_to_it(weights, weight):
    before, after = table(weights), table({**weights, "new": weight})
    for old, new in zip(before, after, strict=True):
        others = tuple(name for name in new if name != "new")
        assert others == old[: len(others)]


@given(SETS, st.data())
@settings(max_examples=100, deadline=None)
def test_raising_a_weight_only_gains_cells(weights, data):
    name = data.draw(st.sampled_from(sorted(weights)))
    heavier = data.draw(st.integers(weights[name], 65535))
    before, after = table(weights), table({**weights, name: heavier})
    for old, new in zip(before, after, strict=True):
        assert [other for other in new if other != name] == [other for other in old if other != name][
            : len(new) - (name in new)
        ]
        if name in old:
            assert new.index(name) <= old.index(name)


@given(SETS)
@settings(max_examples=50, deadline=None)
def test_the_next_choice_is_the_choice_of_the_others(weights):
    before = table(weights)
    for first in {listed[0] for listed in before if listed}:
        without = table({name: weight for name, weight in weights.items() if name != first})
        for old, new in zip(before, without, strict=True):
            if old[:1] == (first,):
                assert new[:1] == old[1:2]
