"""Clients over TLS: certificates by name, what a handshake may do, bodies, ends, and certificates that change."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from fastroute.config.load import loads
from tests.support.certificates import Certificates, make_certificates
from tests.support.fleet import Process, free_ports, running
from tests.support.loops import on_each_loop, on_uvloop
from tests.support.relaying import (
    SECRET,
    WAIT_S,
    Client,
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

NAMES = ("localhost", "a.example", "*.b.example")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificates]:
    found = {}
    for number, name in enumerate(NAMES):
        directory = tmp_path_factory.mktemp(f"pair{number}")
        found[name] = make_certificates(directory, f"DNS:{name},IP:127.0.0.1" if not number else f"DNS:{name}")
    return found


def tls_lines(pairs: dict[str, Certificates]) -> str:
    def pair(name: str) -> str:
        return f'certificate = "{pairs[name].certificate}", key = "{pairs[name].key}"'

    sni = ", ".join(f'"{name}" = {{ {pair(name)} }}' for name in NAMES[1:])
    return f"tls = {{ {pair('localhost')}, sni = {{ {sni} }} }}"


def context_for(ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@contextlib.asynccontextmanager
async def tls_client(port: int, ca: str, name: str = "localhost") -> AsyncIterator[Client]:
    """A raw connection over TLS, verified against `ca` for `name`."""
    one = Client(
        *await asyncio.open_connection(
            "127.0.0.1", port, limit=1 << 20, ssl=context_for(ca), server_hostname=name, ssl_shutdown_timeout=1
        )
    )
    try:
        yield one
    finally:
        await one.close()


@on_each_loop
async def test_a_request_over_tls_says_https_to_the_server_and_its_cookie_is_secure(pairs):
    async with (
        serving(echo) as (port, seen),
        proxying(configured([port], sticky='on = "insert"', listener=tls_lines(pairs))) as (proxy, at),
        tls_client(at, pairs["localhost"].ca) as one,
    ):
        _, fields, _ = await one.get()
        assert "; Secure" in fields["set-cookie"]
        assert seen.named("x-forwarded-proto") == ["https"]
        negotiated = one.writer.get_extra_info("ssl_object")
        assert negotiated.selected_alpn_protocol() == "http/1.1"
        assert negotiated.version() == "TLSv1.3"
        for _ in range(3):  # keep-alive
            assert (await one.get("/again"))[0] == 200
        assert seen.connections == 1
        assert proxy.statistics()["handshakes"] == {"ok": 1, "failed": 0}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("x.b.example", "*.b.example"),
    ],
)
@on_uvloop
async def test_the_name_asked_for_decides_the_certificate(pairs, name, shown):
    config = configured([9], listener=tls_lines(pairs))
    async with proxying(config) as (_, at), tls_client(at, pairs[shown].ca, name.lower()) as one:
        assert (await one.get())[0] == 502  # verified: the handshake came through


@pytest.mark.parametrize("name", ["elsewhere.example", "b.example", "x.y.b.example"])
@on_uvloop
async def test_a_name_that_is_not_in_the_map_gets_the_default_certificate(pairs, name):
    config = configured([9], listener=tls_lines(pairs))
    context = ssl.create_default_context(cafile=pairs["localhost"].ca)
    context.check_hostname = False
    async with proxying(config) as (_, at):
        _, writer = await asyncio.open_connection("127.0.0.1", at, ssl=context, server_hostname=name)
        shown = writer.get_extra_info("peercert")["subjectAltName"]
        assert ("DNS", "localhost") in shown
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("version", "ciphers", "fine"),
    [
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20", True),
        (ssl.TLSVersion.TLSv1_2, "AES256-SHA:@SECLEVEL=0", False),  # no forward secrecy
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0", False),  # CBC
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@on_uvloop
async def test_versions_and_ciphers_are_mozillas_intermediate_ones(pairs, version, ciphers, fine):
    context = ssl.create_default_context(cafile=pairs["localhost"].ca)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = version
    context.set_ciphers(ciphers)
    async with proxying(configured([9], listener=tls_lines(pairs))) as (proxy, at):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", at, ssl=context, server_hostname="localhost")
        except (ssl.SSLError, ConnectionError):
            assert not fine
            await until(lambda: proxy.statistics()["handshakes"]["failed"] == 1, "counted")
        else:
            assert fine
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("size", [1 << 20, 20_000_000])
@on_each_loop
async def test_large_bodies_go_both_ways_unchanged(pairs, size):
    body = random.Random(size).randbytes(size)
    limits = 'body_bytes = "64MiB"'
    async with (
        serving(echo) as (port, _),
        proxying(configured([port], limits=limits, listener=tls_lines(pairs))) as (_, at),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context_for(pairs["localhost"].ca))) as session,
    ):
        async with session.post(f"https://localhost:{at}/", data=io.BytesIO(body)) as response:
            assert response.status == 200
            assert await response.read() == body

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        async with session.post(f"https://localhost:{at}/", data=pieces()) as response:
            assert await response.read() == body


@on_each_loop
async def test_a_client_that_reads_nothing_makes_the_server_wait(pairs):
    sent = 0

    async def endless(seen, reader, writer):
        nonlocal sent
        while (await read_request(seen, reader))[0].startswith(b"GET /short"):
            writer.write(answer(b"short"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with (
        serving(endless) as (port, _),
        proxying(configured([port], listener=tls_lines(pairs))) as (_, at),
        tls_client(at, pairs["localhost"].ca) as one,
    ):
        one.writer.transport.pause_reading()
        one.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with tls_client(at, pairs["localhost"].ca) as two:
            for _ in range(100):
                assert (await two.get("/short"))[0] == 200
        assert 0 < sent < 32 << 20  # what the kernel's buffers hold, far from what was to come
        one.writer.transport.abort()


@on_each_loop
async def test_a_refused_upload_gets_its_answer_whole(pairs):
    config = configured([9], limits="body_bytes = 1000", listener=tls_lines(pairs))
    async with proxying(config) as (proxy, at), tls_client(at, pairs["localhost"].ca) as one:
        one.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(30):
            one.send(b"x" * 100_000)
        assert (await one.response())[0] == 413
        await one.close()
        await until(lambda: proxy.statistics()["downstream_connections"] == 0, "gone")


@on_each_loop
async def test_a_body_that_ends_with_the_connection_ends_with_close_notify(pairs):
    """Python's client raises on an end without one where it is told to be strict."""
    context = context_for(pairs["localhost"].ca)
    body = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nall of it"

    def ask(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), WAIT_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as one,
        ):
            one.sendall(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            got = b""
            while piece := one.recv(65536):
                got += piece
            return got

    async with (
        serving(always(body, close=True)) as (port, _),
        proxying(configured([port], listener=tls_lines(pairs))) as (_, at),
    ):
        got = await asyncio.to_thread(ask, at)
    assert got.endswith(b"\r\n\r\nall of it")


@on_each_loop
async def test_what_is_no_handshake_is_counted_and_never_logged(pairs, caplog):
    config = configured([9], listener=tls_lines(pairs), timeouts='head = "200ms"')
    hello = b"\x16\x03\x01\x00\xff\x01"
    async with proxying(config) as (proxy, at):
        caplog.set_level("INFO")
        for sent in (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\0" * 300,
            hello,
            b"",
            b"\x16\x03\x01\x40\x00" + b"\xff" * 500,
        ):
            async with client(at) as one:
                if sent:
                    one.send(sent)
                else:
                    continue  # leaves at once
                assert len(await one.rest()) < 100  # an alert, or nothing
        await until(lambda: proxy.statistics()["handshakes"]["failed"] == 5, "all five")
        assert proxy.statistics()["downstream_accepted"] == 0
        async with tls_client(at, pairs["localhost"].ca) as one:
            assert (await one.get())[0] == 502
    assert [record for record in caplog.records if "upstream" not in record.message and record.name == "asyncio"] == []


@on_uvloop
async def test_whoever_is_at_the_door_counts_against_the_limits(pairs):
    config = configured([9], listener=tls_lines(pairs), limits="connections_per_client = 2")
    async with proxying(config) as (proxy, at), client(at) as one, client(at) as two:
        async with client(at) as three:
            assert await three.rest() == b""
        assert proxy.statistics()["limits_hit"]["connections_per_client"] == 1
        await one.close()
        await two.close()


@on_each_loop
async def test_a_drain_waits_for_handshakes_and_their_requests(pairs):
    config = configured([9], listener=tls_lines(pairs))
    async with proxying(config) as (proxy, at):
        raw = socket.create_connection(("127.0.0.1", at))
        raw.setblocking(False)
        await until(lambda: any(one.busy for one in proxy._listeners), "at the door")
        draining = asyncio.ensure_future(proxy.drain(10))
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection(
            sock=raw, ssl=context_for(pairs["localhost"].ca), server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.read(12)).endswith(b"502")
        writer.transport.abort()
        await draining


@on_uvloop
async def test_curl_and_openssl_are_served(pairs):
    curl, openssl = shutil.which("curl"), shutil.which("openssl")
    async with (
        serving(always(answer(b"hello"))) as (port, _),
        proxying(configured([port], listener=tls_lines(pairs))) as (_, at),
    ):
        if curl:
            done = await asyncio.to_thread(
                subprocess.run,
                [curl, "-sS", "--cacert", pairs["a.example"].ca, "--resolve", f"a.example:{at}:127.0.0.1",
                 f"https://a.example:{at}/one", f"https://a.example:{at}/two"],
                capture_output=True, timeout=20,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (0, b"hellohello"), done.stderr
        if openssl:
            done = await asyncio.to_thread(
                subprocess.run,
                [openssl, "s_client", "-connect", f"127.0.0.1:{at}", "-servername", "x.b.example",
                 "-verify_return_error", "-CAfile", pairs["*.b.example"].ca, "-ign_eof", "-quiet"],
                input=b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", capture_output=True, timeout=20,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert done.stdout.endswith(b"\r\n\r\nhello")


@on_uvloop
async def test_a_session_is_taken_up_again(pairs):
    config = configured([9], listener=tls_lines(pairs))
    context = context_for(pairs["localhost"].ca)

    def twice(port: int) -> bool:
        session = None
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port), WAIT_S) as raw,
                context.wrap_socket(raw, server_hostname="localhost", session=session) as one,
            ):
                one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert one.recv(100)
                session = one.session
                reused = bool(one.session_reused)
        return reused

    async with proxying(config) as (_, at):
        assert await asyncio.to_thread(twice, at)


