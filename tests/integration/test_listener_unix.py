"""Unix sockets on both sides, under everything that a connection may begin with."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import pytest

from fastroute.config.load import loads
from fastroute.proxy.proxy_protocol import format_header
from fastroute.proxy.server import Proxy
from tests.support.certificates import Certificates, make_certificates
from tests.support.header_server import serve_one
from tests.support.loops import on_each_loop

CLIENT, HERE = ("192.0.2.7", 4711), ("198.51.100.1", 80)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("protocol", ["http", "tcp"])
@pytest.mark.parametrize("kind", ["plain", "tls", "proxy", "tls-proxy"])
@on_each_loop
async def test_both_sides_speak_over_unix_sockets(kind, protocol, made, tmp_path):
    front, back = str(tmp_path / "front"), str(tmp_path / "back")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    context = None
    if "tls" in kind:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(made.certificate, made.key)
    listener, pool = f'protocol = "{protocol}"\n', ""
    if "tls" in kind:
        listener += f'tls = {{ certificate = "{made.certificate}", key = "{made.key}" }}\n'
        pool += f'tls = {{ ca = "{made.ca}" }}\n'  # asked for as "localhost"
    if "proxy" in kind:
        listener += "proxy_protocol = true\n"  # who may connect to the path is trusted
        pool += 'send_proxy = "v2"\n'
    config = loads(
        f'[listeners.web]\nbind = "unix:{front}"\npool = "app"\n{listener}[pools.app]\n{pool}'
        f'[[pools.app.servers]]\nname = "s"\naddress = "unix:{back}"\n'
    ).config
    behind = socket.socket(socket.AF_UNIX)
    behind.bind(back)
    behind.listen()
    serving = asyncio.ensure_future(
        asyncio.to_thread(serve_one, behind, answer, header="proxy" in kind, context=context)
    )
    async with Proxy(config):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(front)
        if "proxy" in kind:
            raw.sendall(format_header("v1", CLIENT, HERE))
        raw.setblocking(False)
        tls = {}
        if "tls" in kind:
            tls = {"ssl": ssl.create_default_context(cafile=made.ca), "server_hostname": "localhost"}
        reader, writer = await asyncio.open_unix_connection(sock=raw, **tls)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(40):
            assert (await reader.read(-1)).endswith(b"\r\n\r\nhello")
        writer.close()
        await writer.wait_closed()
        header = await serving
    behind.close()
    assert (header.source if header else None) == (CLIENT if "proxy" in kind else None)
    assert not os.path.exists(front)  # noqa: ASYNC240
