"""`haproxy` and `haproxy-map` beside HAProxy itself, over one HAProxy with a backend per case."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator

import pytest

from fastroute.model import Server
from fastroute.routing.dialects import build_ring
from tests.support.memcached import free_port
from tests.support.products import Product, Upstreams, has_ipv6, keys_of_all_kinds

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt-get install haproxy")
# balance hdr() takes a header's first value: a comma ends the key there, before any hashing.
KEYS = [key for key in keys_of_all_kinds(700) if b"," not in key]
WEIGHTS = [1, 2, 3, 7, 100]
HASHES = {
    "sdbm": ("hash-type consistent sdbm", "haproxy", {"function": "sdbm"}),
    "djb2": ("hash-type consistent djb2 avalanche", "haproxy", {"function": "djb2", "avalanche": True}),
    "wt6": ("hash-type consistent wt6", "haproxy", {"function": "wt6"}),
    "crc32": ("hash-type consistent crc32 avalanche", "haproxy", {"function": "crc32", "avalanche": True}),
    "map-djb2": ("hash-type map-based djb2", "haproxy-map", {"function": "djb2"}),
    "map-wt6": ("hash-type map-based wt6 avalanche", "haproxy-map", {"function": "wt6", "avalanche": True}),
    "map-crc32": ("hash-type map-based crc32", "haproxy-map", {"function": "crc32"}),
}


class Bench:
    """One HAProxy in front of five upstreams, IPv6 among them where there is any, and a port nobody listens on."""

    def __init__(self, product: Product, names: list[str], closed: str) -> None:
        self.product, self.names, self.closed = product, names, closed


def _backend(name: str, kind: str, rows: list[str], more: str = "") -> str:
    lines = "\n".join(f"  server s{i} {row}" for i, row in enumerate(rows))
    return f"backend {name}\n  balance hdr(X-Key)\n  {kind}\n  {more}\n{lines}\n"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert HAPROXY is not None
    folder: pathlib.Path = tmp_path_factory.mktemp("haproxy")
    with Upstreams(
        [(f"127.0.0.{i}", 0) for i in range(2, 6)] + [("::1" if has_ipv6() else "127.0.0.6", 0)]
    ) as upstreams:
        names = upstreams.names
        closed = f"127.0.0.1:{free_port()}"
        rows = [name.replace("[", "ipv6@[") if name[0] == "[" else name for name in names]
        weighted = [f"{row} weight {w}" for row, w in zip(rows, WEIGHTS, strict=True)]
        consistent, mapped = "hash-type consistent", "hash-type map-based"
        blocks = [
            _backend("equal", consistent, rows),
            _backend("weighted", consistent, weighted),
            _backend("ids", consistent, [f"{row} id {i * 1000 + 7}" for i, row in enumerate(rows)]),
            _backend("someids", consistent, [f"{row} {'id 2' if i == 0 else ''}" for i, row in enumerate(rows)]),
            _backend(
                "down", consistent, [f"{row} {'disabled' if i in (1, 4) else ''}" for i, row in enumerate(weighted)]
            ),
            _backend("removed", consistent, weighted[:1] + weighted[2:]),
            _backend("redispatch", consistent, [closed, *rows], "retries 1\n  option redispatch 1"),
            _backend("map", mapped, rows),
            _backend("map-weighted", mapped, weighted),
            _backend(
                "map-divisor", mapped, [f"{row} weight {w}" for row, w in zip(rows, (20, 40, 60, 20, 100), strict=True)]
            ),
            _backend(
                "map-down", mapped, [f"{row} {'disabled' if i in (1, 4) else ''}" for i, row in enumerate(weighted)]
            ),
            *[_backend(name, kind, weighted) for name, (kind, _, _) in HASHES.items()],
        ]
        port = free_port()
        uses = "\n".join(
            f"  use_backend {name} if {{ path /{name} }}" for name in (block.split()[1] for block in blocks)
        )
        config = folder / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 200\n  nbthread 1\n"
            "defaults\n  mode http\n  timeout connect 2s\n  timeout client 20s\n  timeout server 20s\n"
            "  http-reuse always\n  option accept-invalid-http-request\n"
            f"frontend web\n  bind 127.0.0.1:{port}\n{uses}\n" + "\n".join(blocks)
        )
        with Product([HAPROXY, "-db", "-f", str(config)], port, folder / "log") as product:
            yield Bench(product, names, closed)


def servers(names: list[str], weights: list[int] | None = None, ids: list[int | None] | None = None) -> list[Server]:
    weights, ids = weights or [1] * len(names), ids or [None] * len(names)
    return [Server(name, weight=weight, id=id) for name, weight, id in zip(names, weights, ids, strict=True)]


def ours(rows: list[Server], ring: str = "haproxy", **options: object) -> list[str]:
    made = build_ring(ring, rows, **options)  # type: ignore[arg-type]
    return [rows[made.pick(key)].address for key in KEYS]


def test_equal_weights_agree_with_haproxy(bench: Bench) -> None:
    assert bench.product.answers("/equal", KEYS) == ours(servers(bench.names))


def test_weights_1_2_3_7_100_agree_with_haproxy(bench: Bench) -> None:
    assert bench.product.answers("/weighted", KEYS) == ours(servers(bench.names, WEIGHTS))


def test_ids_agree_with_haproxy_and_replace_positions(bench: Bench) -> None:
    rows = servers(bench.names, ids=[i * 1000 + 7 for i in range(5)])
    assert bench.product.answers("/ids", KEYS) == ours(rows) == ours(rows[::-1])


def test_ids_left_out_are_numbered_as_haproxy_does(bench: Bench) -> None:
    rows = servers(bench.names, ids=[2, None, None, None, None])
    assert bench.product.answers("/someids", KEYS) == ours(rows)


def test_servers_out_of_the_ring_leave_their_keys_to_the_nearest_as_in_haproxy(bench: Bench) -> None:
    rows = servers(bench.names, WEIGHTS)
    ring = build_ring("haproxy", rows)
    found = [rows[ring.candidates_of_hash(ring.hash(key), 1, allowed=[0, 2, 3])[0]].address for key in KEYS]
    assert bench.product.answers("/down", KEYS) == found


def test_removing_a_server_renumbers_those_behind_it_as_in_haproxy(bench: Bench) -> None:
    left = servers(bench.names[:1] + bench.names[2:], WEIGHTS[:1] + WEIGHTS[2:])
    assert bench.product.answers("/removed", KEYS) == ours(left)


def test_a_retry_elsewhere_goes_to_the_second_candidate_as_in_haproxy(bench: Bench) -> None:
    rows = servers([bench.closed, *bench.names])
    ring = build_ring("haproxy", rows)
    keys = [key for key in KEYS if ring.pick(key) == 0][:60]
    assert len(keys) == 60
    expected = [rows[ring.candidates(key, 2)[1]].address for key in keys]
    assert bench.product.answers("/redispatch", keys) == expected


def test_map_with_equal_weights_agrees_with_haproxy(bench: Bench) -> None:
    assert bench.product.answers("/map", KEYS) == ours(servers(bench.names), "haproxy-map")


def test_map_with_weights_agrees_with_haproxy(bench: Bench) -> None:
    assert bench.product.answers("/map-weighted", KEYS) == ours(servers(bench.names, WEIGHTS), "haproxy-map")
    divisible = servers(bench.names, [20, 40, 60, 20, 100])
    assert bench.product.answers("/map-divisor", KEYS) == ours(divisible, "haproxy-map")


def test_map_over_the_servers_that_are_up_agrees_with_haproxy(bench: Bench) -> None:
    left = [row for i, row in enumerate(servers(bench.names, WEIGHTS)) if i not in (1, 4)]
    assert bench.product.answers("/map-down", KEYS) == ours(left, "haproxy-map")


@pytest.mark.parametrize("name", sorted(HASHES))
def test_hash_functions_agree_with_haproxy(bench: Bench, name: str) -> None:
    _, ring, options = HASHES[name]
    assert bench.product.answers("/" + name, KEYS) == ours(servers(bench.names, WEIGHTS), ring, **options)
