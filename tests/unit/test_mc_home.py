"""The home of a key: which of the nodes holds it, beside a reference of one line."""

from __future__ import annotations

import xxhash

from fastroute._core import mc_meta

NODES = ("10.0.0.5:11211", "10.0.0.6:11211", "10.0.0.7:11211", "unix:/run/m")


def reference_home(key: bytes, names: tuple[str, ...]) -> str:
    return max(names, key=lambda name: xxhash.xxh64_intdigest(key, xxhash.xxh64_intdigest(name.encode())))


def home(key: str | bytes, names: tuple[str, ...]) -> str:
    return names[mc_meta.home_of(key, tuple(mc_meta.seed_of(name) for name in names))]


def test_the_home_is_the_node_of_the_highest_hash() -> None:
    for n in range(500):
        assert home(f"key:{n}", NODES) == reference_home(f"key:{n}".encode(), NODES)


def test_the_home_does_not_depend_on_the_order_of_nodes_or_on_the_type_of_the_key() -> None:
    for n in range(500):
        assert home(f"key:{n}", NODES) == home(f"key:{n}".encode(), tuple(reversed(NODES)))


def test_a_node_that_leaves_moves_only_its_own_keys_and_shares_are_even() -> None:
    counts = dict.fromkeys(NODES, 0)
    for n in range(4000):
        before, after = home(f"key:{n}", NODES), home(f"key:{n}", NODES[1:])
        counts[before] += 1
        assert before == after or before == NODES[0]
    assert all(850 < count < 1150 for count in counts.values()), counts
