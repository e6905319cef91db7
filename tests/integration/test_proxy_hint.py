"""The signed hint beside an application's cookie, and bindings learned from and ended by the application's answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from fastroute import Zone
from fastroute._core.router import Router
from fastroute._core.token import TokenCodec
from fastroute.clock import ManualClock
from fastroute.config.schema import Secret
from fastroute.proxy.server import Proxy
from tests.support.relaying import (
    SECRET,
    Client,
    Handler,
    Seen,
    answer,
    client,
    configured,
    proxying,
    read_request,
    serving,
    until,
)

COOKIE = 'on = "cookie:sid"\nttl = "8m"'


def application(name: str) -> Handler:
    """Answers with its name; `?...` of /set becomes Set-Cookie lines (| between), /status/503?... with that status."""

    async def handle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _ = await read_request(seen, reader)
            path, _, query = head.split(b" ")[1].decode().replace("%20", " ").partition("?")
            status = int(path.rpartition("/")[2]) if path.startswith("/status/") else 200
            lines = [f"Set-Cookie: {one}" for one in query.split("|") if one]
            writer.write(answer(head, status, f"X-Served-By: {name}", *lines))

    return handle


@contextlib.asynccontextmanager
async def fleet(
    count: int = 3, sticky: str = COOKIE, replicas: int = 1
) -> AsyncIterator[list[tuple[Proxy, int, list[Seen]]]]:
    """Replicas with a zone of their own each, and no store: what one knows the others do not."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(application(f"s{n + 1}"))) for n in range(count)]
        ports, seen = [port for port, _ in servers], [one for _, one in servers]
        found = []
        for _ in range(replicas):
            proxy, web = await stack.enter_async_context(proxying(configured(ports, sticky=sticky)))
            found.append((proxy, web, seen))
        yield found


def router_of(proxy: Proxy) -> Router:
    assert proxy._parts is not None
    return proxy._parts.pools["app"].router


class Browser:
    """Keeps cookies as a browser does, per Set-Cookie line."""

    def __init__(self, **jar: str) -> None:
        self.jar = jar

    async def get(self, one: Client, path: str = "/") -> str:
        lines = [f"Cookie: {'; '.join(f'{n}={v}' for n, v in self.jar.items())}"] if self.jar else []
        _, fields, _ = await one.get(path, *lines)
        for text in fields.get("set-cookie", "").split("\n"):
            name, equals, value = text.partition(";")[0].partition("=")
            if "max-age=0" in text.lower():
                self.jar.pop(name, None)
            elif equals:
                self.jar[name] = value
        return fields["x-served-by"]


async def test_a_hint_beside_the_applications_cookie_leads_a_replica_that_knows_nothing_to_the_server() -> None:
    async with fleet(replicas=2) as ((_, web_a, _), (_, web_b, _)), client(web_a) as a, client(web_b) as b:
        for n in range(12):
            user = Browser(sid=f"user{n}")
            server = await user.get(a)
            assert user.jar["fastroute"].startswith("v1.")
            assert await user.get(b) == server
            assert await user.get(a) == server


async def test_the_hint_is_sent_once_and_never_shown_to_servers() -> None:
    async with fleet() as ((_, web, seen),), client(web) as one:
        user = Browser(sid="a")
        await user.get(one)
        hint = user.jar["fastroute"]
        for _ in range(3):
            _, fields, _ = await one.get("/", f"Cookie: sid=a; fastroute={hint}; b=2")
            assert "set-cookie" not in fields
        heads = [head for server in seen for head in server.heads]
        assert len(heads) == 4
        assert all(b"fastroute=" not in head for head in heads)


async def test_a_hint_counts_for_the_session_it_was_given_with_only() -> None:
    async with fleet(replicas=2) as ((_, web_a, _), (_, web_b, _)), client(web_a) as a, client(web_b) as b:
        one = Browser(sid="one")
        server = await one.get(a)
        others = set()
        for n in range(9):
            thief = Browser(sid=f"thief{n}", fastroute=one.jar["fastroute"])
            others.add(await thief.get(b))
            assert thief.jar["fastroute"] != one.jar["fastroute"], "it gets one of its own"
        assert len(others) > 1, f"not all follow {server}"


async def test_hint_cookie_off_or_no_secret_means_no_cookie_of_ours() -> None:
    async with fleet(sticky=COOKIE + "\nhint_cookie = false") as ((_, web, _),), client(web) as one:
        _, fields, _ = await one.get("/", "Cookie: sid=a")
        assert "set-cookie" not in fields


async def test_the_hint_of_a_moved_user_is_issued_again_at_once() -> None:
    async with contextlib.AsyncExitStack() as stack:
        ports = [(await stack.enter_async_context(serving(application(f"s{n}"))))[0] for n in (1, 2)]
        proxy, web = await stack.enter_async_context(proxying(configured(ports, sticky=COOKIE)))
        one = await stack.enter_async_context(client(web))
        user = Browser(sid="a")
        server = await user.get(one)
        hint = user.jar["fastroute"]
        router_of(proxy).pool.set_state(server, "down")
        moved = await user.get(one)
        assert moved != server
        assert user.jar["fastroute"] != hint
        codec = TokenCodec([SECRET.encode()], "fr", "affinity:app")
        found = codec.verify_text(user.jar["fastroute"])
        assert isinstance(found, tuple)
        assert (found[1], found[3]) == (codec.server_digest(moved), 2)


