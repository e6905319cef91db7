"""PROXY protocol over sockets: in, from those who are trusted and from HAProxy; out, to servers and to nginx."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
import socket
import ssl

import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from fastroute.health.checks import CheckSpec, run_check
from fastroute.proxy.proxy_protocol import Header, format_header, parse_header
from tests.support.certificates import Certificates, make_certificates
from tests.support.fleet import Process, free_ports, running
from tests.support.header_server import serve_one
from tests.support.loops import on_each_loop, on_uvloop
from tests.support.relaying import Client, client, configured, echo, proxying, read_request, serving, until

CLIENT, HERE = ("192.0.2.7", 4711), ("198.51.100.1", 80)
LISTENER = 'proxy_protocol = true\ntrusted_proxies = ["127.0.0.0/8"]'
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


SENDERS = ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("version", ["v1", "v2"])
@on_each_loop
async def test_the_header_says_who_the_client_is(version):
    async with serving(echo) as (port, seen), proxying(configured([port], listener=LISTENER)) as (proxy, at):
        async with client(at) as one:
            one.send(format_header(version, CLIENT, HERE), GET)
            assert (await one.response())[0] == 200
            assert (await one.get())[0] == 200
        assert seen.named("x-forwarded-for", 0) == seen.named("x-forwarded-for", 1) == ["192.0.2.7"]
        async with client(at) as one:  # of the balancer itself, such as a check
            one.send(format_header(version, None, None), GET)
            assert (await one.response())[0] == 200
        assert seen.named("x-forwarded-for") == ["127.0.0.1"]
        assert proxy.statistics()["proxy_headers"] == {"ok": 2, "refused": 0}


@pytest.mark.parametrize("version", ["v1", "v2"])
@on_uvloop
async def test_a_header_in_single_bytes_is_the_same(version):
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], listener=LISTENER)) as (_, at),
        client(at) as one,
    ):
        one.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in format_header(version, CLIENT, HERE) + GET:
            one.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await one.response())[0] == 200
        assert seen.named("x-forwarded-for") == ["192.0.2.7"]


@on_uvloop
async def test_without_a_header_nothing_is_served():
    config = configured([9], listener=LISTENER, timeouts='head = "200ms"')
    async with proxying(config) as (proxy, at):
        for sent in (GET, b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n" + GET, b"PROXY TCP4 ", b""):
            async with client(at) as one:
                one.send(sent)
                if not sent:
                    one.writer.write_eof()
                with contextlib.suppress(ConnectionResetError):
                    assert await one.rest() == b""
        assert proxy.statistics()["proxy_headers"] == {"ok": 0, "refused": 4}
        assert proxy.statistics()["requests"] == 0


@on_uvloop
async def test_a_header_of_strangers_does_not_count():
    config = configured([9], listener='proxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8"]')
    async with proxying(config) as (proxy, at), client(at) as one:
        one.send(format_header("v1", CLIENT, HERE), GET)
        with contextlib.suppress(ConnectionResetError):
            assert await one.rest() == b""
        assert proxy.statistics()["proxy_headers"] == {"ok": 0, "refused": 1}


@on_each_loop
async def test_the_header_comes_before_tls(made):
    listener = LISTENER + f'\ntls = {{ certificate = "{made.certificate}", key = "{made.key}" }}'
    async with serving(echo) as (port, seen), proxying(configured([port], listener=listener)) as (_, at):
        raw = socket.create_connection(("127.0.0.1", at))
        raw.sendall(format_header("v2", CLIENT, HERE))
        raw.setblocking(False)
        one = Client(
            *await asyncio.open_connection(
                sock=raw, ssl=ssl.create_default_context(cafile=made.ca), server_hostname="localhost"
            )
        )
        assert (await one.get())[0] == 200
        await one.close()
        assert seen.named("x-forwarded-for") == ["192.0.2.7"]
        assert seen.named("x-forwarded-proto") == ["https"]


@on_uvloop
async def test_limits_are_those_of_the_client_that_the_header_names():
    config = configured([9], listener=LISTENER, limits="connections_per_client = 1")
    async with proxying(config) as (_, at), client(at) as one, client(at) as two, client(at) as three:
        for who, address in ((one, "192.0.2.1"), (two, "192.0.2.2"), (three, "192.0.2.1")):
            who.send(format_header("v1", (address, 1), HERE), GET)
            assert (await who.head())[0] == (503 if who is three else 502)


@pytest.mark.parametrize("sends", SENDERS)
@on_uvloop
async def test_haproxy_in_front(sends, tmp_path):
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        pytest.skip("haproxy is not installed")
    front = free_ports(1)[0]
    async with serving(echo) as (port, seen), proxying(configured([port], listener=LISTENER)) as (_, at):
        unique = "  unique-id-format %[uuid()]\n" if "unique" in sends else ""
        (tmp_path / "cfg").write_text(
            f"defaults\n  mode {'http' if unique else 'tcp'}\n  timeout connect 5s\n  timeout client 5s\n"
            f"  timeout server 5s\n"
            f"listen a\n{unique}  bind 127.0.0.1:{front}\n  server s 127.0.0.1:{at} {sends}\n"
        )
        with running(Process([haproxy, "-db", "-f", str(tmp_path / "cfg")], tmp_path / "out")):
            await accepting(front)
            reader, writer = await asyncio.open_connection("127.0.0.1", front, local_addr=("127.0.0.5", 0))
            one = Client(reader, writer)
            assert (await one.get())[0] == 200
            await one.close()
        assert seen.named("x-forwarded-for") == ["127.0.0.5"]


async def accepting(port: int) -> None:
    def accepts() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    await until(accepts, "it listens")


# To servers -----------------------------------------------------------------------------------------------------------


def with_header(found: list):
    """A server behind send_proxy: reads a header, then requests."""

    async def handle(seen, reader, writer):
        data = b""
        while (header := parse_header(data)) is None:
            data += await reader.readexactly(1)
        found.append(header)
        while True:
            await read_request(seen, reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()

    return handle


@pytest.mark.parametrize("version", ["v1", "v2"])
@on_each_loop
async def test_servers_are_told_who_the_client_is_once_per_request(version):
    found = []
    async with serving(with_header(found)) as (port, seen), proxying(_pool(port, version)) as (_, at):
        async with client(at) as one:
            for _ in range(3):
                assert (await one.get())[0] == 200
            own = one.writer.get_extra_info("sockname")
        assert [header.source for header in found] == [own] * 3
        assert [header.destination for header in found] == [("127.0.0.1", at)] * 3
        assert seen.connections == 3
        await until(lambda: seen.open == 0, "no connection is kept")


def _pool(port: int, version: str, listener: str = ""):
    return loads(
        f'[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n{listener}\n[pools.app]\nsend_proxy = "{version}"\n'
        f'[[pools.app.servers]]\naddress = "127.0.0.1:{port}"\n'
    ).config


@on_uvloop
async def test_a_header_that_came_in_goes_out():
    found = []
    async with (
        serving(with_header(found)) as (port, _),
        proxying(_pool(port, "v2", LISTENER)) as (_, at),
        client(at) as one,
    ):
        one.send(format_header("v1", ("2001:db8::7", 9), ("2001:db8::8", 10)), GET)
        assert (await one.response())[0] == 200
    assert (found[0].source, found[0].destination) == (("2001:db8::7", 9), ("2001:db8::8", 10))


@pytest.mark.parametrize("version", ["v1", "v2"])
@on_uvloop
async def test_nginx_and_haproxy_behind(version, tmp_path):
    nginx, haproxy = shutil.which("nginx"), shutil.which("haproxy")
    if nginx is None or haproxy is None:
        pytest.skip("nginx or haproxy is not installed")
    behind_nginx, behind_haproxy = free_ports(2)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; worker_processes 1; user root;\n"
        f"events {{ }}\nhttp {{ access_log off; server {{ listen 127.0.0.1:{behind_nginx} proxy_protocol;\n"
        '  location / { return 200 "$proxy_protocol_addr $proxy_protocol_port"; } } }\n'
    )
    async with serving(echo) as (port, seen):
        (tmp_path / "cfg").write_text(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\nlisten a\n"
            f"  bind 127.0.0.1:{behind_haproxy} accept-proxy\n  option forwardfor header X-Told\n"
            f"  server s 127.0.0.1:{port}\n"
        )
        with running(
            Process([nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")], tmp_path / "n"),
            Process([haproxy, "-db", "-f", str(tmp_path / "cfg")], tmp_path / "h"),
        ):
            await accepting(behind_nginx)
            async with proxying(_pool(behind_nginx, version, LISTENER)) as (_, at), client(at) as one:
                one.send(format_header("v2", CLIENT, HERE), GET)
                assert (await one.response())[2] == b"192.0.2.7 4711"
            await accepting(behind_haproxy)
            async with proxying(_pool(behind_haproxy, version, LISTENER)) as (_, at), client(at) as one:
                one.send(format_header("v2", CLIENT, HERE), GET)
                assert (await one.response())[0] == 200
            assert seen.named("x-told") == ["192.0.2.7"]


def test_nobody_trusted_is_a_mistake_unless_only_unix_sockets_can_be_reached(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        configured([9], listener="proxy_protocol = true")


@pytest.mark.parametrize("over_tls", [False, True])
@on_uvloop
async def test_checks_of_such_servers_begin_with_a_header_too(over_tls, made):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as one:
        serves = asyncio.to_thread(serve_one, one, answer, header=True, context=context if over_tls else None)
        running = asyncio.ensure_future(serves)
        tls = ssl.create_default_context(cafile=made.ca) if over_tls else None
        spec = CheckSpec("http", tls=tls, begin=format_header("v2", None, None), timeout_s=10)
        outcome = await run_check(spec, f"127.0.0.1:{one.getsockname()[1]}")
        assert outcome.ok, outcome.detail
        assert await running == Header(16)
