"""Servers over TLS: verified by default, asked for by name, reused, and failing in the connect phase."""

from __future__ import annotations

import asyncio
import contextlib
import io
import pathlib
import random
import shutil
import socket
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from tests.support.certificates import Certificates, make_certificates
from tests.support.fleet import Process, running
from tests.support.loops import on_each_loop, on_uvloop, settled
from tests.support.relaying import (
    Seen,
    always,
    answer,
    client,
    configured,
    echo,
    proxying,
    read_request,
    serving,
    until,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("server"), "DNS:localhost,DNS:inner.example,IP:127.0.0.1")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("stranger"), "DNS:elsewhere.example")


@contextlib.asynccontextmanager
async def tls_serving(handler, of: Certificates, *, client_ca: str = "") -> AsyncIterator[tuple[int, Seen, list]]:
    """A scripted server over TLS: (port, what it saw, names asked for)."""
    names: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca or None)
    context.load_cert_chain(of.certificate, of.key)
    context.sni_callback = lambda connection, name, _: names.append(name)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    async with serving(handler) as (_, seen):

        async def connection(reader, writer):
            seen.connections += 1
            try:
                await handler(seen, reader, writer)
            except (asyncio.IncompleteReadError, OSError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1], seen, names
        finally:
            server.close()
            await settled()


def tls(**keys: object) -> str:
    shown = {key: str(value).lower() if isinstance(value, bool) else repr(value) for key, value in keys.items()}
    return "[pools.app.tls]\n" + "".join(f"{key} = {value}\n" for key, value in shown.items())


@on_each_loop
async def test_a_verified_server_is_used_and_its_connection_again(made):
    async with (
        tls_serving(echo, made) as (port, seen, names),
        proxying(configured([port], pool=tls(ca=made.ca))) as (_, at),
        client(at) as one,
    ):
        for _ in range(5):
            assert (await one.get())[0] == 200
        assert seen.connections == 1
        assert names == [None]  # an address is nobody's name (RFC 6066, 3)
        assert seen.named("x-forwarded-proto") == ["http"]


@on_uvloop
async def test_server_name_is_asked_for_and_must_be_in_the_certificate(made):
    async with tls_serving(echo, made) as (port, _, names):
        for name, status in (("inner.example", 200), ("other.example", 502)):
            async with (
                proxying(configured([port], pool=tls(ca=made.ca, server_name=name))) as (_, at),
                client(at) as one,
            ):
                assert (await one.get())[0] == status
    assert names[0] == "inner.example"
    assert names[-1] == "other.example"


@on_uvloop
async def test_the_host_of_the_address_is_the_name(made):
    async with tls_serving(echo, made) as (port, _, names):
        config = configured([port], pool=tls(ca=made.ca))
        text = loads(  # the same with a name for a host
            f'[listeners.web]\nbind = "127.0.0.1:1"\npool = "app"\n[[pools.app.servers]]\n'
            f'address = "localhost:{port}"\n[pools.app.tls]\nca = "{made.ca}"\nzone = 1'.replace("\nzone = 1", "")
        ).config
        assert config.pools["app"].tls == text.pools["app"].tls
        async with proxying(text) as (_, at), client(at) as one:
            assert (await one.get())[0] == 200
    assert names == ["localhost"]


@pytest.mark.parametrize("verify", [True, False])
@on_uvloop
async def test_a_certificate_of_strangers_is_refused_unless_told_otherwise(stranger, verify, caplog):
    async with (
        tls_serving(echo, stranger) as (port, seen, _),
        proxying(configured([port], pool=tls(verify=verify))) as (proxy, at),
        client(at) as one,
    ):
        assert (await one.get())[0] == (502 if verify else 200)
        assert len(seen.heads) == (not verify)  # nothing was sent
        assert proxy.statistics()["upstream_connect_failures"] >= verify


