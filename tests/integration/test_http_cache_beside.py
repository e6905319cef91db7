"""The cache of responses beside the rest of a route: header rules, hooks, ids, the own cookie, pages of errors."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

from fastroute import Zone
from fastroute.proxy.server import Proxy
from tests.support.caching import Origin, Page, cached, origin, status_of
from tests.support.memcached import Memcached
from tests.support.relaying import Client, client

LISTENER = """\
request_id = "X-Request-Id"
request_headers = { set = { X-Id-Seen = "{request_id}" } }
response_headers = { add = { X-Added = "1" }, set = { X-Set = "of {pool}" }, remove = ["X-Gone"] }
error_pages = { "504" = "not here" }
"""
FRESH = "Cache-Control: max-age=60"


@contextlib.asynccontextmanager
async def site(store: Memcached, **hooks) -> AsyncIterator[tuple[Origin, Client, Client]]:
    """A server, and two clients of a proxy with all of that."""
    store.command("flush_all")
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(origin())
        config = cached([server.port], store.address, top="debug_headers = true\n", sticky='on = "insert"',
                        listener=LISTENER)  # fmt: skip
        one = socket.socket()
        stack.callback(one.close)
        stack.callback(Zone.unlink, config.zone.name)
        one.bind(("127.0.0.1", 0))
        one.listen(8)
        one.setblocking(False)
        await stack.enter_async_context(Proxy(config, sockets={"web": [one]}, **hooks))
        port = one.getsockname()[1]
        yield server, await stack.enter_async_context(client(port)), await stack.enter_async_context(client(port))


async def test_header_rules_hold_for_stored_responses_and_are_not_stored_with_them(store):
    async with site(store) as (server, one, two):
        server.page("/a", "hello", FRESH, "X-Gone: x", "X-Own: y", "X-Set: by the server")
        for n in range(4):
            _, fields, body = await (one, two)[n % 2].get("/a")
            told = {name: fields.get(name) for name in ("x-added", "x-set", "x-gone", "x-own")}
            assert (told, body) == ({"x-added": "1", "x-set": "of app", "x-gone": None, "x-own": "y"}, b"hello")
        assert server.count("/a") == 1


async def test_the_balancers_own_cookie_is_given_to_whom_a_server_was_asked_for_and_never_stored(store):
    async with site(store) as (server, one, two):
        server.page("/a", "hello", FRESH)
        assert (await one.get("/a"))[1]["set-cookie"].startswith("fastroute=")
        for _ in range(3):
            _, fields, _ = await two.get("/a")
            assert status_of(fields).startswith("fastroute; hit")
            assert "set-cookie" not in fields
            assert "x-fastroute" not in fields  # nobody was chosen
        server.page("/b", "no", "Cache-Control: no-store")
        assert (await two.get("/b"))[1]["set-cookie"].startswith("fastroute=")  # a user from now on


async def test_ids_belong_to_requests_and_not_to_stored_responses(store):
    async with site(store) as (server, one, _):
        server.page("/a", "hello", FRESH)
        server.page("/b", "hello", "Cache-Control: no-store")
        for _ in range(2):
            await one.get("/a", "X-Request-Id: forged")
            await one.get("/b")
        ids = [fields["x-request-id"] for _, _, fields in server.asked]
        assert len(set(ids)) == len(ids) == 3
        assert [fields["x-id-seen"] for _, _, fields in server.asked] == ids
        assert "forged" not in ids


async def test_pages_of_errors_are_for_answers_of_our_own_and_stored_ones_keep_theirs(store):
    async with site(store) as (server, one, _):
        assert (await one.get("/a", "Cache-Control: only-if-cached"))[::2] == (504, b"not here")
        server.page("/b", "the server's", FRESH, status=504)
        for _ in range(2):
            assert (await one.get("/b"))[::2] == (504, b"the server's")


async def test_on_request_comes_before_the_cache_and_on_response_after_a_server_alone(store):
    told = []

    def on_request(request):
        told.append(f"request {request.target}")
        if request.target == "/mine":
            request.respond(200, "mine")

    def on_selection(request, server, reason):
        told.append(f"selection {request.target}")

    def on_response(request, response):
        told.append(f"response {request.target} {response.status}")
        response.set_header("X-Hook", "1")

    async with site(store, on_request=on_request, on_selection=on_selection, on_response=on_response) as found:
        server, one, _ = found
        server.page("/a", "hello", FRESH)
        server.page("/mine", "stored", FRESH)
        first, second = (await one.get("/a"))[1], (await one.get("/a"))[1]
        assert (first.get("x-hook"), second.get("x-hook")) == ("1", None)  # what it set was not stored
        for _ in range(2):
            assert (await one.get("/mine"))[2] == b"mine"
        assert server.count("/mine") == 0
        assert told == [
            "request /a", "selection /a", "response /a 200",
            "request /a",
            "request /mine", "request /mine",
        ]  # fmt: skip


async def test_a_field_that_a_hook_sets_and_vary_names_never_shows_one_tenant_anothers_response(store):

    def on_request(request):
        request.set_header("X-Tenant", request.header("x-token") or "none")

    async with site(store, on_request=on_request) as (server, one, _):
        server.page("/a", "", "x")
        server.pages["/a"].by = lambda _, fields: Page(200, (FRESH, "Vary: X-Tenant"), fields["x-tenant"].encode())
        for _ in range(2):
            for tenant in ("ann", "bob"):
                assert (await one.get("/a", f"X-Token: {tenant}"))[2] == tenant.encode()
        assert server.count("/a") == 2  # one each
