"""Routes through the proxy: each request of one connection goes to its own pool; nobody's requests get a 404."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from tests.support.relaying import SECRET, Client, Seen, client, echo, proxying, serving, unused_port

POOLS = ("app", "api", "images")


def written(ports: dict[str, int], listener: str, extra: str = "") -> str:
    text = f'secret = "{SECRET}"\nidentity_secret = "{SECRET[::-1]}"\n'
    text += f'zone = {{ name = "t-routes-{unused_port()}", size = "1MiB" }}\n'
    text += f'[listeners.web]\nbind = "127.0.0.1:1"\n{listener}\n'
    for pool, port in ports.items():
        text += f'[[pools.{pool}.servers]]\nname = "s"\naddress = "127.0.0.1:{port}"\n'
    return text + extra


@contextlib.asynccontextmanager
async def fleet(listener: str, extra: str = "") -> AsyncIterator[tuple[Client, dict[str, Seen]]]:
    """A proxy in front of three pools of one echo server each, and one client of it."""
    async with contextlib.AsyncExitStack() as stack:
        found = {name: await stack.enter_async_context(serving(echo)) for name in POOLS}
        config = loads(written({name: port for name, (port, _) in found.items()}, listener, extra)).config
        proxy, web = await stack.enter_async_context(proxying(config))
        fleet.proxy = proxy
        yield await stack.enter_async_context(client(web)), {name: seen for name, (_, seen) in found.items()}


def counts(seen: dict[str, Seen]) -> list[int]:
    return [len(seen[name].heads) for name in POOLS]


async def test_each_request_of_a_connection_goes_where_its_route_leads():
    routes = (
        'pool = "app"\nroutes = [{ path_prefix = "/api", pool = "api", cache = false }, '
        '{ host = "*.img.example", pool = "images" }]'
    )
    async with fleet(routes) as (one, seen):
        for target, lines in [("/", []), ("/api/x", []), ("/apix", []), ("/%61pi", []), ("/api", ["X: y"])]:
            assert (await one.get(target, *lines))[0] == 200
        one.send(b"GET /api HTTP/1.1\r\nHost: A.IMG.example:80\r\n\r\n")
        assert (await one.response())[0] == 200
        one.send(b"GET http://x.img.example/ HTTP/1.1\r\nHost: x.img.example\r\n\r\n")
        assert (await one.response())[0] == 200
        one.send(b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        assert (await one.response())[2] == b"hi"
        assert counts(seen) == [2, 4, 2]
        assert b"GET /%61pi HTTP/1.1" in seen["api"].heads[1]  # forwarded as it came


async def test_a_request_that_no_route_takes_gets_a_404_and_the_connection_goes_on():
    async with fleet('routes = [{ host = "a.example", path_prefix = "/api", pool = "api" }]') as (one, seen):
        status, fields, body = await one.get("/")
        assert (status, body) == (404, b"Not Found\n")
        assert fields["content-type"] == "text/plain"
        one.send(b"HEAD / HTTP/1.1\r\nHost: b.example\r\n\r\n")
        status, fields = await one.head()
        assert status == 404
        assert (await one.get("/api"))[0] == 200
        one.send(b"POST / HTTP/1.1\r\nHost: b.example\r\nContent-Length: 100000\r\n\r\nx")
        assert (await one.response())[0] == 404
        assert counts(seen) == [0, 1, 0]


async def test_a_malformed_request_and_the_limits_work_where_there_is_no_pool_for_the_rest():
    async with fleet('routes = [{ host = "a.example", pool = "api" }]') as (one, _):
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await one.response())[0] == 400


async def test_pools_of_routes_are_sticky_each_by_itself_and_their_bindings_do_not_mix():
    extra = '[pools.app.sticky]\non = "insert"\n[pools.api.sticky]\non = "insert"\ncookie.name = "api"\n'
    async with fleet('pool = "app"\nroutes = [{ path_prefix = "/api", pool = "api" }]', extra) as (one, _):
        _, fields, _ = await one.get("/")
        app = fields["set-cookie"].partition(";")[0]
        _, fields, _ = await one.get("/api", f"Cookie: {app}")
        api = fields["set-cookie"].partition(";")[0]
        assert (app.partition("=")[0], api.partition("=")[0]) == ("fastroute", "api")
        for path in ("/", "/api", "/"):
            status, fields, _ = await one.get(path, f"Cookie: {app}; {api}")
            assert status == 200
            assert "set-cookie" not in fields
        assert not any(fleet.proxy.statistics()["cookie_rejected"].values())


async def test_routes_by_client_address_follow_the_forwarded_address_of_a_trusted_peer():
    routes = 'pool = "app"\ntrusted_proxies = ["127.0.0.0/8"]\nroutes = [{ clients = ["10.0.0.0/8"], pool = "api" }]'
    async with fleet(routes) as (one, seen):
        for said in (
            "10.1.1.1",
            "11.1.1.1",
            "10.1.1.1, 11.1.1.1",
            "11.1.1.1, 10.9.9.9, 127.0.0.9",
            "[::ffff:10.0.0.1]:5",
        ):
            assert (await one.get("/", f"X-Forwarded-For: {said}"))[0] == 200
        assert (await one.get("/"))[0] == 200
        assert counts(seen) == [3, 3, 0]


MISTAKES = [
    ('routes = [{ pool = "nobody" }]', 'pool "nobody" is nowhere defined'),
    ('routes = [{ host = "a:80", pool = "api" }]', "a host without a port"),
    ('routes = [{ host = "*", pool = "api" }]', "a host without a port"),
    ('routes = [{ path_prefix = "api", pool = "api" }]', "a path such as"),
    ('routes = [{ path_prefix = "/a/../b", pool = "api" }]', "a path such as"),
    ('routes = [{ pool = "api" }, { path_prefix = "/", pool = "app" }]', "those of route 1 too"),
    ("", "pool is missing"),
    ("routes = []", "pool is missing"),
    ('routes = [{ clients = "10.0.0.1/8", pool = "api" }]', "one address of a network"),
]


@pytest.mark.parametrize(("listener", "message"), MISTAKES)
def test_a_mistake_in_routes_is_told(listener, message):
    with pytest.raises(ConfigError, match=message) as caught:
        loads(written(dict.fromkeys(POOLS, 9), listener))
    assert caught.value.line


def test_pools_that_share_hosts_and_a_cookie_draw_a_warning():
    sticky = "".join(f'[pools.{name}.sticky]\non = "insert"\n' for name in ("app", "api"))
    shared = 'pool = "app"\nroutes = [{ path_prefix = "/api", pool = "api" }, { host = "i.example", pool = "images" }]'
    apart = 'routes = [{ host = "a.example", pool = "api" }, { host = "b.example", pool = "app" }]'
    ports = {"app": 11, "api": 12, "images": 13}
    assert "share hosts and the cookie" in loads(written(ports, shared, sticky)).warnings[0][1]
    said = [message for _, message in loads(written(ports, apart, sticky)).warnings]
    assert said == ['pools.images: pool "images" is used by no listener']


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fastroute", *arguments], capture_output=True, text=True, timeout=60)


def test_explain_and_preview_and_check_speak_of_routes(tmp_path):
    ports, old, new = {"app": 11, "api": 12, "images": 13}, tmp_path / "old.toml", tmp_path / "new.toml"
    routes = (
        'routes = [{ host = "*.b.example", path_prefix = "/api", pool = "api" }, '
        '{ path_prefix = "/i", pool = "images" }]'
    )
    old.write_text(written(ports, f'pool = "app"\n{routes}'))
    new.write_text(written(ports, f'pool = "app"\n{routes}'.replace('pool = "images"', 'pool = "api"')))
    told = run("explain", "-c", str(old), "--url", "http://x.b.example/api/1")
    assert told.stdout == "pool api: the route for host *.b.example, path /api\n", told.stderr
    told = run("explain", "-c", str(old), "--url", "http://b.example/", "--json")
    assert json.loads(told.stdout) == {"pool": "app", "route": None}
    told = run("explain", "-c", str(old), "--url", "http://b.example/i", "--key", "k")
    assert told.stdout.startswith("pool images: the route for path /i\n")
    assert run("explain", "-c", str(old)).returncode == 2
    told = run("preview", "-c", str(old), "--to", str(new))
    assert "listener web: requests for any host/i would go to pool api instead of pool images" in told.stdout
    assert json.loads(run("preview", "-c", str(old), "--to", str(new), "--json").stdout)["routes"]
    assert (
        "pool app (1 server), pool api (1 server), pool images (1 server) by 2 routes"
        in run("check", "-c", str(old)).stdout
    )
