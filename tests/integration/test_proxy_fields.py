"""Header rules, request ids, forwarded addresses and pages of errors, through the proxy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from tests.support.relaying import (
    Client,
    Seen,
    always,
    answer,
    client,
    configured,
    echo,
    proxying,
    serving,
    unused_port,
)

TRUST = 'trusted_proxies = ["127.0.0.0/8"]\n'


@contextlib.asynccontextmanager
async def relay(handler=echo, **named: str) -> AsyncIterator[tuple[Client, Seen]]:
    async with (
        serving(handler) as (port, seen),
        proxying(configured([port], **named)) as (_, web),
        client(web) as one,
    ):
        yield one, seen


async def test_rules_of_listener_pool_and_route_are_applied_in_this_order():
    listener = """
request_headers = { set = { "X-Tier" = "web", "X-From" = "listener" }, add = { "X-Way" = "1" }, remove = ["X-Secret"] }
routes = [{ path_prefix = "/r", pool = "app", request_headers = { set = { "X-From" = "route" }, remove = ["x-way"] } }]
"""
    pool = (
        '[pools.app.request_headers]\nset = { "X-From" = "pool {pool}/{listener}" }\nadd = { "X-Way" = ["2", "3"] }\n'
    )
    async with relay(listener=listener, pool=pool) as (one, seen):
        await one.get("/", "X-Secret: s", "x-secret: t", "x-tier: client", "X-Way: 0", "X-Other: o")
        assert seen.named("x-from") == ["pool app/web"]
        assert seen.named("x-tier") == ["web"]
        assert seen.named("x-way") == ["0", "1", "2", "3"]
        assert seen.named("x-secret") == []
        assert seen.named("x-other") == ["o"]
        await one.get("/r/x", "X-Way: 0", "X-Secret: s")
        assert seen.named("x-from") == ["route"]
        assert seen.named("x-way") == seen.named("x-secret") == []
        assert seen.named("x-tier") == ["web"]


async def test_places_in_a_text_are_filled_with_what_is_known_of_the_request():
    listener = TRUST + (
        'request_id = "X-Request-Id"\n'
        'request_headers = { set = { "X-Real-IP" = "{client_ip}", "X-All" = "{{{scheme}://{host}}} {request_id}" } }\n'
        'response_headers = { set = { "X-Served-By" = "{server} by {reason}", "X-Request-Id" = "{request_id}" } }\n'
    )
    async with relay(listener=listener) as (one, seen):
        _, fields, _ = await one.get(
            "/", "X-Forwarded-For: 9.9.9.9, 10.0.0.7", "X-Real-IP: 1.1.1.1", "X-Request-Id: ab-12"
        )
        assert seen.named("x-real-ip") == ["10.0.0.7"]
        assert seen.named("x-all") == ["{http://a.example} ab-12"]
        assert seen.named("x-request-id") == ["ab-12"]
        assert fields["x-served-by"] == "s1 by policy"
        assert fields["x-request-id"] == "ab-12"


async def test_response_rules_replace_what_the_server_says_and_hold_for_answers_of_our_own():
    sent = answer(b"hi", 200, "Server: Leaky/1.0", "X-Powered-By: y", "Cache-Control: private", "Set-Cookie: a=b")
    rules = (
        'response_headers = { remove = ["server", "x-powered-by"], set = { "Cache-Control" = "no-store" }, '
        'add = { "Strict-Transport-Security" = "max-age=1" } }'
    )
    async with relay(always(sent), listener=rules) as (one, _):
        _, fields, body = await one.get()
        assert body == b"hi"
        assert "server" not in fields
        assert "x-powered-by" not in fields
        assert (fields["cache-control"], fields["set-cookie"]) == ("no-store", "a=b")
        assert fields["strict-transport-security"] == "max-age=1"
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        status, fields, _ = await one.response()
        assert status == 400
        assert fields["strict-transport-security"] == "max-age=1"


async def test_each_request_gets_an_id_of_its_own_and_a_strangers_is_replaced():
    async with relay(listener='request_id = "X-Request-Id"') as (one, seen):
        for _ in range(200):
            await one.get("/", "x-request-id: forged", "traceparent: 00-1-2-01", "tracestate: a=b")
        ids = {seen.named("x-request-id", at)[0] for at in range(200)}
        assert all(len(seen.named("x-request-id", at)) == 1 for at in range(200))
        assert len(ids) == 200
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
        assert seen.named("traceparent") == ["00-1-2-01"]
        assert seen.named("tracestate") == ["a=b"]


@pytest.mark.parametrize("said", ["", "a b", 'a"b', "x" * 129, "a\\b"])
async def test_an_id_that_no_log_should_hold_is_replaced_even_from_a_trusted_peer(said):
    async with relay(listener=TRUST + 'request_id = "X-Request-Id"') as (one, seen):
        await one.get("/", f"X-Request-Id: {said}")
        assert re.fullmatch("[0-9a-f]{32}", seen.named("x-request-id")[0])


async def test_without_request_id_the_field_goes_through_as_any_other():
    async with relay() as (one, seen):
        await one.get("/", "X-Request-Id: mine")
        assert seen.named("x-request-id") == ["mine"]


@pytest.mark.parametrize(
    ("lines", "client_ip"),
    [
        ([], "127.0.0.1"),
        (["X-Forwarded-For: 10.0.0.1"], "10.0.0.1"),
        (["X-Forwarded-For: 6.6.6.6, 10.0.0.1"], "10.0.0.1"),
        (["X-Forwarded-For: 6.6.6.6, 10.0.0.1, 127.0.0.3"], "10.0.0.1"),
        (["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 10.0.0.1 , 127.1.1.1"], "10.0.0.1"),
        (["X-Forwarded-For: 127.0.0.9, 127.0.0.8"], "127.0.0.9"),
        (["X-Forwarded-For: 6.6.6.6, unknown"], "127.0.0.1"),
        (["X-Forwarded-For: 6.6.6.6, rubbish, 127.0.0.5"], "127.0.0.5"),
        (["X-Forwarded-For: [2001:DB8:0::1]:443"], "2001:db8::1"),
        (["X-Forwarded-For: ::ffff:10.0.0.1"], "10.0.0.1"),
        (["X-Forwarded-For: ,, 10.0.0.1 ,,"], "10.0.0.1"),
        (["X-Forwarded-For: " + "127.0.0.2, " * 200 + "10.0.0.1"], "10.0.0.1"),
        (["Forwarded: for=10.0.0.1"], "127.0.0.1"),
    ],
)
async def test_the_client_is_the_right_most_address_that_is_not_trusted(lines, client_ip):
    rules = TRUST + 'request_headers = { set = { "X-Client" = "{client_ip}" } }'
    async with relay(listener=rules) as (one, seen):
        await one.get("/", *lines)
        assert seen.named("x-client") == [client_ip]


@pytest.mark.parametrize(
    ("line", "client_ip"),
    [
        ("for=10.0.0.1", "10.0.0.1"),
        ('For="[2001:db8::1]:4711";proto=https', "2001:db8::1"),
        ("for=6.6.6.6, proto=http;for=10.0.0.1;by=127.0.0.1", "10.0.0.1"),
        ('for=6.6.6.6, for="127.0.0.4:80"', "6.6.6.6"),
        ('for=10.0.0.1;host="x,for=6.6.6.6;"', "10.0.0.1"),
        ("for=6.6.6.6, for=_hidden", "127.0.0.1"),
        ("for=6.6.6.6, proto=http", "127.0.0.1"),
        ('for="6.6.6.6, for=10.0.0.1', "127.0.0.1"),
        ("xfor=6.6.6.6, for=10.0.0.1", "10.0.0.1"),
    ],
)
async def test_with_forwarded_on_the_standard_field_names_the_client(line, client_ip):
    rules = TRUST + 'forwarded = true\nrequest_headers = { set = { "X-Client" = "{client_ip}" } }'
    async with relay(listener=rules) as (one, seen):
        await one.get("/", f"Forwarded: {line}", "X-Forwarded-For: 8.8.8.8")
        assert seen.named("x-client") == [client_ip]
        assert seen.named("forwarded") == [f'{line}, for=127.0.0.1;host="a.example";proto=http']


async def test_a_strangers_forwarded_field_counts_for_nothing_and_is_replaced():
    async with relay(listener="forwarded = true") as (one, seen):
        await one.get("/", "Forwarded: for=6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Port: 1")
        assert seen.named("forwarded") == ['for=127.0.0.1;host="a.example";proto=http']
        assert seen.named("x-forwarded-for") == ["127.0.0.1"]
        assert seen.named("x-forwarded-port") == []


async def test_pages_of_errors_are_sent_for_answers_of_our_own_alone(tmp_path):
    (tmp_path / "503.html").write_text("<h1>Back soon</h1>")
    pages = (
        f'error_pages = {{ "503" = "file:{tmp_path}/503.html", "4xx" = "{{\\"error\\": 1}}", "404" = "Nothing here" }}'
    )
    routes = 'routes = [{ host = "b.example", pool = "app" }]'
    config = configured([unused_port()], listener=f"{pages}\n{routes}", pool="[pools.app.retry]\nattempts = 0\n")
    assert config.listeners["web"].error_pages[503] == ("text/html; charset=utf-8", b"<h1>Back soon</h1>")
    assert config.listeners["web"].error_pages[404] == ("text/plain; charset=utf-8", b"Nothing here")
    async with relay(always(answer(b"mine", 503)), listener=pages) as (one, _):
        assert (await one.get())[2] == b"mine"
        one.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        status, fields = await one.head()
        assert (status, fields["content-type"], fields["content-length"]) == (400, "application/json", "12")
        assert await one.rest() in (b"", b'{"error": 1}')
    async with proxying(config) as (proxy, web), client(web) as one:
        assert (await one.get())[0] == 502
        proxy._parts.pools["app"].pool.set_state("s1", "down")
        status, fields, body = await one.get()
        assert (status, fields["content-type"], body) == (503, "text/html; charset=utf-8", b"<h1>Back soon</h1>")
        one.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        status, fields = await one.head()
        assert (status, fields["content-length"]) == (503, "18")
        assert (await one.get())[0] == 503  # no body came between


async def test_a_directory_of_pages_is_read_whole(tmp_path):
    (tmp_path / "5xx.json").write_text("{}")
    (tmp_path / "502.txt").write_text("gone")
    (tmp_path / "notes.md").write_text("x")
    pages = configured([9], listener=f'error_pages = "dir:{tmp_path}"').listeners["web"].error_pages
    assert pages[503] == ("application/json", b"{}")
    assert pages[502] == ("text/plain; charset=utf-8", b"gone")
    assert 404 not in pages


BAD = [
    'request_headers = { set = { "X" = "a\\r\\nb" } }',
    'request_headers = { set = { "X Y" = "a" } }',
    'request_headers = { set = { "Host" = "a" } }',
    'request_headers = { remove = ["content-length"] }',
    'response_headers = { add = { "Transfer-Encoding" = "a" } }',
    'response_headers = { remove = ["Connection"] }',
    'request_headers = { set = { "X-Forwarded-For" = "a" } }',
    'request_headers = { set = { "X" = "{server}" } }',
    'response_headers = { set = { "X" = "{host}" } }',
    'response_headers = { set = { "X" = "{" } }',
    'response_headers = { set = { "X" = "{request_id}" } }',
    'response_headers = { set = { "X" = "a", "x" = "b" } }',
    'response_headers = { set = { "X" = "caf\\u00e9" } }',
    'request_headers = { keep = ["X"] }',
    'request_id = "X-R"\nrequest_headers = { set = { "x-r" = "a" } }',
    'request_id = "Cookie"',
    'request_id = "a b"',
    'error_pages = { "200" = "x" }',
    'error_pages = { "503" = "file:/nowhere/503.html" }',
    'error_pages = { "503" = "file:/etc/passwd" }',
    'error_pages = { "503" = "" }',
    'error_pages = "dir:/nowhere"',
    'error_pages = "/etc"',
]


@pytest.mark.parametrize("line", BAD)
def test_a_rule_or_page_that_cannot_be_is_refused_with_its_line(line):
    with pytest.raises(ConfigError) as caught:
        loads(f'[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n{line}\n[[pools.app.servers]]\naddress = "a:2"\n')
    assert caught.value.line in (1, 4, 5)


def test_a_page_of_an_unbounded_size_is_refused(tmp_path):
    (tmp_path / "a.html").write_bytes(b"x" * 65537)
    with pytest.raises(ConfigError, match="more than 65536 bytes"):
        configured([9], listener=f'error_pages = {{ "503" = "file:{tmp_path}/a.html" }}')
