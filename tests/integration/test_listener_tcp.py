"""TCP listeners: bytes both ways, ends and failures, stickiness by address and by server name."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
from collections.abc import AsyncIterator

import pytest

from fastroute.config.load import loads
from fastroute.errors import ConfigError
from fastroute.proxy.proxy_protocol import format_header, parse_header
from tests.support.certificates import Certificates, make_certificates
from tests.support.loops import on_each_loop, on_uvloop, settled
from tests.support.relaying import SECRET, WAIT_S, proxying, reset, until, unused_port


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pair"), "DNS:localhost,DNS:a.example,DNS:b.example,IP:127.0.0.1")


def tcp(ports: list[int], *, listener: str = "", pool: str = "", sticky: str = "", retry: int = 1):
    servers = "".join(
        f'[[pools.app.servers]]\nname = "s{n}"\naddress = "127.0.0.1:{p}"\n' for n, p in enumerate(ports, 1)
    )
    return loads(
        f'secret = "{SECRET}"\nzone = {{ name = "t-tcp-{unused_port()}", size = "1MiB" }}\n'
        f'[listeners.web]\nbind = "127.0.0.1:1"\nprotocol = "tcp"\npool = "app"\n{listener}\n[pools.app]\n{pool}\n'
        f"{servers}[pools.app.retry]\nattempts = {retry}\n" + (f"[pools.app.sticky]\n{sticky}\n" if sticky else "")
    ).config


@contextlib.asynccontextmanager
async def served(handler, **named) -> AsyncIterator[int]:
    tasks: set = set()

    async def connection(reader, writer):
        task = asyncio.current_task()
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 20, **named)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await settled()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader, writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def named(name: str):
    """A server that says its name and echoes."""

    async def handle(reader, writer):
        writer.write(f"{name}\n".encode())
        await echo(reader, writer)

    return handle


@contextlib.asynccontextmanager
async def connected(port: int, **more) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, **more)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def who(port: int, **more) -> str:
    async with connected(port, **more) as (reader, _):
        return (await reader.readline()).decode().strip()


@on_each_loop
async def test_bytes_go_both_ways_and_ends_are_passed_on():
    data = random.Random(1).randbytes(20_000_000)

    async def counts(reader, writer):
        """Reads to the end, then answers: only a half-close can tell it."""
        total = hashlib.sha256()
        while piece := await reader.read(65536):
            total.update(piece)
        writer.write(total.digest() + data)
        await writer.drain()

    async with served(counts) as port, proxying(tcp([port])) as (proxy, at), connected(at) as (reader, writer):
        writer.write(data)
        writer.write_eof()
        assert await reader.readexactly(32) == hashlib.sha256(data).digest()
        assert await reader.read(-1) == data
        await until(lambda: proxy.statistics()["tunnels"] == 0, "both have ended")
        assert proxy.statistics()["tunnels_total"] == 1
        assert proxy.statistics()["truncated"] == 0
        server = proxy.statistics()["pools"]["app"].servers[0]
        assert server.in_flight == 0
        assert not proxy.statistics()["upstream_open"]


@on_each_loop
async def test_a_server_that_speaks_first_is_heard():
    async with served(named("hello")) as port, proxying(tcp([port])) as (_, at):
        for _ in range(50):
            assert await who(at) == "hello"


@on_uvloop
async def test_a_server_that_speaks_and_leaves_at_once_is_heard():
    async def leaves(reader, writer):
        writer.write(b"bye\n")

    async with served(leaves) as port, proxying(tcp([port])) as (_, at):
        for _ in range(50):
            async with connected(at) as (reader, _):
                assert await reader.read(-1) == b"bye\n"


@on_uvloop
async def test_what_a_client_sends_and_ends_before_the_server_is_there_arrives():
    async def all_of_it(reader, writer):
        writer.write(b"got " + await reader.read(-1))

    async with served(all_of_it) as port, proxying(tcp([port])) as (_, at):
        raw = socket.create_connection(("127.0.0.1", at))
        raw.sendall(b"early")
        raw.shutdown(socket.SHUT_WR)
        raw.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=raw)
        assert await reader.read(-1) == b"got early"
        writer.close()


@on_uvloop
async def test_a_slow_reader_stops_the_sender_on_either_side():
    sent = 0

    async def endless(reader, writer):
        nonlocal sent
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async def asleep(reader, writer):
        reader._transport.pause_reading()
        await asyncio.Event().wait()

    async with served(echo) as small, proxying(tcp([small])) as (_, other):
        async with served(endless) as port, proxying(tcp([port])) as (_, at), connected(at) as (_, writer):
            writer.transport.pause_reading()
            await round_trips(other, 200)
            assert 0 < sent < 32 << 20
            writer.transport.abort()
        async with served(asleep) as port, proxying(tcp([port])) as (_, at), connected(at) as (_, writer):
            writer.transport.set_write_buffer_limits(high=1 << 28)
            writer.write(bytes(64 << 20))
            await round_trips(other, 200)
            assert writer.transport.get_write_buffer_size() > 32 << 20
            writer.transport.abort()


async def round_trips(port: int, count: int) -> None:
    async with connected(port) as (reader, writer):
        for _ in range(count):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"


@on_uvloop
async def test_a_reset_is_a_reset_on_the_other_side():
    seen = asyncio.Event()

    async def reads(reader, writer):
        try:
            await reader.read(-1)
        except ConnectionResetError:
            seen.set()

    async def resets(reader, writer):
        await reader.readexactly(1)
        reset(writer)

    async with served(reads) as port, proxying(tcp([port])) as (proxy, at), connected(at) as (_, writer):
        writer.write(b"x")
        await writer.drain()
        await until(lambda: proxy.statistics()["tunnels"] == 1, "connected")
        reset(writer)
        await asyncio.wait_for(seen.wait(), WAIT_S)
    async with served(resets) as port, proxying(tcp([port])) as (proxy, at), connected(at) as (reader, writer):
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        assert proxy.statistics()["truncated"] == 1


@on_uvloop
async def test_a_server_that_refuses_is_passed_over_before_a_byte_was_lost():
    async with served(echo) as port:
        async with proxying(tcp([unused_port(), port])) as (proxy, at):
            for _ in range(6):
                async with connected(at) as (reader, writer):
                    writer.write(b"ping")
                    assert await reader.readexactly(4) == b"ping"
            assert proxy.statistics()["retries"]["tried"] == 1  # then it is known
        async with proxying(tcp([unused_port(), unused_port()])) as (proxy, at), connected(at) as (reader, _):
            assert await reader.read(-1) == b""
            await until(lambda: proxy.statistics()["downstream_connections"] == 0, "closed")


@on_uvloop
async def test_a_client_address_keeps_its_server_and_moves_once_when_it_is_gone():
    config = lambda a, b, c: tcp([a, b, c], sticky='on = "client-ip"\nttl = "1m"')  # noqa: E731
    async with served(named("1")) as a, served(named("2")) as b, served(named("3")) as c:
        dead = unused_port()
        async with proxying(config(a, b, c)) as (_, at):
            bound = {}
            for host in range(2, 12):
                own = {"local_addr": (f"127.0.0.{host}", 0)}
                bound[host] = await who(at, **own)
                for _ in range(3):
                    assert await who(at, **own) == bound[host]
            assert len(set(bound.values())) == 3
        async with proxying(config(a, dead, c)) as (_, at):
            first = [await who(at, local_addr=("127.0.0.77", 0)) for _ in range(5)]
            assert len(set(first)) == 1
            assert first[0] in "13"


@on_uvloop
async def test_a_bound_client_moves_to_another_server_and_stays_there():
    async def first(reader, writer):
        try:
            await named("1")(reader, writer)
        finally:
            writer.close()

    async with served(named("2")) as b:
        server = await asyncio.start_server(first, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with proxying(tcp([port, b], sticky='on = "client-ip"')) as (_, at):
            before = {}
            for host in range(2, 10):
                before[host] = await who(at, local_addr=(f"127.0.0.{host}", 0))
            server.close()
            await server.wait_closed()
            for _ in range(2):
                for host in before:
                    assert await who(at, local_addr=(f"127.0.0.{host}", 0)) == "2"
            assert {"1", "2"} == set(before.values())


@on_uvloop
async def test_hash_by_client_network_is_the_same_for_its_hosts():
    async with served(named("1")) as a, served(named("2")) as b, served(named("3")) as c:
        config = tcp([a, b, c], pool='policy = "hash"\nkey = "client-ip/24"')
        async with proxying(config) as (_, at):
            found = {
                network: {await who(at, local_addr=(f"127.0.{network}.{host}", 0)) for host in (1, 2, 3)}
                for network in range(8)
            }
    assert all(len(names) == 1 for names in found.values())
    assert len(set().union(*found.values())) > 1


@on_uvloop
async def test_the_server_name_decides_without_ending_tls(made):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    trusting = ssl.create_default_context(cafile=made.ca)
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(served(named(str(n)), ssl=context)) for n in (1, 2, 3)]
        config = tcp(ports, sticky='on = "sni"', listener="[listeners.web.timeouts]\nhead = '300ms'")
        _, at = await stack.enter_async_context(proxying(config))
        found = {}
        for name in ("a.example", "b.example", "localhost"):
            seen = [await who(at, ssl=trusting, server_hostname=name) for _ in range(4)]
            assert len(set(seen)) == 1, name
            found[name] = seen[0]
        assert len(set(found.values())) == 3  # round robin for new names
        # In single bytes, and over several records, it is the same name.
        from tests.unit.test_client_hello import real

        async with connected(at) as (reader, writer):
            for byte in real("a.example"):
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await reader.read(1)) == b"\x16"  # the server answers
        # Who does not speak TLS is served too; who says nothing is not waited for.
        async with connected(at) as (reader, writer):
            writer.write(b"hello\r\n\r\n")
            assert (await reader.read(1)) in (b"\x15", b"")  # it refuses
        async with connected(at) as (reader, _):
            assert await reader.read(-1) == b""


@on_uvloop
async def test_tls_can_end_here_and_begin_again_towards_the_server(made):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    listener = f'tls = {{ certificate = "{made.certificate}", key = "{made.key}" }}'
    pool = f'tls = {{ ca = "{made.ca}" }}'
    data = random.Random(2).randbytes(3_000_000)
    async with (
        served(echo, ssl=context) as port,
        proxying(tcp([port], listener=listener, pool=pool, sticky='on = "sni"')) as (proxy, at),
        connected(at, ssl=ssl.create_default_context(cafile=made.ca), server_hostname="a.example") as (reader, writer),
    ):
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await until(lambda: proxy.statistics()["tunnels"] == 0, "ended")


@on_uvloop
async def test_proxy_headers_come_in_and_go_out():
    async def reads(reader, writer):
        data = b""
        while (header := parse_header(data)) is None:
            data += await reader.readexactly(1)
        writer.write(f"{header.source}\n".encode())
        await echo(reader, writer)

    listener = 'proxy_protocol = true\ntrusted_proxies = ["127.0.0.1/32"]'
    config = lambda port: tcp([port], listener=listener, pool='send_proxy = "v2"')  # noqa: E731
    async with served(reads) as port, proxying(config(port)) as (_, at), connected(at) as (reader, writer):
        writer.write(format_header("v1", ("192.0.2.9", 99), ("192.0.2.10", 100)) + b"and more")
        assert await reader.readline() == b"('192.0.2.9', 99)\n"
        assert await reader.readexactly(8) == b"and more"


@on_uvloop
async def test_limits_on_connections_and_rooms_hold():
    async with served(named("1")) as port:
        async with proxying(tcp([port], listener="limits.connections_per_client = 2")) as (proxy, at):
            async with connected(at) as (one, _), connected(at) as (two, _):
                assert [await r.readline() for r in (one, two)] == [b"1\n", b"1\n"]
                assert await who(at) == ""
            await until(lambda: proxy.statistics()["downstream_connections"] == 0, "gone")
            assert await who(at) == "1"
        limited = loads(
            f'zone = {{ name = "t-tcp-{unused_port()}", size = "1MiB" }}\n[listeners.web]\nbind = "127.0.0.1:1"\n'
            'protocol = "tcp"\npool = "app"\n[pools.app.limits]\npending_time = "5s"\n[[pools.app.servers]]\n'
            f'address = "127.0.0.1:{port}"\nmax_connections = 1\n'
        ).config
        async with proxying(limited) as (proxy, at), connected(at) as (two, _):
            async with connected(at) as (one, _):
                done, waiting = await asyncio.wait(
                    [asyncio.ensure_future(r.readline()) for r in (one, two)], return_when=asyncio.FIRST_COMPLETED
                )
                assert len(done) == 1
                assert proxy.statistics()["pools"]["app"].servers[0].in_flight == 1
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


@on_uvloop
async def test_an_idle_tunnel_ends_and_a_drain_waits_for_the_others():
    async with served(named("1")) as port:
        async with proxying(tcp([port], listener="timeouts.tunnel_idle = '300ms'")) as (proxy, at):
            async with connected(at) as (reader, _):
                assert await reader.read(-1) == b"1\n"
            assert proxy.statistics()["limits_hit"]["timeout_tunnel"] == 1
        async with proxying(tcp([port])) as (proxy, at), connected(at) as (reader, writer):
            assert await reader.readline() == b"1\n"
            draining = asyncio.ensure_future(proxy.drain(20))
            await asyncio.sleep(0)
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
            writer.write_eof()
            assert await reader.read(-1) == b""
            await draining


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('protocol = "tcp"|on = "insert"', "which is of HTTP"),
        ('protocol = "tcp"|on = ["sni", "cookie:a"]', "which is of HTTP"),
        ('protocol = "http"|on = "sni"', 'with protocol = "tcp" only'),
        ('protocol = "udp"|on = "client-ip"', 'accepted: "http" or "tcp"'),
    ],
)
def test_what_a_protocol_does_not_have_is_refused(text, message):
    listener, _, sticky = text.partition("|")
    with pytest.raises(ConfigError, match=message):
        loads(
            f'secret = "{SECRET}"\n[listeners.web]\nbind = "127.0.0.1:1"\n{listener}\npool = "app"\n'
            f'[[pools.app.servers]]\naddress = "127.0.0.1:9"\n[pools.app.sticky]\n{sticky}\n'
        )
