"""A binding outlives its idle lifetime as long as something of its user's goes on: long responses, uploads, tunnels.

Users go on side by side until more than two lifetimes have passed; then each asks once more, must be known near and
find his server. Real memcached; what a user does meanwhile never ends his request.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fastroute._core.token import TokenCodec
from fastroute.affinity import base, binding
from fastroute.config.load import loads
from fastroute.proxy import build
from tests.support.memcached import Memcached
from tests.support.relaying import SECRET, WAIT_S, Client, Seen, client, proxying, serving, unused_port

LIFE_S = 5.0
"""A renewal is due after a quarter of it: it may be three seconds late."""
USERS_S = 2.2 * LIFE_S
PIECE = bytes(1 << 20)
UPLOAD_BYTES = 1000

User = Callable[[Client, "Clock"], Awaitable[None]]


class Clock:
    """Says when a user has done enough."""

    def __init__(self, after_s: float) -> None:
        self._end_s = time.monotonic() + after_s

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end_s


async def server(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What it does stands in the path of the request."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1]
        if path == b"/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            while True:
                writer.write(b"data: 1\n\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        elif path == b"/silence":
            await seen.go.wait()
        elif path == b"/upload":
            length = int(re.search(rb"Content-Length: (\d+)", head).group(1))  # type: ignore[union-attr]
            await reader.readexactly(length)
        elif path == b"/tunnel":
            writer.write(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
            while True:
                writer.write(PIECE)
                await writer.drain()
                seen.sent += len(PIECE)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()


async def raw_server(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"%d\n" % writer.get_extra_info("sockname")[1])
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def ask(path: str, name: str, *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: a", f"X-User: {name}", *lines, "", "")).encode()


def home_of(fields: dict[str, str]) -> tuple[str, str]:
    """(server, reason)"""
    found = re.fullmatch(r"server=(\S+); reason=(\S+)", fields["x-fastroute"])
    assert found
    return found.group(1), found.group(2)


async def events(one: Client, clock: Clock) -> None:
    """Something comes all the time."""
    while not clock.over:
        await one.reader.readuntil(b"data: 1\n\n")


async def upload(one: Client, clock: Clock) -> None:
    """One byte after the other, and never the last one."""
    for _ in range(UPLOAD_BYTES):
        if clock.over:
            break
        one.send(b"x")
        await one.writer.drain()
        await asyncio.sleep(0.05)


async def silence(one: Client, clock: Clock) -> None:
    """Neither side says a word."""
    while not clock.over:
        await asyncio.sleep(0.05)


def stop_and_go(*servers: Seen) -> User:
    """Reads, and reads not until the server's bytes have filled all buffers, in turn."""

    async def user(one: Client, clock: Clock) -> None:
        rounds = 0
        while not clock.over:
            before = -1
            while (sent := sum(seen.sent for seen in servers)) != before:
                before = sent
                await asyncio.sleep(0.05)
            rounds += 1
            await one.reader.readexactly(8 * len(PIECE))
        assert rounds > 3

    return user


@contextlib.asynccontextmanager
async def two_servers(
    *, protocol: str = "http", key: str, ttl_s: float
) -> AsyncIterator[tuple[int, list[Seen], Memcached]]:
    handler = server if protocol == "http" else raw_server
    async with serving(handler) as (first, seen), serving(handler) as (second, other):
        with Memcached() as store:
            servers = "".join(
                f'[[pools.app.servers]]\nname = "s{n}"\naddress = "127.0.0.1:{p}"\n'
                for n, p in ((1, first), (2, second))
            )
            config = loads(
                f'secret = "{SECRET}"\nzone = {{ name = "t-use-{unused_port()}", size = "1MiB" }}\n'
                + ("debug_headers = true\n" if protocol == "http" else "")
                + f'[store]\nmemcached = ["{store.address}"]\n'
                f'[listeners.web]\nbind = "127.0.0.1:1"\nprotocol = "{protocol}"\npool = "app"\n[pools.app]\n{servers}'
                f'[pools.app.sticky]\non = "{key}"\nttl = "{ttl_s}s"\n'
            ).config
            async with proxying(config) as (_, web):
                yield web, [seen, other], store


async def asked(one: Client, name: str) -> tuple[str, str]:
    one.send(ask("/", name))
    _, fields, _ = await one.response()
    return home_of(fields)


async def use(web: int, name: str, request: bytes, does: User) -> tuple[str, str]:
    """A user whom two servers could serve: how he is known in the end, and whether at the server that he began with."""
    async with client(web) as other, client(web) as one:
        before = (await asked(other, name))[0]
        one.send(request)
        await does(one, Clock(USERS_S))
        after, reason = await asked(other, name)
        return reason, "home" if after == before else "elsewhere"


def stored(store: Memcached) -> list[bytes]:
    """Names and versions of the bindings in the store; to touch a record does not change its version."""
    found = []
    for slab in {name.split(":")[1] for name in store.statistics("items")}:
        for name in re.findall(rb"ITEM (fr:a:\S+)", store.command(f"stats cachedump {slab} 0", end=b"END\r\n")):
            found.append(name + store.command(f"mg {name.decode()} c").removeprefix(b"HD").rstrip())
    return found


