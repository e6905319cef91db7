"""Hooks of embedders: what they are told, what they may change, and that a broken one breaks nothing."""

from __future__ import annotations

import collections
import contextlib
import logging
import pathlib
import socket
import sys
from collections.abc import AsyncIterator

import pytest

import fastroute
from fastroute import Zone
from fastroute.config.load import loads
from fastroute.errors import UsageError
from fastroute.proxy.hooks import HookRequest
from fastroute.proxy.server import Proxy
from tests.support.fleet import Process, free_ports
from tests.support.relaying import SECRET, Client, Seen, always, answer, client, echo, serving, until, unused_port
from tests.support.shared import ROOT

OURS = str(pathlib.Path(fastroute.__file__).parent)


@contextlib.asynccontextmanager
async def hooked(sticky: str = "", handler=echo, **hooks) -> AsyncIterator[tuple[Client, dict[str, Seen], Proxy]]:
    """A proxy with hooks in front of pools `app` (three servers) and `other` (one), and a client of it."""
    name = f"t-hooks-{unused_port()}"
    async with contextlib.AsyncExitStack() as stack:
        servers = {n: await stack.enter_async_context(serving(handler)) for n in ("a", "b", "c", "other")}
        text = (
            f'secret = "{SECRET}"\nzone = {{ name = "{name}", size = "1MiB" }}\n[listeners.web]\nbind = "127.0.0.1:1"\n'
        )
        text += 'pool = "app"\nroutes = [{ path_prefix = "/other", pool = "other" }]\n'
        for n, (port, _) in servers.items():
            pool = "other" if n == "other" else "app"
            text += f'[[pools.{pool}.servers]]\nname = "{n}"\naddress = "127.0.0.1:{port}"\n'
        one = socket.socket()
        stack.callback(one.close)
        stack.callback(Zone.unlink, name)
        one.bind(("127.0.0.1", 0))
        one.listen(16)
        one.setblocking(False)
        proxy = Proxy(loads(text + sticky).config, sockets={"web": [one]}, **hooks)
        await stack.enter_async_context(proxy)
        found = await stack.enter_async_context(client(one.getsockname()[1]))
        yield found, {n: seen for n, (_, seen) in servers.items()}, proxy


def calls_of_ours(during):
    """How often Python functions of the package are called from outside of it while the coroutine runs, by name: by a
    transport for a request, by a timer for what is done beside requests."""
    count = collections.Counter()

    def profile(frame, event, _):
        if event != "call" or OURS not in frame.f_code.co_filename:
            return
        caller = frame.f_back
        while caller is not None and OURS not in caller.f_code.co_filename:
            caller = caller.f_back
        if caller is None:
            count[frame.f_code.co_qualname] += 1

    async def run():
        sys.setprofile(profile)
        try:
            await during
        finally:
            sys.setprofile(None)
        return count

    return run()


async def test_without_hooks_a_request_calls_no_python_function_of_ours():
    """Nor with a hook that is set but not for this moment. What a tick does beside requests is bounded by time."""
    async with hooked('[pools.app.sticky]\non = "cookie:sid"\n') as (one, _, _):

        async def many(count):
            for _ in range(count):
                assert (await one.get("/", "Cookie: sid=a"))[0] == 200

        await many(20)  # connections are open, the key is bound
        found = await calls_of_ours(many(300))
    assert not {name: calls for name, calls in found.items() if calls >= 150}, found

    async with hooked('[pools.app.sticky]\non = "cookie:sid"\n', on_request=lambda request: None) as (one, _, _):
        await many(20)
        found = await calls_of_ours(many(300))
    assert max(found.values()) >= 300  # the count can see them


async def test_the_hooks_are_told_what_happens_to_a_request_in_order():
    told = []

    def on_request(request):
        told.append((request.method, request.target, request.host, request.client, request.listener, request.pool))
        assert request.header("x-a") == "1"
        assert ("X-A", "1") in request.headers
        assert request.header("absent") is None
        request.state["seen"] = True

    def on_selection(request, server, reason):
        told.append((request.state, server.name, reason))

    def on_response(request, response):
        told.append((request.state, response.status, response.server.name, dict(response.headers)["Content-Length"]))

    hooks = {"on_request": on_request, "on_selection": on_selection, "on_response": on_response}
    async with hooked(**hooks) as (one, _, _):
        _, _, body = await one.get("/x?y", "X-A: 1")
    assert told[0] == ("GET", "/x?y", "a.example", "127.0.0.1", "web", "app")
    state = {"seen": True}
    assert told[1:] == [(state, told[1][1], "policy"), (state, 200, told[1][1], str(len(body)))]


async def test_on_request_may_answer_itself_and_the_connection_goes_on():
    def on_request(request):
        if request.header("authorization") is None:
            request.respond(401, b"who?", "text/plain", [("WWW-Authenticate", "Basic")])

    async with hooked(on_request=on_request) as (one, seen, _):
        status, fields, body = await one.get("/")
        assert (status, body, fields["content-type"], fields["www-authenticate"]) == (
            401,
            b"who?",
            "text/plain",
            "Basic",
        )
        one.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields = await one.head()
        assert (status, fields["content-length"]) == (401, "4")
        assert (await one.get("/", "Authorization: Basic eA=="))[0] == 200
        assert sum(len(server.heads) for server in seen.values()) == 1
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx")
        assert (await one.response())[0] == 401


