"""The access log of TCP listeners: one line per connection, which says where it went and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import ssl

import pytest

from fastroute.config.load import loads
from tests.support.access_log import lines_of, read
from tests.support.certificates import Certificates, make_certificates
from tests.support.relaying import SECRET, proxying, reset, unused_port


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pair"), "DNS:a.example")


def logging(path: pathlib.Path, port: int, *, form: str = "json", listener: str = "", sticky: str = ""):
    return loads(
        f'secret = "{SECRET}"\nzone = {{ name = "t-tcplog-{unused_port()}", size = "1MiB" }}\n'
        f'[access_log]\nformat = "{form}"\npath = "{path}"\n'
        f'[listeners.web]\nbind = "127.0.0.1:1"\nprotocol = "tcp"\npool = "app"\n{listener}\n'
        f'[[pools.app.servers]]\nname = "s1"\naddress = "127.0.0.1:{port}"\n'
        + (f"[pools.app.sticky]\n{sticky}\n" if sticky else "")
    ).config


@contextlib.asynccontextmanager
async def answering(more: bytes, **named):
    """A server that reads four bytes, answers with `more`, and waits for the client's end."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(4)
            writer.write(more)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **named)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_connection_is_one_line_at_its_end(tmp_path):
    path = tmp_path / "log"
    async with (
        answering(b"x" * 1000) as port,
        proxying(logging(path, port, sticky='on = "client-ip"')) as (_, web),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", web)
        writer.write(b"ping")
        assert len(await reader.readexactly(1000)) == 1000
        assert not read(path)
        writer.close()
        (line,) = await lines_of(path, 1)
    found = json.loads(line)
    assert found.pop("time")
    assert 0 < found.pop("duration_s") < 60
    assert found == {
        "listener": "web",
        "client": "127.0.0.1",
        "method": None,
        "host": None,
        "target": None,
        "protocol": "TCP",
        "status": 200,
        "bytes": 1000,
        "pool": "app",
        "server": "s1",
        "reason": found["reason"],
        "retries": 0,
        "request_id": None,
        "referer": None,
        "user_agent": None,
    }
    assert found["reason"] in ("affinity", "affinity-near", "policy", "claimed")


async def test_combined_says_tcp_in_place_of_a_request(tmp_path):
    path = tmp_path / "log"
    async with answering(b"pong") as port, proxying(logging(path, port, form="combined")) as (_, web):
        reader, writer = await asyncio.open_connection("127.0.0.1", web)
        writer.write(b"ping")
        await reader.readexactly(4)
        writer.close()
        (line,) = await lines_of(path, 1)
    assert line.startswith("127.0.0.1 - - [")
    assert line.endswith('] "TCP" 200 4 "-" "-"\n')


async def test_the_name_of_a_tls_hello_is_the_lines_host(tmp_path, made):
    path = tmp_path / "log"
    ends = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends.load_cert_chain(made.certificate, made.key)
    trusts = ssl.create_default_context(cafile=str(made.ca))
    async with (
        answering(b"pong", ssl=ends) as port,
        proxying(logging(path, port, sticky='on = "sni"')) as (_, web),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", web, ssl=trusts, server_hostname="a.example")
        writer.write(b"ping")
        await reader.readexactly(4)
        writer.close()
        (line,) = await lines_of(path, 1)
    found = json.loads(line)
    assert (found["host"], found["protocol"], found["status"]) == ("a.example", "TCP", 200)


async def test_what_went_wrong_is_the_status(tmp_path):
    """502: nobody to connect to, or a server that breaks off; 499: a client that does; 408: no hello in time."""
    path = tmp_path / "log"

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        reset(writer)

    async def status(config, act) -> tuple[int, str | None]:
        path.unlink(missing_ok=True)
        async with proxying(config) as (_, web):
            reader, writer = await asyncio.open_connection("127.0.0.1", web)
            await act(reader, writer)
            writer.close()
            found = json.loads((await lines_of(path, 1))[0])
            return found["status"], found["server"]

    async def ends(reader, writer):
        with contextlib.suppress(OSError):
            writer.write(b"ping")
            await reader.read()

    async def leaves(reader, writer):
        writer.write(b"ping")
        await reader.readexactly(4)
        reset(writer)

    assert (await status(logging(path, unused_port()), ends))[0] in (502, 503)
    async with await asyncio.start_server(breaks, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await status(logging(path, port), ends) == (502, "s1")
    async with answering(b"pong") as port:
        assert await status(logging(path, port), leaves) == (499, "s1")
        hello = 'timeouts.head = "50ms"'
        waits = logging(path, port, listener=hello, sticky='on = "sni"')

        async def silent(reader, writer):
            await reader.read()

        assert await status(waits, silent) == (408, None)


async def test_a_connection_over_the_limit_is_a_line_too(tmp_path):
    path = tmp_path / "log"
    async with (
        answering(b"pong") as port,
        proxying(logging(path, port, listener="limits.connections = 1")) as (_, web),
    ):
        first = await asyncio.open_connection("127.0.0.1", web)
        first[1].write(b"ping")
        await first[0].readexactly(4)
        reader, writer = await asyncio.open_connection("127.0.0.1", web)
        assert await reader.read() == b""
        writer.close()
        (line,) = await lines_of(path, 1)
        assert (json.loads(line)["status"], json.loads(line)["server"]) == (503, None)
        first[1].close()
        await lines_of(path, 2)