@on_uvloop
async def test_a_server_that_fails_the_handshake_is_passed_over(made, caplog):
    async def silent(seen, reader, writer):
        await reader.read()

    async with (
        tls_serving(echo, made) as (good, _, _),
        serving(always(answer(b"plain"))) as (plain, _),
        proxying(configured([plain, good], pool=tls(ca=made.ca))) as (proxy, at),
        client(at) as one,
    ):
        for _ in range(4):
            assert (await one.get())[0] == 200
        assert proxy.statistics()["upstream_connect_failures"] == 1
    async with (
        serving(silent) as (mute, _),
        proxying(configured([mute], pool=tls(ca=made.ca) + '[pools.app.timeouts]\nconnect = "100ms"')) as (_, at),
        client(at) as one,
    ):
        assert (await one.get())[0] == 504  # the handshake is part of the connect time
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@on_uvloop
async def test_our_certificate_is_shown_to_a_server_that_asks(made):
    async with tls_serving(echo, made, client_ca=made.ca) as (port, _, _):
        own = tls(ca=made.ca, certificate=made.certificate, key=made.key)
        for keys, status in ((own, 200), (tls(ca=made.ca), 502)):
            async with proxying(configured([port], pool=keys)) as (_, at), client(at) as one:
                assert (await one.get())[0] == status


@on_each_loop
async def test_large_bodies_go_both_ways(made):
    body = random.Random(1).randbytes(12_000_000)
    async with (
        tls_serving(echo, made) as (port, _, _),
        proxying(configured([port], pool=tls(ca=made.ca), limits='body_bytes = "64MiB"')) as (_, at),
        aiohttp.ClientSession() as session,
        session.post(f"http://localhost:{at}/", data=io.BytesIO(body)) as response,
    ):
        assert await response.read() == body


@pytest.mark.parametrize("whole", [True, False])
@on_uvloop
async def test_a_body_that_ends_with_the_connection_is_whole_only_after_close_notify(made, whole):
    """An end that anybody on the way can forge is not the end of a message."""

    async def handle(seen, reader, writer):
        await read_request(seen, reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nsome of it")
        await writer.drain()
        if not whole:
            raw = writer.get_extra_info("socket")
            with socket.socket(fileno=socket.dup(raw.fileno())) as own:
                own.shutdown(socket.SHUT_WR)

    async with (
        tls_serving(handle, made) as (port, _, _),
        proxying(configured([port], pool=tls(ca=made.ca))) as (proxy, at),
        client(at) as one,
    ):
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = await one.rest()
        assert b"some of it" in got
        assert got.endswith(b"0\r\n\r\n") == whole
        assert proxy.statistics()["truncated"] == (not whole)


@on_uvloop
async def test_a_post_is_not_sent_on_a_connection_that_the_server_has_closed(made):
    async def one_each(seen, reader, writer):
        await read_request(seen, reader)
        writer.write(answer(b"x"))
        await writer.drain()

    async with (
        tls_serving(one_each, made) as (port, seen, _),
        proxying(configured([port], pool=tls(ca=made.ca))) as (_, at),
        client(at) as one,
    ):
        for _ in range(20):
            one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            assert (await one.response())[0] == 200
        assert seen.connections == 20


@on_uvloop
async def test_nginx_over_tls_is_a_server(made, tmp_path):
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; worker_processes 1; user root;\n"
        f"events {{ }}\nhttp {{ access_log off; server {{ listen 127.0.0.1:{port} ssl;"
        f" ssl_certificate {made.certificate};"
        f' ssl_certificate_key {made.key}; location / {{ return 200 "$ssl_server_name $ssl_protocol"; }} }} }}\n'
    )
    process = Process([nginx, "-p", str(tmp_path), "-c", str(conf)], tmp_path / "out")
    with running(process):

        def accepts() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            return False

        await until(accepts, "nginx listens")
        config = configured([port], pool=tls(ca=made.ca, server_name="inner.example"))
        async with proxying(config) as (proxy, at), client(at) as one:
            for _ in range(3):
                assert (await one.get())[2].startswith(b"inner.example TLSv1.")
            assert proxy.statistics()["upstream_connects"] == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('ca = "/none.pem"', '"/none.pem" cannot be read'),
        ('ca = "{key}"', "holds no certificates"),
        ('key = "{key}"', "both or none"),
        ('certificate = "{ca}"\nkey = "{key}"', "is not that of the certificate"),
        ('server_name = "*.a"', "without a wildcard"),
        ('server_name = "a b"', "accepted: a name"),
        ('sni = "a"', "unknown key"),
    ],
)
def test_what_cannot_work_is_refused(made: Certificates, lines: str, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError) as refused:
        configured([9], pool="[pools.app.tls]\n" + lines.format(ca=made.ca, key=made.key))
    assert message in str(refused.value)