async def test_on_request_may_name_the_pool_the_key_and_fields():
    def on_request(request):
        if request.target.startswith("/move"):
            request.pool = "other"
        if user := request.header("x-user"):
            request.key = user.encode()
        request.set_header("X-Checked", "yes")
        request.remove_header("X-User")

    sticky = '[pools.app.sticky]\non = "insert"\n'
    async with hooked(sticky, on_request=on_request) as (one, seen, _):
        await one.get("/move", "X-Checked: forged")
        assert seen["other"].named("x-checked") == ["yes"]
        for user in ("u1", "u2", "u3", "u4", "u5", "u6"):
            before = {n: len(server.heads) for n, server in seen.items()}
            for _ in range(4):
                _, fields, _ = await one.get("/", f"X-User: {user}")
                assert "set-cookie" not in fields
            went = {n: len(server.heads) - before[n] for n, server in seen.items() if len(server.heads) > before[n]}
            assert list(went.values()) == [4], "one key, one server"
        assert all(server.named("x-user") == [] for server in seen.values() if server.heads)
        _, fields, _ = await one.get("/")
        assert fields["set-cookie"].startswith("fastroute=")


async def test_an_answer_of_a_hook_is_bytes_or_text_and_nothing_else(caplog):
    bodies = {"/bytes": b"\xc3\xa4", "/text": "\u00e4", "/array": bytearray(b"\xc3\xa4"), "/number": 5, "/list": [1, 2]}

    def on_request(request):
        request.respond(201, bodies[request.target], "text/plain; charset=utf-8")

    async with hooked(on_request=on_request) as (one, seen, _):
        for target in ("/bytes", "/text", "/array"):
            assert (await one.get(target))[::2] == (201, b"\xc3\xa4")
        assert not any(server.heads for server in seen.values())
        for target in ("/number", "/list"):
            assert (await one.get(target))[0] == 200  # of a server: the hook has said nothing
    assert "accepted are bytes and str" in caplog.text


async def test_on_response_may_change_fields():
    def on_response(request, response):
        response.set_header("X-Status", str(response.status))
        response.set_header("Content-Type", "text/changed")
        response.remove_header("X-Secret")

    secretive = always(answer(b"hi", 203, "X-Secret: s", "Content-Type: text/plain", "X-Kept: k"))
    async with hooked(handler=secretive, on_response=on_response) as (one, _, _):
        status, fields, body = await one.get()
        assert (status, fields["x-status"], body) == (203, "203", b"hi")
        assert fields["content-type"] == "text/changed"
        assert fields["x-kept"] == "k"
        assert "x-secret" not in fields


async def test_a_hook_that_raises_is_logged_once_per_kind_and_the_request_goes_on(caplog):
    def on_request(request):
        raise KeyError("c") if request.target == "/k" else ValueError("a")

    def broken(*_):
        raise RuntimeError("broken")

    caplog.set_level(logging.ERROR, "fastroute.hooks")
    hooks = {"on_request": on_request, "on_selection": broken, "on_response": broken}
    async with hooked(**hooks) as (one, _, _):
        for target in ("/", "/", "/k", "/k", "/"):
            assert (await one.get(target))[0] == 200
    said = sorted(record.getMessage().partition(" raised ")[0] for record in caplog.records)
    assert said == ["on_request", "on_request", "on_response", "on_selection"]


async def test_what_a_hook_may_not_say_is_an_error_of_the_hook_and_changes_nothing(caplog):
    def on_request(request):
        if request.target == "/pool":
            request.pool = "nowhere"
        if request.target == "/key":
            request.key = "text"
        if request.target == "/field":
            request.set_header("X", "a\r\nY: b")

    async with hooked(on_request=on_request) as (one, seen, _):
        for target in ("/pool", "/key", "/field"):
            assert (await one.get(target))[0] == 200
        assert all(server.named("y") == [] for server in seen.values() if server.heads)
    assert any("has routes to: other, app" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda request: request.respond(204),
        lambda request: request.respond(99),
        lambda request: request.respond(200, b"", "a\nb"),
        lambda request: request.respond(200, b"", "", [("Content-Length", "1")]),
        lambda request: request.set_header("Transfer-Encoding", "x"),
        lambda request: request.set_header("a b", "x"),
        lambda request: request.remove_header("Connection"),
    ],
)
def test_an_answer_or_field_that_could_break_a_message_is_refused(wrong):
    with pytest.raises(UsageError):
        wrong(HookRequest("GET", "/", "a", "127.0.0.1", "web", [], ""))


async def test_the_example_of_the_documentation_works(tmp_path):
    (web,) = free_ports(1)
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(echo)) for _ in range(3)]
        addresses = [f"127.0.0.1:{port}" for port, _ in servers]
        program = [sys.executable, str(ROOT / "examples" / "hooks.py"), f"127.0.0.1:{web}", *addresses]
        stack.callback(Zone.unlink, "hooks")
        example = Process(program, tmp_path / "out", {"PYTHONPATH": str(ROOT)})
        stack.callback(example.stop)
        await until(lambda: f"ready on 127.0.0.1:{web}" in example.output(), example.output())
        one = await stack.enter_async_context(client(web))
        assert (await one.get())[0] == 401
        assert (await one.get("/", "Authorization: Bearer wrong"))[0] == 401
        homes = set()
        for _ in range(6):
            status, fields, body = await one.get("/", "Authorization: Bearer t-2")
            homes.add(fields["x-served-by"])
            assert status == 200
            assert b"X-Tenant: globex\r\n" in body
            assert b"Bearer" not in body
        assert len(homes) == 1
