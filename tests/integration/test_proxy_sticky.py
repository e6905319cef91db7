"""Stickiness through the proxy: the balancer's own cookie, the application's, a header, the client's address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator

from fastroute._core.token import TokenCodec
from fastroute.clock import ManualClock
from fastroute.proxy.server import Proxy
from tests.support.relaying import (
    SECRET,
    Client,
    Handler,
    Seen,
    always,
    answer,
    client,
    configured,
    echo,
    proxying,
    read_request,
    serving,
    unused_port,
)

INSERT = 'on = "insert"\nttl = "8m"'


def named(name: str) -> Handler:
    """A keep-alive server that answers with its name and the request's head."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(seen, reader)
            cookie = b"/login" in head
            fields = [f"X-Served-By: {name}"]
            if cookie:
                fields.append(f"Set-Cookie: sid={head.split(b'?')[1].split(b' ')[0].decode()}; Path=/")
            writer.write(answer(head, 200, *fields))

    return handle


@contextlib.asynccontextmanager
async def behind(count: int, sticky: str, *, dead: int = 0, listener: str = "") -> AsyncIterator[tuple[Proxy, int]]:
    """A proxy before servers s1, s2, ...; the first `dead` of them refuse connections."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [unused_port() for _ in range(dead)]
        for n in range(dead, count):
            port, _ = await stack.enter_async_context(serving(named(f"s{n + 1}")))
            ports.append(port)
        yield await stack.enter_async_context(proxying(configured(ports, sticky=sticky, listener=listener)))


async def who(one: Client, *lines: str, path: str = "/") -> str:
    status, fields, _ = await one.get(path, *lines)
    assert status == 200
    return fields["x-served-by"]


def token_of(fields: dict[str, str]) -> str:
    """The balancer's cookie in a response, as a Cookie field."""
    set_cookie = fields["set-cookie"]
    assert set_cookie.startswith("fastroute=v1.")
    assert set_cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
    return f"Cookie: a=1; {set_cookie.partition(';')[0]}; b=2"


async def test_a_new_user_is_given_a_cookie_and_stays_with_its_server() -> None:
    async with behind(3, INSERT) as (proxy, web), client(web) as one:
        first = [(await one.get())[1] for _ in range(3)]
        assert sorted(fields["x-served-by"] for fields in first) == ["s1", "s2", "s3"]
        for fields in first * 3:
            status, again, body = await one.get("/", token_of(fields))
            assert (status, again["x-served-by"]) == (200, fields["x-served-by"])
            assert "set-cookie" not in again
            assert b"\r\nCookie: a=1; b=2\r\n" in body
        found = proxy.statistics()
    assert found["cookies_set"] == 3


async def test_users_one_and_two_alternate_and_stay() -> None:
    """Requirement 3: sticky round robin."""
    async with behind(2, INSERT) as (_, web), client(web) as one:
        users: list[str | None] = [None, None]
        seen: list[list[str]] = [[], []]
        for _ in range(3):
            for user in (0, 1):
                _, fields, _ = await one.get("/", *filter(None, [users[user]]))
                seen[user].append(fields["x-served-by"])
                if "set-cookie" in fields:
                    users[user] = token_of(fields)

    assert seen[0] == [seen[0][0]] * 3
    assert seen[1] == [seen[1][0]] * 3
    assert seen[0][0] != seen[1][0]


async def test_a_cookie_that_was_tampered_with_means_a_new_user_and_is_counted() -> None:
    """Requirement 5."""
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], sticky=INSERT)) as (proxy, web),
        client(web) as one,
    ):
        _, fields, _ = await one.get()
        token = fields["set-cookie"].partition(";")[0]
        last = "A" if token[-2] != "A" else "B"
        for bad in (
            token[:-2] + last + token[-1],
            token + "A",
            "fastroute=10.0.0.5:8080",
            "fastroute=v2." + token[13:],
            "fastroute=" + "x" * 5000,
        ):
            _, fields, _ = await one.get("/", f"Cookie: {bad}")
            assert fields["set-cookie"].startswith("fastroute=v1.")
            assert seen.named("cookie") == []
        assert sum(proxy.statistics()["cookie_rejected"].values()) == 5
        _, fields, _ = await one.get("/", f"Cookie: {token}")
        assert "set-cookie" not in fields