# The configuration ----------------------------------------------------------------------------------------------------

FILE = (
    'secret = "{secret}"\n[listeners.web]\nbind = "127.0.0.1:{port}"\npool = "app"\n{tls}\n'
    '[[pools.app.servers]]\naddress = "127.0.0.1:1"\n'
)


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ('{{ certificate = "{c}", key = "{other}" }}', "is not that of the certificate"),
        ('{{ certificate = "{k}", key = "{k}" }}', "are not a certificate and its key in PEM"),
        ('{{ certificate = "/none.pem", key = "{k}" }}', '"/none.pem" cannot be read: No such file'),
        ('{{ certificate = "{c}" }}', "key is missing"),
        ('{{ certificate = "{c}", key = "{k}", digest = "x" }}', "unknown key"),
        ('{{ certificate = "{c}", key = "{k}", sni = {{ "a b" = {{ }} }} }}', "server name"),
        ('{{ certificate = "{c}", key = "{k}", sni = {{ "*" = {{ }} }} }}', "server name"),
        ('{{ certificate = "{c}", key = "{k}", sni = {{ a = {{ certificate = "{c}", key = "{other}" }} }} }}', "not "),
        ('{{ certificate = "{c}", key = "{locked}" }}', "has a passphrase"),
        ("true", "accepted: a table"),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_work_is_refused_with_its_line(pairs, tmp_path, tls, message):
    from fastroute.errors import ConfigError

    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", pairs["localhost"].key, "-aes128", "-passout", "pass:secret", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    one, other = pairs["localhost"], pairs["a.example"]
    text = FILE.format(
        secret=SECRET, port=1, tls="tls = " + tls.format(c=one.certificate, k=one.key, other=other.key, locked=locked)
    )
    with pytest.raises(ConfigError) as refused:
        loads(text)
    assert message in str(refused.value)
    assert refused.value.line in (2, 5)


