"""The hasher in pymemcache's HashClient over three real memcached, one of them killed and started again."""

from __future__ import annotations

import contextlib

import pytest

from fastroute.errors import UsageError
from fastroute.integrations.pymemcache import Hasher, hasher
from fastroute.model import Server
from fastroute.routing.dialects import DIALECTS, build_ring
from tests.support.memcached import Memcached

hash_client = pytest.importorskip("pymemcache.client.hash")
MemcacheServerError = pytest.importorskip("pymemcache.exceptions").MemcacheServerError

RINGS = ["table", *DIALECTS]
KEYS = [f"key-{number}" for number in range(300)]
NODES = ["10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11212"]


@pytest.fixture(scope="module")
def stores():
    with Memcached() as one, Memcached() as two, Memcached() as three:
        yield [one, two, three]


@contextlib.contextmanager
def client(stores, kind, **options):
    made = hash_client.HashClient(
        [("127.0.0.1", store.port) for store in stores],
        hasher=kind,
        connect_timeout=20,
        timeout=20,
        default_noreply=False,
        **options,
    )
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("ring", RINGS)
def test_str_and_bytes_of_one_key_go_to_one_node(ring):
    made = hasher(ring)(NODES)
    assert [made.get_node(key) for key in KEYS] == [made.get_node(key.encode()) for key in KEYS]
    assert {made.get_node(key) for key in KEYS} == set(NODES)


@pytest.mark.parametrize("ring", RINGS)
def test_node_that_leaves_and_returns_gets_its_keys_back(ring):
    made = hasher(ring)()
    for node in NODES:
        made.add_node(node)
    before = {key: made.get_node(key) for key in KEYS}
    made.remove_node(NODES[0])
    assert NODES[0] not in {made.get_node(key) for key in KEYS}
    made.add_node(NODES[0])
    assert {key: made.get_node(key) for key in KEYS} == before


@pytest.mark.parametrize("ring", ["ketama", "nginx", "maglev"])
def test_dialect_sends_keys_where_the_product_does(ring):
    made, servers = hasher(ring)(NODES), [Server(node) for node in NODES]
    expected = build_ring(ring, servers)
    assert [made.get_node(key) for key in KEYS] == [NODES[expected.pick(key)] for key in KEYS]


def test_weights_by_node_shift_the_shares():
    heavy = hasher("ketama", weights={NODES[0]: 8})(NODES)
    shares = [sum(heavy.get_node(key) == node for key in KEYS) for node in NODES]
    assert shares[0] > 2 * (shares[1] + shares[2])


def test_names_as_hash_client_makes_them_are_understood():
    names = ["127.0.0.1:11211", "::1:11211", "/run/memcached.sock", "unix:/run/other.sock", "cache.example:1"]
    for ring in RINGS:
        made = hasher(ring)(names)
        assert {made.get_node(key) for key in KEYS} == set(names), ring


def test_hasher_without_nodes_has_none_and_refuses_what_it_cannot_place():
    made = Hasher()
    assert made.get_node("k") is None
    with pytest.raises(UsageError, match="not one of none"):
        made.remove_node("a:1")
    with pytest.raises(UsageError, match="empty"):
        made.get_node("")
    made.add_node("a:1")
    made.add_node("a:1")
    assert made.nodes == ["a:1"]
    with pytest.raises(UsageError):
        made.get_node(7)


def test_unknown_ring_and_option_are_refused_when_the_class_is_made():
    with pytest.raises(UsageError, match="ketama"):
        hasher("katama")
    with pytest.raises(UsageError, match="option"):
        hasher("ketama", points=7)


@pytest.mark.parametrize("ring", ["table", "ketama", "rendezvous"])
def test_values_are_found_again_by_str_and_bytes_and_lie_where_the_hasher_says(stores, ring):
    with client(stores, hasher(ring)) as fleet:
        for key in KEYS[:60]:
            assert fleet.set(key, b"v-" + key.encode())
        for key in KEYS[:60]:
            assert fleet.get(key.encode()) == b"v-" + key.encode()
            node = fleet.hasher.get_node(key)
            store = next(one for one in stores if node == f"127.0.0.1:{one.port}")
            assert b"v-" + key.encode() in store.command(f"get {key}", end=b"END\r\n")


@pytest.mark.parametrize("ring", ["table", "ketama"])
def test_with_safe_settings_a_dead_node_raises_and_no_key_moves(ring):
    with Memcached() as one, Memcached() as two, Memcached() as three:
        stores = [one, two, three]
        with client(stores, hasher(ring), retry_attempts=1 << 30, retry_timeout=0, ignore_exc=False) as fleet:
            for key in KEYS[:90]:
                fleet.set(key, b"v")
            before = {key: fleet.hasher.get_node(key) for key in KEYS}
            two.kill()
            dead = f"127.0.0.1:{two.port}"
            for key in KEYS[:90]:
                if before[key] == dead:
                    with pytest.raises((OSError, MemcacheServerError)):  # refused, reset, or cut off in the first place
                        fleet.get(key)
                else:
                    assert fleet.get(key) == b"v"
            assert {key: fleet.hasher.get_node(key) for key in KEYS} == before
            two.start()
            assert all(fleet.set(key, b"w") for key in KEYS[:90])


@pytest.mark.parametrize("ring", ["table", "ketama"])
def test_with_default_settings_a_dead_nodes_keys_move_and_the_others_stay(ring):
    with Memcached() as one, Memcached() as two, Memcached() as three:
        stores = [one, two, three]
        with client(stores, hasher(ring), retry_attempts=0, dead_timeout=0, ignore_exc=True) as fleet:
            before = {key: fleet.hasher.get_node(key) for key in KEYS}
            two.kill()
            dead = f"127.0.0.1:{two.port}"
            victim = next(key for key in KEYS if before[key] == dead)
            fleet.get(victim)
            assert dead not in fleet.hasher.nodes
            after = {key: fleet.hasher.get_node(key) for key in KEYS}
            moved = [key for key in KEYS if before[key] != after[key]]
            if ring == "table":
                assert all(before[key] == dead for key in moved)
            assert all(after[key] != dead for key in KEYS)
            two.start()
            fleet._last_dead_check_time = 0
            fleet.get(victim)
            assert {key: fleet.hasher.get_node(key) for key in KEYS} == before
