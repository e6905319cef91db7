"""Every place where a request's key may stand, through the proxy: one key, one server; and what is no key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from fastroute.config.load import loads
from tests.support.relaying import Client, Seen, client, configured, echo, proxying, serving, until, unused_port

TRUST = 'trusted_proxies = ["127.0.0.0/8"]'


@contextlib.asynccontextmanager
async def fleet(sticky: str = "", listener: str = "", pool: str = "") -> AsyncIterator[tuple[Client, list[Seen]]]:
    """A proxy in front of four echo servers, and one client of it."""
    async with contextlib.AsyncExitStack() as stack:
        found = [await stack.enter_async_context(serving(echo)) for _ in range(4)]
        ports = [port for port, _ in found]
        config = configured(ports, sticky=sticky, listener=listener)
        if pool:
            servers = "".join(
                f'[[pools.app.servers]]\nname = "s{n}"\naddress = "127.0.0.1:{port}"\n' for n, port in enumerate(ports)
            )
            zone = f'zone = {{ name = "{config.zone.name}", size = "1MiB" }}\n'
            config = loads(
                f'{zone}[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n[pools.app]\n{pool}{servers}'
            ).config
        _, web = await stack.enter_async_context(proxying(config))
        yield await stack.enter_async_context(client(web)), [seen for _, seen in found]


def homes(seen: list[Seen]) -> list[int]:
    """How many requests each server had, most first, without zeros."""
    return sorted((len(one.heads) for one in seen if one.heads), reverse=True)


@pytest.mark.parametrize(
    ("on", "listener", "targets", "lines", "grouped"),
    [
        ("query:sid", "", ["/a?sid=1", "/b?x=2&sid=1", "/c?sid=1&sid=9"], [], True),
        ("query:sid", "", ["/a", "/a?SID=1", "/a?xsid=1", "/a?sid="], [], False),
        ("path-param:jsessionid", "", ["/a;jsessionid=7", "/a;v=1;jsessionid=7/b?x", "/;jsessionid=7"], [], True),
        ("path-param:jsessionid", "", ["/a?jsessionid=7", "/jsessionid=7", "/a;jsessionid"], [], False),
        ("client-ip", "", ["/1", "/2", "/3"], [], True),
        ("client-ip/24", TRUST, ["/"] * 3, ["10.0.0.1", "10.0.0.2", "10.0.0.255"], True),
        ("client-ip/16,32", TRUST, ["/"] * 3, ["2001:db8::1", "2001:db8:f::", "2001:db8:1::2"], True),
        ("client-ip/24", TRUST, ["/"] * 4, ["10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"], False),
        ("client-ip/24", "", ["/"] * 3, ["10.0.0.1", "10.0.1.1", "10.0.2.1"], True),  # not trusted: does not count
    ],
)  # fmt: skip
async def test_requests_with_one_key_stay_on_one_server_and_others_take_turns(on, listener, targets, lines, grouped):
    async with fleet(f'on = "{on}"', listener) as (one, seen):
        for at, target in enumerate(targets):
            fields = [f"X-Forwarded-For: 1.1.1.1, {lines[at]}"] if lines else []
            assert (await one.get(target, *fields))[0] == 200
        assert homes(seen) == ([len(targets)] if grouped else [1] * len(targets))


async def test_of_a_list_the_first_that_finds_a_key_counts():
    async with fleet('on = ["cookie:sid", "header:X-User", "query:u"]') as (one, seen):
        for lines in (["Cookie: sid=a"], ["X-User: a", "Cookie: x=1"], []):
            assert (await one.get("/?u=a", *lines))[0] == 200
        assert homes(seen) == [3]
        assert (await one.get("/?u=a", "Cookie: sid=b", "X-User: a"))[0] == 200
        assert homes(seen) == [3, 1]


@pytest.mark.parametrize(("key", "same"), [('"path"', True), ('"url"', False)])
async def test_a_hash_of_path_or_url(key, same):
    async with fleet(pool=f'policy = "hash"\nkey = {key}\n') as (one, seen):
        for n in range(20):
            assert (await one.get(f"/one/path?n={n}"))[0] == 200
        assert (homes(seen) == [20]) is same


def post(body: bytes, *lines: str, framing: str = "length", kind: str = "application/json") -> bytes:
    head = ["POST /v1 HTTP/1.1", "Host: a.example", f"Content-Type: {kind}", *lines]
    if framing == "length":
        head.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*head, "", ""]).encode() + body
    head.append("Transfer-Encoding: chunked")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    return "\r\n".join([*head, "", ""]).encode() + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
async def test_a_key_in_a_json_body_however_it_comes(framing, piece):
    bodies = [b'{"user": "ann", "n": %d}' % n for n in range(3)] + [b'{"x":[{"user":1}],"user":"\\u0061nn"}']
    async with fleet('on = "json:user"') as (one, seen):
        for body in bodies:
            raw = post(body, framing=framing)
            for at in range(0, len(raw), piece):
                one.send(raw[at : at + piece])
                await one.writer.drain()
            status, _, echoed = await one.response()
            assert (status, echoed) == (200, body)
        assert homes(seen) == [4]


@pytest.mark.parametrize(
    "raw",
    [
        post(b'{"user": "ann"', framing="length"),
        post(b'{"user": null}'),
        post(b'[{"user": "ann"}]'),
        post(b'{"user": "ann"}', kind="text/plain"),
        post(b'{"user": "' + b"a" * 5000 + b'"}'),
        post(b'{"user": "ann", "x": "' + b"a" * 70_000 + b'"}'),
        post(b'{"user": "ann", "x": "' + b"a" * 70_000 + b'"}', framing="chunked"),
    ],
    ids=["cut", "null", "array", "not json", "long key", "long body", "long chunked body"],
)
async def test_a_body_without_a_usable_key_goes_on_whole_and_takes_turns(raw):
    async with fleet('on = "json:user"') as (one, seen):
        for _ in range(3):
            one.send(raw)
            assert (await one.response())[0] == 200
        assert homes(seen) == [1, 1, 1]
        assert len({one.bodies[0] for one in seen if one.bodies}) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(("size", "grouped"), [(65_536, True), (65_537, False)])
async def test_a_key_is_looked_for_in_a_body_of_64_kib_and_no_more(framing, size, grouped):
    body = b'{"x": "' + b"a" * (size - len(b'{"x": "", "user": "ann"}')) + b'", "user": "ann"}'
    assert len(body) == size
    async with fleet('on = "json:user"') as (one, seen):
        for _ in range(3):
            one.send(post(body, framing=framing))
            status, _, echoed = await one.response()
            assert (status, echoed) == (200, body)
        assert homes(seen) == ([3] if grouped else [1, 1, 1])


async def test_after_the_body_the_rest_of_the_list_counts_and_before_it_nothing_waits():
    async with fleet('on = ["header:X-User", "json:user", "query:u"]') as (one, seen):
        one.send(post(b'{"user": "ann"}'))
        one.send(post(b'{"user": "bob"}', "X-User: ann"))
        one.send(post(b"{}").replace(b"/v1", b"/v1?u=ann"))
        one.send(post(b'{"user": "ann"}').replace(b"/v1", b"/v1?u=bob"))
        assert [(await one.response())[0] for _ in range(4)] == [200] * 4
        assert homes(seen) == [4]
        one.send(post(b'{"user": "', "X-User: ann").replace(b"Length: 10", b"Length: 30"))
        await until(lambda: any(one.open and one.connections for one in seen), "it is sent on before its body is whole")


async def test_a_client_that_waits_for_100_before_its_json_gets_it_once():
    async with fleet('on = "json:user"') as (one, seen):
        raw = post(b'{"user": "ann"}', "Expect: 100-continue")
        at = raw.index(b"\r\n\r\n") + 4
        one.send(raw[:at])
        assert (await one.head())[0] == 100
        one.send(raw[at:])
        assert (await one.response())[0] == 200
        assert homes(seen) == [1]


async def test_a_json_body_that_stops_is_given_up():
    config = configured([unused_port()], sticky='on = "json:user"', timeouts='body = "300ms"')
    async with proxying(config) as (proxy, web), client(web) as one:
        one.send(post(b'{"user": "ann"}')[:-3])
        assert (await one.response())[0] == 408
        assert proxy.statistics()["limits_hit"]["timeout_body"] == 1
