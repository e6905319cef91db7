"""Opening connections to servers: the slow half of http_upstream, one attempt each, with a time limit.

Rules of this file: no retry and no choice of servers here; every failure becomes a ConnectError that names the server.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastroute._core.http_upstream import ServerLine, Upstream
from fastroute.errors import ConnectError, ConnectTimeout
from fastroute.model import parse_address
from fastroute.proxy.proxy_protocol import format_header

__all__ = ["Reach", "open_upstream"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How the servers of a pool are reached.

    Attributes:
        context: of the TLS handshake; None: without TLS.
        server_name: asked for, and looked for in certificates; "": the host in the server's address.
        send_proxy: version of the PROXY header that comes before everything else; "off": none.
    """

    context: ssl.SSLContext | None = None
    server_name: str = ""
    send_proxy: str = "off"


PLAIN = Reach()


Place = tuple[str, int]


async def open_upstream(
    line: ServerLine,
    timeout_s: float,
    reach: Reach = PLAIN,
    *,
    about: tuple[Place | None, Place | None] | None = None,
    raw: bool = False,
) -> Upstream:
    """A fresh connection to the line's server.

    Args:
        line: whose server.
        timeout_s: for name resolution, connect and handshake together; 0 for none.
        reach: what the connection begins with.
        about: (address, port) of the client, and of where it connected to, for the PROXY header.
        raw: it will carry bytes, not requests.

    Raises:
        ConnectTimeout: the limit passed.
        ConnectError: refused, unreachable, or no such name; phase "handshake": no TLS, or not the right certificate.
    """
    loop = asyncio.get_running_loop()
    server = line.server
    if server is None:
        raise ConnectError("it was taken out of the pool", server="")
    where = parse_address(server.address)
    tls: dict[str, Any] = {}
    if reach.context is not None:
        # A unix socket has no host: nginx asks such servers for "localhost" too.
        name = reach.server_name or (where[0] if isinstance(where, tuple) else "localhost")
        tls = {"ssl": reach.context, "server_hostname": name}

    def make() -> Upstream:
        made = Upstream(line)
        if raw:
            made.expect_tunnel()
        return made

    protocol: Upstream
    try:
        async with asyncio.timeout(timeout_s or None):
            if reach.send_proxy != "off":
                begin = format_header(reach.send_proxy, *(about or (None, None)))
                protocol = await _with_header(make, where, begin, tls)
            elif isinstance(where, str):
                _, protocol = await loop.create_unix_connection(make, where, **tls)
            else:
                _, protocol = await loop.create_connection(make, *where, **tls)
    except TimeoutError:
        raise ConnectTimeout(f"no connection to {server.address} within {timeout_s} s", server=server.name) from None
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error.reason or str(error)
        raise ConnectError(
            f"no TLS connection to {server.address}: {reason}", server=server.name, phase="handshake"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise ConnectError(f"no connection to {server.address}: {reason}", server=server.name) from error
    return protocol


async def _with_header(make: Callable[[], Upstream], where: Place | str, begin: bytes, tls: dict[str, Any]) -> Upstream:
    """A connection that begins with these bytes, before TLS."""
    loop = asyncio.get_running_loop()
    protocol: Upstream
    if isinstance(where, str):
        one = await _connected(socket.AF_UNIX, where, begin)
        _, protocol = await loop.create_unix_connection(make, sock=one, **tls)
        return protocol
    found = await loop.getaddrinfo(*where, type=socket.SOCK_STREAM)
    for index, (family, _, _, _, address) in enumerate(found):
        try:
            one = await _connected(family, address, begin)
        except OSError:
            if index == len(found) - 1:
                raise
        else:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, protocol = await loop.create_connection(make, sock=one, **tls)
            return protocol
    raise OSError(f"no address of {where[0]}")


async def _connected(family: int, address: Any, begin: bytes) -> socket.socket:
    loop = asyncio.get_running_loop()
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        await loop.sock_connect(one, address)
        await loop.sock_sendall(one, begin)
    except BaseException:
        one.close()
        raise
    return one