def said(replica: Process, text: str) -> None:
    end = time.monotonic() + WAIT_S
    while text not in replica.output():
        assert time.monotonic() < end, replica.output()
        time.sleep(0.02)


def client_hello(name: str) -> bytes:
    """What a client sends first."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def shown_by(port: int) -> str:
    """The certificate that a listener shows, as PEM."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=WAIT_S)


def test_certificates_change_with_a_reload_and_bad_ones_do_not(pairs, tmp_path):
    """Same paths, new contents. A connection that is in the middle of something goes on."""
    port = free_ports(1)[0]
    live = {name: tmp_path / name for name in ("cert.pem", "key.pem")}

    def install(pair: Certificates, key: str | None = None) -> None:
        shutil.copy(pair.certificate, live["cert.pem"])
        shutil.copy(key or pair.key, live["key.pem"])

    first, second = pairs["localhost"], pairs["a.example"]
    install(first)
    tls = f'tls = {{ certificate = "{live["cert.pem"]}", key = "{live["key.pem"]}" }}'
    (tmp_path / "fr.toml").write_text(FILE.format(secret=SECRET, port=port, tls=tls))
    replica = Process([sys.executable, "-m", "fastroute", "serve", "-c", str(tmp_path / "fr.toml")], tmp_path / "out")
    try:
        replica.wait_for_line("ready")
        before = shown_by(port)
        context = ssl.create_default_context(cafile=first.ca)
        with (
            socket.create_connection(("127.0.0.1", port), WAIT_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as held,
        ):
            held.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n")
            install(second)
            os.kill(replica.pid, signal.SIGHUP)
            said(replica, "reload done")
            end = time.monotonic() + WAIT_S
            while shown_by(port) == before:  # a handshake of the old workers may be the next one still
                assert time.monotonic() < end
            held.sendall(b"\r\nhello")  # on the old workers, which drain
            assert held.recv(12).endswith(b"502")
        after = shown_by(port)
        install(second, key=first.key)
        os.kill(replica.pid, signal.SIGHUP)
        said(replica, "reload refused")
        assert "is not that of the certificate" in replica.output()
        assert shown_by(port) == after
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as raw:
            raw.sendall(client_hello("name.example").replace(b"name.example", b"\xff\xfe\xfd\xfc.example"))
            assert raw.recv(100)[:1] in (b"\x15", b"")  # an alert, or an end
        assert "Traceback" not in replica.output()
        assert "Exception" not in replica.output()
    finally:
        replica.kill()
        replica.popen.wait(10)


@on_uvloop
async def test_no_request_fails_while_certificates_change(pairs, tmp_path):
    """Clients that connect anew and clients that keep their connection, over reloads that change the certificate."""
    at = free_ports(1)[0]
    live = {name: tmp_path / name for name in ("cert.pem", "key.pem")}
    context = ssl.create_default_context(cafile=pairs["localhost"].ca)
    context.load_verify_locations(pairs["a.example"].ca)
    context.check_hostname = False

    def install(pair: Certificates) -> None:
        shutil.copy(pair.certificate, live["cert.pem"])
        shutil.copy(pair.key, live["key.pem"])

    asked, failed, over = 0, [], False

    async def user(keeps: bool) -> None:
        nonlocal asked
        while not over:
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", at, ssl=context, server_hostname="localhost", ssl_shutdown_timeout=1
                )
                one = Client(reader, writer)
                while not over:
                    status, fields, _ = await one.get()
                    asked += 1
                    if status != 200:
                        failed.append(status)
                    if not keeps or fields.get("connection") == "close":
                        break
                await one.close()
            except (OSError, asyncio.IncompleteReadError) as error:
                failed.append(error)

    async with serving(always(answer(b"x"))) as (port, _):
        install(pairs["localhost"])
        tls = f'tls = {{ certificate = "{live["cert.pem"]}", key = "{live["key.pem"]}" }}'
        text = FILE.format(secret=SECRET, port=at, tls=tls).replace('127.0.0.1:1"', f'127.0.0.1:{port}"')
        (tmp_path / "fr.toml").write_text("workers = 2\n" + text)
        replica = Process(
            [sys.executable, "-m", "fastroute", "serve", "-c", str(tmp_path / "fr.toml")], tmp_path / "out"
        )
        with running(replica):
            await asyncio.to_thread(replica.wait_for_line, "ready")
            users = [asyncio.ensure_future(user(bool(n % 2))) for n in range(6)]
            for number in range(4):
                before = asked
                await until(lambda: asked > before + 50 or failed, "they are served")  # noqa: B023
                install(pairs["a.example" if number % 2 == 0 else "localhost"])
                os.kill(replica.pid, signal.SIGHUP)
                await until(lambda: replica.output().count("reload done") == number + 1, "reloaded")  # noqa: B023
            over = True
            await asyncio.gather(*users)
    assert failed == []
    assert asked > 200


