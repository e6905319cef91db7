"""fastroute.integrations.uhashring.HashRing beside the installed uhashring: the same answers to everything, always."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import pickle
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.errors import UsageError
from fastroute.integrations.uhashring import HashRing

theirs = pytest.importorskip("uhashring")

KEYS = [f"key-{n}" for n in range(300)] + [
    "",
    "é",
    "鍵",
    *("k" * n for n in range(1, 50)),
    "k" * 200,
    "\x00",
    7,
    3.5,
    None,
    b"b",
    ("t", 1),
]
OPTIONS = [
    {},
    {"hash_fn": "ketama"},
    {"vnodes": 7},
    {"hash_fn": "ketama", "vnodes": 3},
    {"hash_fn": "ketama", "replicas": 2},
]


def crc(key: object) -> int:
    return zlib.crc32(str(key).encode())


def pair(nodes, **options):
    return HashRing(copy.deepcopy(nodes), **options), theirs.HashRing(copy.deepcopy(nodes), **options)


def agree(ours, other, keys=KEYS) -> None:
    """Every answer of every method is the same."""
    for key in keys:
        assert ours.get_node(key) == other.get_node(key), key
        assert ours.get_node(key) == other.get_node(key), "once more, from the memo"
        assert ours.get_node_pos(key) == other.get_node_pos(key), key
    for key in keys[:20] + keys[-8:]:
        for method in (
            "get", "get_key", "get_node_hostname", "get_node_instance", "get_node_port", "get_node_weight",
            "get_server", "__getitem__", "hashi",
        ):  # fmt: skip
            assert getattr(ours, method)(key) == getattr(other, method)(key), (method, key)
        for distinct in (True, False):
            mine, its = ours.iterate_nodes(key, distinct), other.iterate_nodes(key, distinct)
            assert list(itertools.islice(mine, 50)) == list(itertools.islice(its, 50))
        for size, unique in ((None, True), (2, True), (0, True), (5, False), (1, False)):
            mine, its = ours.range(key, size, unique), other.range(key, size, unique)
            assert list(itertools.islice(mine, 50)) == list(itertools.islice(its, 50))
    assert ours.get_points() == other.get_points()
    assert ours.distribution == other.distribution
    assert (ours.ring, ours.continuum, ours.size) == (other.ring, other.continuum, other.size)
    assert (ours.nodes, ours.conf) == (other.nodes, other.conf)
    assert list(ours.get_nodes()) == list(other.get_nodes())
    assert ours.get_instances() == other.get_instances()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "nodes",
    [
        [],
        "node1",
        ["node1"],
        ["node1", "node2", "node3"],
        ["b", "a", "c"],
        {"node1": 1, "node2": 5, "node3": 2},
        {
            "node1": {"weight": 3, "vnodes": 20, "hostname": "h1", "port": 11211, "instance": "i1"},
            "node2": {"port": 1},
            "n": 1,
        },
        {"node1": {"nodename": "another", "unknown": 1}, "node2": {}},
        [f"10.0.0.{n}:11211" for n in range(60)],
        [1, 2, 3],
        ["schlüssel", "ключ"],
    ],
    ids=lambda nodes: str(nodes)[:30],
)
def test_new_ring_gives_the_same_answers(nodes, options):
    agree(*pair(nodes, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rings_agree_after_additions_changes_and_removals(options):
    ours, other = pair(["a", "b", "c"], **options)
    for ring in (ours, other):
        ring.add_node("d")
        ring.add_node("e", {"weight": 4, "port": 9})
        ring["f"] = {"weight": 2, "vnodes": 11}
        del ring["b"]
        ring.remove_node("c")
        ring.add_node("a", {"weight": 3})
        ring.add_node("d", 2)
        ring["b"] = 1
    agree(ours, other)


@pytest.mark.parametrize("ketama", [False, True])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "set", "remove", "regenerate"]),
            st.text(alphabet="abcdefgh-0é", min_size=1, max_size=3),
            st.one_of(
                st.integers(1, 6),
                st.fixed_dictionaries(
                    {}, optional={"weight": st.integers(1, 5), "vnodes": st.integers(0, 20), "port": st.integers(1, 9)}
                ),
            ),
        ),
        min_size=1,
        max_size=12,
    ),
    keys=st.lists(st.one_of(st.text(max_size=60), st.integers(), st.binary(max_size=5)), min_size=1, max_size=20),
)
@settings(max_examples=120, deadline=None)
def test_any_history_ends_in_the_same_placements(ketama, steps, keys):
    options = {"hash_fn": "ketama"} if ketama else {"vnodes": 12}
    ours, other = pair(["a"], **options)
    for verb, name, conf in steps:
        results = []
        for ring in (ours, other):
            try:
                if verb == "remove":
                    ring.remove_node(name)
                elif verb == "regenerate":
                    ring.regenerate()
                else:
                    ring.add_node(name, copy.deepcopy(conf))
                results.append(None)
            except KeyError as error:
                results.append(str(error))
        assert results[0] == results[1]
        for key in keys:
            assert ours.get_node(key) == other.get_node(key)
        assert ours.distribution == other.distribution
    assert ours.get_points() == other.get_points()
    assert ours.nodes == other.nodes


def test_key_that_hashes_onto_a_point_goes_to_the_next_one_as_there():
    ours, other = pair(["a", "b", "c"])
    for key in (f"{name}-{number}" for name in "abc" for number in range(160)):
        assert ours.get_node(key) == other.get_node(key)
        assert ours.get_server(key) == other.get_server(key)


@pytest.mark.parametrize("ketama", [False, True])
def test_10000_keys_go_to_the_same_nodes(ketama):
    ours, other = pair([f"10.0.{n}.1:8080" for n in range(40)], **({"hash_fn": "ketama"} if ketama else {}))
    for number in range(10_000):
        key = f"session-{number:09d}"
        assert ours.get_node(key) == other.get_node(key)


def test_equal_points_of_a_big_ketama_ring_belong_to_the_same_node():
    nodes = [f"a{number}" for number in range(400)]
    ours, other = pair(nodes, hash_fn="ketama")
    assert len(ours.get_points()) > ours.size, "of these 64,000 points of 32 bits two are equal"
    assert ours.get_points() == other.get_points()
    assert ours.ring == other.ring


def test_weight_function_decides_and_is_asked_again_by_regenerate():
    weights = {"a": 1, "b": 2}

    def weight_fn(**conf):
        return weights[conf["nodename"]]

    for options in ({}, {"hash_fn": "ketama"}):
        ours, other = pair(["a", "b"], weight_fn=weight_fn, **options)
        agree(ours, other)
        weights["a"] = 5
        for ring in (ours, other):
            ring.regenerate()
        agree(ours, other)
        weights["a"] = 1


@pytest.mark.parametrize("hash_fn", [crc, hash, lambda key: len(str(key))])
def test_hash_function_of_ones_own_works(hash_fn):
    ours, other = pair(["a", "b", "c"], hash_fn=hash_fn)
    agree(ours, other)
    for ring in (ours, other):
        ring.add_node("d", 3)
        ring.remove_node("a")
    agree(ours, other)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_empty_ring_gives_none_and_can_be_filled_again(options):
    ours, other = pair(["a"], **options)
    for ring in (ours, other):
        ring.remove_node("a")
    agree(ours, other)
    assert list(ours.iterate_nodes("k")) == [None]
    ours.add_node("b")
    assert ours.get_node("k") == "b"


def test_continuum_is_printed_alike():
    printed = []
    for ring in (*pair(["a", "b"], hash_fn="ketama", vnodes=2), *pair([])):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            ring.print_continuum()
        printed.append(out.getvalue())
    assert printed[0] == printed[1]
    assert printed[2] == printed[3]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((7,), {}, ValueError),
        ((("a", "b"),), {}, ValueError),
        (({"a": "heavy"},), {}, ValueError),
        (({"a": None},), {}, ValueError),
        ((["a"],), {"hash_fn": 5}, TypeError),
        ((["a"],), {"weight_fn": 5}, TypeError),
        (({"a": {"weight": 1.5}},), {}, TypeError),
    ],
)
def test_wrong_arguments_raise_the_same_errors(arguments, options, error):
    for kind in (theirs.HashRing, HashRing):
        with pytest.raises(error):
            kind(*arguments, **options)


def test_unknown_node_cannot_be_removed():
    for ring in pair(["a"]):
        with pytest.raises(KeyError, match="node 'b' not found"):
            del ring["b"]


def test_ring_beyond_the_limits_is_refused_and_stays_as_it_was():
    ring = HashRing(["a", "b"])
    before = {key: ring.get_node(key) for key in KEYS}
    with pytest.raises(UsageError, match="points"):
        ring.add_node("c", {"weight": 10_000_000})
    assert {key: ring.get_node(key) for key in KEYS} == before
    with pytest.raises(UsageError, match="replicas"):
        HashRing(["a"], hash_fn="ketama", replicas=5)


def test_configuration_handed_out_is_the_rings_own_as_there():
    for ring in pair({"a": {"port": 1}}):
        ring.conf["a"]["port"] = 2
        assert ring.get("k")["port"] == 2


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda ring: pickle.loads(pickle.dumps(ring))])
def test_copy_gives_the_same_answers(copier):
    ring = HashRing({"a": 1, "b": 3}, hash_fn="ketama")
    again = copier(ring)
    assert [again.get_node(key) for key in KEYS] == [ring.get_node(key) for key in KEYS]
    again.remove_node("a")
    assert again.get_node("k") == "b"


def test_surrogate_in_a_key_is_refused_as_there():
    for ring in pair(["a"]):
        with pytest.raises(UnicodeEncodeError):
            ring.get_node("\ud800")


def test_more_keys_than_the_memo_holds_stay_right():
    ours, other = pair(["a", "b", "c", "d"], hash_fn="ketama")
    keys = [f"{number:x}" for number in range(12_000)]
    expected = [other.get_node(key) for key in keys]
    for _ in range(2):
        assert [ours.get_node(key) for key in keys] == expected