@pytest.mark.parametrize("on", ["insert", "cookie:sid"])
async def test_a_cookie_signed_by_a_key_on_its_way_out_is_issued_again_at_once_and_names_the_same_server(
    on: str,
) -> None:
    old, new = "the old secret of at least 32 bytes", "the new secret of at least 32 bytes"
    rings = [[old], [old, new], [new, old], [new]]
    clock = ManualClock()
    async with contextlib.AsyncExitStack() as stack:
        ports = [(await stack.enter_async_context(serving(application(f"s{n}"))))[0] for n in (1, 2, 3)]
        users = [Browser(sid=f"user{n}") if on != "insert" else Browser() for n in range(6)]
        servers: list[str] = []
        late: tuple[Client, list[str]] | None = None
        for step, ring in enumerate(rings):
            config = configured(ports, sticky=f'on = "{on}"', top="")
            config = msgspec.structs.replace(config, secret=tuple(Secret(one.encode()) for one in ring))
            listening = socket.create_server(("127.0.0.1", 0))
            listening.setblocking(False)
            stack.callback(listening.close)
            stack.callback(Zone.unlink, config.zone.name)
            await stack.enter_async_context(Proxy(config, sockets={"web": [listening]}, clock=clock))
            now = await stack.enter_async_context(client(listening.getsockname()[1]))
            answers = [await user.get(now) for user in users]
            servers = servers or answers
            assert answers == servers, f"step {step}: a replica that knows nothing but the cookies"
            key_ids = {user.jar["fastroute"].split(".")[1] for user in users}
            assert key_ids == {
                TokenCodec([ring[0].encode()], "fr", "affinity:app").sign_text(b"k" * 16, 1, 1, 1, 1).split(".")[1]
            }
            if late is not None:
                assert [await user.get(late[0]) for user in users] == servers, (
                    f"step {step}: through the one that is late"
                )
                [await user.get(now) for user in users]
            late = (now, ring)


async def test_a_session_learned_from_an_answer_has_its_hint_with_it() -> None:
    async with fleet(replicas=2) as ((_, web_a, _), (_, web_b, _)), client(web_a) as a, client(web_b) as b:
        for n in range(9):
            user = Browser()
            server = await user.get(a, f"/set?sid=new{n};%20Path=/")
            assert set(user.jar) == {"sid", "fastroute"}
            assert await user.get(b) == server, (
                "the first request with the session, through a replica that never saw it"
            )


async def test_a_failed_answer_binds_nothing() -> None:
    async with fleet() as ((proxy, web, _),), client(web) as one:
        for n in range(6):
            user = Browser()
            await user.get(one, f"/status/503?sid=failed{n}")
            assert "fastroute" not in user.jar
        await asyncio.sleep(0.01)
        affinity = router_of(proxy).affinity
        assert affinity.statistics.learned == 0


async def test_a_session_moves_to_the_server_that_hands_it_out_again_and_only_if_that_answer_is_a_success() -> None:
    async with fleet() as ((proxy, web, _),), client(web) as one:
        first = Browser()
        server = await first.get(one, "/set?sid=shared;%20Path=/")
        affinity = router_of(proxy).affinity
        await until(lambda: affinity.statistics.learned == 1, "the session is bound")
        for status, moves in ((503, False), (200, True)):
            while True:  # another client, whose turn is another server's, is given the same session
                _, fields, _ = await one.get(f"/status/{status}?sid=shared;%20Path=/")
                if fields["x-served-by"] != server:
                    break
            await asyncio.sleep(0.02)
            found = router_of(proxy).route_nowait(b"shared")
            assert found is not None
            assert (found.server.name != server) == moves
        assert affinity.statistics.moves["learned"] >= 1
        assert found.generation >= 2


@pytest.mark.parametrize(
    "ending",
    [
        "sid=gone;%20Path=/;%20Max-Age=0",
        "sid=;%20Path=/",
        "sid=deleted;%20expires=Thu,%2001%20Jan%201970%2000:00:01%20GMT",
        "sid=keep|sid=x;%20max-age=-1",
    ],
)
async def test_an_application_that_takes_its_cookie_back_ends_the_binding_and_the_hint(ending: str) -> None:
    async with fleet() as ((proxy, web, _),), client(web) as one:
        user = Browser(sid="a")
        await user.get(one)
        router = router_of(proxy)
        assert router.route_nowait(b"a") is not None
        _, fields, _ = await one.get(f"/set?{ending}", f"Cookie: sid=a; fastroute={user.jar['fastroute']}")
        assert "fastroute=; Max-Age=0; Path=/" in fields["set-cookie"]
        await until(lambda: router.route_nowait(b"a") is None, "the binding ends")
        assert router.affinity.statistics.forgotten == 1


@pytest.mark.parametrize(
    "living",
    [
        "sid=a;%20Max-Age=3600;%20Expires=Thu,%2001%20Jan%201970%2000:00:01%20GMT",
        "sid=a;%20Expires=Fri,%2031%20Dec%202999%2023:59:59%20GMT",
        "sid=a;%20Max-Age=soon;%20Expires=never",
        "other=;%20Max-Age=0",
        "sid=x;%20max-age=0|sid=a;%20Path=/",
    ],
)
async def test_a_cookie_that_lives_on_ends_nothing(living: str) -> None:
    async with fleet() as ((proxy, web, _),), client(web) as one:
        user = Browser(sid="a")
        server = await user.get(one)
        assert await user.get(one, f"/set?{living}") == server
        await asyncio.sleep(0.01)
        assert router_of(proxy).route_nowait(b"a") is not None
        assert await user.get(one) == server
