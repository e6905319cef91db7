"""Clients and servers that end at any moment, over TCP and TLS: nothing is left behind, nothing is lost in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import ssl

import pytest

from tests.integration.test_listener_tcp import connected, served, tcp, who
from tests.support.certificates import Certificates, make_certificates
from tests.support.loops import on_uvloop
from tests.support.relaying import always, answer, configured, proxying, serving, until

RESET = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pair"))


def wild(rng: random.Random):
    """A server that does one of the things that servers do."""

    async def handle(reader, writer):
        match rng.randrange(6):
            case 0:
                return
            case 1:
                writer.get_extra_info("socket").setsockopt(*RESET)
                writer.transport.abort()
                return
            case 2:
                writer.write(rng.randbytes(300_000))
                await writer.drain()
                return
            case 3:
                await reader.read(rng.randrange(1, 5000))
                writer.write(b"x" * 1000)
                if writer.can_write_eof():
                    writer.write_eof()
                await reader.read(-1)
            case _:
                while piece := await reader.read(65536):
                    writer.write(piece)
                    await writer.drain()

    return handle


async def stray(rng: random.Random, port: int, context: ssl.SSLContext | None) -> None:
    """A client that does one of the things that clients do."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        how = rng.randrange(7)
        if how == 0:  # gone before anything was said
            raw = socket.create_connection(("127.0.0.1", port))
            raw.sendall(rng.randbytes(rng.randrange(40)) if context is None or rng.random() < 0.5 else b"\x16\x03\x01")
            if rng.random() < 0.5:
                raw.setsockopt(*RESET)
            raw.close()
            return
        tls = {"ssl": context, "server_hostname": "localhost", "ssl_shutdown_timeout": 0.2} if context else {}
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
        try:
            writer.write(rng.randbytes(rng.randrange(1, 200_000)))
            if how == 1:
                writer.transport.abort()
            elif how == 2:
                writer.transport.pause_reading()
                for _ in range(20):
                    await asyncio.sleep(0)
            elif how == 3 and context is None:
                writer.write_eof()
                async with asyncio.timeout(1):
                    await reader.read(-1)
            else:
                async with asyncio.timeout(0.2):
                    await reader.readexactly(rng.randrange(1, 100_000))
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("kind", ["plain", "tls", "tls-both", "sni"])
@on_uvloop
async def test_after_strays_nothing_is_left(kind, made, caplog):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    trusting = ssl.create_default_context(cafile=made.ca) if kind.startswith("tls") else None
    listener = f'tls = {{ certificate = "{made.certificate}", key = "{made.key}" }}\n' if trusting else ""
    listener += "limits.connections_per_client = 0\n[listeners.web.timeouts]\nhead = '2s'\n"
    inner: dict = {}
    pool = ""
    if kind == "tls-both":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(made.certificate, made.key)
        inner, pool = {"ssl": context, "ssl_shutdown_timeout": 0.2}, f'tls = {{ ca = "{made.ca}" }}\n'
    async with served(wild(rng), **inner) as one, served(wild(rng), **inner) as two:
        config = tcp([one, two], listener=listener, pool=pool, sticky='on = "sni"' if kind == "sni" else "")
        async with proxying(config) as (proxy, at):
            for _ in range(8):
                await asyncio.gather(*(stray(rng, at, trusting) for _ in range(25)))

            def settled() -> bool:
                found = proxy.statistics()
                busy = any(server.in_flight for server in found["pools"]["app"].servers)
                here = found["tunnels"] or found["downstream_connections"] or found["upstream_open"]
                return not (busy or here or any(one.busy for one in proxy._listeners))

            await until(settled, f"everything has ended, seed {seed}")
            assert proxy.statistics()["tunnels_total"] > 20
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@on_uvloop
async def test_a_process_without_descriptors_waits_and_goes_on(made, monkeypatch, caplog):
    from fastroute.proxy import door

    monkeypatch.setattr(door, "AGAIN_S", 0.05)
    listener = f'tls = {{ certificate = "{made.certificate}", key = "{made.key}" }}'
    context = ssl.create_default_context(cafile=made.ca)
    async with (
        serving(always(answer(b"x"))) as (port, _),
        proxying(configured([port], listener=listener)) as (proxy, at),
    ):
        inside = proxy._listeners[0]._doors[0]
        real, failed = inside._sock, []

        class Empty:
            """No descriptor is left, a few times."""

            def accept(self):
                if len(failed) < 3:
                    failed.append(1)
                    raise OSError(errno.EMFILE, "Too many open files")
                return real.accept()

            def __getattr__(self, name):
                return getattr(real, name)

        inside._sock = Empty()
        reader, writer = await asyncio.open_connection("127.0.0.1", at, ssl=context, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert len(failed) == 3
        writer.close()
        await writer.wait_closed()


@on_uvloop
async def test_a_connection_lasts_longer_than_its_listener():
    async def named(reader, writer):
        writer.write(b"1\n")
        while piece := await reader.read(1000):
            writer.write(piece)

    async with served(named) as port, proxying(tcp([port])) as (proxy, at), connected(at) as (reader, writer):
        assert await reader.readline() == b"1\n"
        draining = asyncio.ensure_future(proxy.drain(0.3))
        await until(lambda: not proxy._listeners or not proxy._listeners[0]._servers, "it accepts no more")
        with pytest.raises(ConnectionError):
            await who(at)
        writer.write(b"more")
        assert await reader.readexactly(4) == b"more"
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""  # cut at the deadline
        await draining