async def records(store: Memcached) -> list[bytes]:
    """Likewise, once there is one."""
    async with asyncio.timeout(WAIT_S):
        while not (found := stored(store)):
            await asyncio.sleep(0.02)
    return found


async def connections() -> tuple[list[bytes], list[bytes]]:
    """A TCP connection, over which a byte goes now and then: the record of its client before and after."""
    async with two_servers(protocol="tcp", key="client-ip", ttl_s=LIFE_S) as (web, _, store), client(web) as one:
        await one.reader.readline()
        async with client(web) as again:  # seen twice: from here on the record has a full life
            await again.reader.readline()
        before, clock = await records(store), Clock(USERS_S)
        while not clock.over:
            one.send(b"x")
            assert await one.reader.readexactly(1) == b"x"
            await asyncio.sleep(0.05)
        return before, await records(store)


async def test_a_binding_lives_on_while_a_response_an_upload_a_tunnel_or_a_connection_does() -> None:
    async def requests() -> dict[str, tuple[str, str]]:
        async with two_servers(key="header:x-user", ttl_s=LIFE_S) as (web, seen, store):
            size = UPLOAD_BYTES + 1
            users = {
                "events": (ask("/events", "events"), events),
                "silence": (ask("/silence", "silence"), silence),
                "upload": (ask("/upload", "upload", f"Content-Length: {size}"), upload),
                "tunnel": (ask("/tunnel", "tunnel", "Connection: upgrade", "Upgrade: flood"), stop_and_go(*seen)),
            }
            found = await asyncio.gather(*(use(web, name, *what) for name, what in users.items()))
            stats = store.command("stats", end=b"END\r\n")
            touches = int(re.search(rb"STAT touch_hits (\d+)", stats).group(1))  # type: ignore[union-attr]
            # They are coalesced, however often the binding is found in use: one in about a quarter of a life.
            assert touches <= len(users) * (5 * USERS_S / LIFE_S + 4)
            return dict(zip(users, found, strict=True))

    found, (before, after) = await asyncio.gather(requests(), connections())
    assert found == dict.fromkeys(("events", "silence", "upload", "tunnel"), ("affinity-near", "home"))
    assert before == after


async def test_the_first_request_of_a_key_keeps_its_binding_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once_s = 5.0  # how long a key is bound that was seen once
    for module in (base, binding, build):
        monkeypatch.setattr(module, "ONCE_S", once_s)
    async with two_servers(key="header:x-user", ttl_s=3600) as (web, _, store), client(web) as one:
        one.send(ask("/events", "x"))
        home = home_of((await one.head())[1])[0]
        before = await records(store)
        await events(one, Clock(1.3 * once_s))
        assert await records(store) == before
        async with client(web) as other:
            assert await asked(other, "x") == (home, "affinity-near")


def aged(cookie: str, minutes: int) -> str:
    """The balancer's cookie as it would be, had it been issued so much earlier."""
    codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
    key, digest, term, generation, issued = codec.verify_text(cookie.split(";")[0].removeprefix("fastroute="))
    return f"Cookie: fastroute={codec.sign_text(key, digest, term, generation, issued - minutes)}"


async def test_a_cookie_that_grew_too_old_during_a_strangers_first_response_still_leads_to_his_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "ONCE_S", 1.0)  # so that the first renewal does not take 15 s
    async with two_servers(key="insert", ttl_s=60) as (web, _, store), client(web) as one, client(web) as other:
        one.send(ask("/events", "x"))
        _, fields = await one.head()
        home, cookie = home_of(fields)[0], aged(fields["set-cookie"], 60)
        assert stored(store) == []  # who never comes back costs the store nothing
        reading = asyncio.ensure_future(events(one, Clock(3600)))
        await records(store)  # by now it is known that this takes longer
        other.send(ask("/", "x", cookie))
        _, fields, _ = await other.response()
        server, reason = home_of(fields)
        assert (server, reason.split("-")[0]) == (home, "affinity")
        other.send(ask("/", "x", fields["set-cookie"].replace("fastroute", "Cookie: fastroute", 1).split(";")[0]))
        _, fields, _ = await other.response()  # with the cookie that he was given in exchange
        assert home_of(fields)[0] == home
        assert "set-cookie" not in fields
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_cookie_that_is_too_old_and_whose_binding_has_ended_makes_a_stranger() -> None:
    async with two_servers(key="insert", ttl_s=60) as (web, _, store), client(web) as one:
        one.send(ask("/", "x"))
        _, fields, _ = await one.response()
        one.send(ask("/", "x", aged(fields["set-cookie"], 60)))
        _, again, _ = await one.response()
        assert home_of(again)[1] == "policy"
        assert again["set-cookie"].split(".")[1] == fields["set-cookie"].split(".")[1]  # one key ring,
        assert again["set-cookie"] != fields["set-cookie"]  # another user
        assert stored(store) == []
