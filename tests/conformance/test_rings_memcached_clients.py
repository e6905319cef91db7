"""`ketama` and `ketama-spy` beside libmemcached: through pylibmc to stand-in servers, and by asking the library itself.

The library's own answer (memcached_generate_hash) needs no network, so that hosts, ports and weights can be any.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import pathlib
from typing import Any

import pytest

from fastroute.model import Server
from fastroute.routing.dialects import build_ring
from tests.support.products import Upstreams

KEYS = [f"key-{i}".encode() for i in range(3000)] + [b"k", b"k" * 240, "schlüssel".encode(), "鍵".encode()]
WEIGHTS = [1, 2, 3, 7, 100]
HOSTS = ["10.0.0.1:11211", "10.0.0.2:11212", "[2001:db8::7]:11211", "[::1]:11300", "cache.example:11211"]

# memcached_behavior_t and its values, libmemcached's constants.h.
HASH, KETAMA, DISTRIBUTION, KETAMA_WEIGHTED = 2, 3, 9, 16
CONSISTENT, CONSISTENT_SPY = 1, 4
MD5, FNV1A_32 = 1, 6


@functools.cache
def _library() -> Any:
    found = importlib.util.find_spec("_pylibmc")
    paths: list[str] = []
    if found and found.origin:
        paths += [str(path) for path in pathlib.Path(found.origin).parent.glob("pylibmc.libs/libmemcached-*")]
    if found is not None:
        __import__("_pylibmc")  # loads what the bundled library needs
    system = ctypes.util.find_library("memcached")
    for path in [*paths, *([system] if system else [])]:
        library = ctypes.CDLL(path)
        library.memcached_create.restype = ctypes.c_void_p
        library.memcached_generate_hash.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
        library.memcached_server_add_with_weight.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint16,
            ctypes.c_uint32,
        )
        library.memcached_server_add_unix_socket_with_weight.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint32,
        )
        library.memcached_behavior_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
        library.memcached_free.argtypes = (ctypes.c_void_p,)
        return library
    return None


def theirs(rows: list[Server], behaviors: list[tuple[int, int]]) -> list[int]:
    library = _library()
    if library is None:
        pytest.skip("libmemcached is not here: pip install pylibmc, or apt-get install libmemcached11")
    client = library.memcached_create(None)
    try:
        for behavior, value in behaviors:
            assert library.memcached_behavior_set(client, behavior, value) == 0
        for row in rows:
            if row.address.startswith("unix:"):
                library.memcached_server_add_unix_socket_with_weight(client, row.address[5:].encode(), row.weight)
            else:
                host, port = row.address.rsplit(":", 1)
                library.memcached_server_add_with_weight(client, host.strip("[]").encode(), int(port), row.weight)
        return [library.memcached_generate_hash(client, key, len(key)) for key in KEYS]
    finally:
        library.memcached_free(client)


def ours(name: str, rows: list[Server], **options: object) -> list[int]:
    ring = build_ring(name, rows, **options)  # type: ignore[arg-type]
    return [ring.pick(key) for key in KEYS]


def servers(weights: list[int], hosts: list[str] = HOSTS) -> list[Server]:
    return [Server(host, weight=weight) for host, weight in zip(hosts, weights, strict=True)]


CASES = {
    "weighted": ("ketama", [(KETAMA_WEIGHTED, 1)], {"weighted": True}),
    "ketama": ("ketama", [(KETAMA, 1)], {"hash": "default"}),
    "ketama-md5": ("ketama", [(KETAMA, 1), (HASH, MD5)], {}),
    "consistent": ("ketama", [(DISTRIBUTION, CONSISTENT)], {"hash": "default"}),
    "consistent-md5": ("ketama", [(DISTRIBUTION, CONSISTENT), (HASH, MD5)], {}),
    "consistent-fnv1a": ("ketama", [(DISTRIBUTION, CONSISTENT), (HASH, FNV1A_32)], {"hash": "fnv1a_32"}),
    "spy": ("ketama-spy", [(KETAMA_WEIGHTED, 1), (DISTRIBUTION, CONSISTENT_SPY)], {}),
    "spy-unweighted": ("ketama-spy", [(DISTRIBUTION, CONSISTENT_SPY), (HASH, MD5)], {"weighted": None}),
}


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize(
    "weights", [[1] * 5, WEIGHTS, [600, 300, 200, 350, 1000]], ids=["equal", "1,2,3,7,100", "hundreds"]
)
def test_every_key_has_the_same_server_as_in_libmemcached(case: str, weights: list[int]) -> None:
    name, behaviors, options = CASES[case]
    assert ours(name, servers(weights), **options) == theirs(servers(weights), behaviors)


@pytest.mark.parametrize("count", [2, 3, 6, 7, 10, 49, 100])
def test_the_rounding_of_points_agrees_for_any_number_of_servers(count: int) -> None:
    """160 points each, or fewer where single precision rounds down: 1/count x count is below 1 for some counts."""
    rows = servers([1] * count, [f"10.0.0.{i}:11211" for i in range(count)])
    assert ours("ketama", rows, weighted=True) == theirs(rows, [(KETAMA_WEIGHTED, 1)])


def test_sockets_agree() -> None:
    rows = [Server("unix:/run/memcached/a.sock"), Server("unix:/run/memcached/b.sock"), Server("10.0.0.1:11211")]
    assert ours("ketama", rows, weighted=True) == theirs(rows, [(KETAMA_WEIGHTED, 1)])


def test_removal_and_return_agree() -> None:
    rows = servers(WEIGHTS)
    left = rows[:2] + rows[3:]
    assert ours("ketama", left) == theirs(left, [(KETAMA_WEIGHTED, 1)])
    assert ours("ketama", rows) == theirs(rows, [(KETAMA_WEIGHTED, 1)])


@pytest.mark.parametrize("weights", [[1] * 4, [1, 2, 7, 100]], ids=["equal", "1,2,7,100"])
def test_pylibmc_sends_every_key_to_the_same_server(weights: list[int]) -> None:
    pylibmc = pytest.importorskip("pylibmc", reason="pylibmc is not installed: pip install pylibmc")
    with Upstreams([(f"127.0.0.{i}", 0) for i in range(2, 6)]) as upstreams:
        named = [f"{name}:{weight}" for name, weight in zip(upstreams.names, weights, strict=True)]
        client = pylibmc.Client(named, behaviors={"ketama_weighted": True})
        found = [client.get(key.decode()) for key in KEYS[:600]]
        client.disconnect_all()
        rows = servers(weights, upstreams.names)
        assert found == [rows[slot].address for slot in ours("ketama", rows, weighted=True)[:600]]