@on_each_loop
async def test_a_tunnel_over_tls_ends_with_either_side(pairs):
    async def upgrades(seen, reader, writer):
        await read_request(seen, reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        while piece := await reader.read(65536):
            if piece == b"leave":
                return
            writer.write(piece)
            await writer.drain()

    body = random.Random(3).randbytes(2_000_000)
    ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with (
        serving(upgrades) as (port, seen),
        proxying(configured([port], listener=tls_lines(pairs))) as (proxy, at),
    ):
        for last in (b"", b"leave"):
            async with tls_client(at, pairs["localhost"].ca) as one:
                one.send(ask)
                assert (await one.head())[0] == 101
                one.send(body)
                assert await one.reader.readexactly(len(body)) == body
                if last:
                    one.send(last)
                    assert await one.rest() == b""
            await until(lambda: proxy.statistics()["tunnels"] == 0 and seen.open == 0, "both sides have ended")
        await until(lambda: proxy.statistics()["downstream_connections"] == 0, "nothing is left")


@on_uvloop
async def test_a_drain_does_not_wait_for_clients_that_never_look_at_their_connection(pairs):
    config = configured([9], listener=tls_lines(pairs))
    context = context_for(pairs["localhost"].ca)

    def idle(port: int) -> ssl.SSLSocket:
        one = context.wrap_socket(socket.create_connection(("127.0.0.1", port), WAIT_S), server_hostname="localhost")
        one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one.recv(12).endswith(b"502")
        return one

    async with proxying(config) as (proxy, at):
        one = await asyncio.to_thread(idle, at)
        async with asyncio.timeout(40):
            await proxy.drain(60)
        one.close()
