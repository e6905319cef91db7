"""`nginx` beside nginx itself: the same server for every key, over one nginx with several upstream blocks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from fastroute.model import Server
from fastroute.routing.dialects import build_ring
from tests.support.memcached import free_port
from tests.support.products import Product, Upstreams, has_ipv6, keys_of_all_kinds

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
KEYS = keys_of_all_kinds(1000)
WEIGHTS = [1, 2, 3, 7, 100]


class Bench:
    """One nginx in front of five IPv4 upstreams, an IPv6 one and one known by a host name."""

    def __init__(self, product: Product, plain: list[str], mixed: list[str]) -> None:
        self.product, self.plain, self.mixed = product, plain, mixed


def _block(name: str, rows: list[str]) -> str:
    return (
        f"upstream {name} {{ hash $http_x_key consistent; {' '.join(f'server {row};' for row in rows)} keepalive 32; }}"
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    assert NGINX is not None
    folder = tmp_path_factory.mktemp("nginx")
    places = [(f"127.0.0.{i}", 0) for i in range(2, 7)] + [("127.0.0.1", 0)] + ([("::1", 0)] if has_ipv6() else [])
    with Upstreams(places) as upstreams:
        plain = upstreams.names[:5]
        name_port = upstreams.names[5].rsplit(":", 1)[1]
        # nginx resolves the names of upstreams when it starts; "localhost" is the one every machine has.
        mixed = [*plain[:3], f"localhost:{name_port}", *upstreams.names[6:]]
        blocks = {
            "equal": [f"{name} max_fails=0" for name in plain],
            "weighted": [f"{name} max_fails=0 weight={w}" for name, w in zip(plain, WEIGHTS, strict=True)],
            "down": [
                f"{name} weight={w} {'down' if w in (2, 7) else 'max_fails=0'}"
                for name, w in zip(plain, WEIGHTS, strict=True)
            ],
            "removed": [f"{name} max_fails=0" for name in plain if name != plain[2]],
            "mixed": [f"{name} max_fails=0" for name in mixed],
            "reversed": [f"{name} max_fails=0" for name in plain[::-1]],
        }
        port = free_port()
        locations = " ".join(
            f'location /{name} {{ proxy_pass http://{name}; proxy_http_version 1.1; proxy_set_header Connection ""; }}'
            for name in blocks
        )
        paths = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log warn;\n"
            f"events {{ worker_connections 512; }}\n"
            f"http {{ access_log off; {paths} keepalive_requests 1000000;\n"
            + "\n".join(_block(name, rows) for name, rows in blocks.items())
            + f"\nserver {{ listen 127.0.0.1:{port}; {locations} }} }}\n"
        )
        command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
        with Product(command, port, folder / "log") as product:
            yield Bench(product, plain, mixed)


def ours(names: list[str], weights: list[int] | None = None) -> list[str]:
    ring = build_ring("nginx", [Server(n, weight=w) for n, w in zip(names, weights or [1] * len(names), strict=True)])
    return [names[ring.pick(key)] for key in KEYS]


def test_equal_weights_agree_with_nginx(bench: Bench) -> None:
    assert bench.product.answers("/equal", KEYS) == ours(bench.plain)


def test_weights_1_2_3_7_100_agree_with_nginx(bench: Bench) -> None:
    assert bench.product.answers("/weighted", KEYS) == ours(bench.plain, WEIGHTS)


def test_the_order_of_the_list_does_not_matter_to_nginx_either(bench: Bench) -> None:
    assert bench.product.answers("/reversed", KEYS) == ours(bench.plain)


def test_servers_that_are_down_are_passed_over_as_nginx_does(bench: Bench) -> None:
    """With few of the points down: older nginx turns to round robin after 20 of them in a row."""
    ring = build_ring("nginx", [Server(n, weight=w) for n, w in zip(bench.plain, WEIGHTS, strict=True)])
    allowed = [slot for slot, weight in enumerate(WEIGHTS) if weight not in (2, 7)]
    found = [bench.plain[ring.candidates_of_hash(ring.hash(key), 1, allowed=allowed)[0]] for key in KEYS]
    assert bench.product.answers("/down", KEYS) == found


def test_removal_and_return_agree_with_nginx(bench: Bench) -> None:
    left = [name for name in bench.plain if name != bench.plain[2]]
    assert bench.product.answers("/removed", KEYS) == ours(left)
    assert bench.product.answers("/equal", KEYS[:100]) == ours(bench.plain)[:100]


def test_ipv6_and_host_names_agree_with_nginx(bench: Bench) -> None:
    # "localhost" may stand for several addresses; which one took the request does not matter.
    by_port = {name.rsplit(":", 1)[1]: name for name in bench.mixed}
    found = bench.product.answers("/mixed", KEYS)
    assert [by_port[name.rsplit(":", 1)[1]] for name in found] == ours(bench.mixed)