async def test_a_cookie_of_another_fleet_or_pool_does_not_verify() -> None:
    async with (
        serving(echo) as (port, _),
        proxying(configured([port], sticky=INSERT)) as (proxy, web),
        client(web) as one,
    ):
        for fleet, purpose in (("other", "affinity:app"), ("fr", "affinity:other"), ("fr", "session")):
            codec = TokenCodec([SECRET.encode()], fleet, purpose)
            text = codec.sign_text(b"k" * 16, codec.server_digest("s1"), 7, 1, int(time.time() // 60))
            assert "set-cookie" in (await one.get("/", f"Cookie: fastroute={text}"))[1]
        assert proxy.statistics()["cookies_set"] == 3


async def test_the_cookies_hint_names_the_server_when_nothing_else_knows_the_key() -> None:
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    async with behind(3, INSERT) as (_, web), client(web) as one:
        for n in range(12):
            server = f"s{n % 3 + 1}"
            text = codec.sign_text(bytes([n]) * 16, codec.server_digest(server), 77, 3, int(time.time() // 60))
            assert await who(one, f"Cookie: fastroute={text}") == server
        gone = codec.sign_text(b"z" * 16, codec.server_digest("s9"), 77, 3, int(time.time() // 60))
        _, fields, _ = await one.get("/", f"Cookie: fastroute={gone}")
        assert fields["x-served-by"] in ("s1", "s2", "s3")
        assert "set-cookie" in fields


async def test_the_cookie_is_issued_again_after_a_quarter_of_its_life_and_void_after_the_whole() -> None:
    clock = ManualClock()
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    async with serving(echo) as (port, _):
        config = configured([port], sticky=INSERT)  # 8 minutes
        one_socket = socket.create_server(("127.0.0.1", 0))
        one_socket.setblocking(False)
        async with (
            Proxy(config, sockets={"web": [one_socket]}, clock=clock) as proxy,
            client(one_socket.getsockname()[1]) as one,
        ):
            _, fields, _ = await one.get()
            cookie = token_of(fields)
            await one.get("/", cookie)
            clock.advance(61)
            proxy.tick()
            assert "set-cookie" not in (await one.get("/", cookie))[1]
            clock.advance(61)
            proxy.tick()
            _, fields, _ = await one.get("/", cookie)
            assert token_of(fields) != cookie
            clock.advance(3600)
            proxy.tick()
            before = proxy.statistics()["cookie_rejected"]["expired"]
            old = codec.sign_text(b"n" * 16, codec.server_digest("s1"), 7, 1, int(clock.wall_s() / 60) - 60)
            _, fields, _ = await one.get("/", f"Cookie: fastroute={old}")
            assert "set-cookie" in fields
            assert proxy.statistics()["cookie_rejected"]["expired"] == before + 1
        from fastroute import Zone

        Zone.unlink(config.zone.name)


async def test_a_servers_own_cookie_of_that_name_is_removed_and_counted() -> None:
    raw = answer(b"", 200, "Set-Cookie: fastroute=evil; Path=/", "Set-Cookie: fastroute2=fine")
    async with (
        serving(always(raw)) as (port, _),
        proxying(configured([port], sticky=INSERT)) as (proxy, web),
        client(web) as one,
    ):
        _, fields, _ = await one.get()
        assert "evil" not in fields["set-cookie"]
        assert fields["set-cookie"].startswith("fastroute2=fine\nfastroute=v1.")
        assert proxy.statistics()["cookie_overwritten"] == 1


async def test_a_bound_users_server_dies_and_the_user_moves_once() -> None:
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    async with behind(2, INSERT, dead=1) as (proxy, web), client(web) as one:
        text = codec.sign_text(b"u" * 16, codec.server_digest("s1"), 5, 1, int(time.time() // 60))
        _, fields, _ = await one.get("/", f"Cookie: fastroute={text}")
        assert fields["x-served-by"] == "s2"
        moved = token_of(fields)
        _, fields, _ = await one.get("/", moved)
        assert (fields["x-served-by"], "set-cookie" in fields) == ("s2", False)
        assert proxy.statistics()["retries"] == {"tried": 1, "failed": 0, "over_budget": 0}


async def test_an_applications_cookie_is_learned_from_its_answer() -> None:
    async with behind(3, 'on = "cookie:sid"') as (_, web), client(web) as one:
        for n in range(9):
            server = await who(one, path=f"/login?user{n}")
            await asyncio.sleep(0.01)  # the binding is written off the response's path
            for _ in range(3):
                assert await who(one, f"Cookie: theme=dark; sid=user{n}") == server


async def test_parallel_first_requests_of_one_key_end_at_one_server() -> None:
    """Requirement 6."""
    for on, line in (("cookie:sid", "Cookie: sid=u{}"), ("header:X-User", "x-user: u{}")):
        async with behind(3, f'on = "{on}"') as (_, web):

            async def ask(text: str, port: int = web) -> str:
                async with client(port) as one:
                    return await who(one, text)

            for user in range(10):
                found = await asyncio.gather(*(ask(line.format(user)) for _ in range(8)))
                assert len(set(found)) == 1


async def test_a_client_address_is_a_key_and_a_trusted_peer_speaks_for_others() -> None:
    async with behind(3, 'on = "client-ip"') as (_, web), client(web) as one:
        assert len({await who(one, f"X-Forwarded-For: 10.0.0.{n}") for n in range(12)}) == 1
    trusted = 'trusted_proxies = ["127.0.0.1"]'
    async with behind(3, 'on = "client-ip"', listener=trusted) as (_, web), client(web) as one:
        first = {n: await who(one, f"X-Forwarded-For: 1.1.1.1, 10.0.0.{n}") for n in range(12)}
        assert len(set(first.values())) == 3
        assert first == {n: await who(one, f"X-Forwarded-For: 2.2.2.2,10.0.0.{n}") for n in range(12)}


async def test_debug_headers_name_server_and_reason() -> None:
    async with serving(echo) as (port, _):
        config = configured([port], sticky='on = "cookie:sid"', top="debug_headers = true")
        async with proxying(config) as (_, web), client(web) as one:
            assert (await one.get())[1]["x-fastroute"] == "server=s1; reason=policy"
            await one.get("/", "Cookie: sid=1")
            assert (await one.get("/", "Cookie: sid=1"))[1]["x-fastroute"] == "server=s1; reason=affinity-near"
