"""`uhashring` beside the package uhashring: both of its rings, points and placements."""

from __future__ import annotations

from typing import Any

import pytest

from fastroute._core.ring_uhashring import UhashringRing

uhashring = pytest.importorskip("uhashring", reason="uhashring is not installed: pip install uhashring")

NAMES = ["10.0.0.1:8080", "[::1]:8080", "app.example:80", "node", "knoten-ü"]
WEIGHTS = [1, 2, 3, 7, 100]
KEYS = [f"key-{i}" for i in range(3000)] + ["", "k" * 10_000, "schlüssel", "鍵", "node-3", "10.0.0.1:8080-0"]
HASHES = pytest.mark.parametrize("hash", ["default", "ketama"])


def theirs(nodes: dict[str, int], hash: str, **options: Any) -> Any:
    return uhashring.HashRing(nodes=dict(nodes), hash_fn="ketama" if hash == "ketama" else None, **options)


def ours(nodes: dict[str, int], hash: str, **options: Any) -> UhashringRing:
    return UhashringRing(list(nodes), list(nodes.values()), hash=hash, **options)


def agree(nodes: dict[str, int], hash: str, **options: Any) -> bool:
    names, left, right = list(nodes), ours(nodes, hash, **options), theirs(nodes, hash, **options)
    return [names[left.pick(key)] for key in KEYS] == [right.get_node(key) for key in KEYS]


@HASHES
@pytest.mark.parametrize("weights", [[1] * 5, WEIGHTS], ids=["equal", "1,2,3,7,100"])
def test_every_key_has_the_same_node(hash: str, weights: list[int]) -> None:
    assert agree(dict(zip(NAMES, weights, strict=True)), hash)


@HASHES
def test_every_point_is_the_same(hash: str) -> None:
    nodes = dict(zip(NAMES, WEIGHTS, strict=True))
    shift = 64 if hash == "default" else 0
    expected = [(point >> shift, name) for point, name in theirs(nodes, hash).get_points()]
    assert [(point, NAMES[slot]) for point, slot in ours(nodes, hash).points()] == sorted(set(expected))


@HASHES
def test_other_vnodes_agree(hash: str) -> None:
    assert agree(dict(zip(NAMES, [1] * 5, strict=True)), hash, vnodes=7)


@HASHES
def test_fallbacks_are_in_the_order_of_its_range(hash: str) -> None:
    nodes = dict(zip(NAMES, WEIGHTS, strict=True))
    left, right = ours(nodes, hash), theirs(nodes, hash)
    for key in KEYS[:200] + KEYS[-6:]:
        expected = [node["nodename"] for node in right.range(key)]
        assert [NAMES[slot] for slot in left.candidates(key, 5)] == expected


@HASHES
def test_removal_and_return_agree(hash: str) -> None:
    nodes = dict(zip(NAMES, WEIGHTS, strict=True))
    right = theirs(nodes, hash)
    right.remove_node("node")
    left = {name: weight for name, weight in nodes.items() if name != "node"}
    made, names = ours(left, hash), list(left)
    assert [names[made.pick(key)] for key in KEYS] == [right.get_node(key) for key in KEYS]
    assert agree(nodes, hash)
