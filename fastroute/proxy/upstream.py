"""Opening connections to servers: the slow half of http_upstream, one attempt each, with a time limit.

Rules of this file: no retry and no choice of servers here; every failure becomes a ConnectError that names the server.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from fastroute._core.http_upstream import ServerLine, Upstream
from fastroute.errors import ConnectError, ConnectTimeout
from fastroute.model import parse_address

__all__ = ["Reach", "open_upstream"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How the servers of a pool are reached.

    Attributes:
        context: of the TLS handshake; None: without TLS.
        server_name: asked for, and looked for in certificates; "": the host in the server's address.
    """

    context: ssl.SSLContext | None = None
    server_name: str = ""


PLAIN = Reach()


async def open_upstream(line: ServerLine, timeout_s: float, reach: Reach = PLAIN) -> Upstream:
    """A fresh connection to the line's server.

    Args:
        line: whose server.
        timeout_s: for name resolution, connect and handshake together; 0 for none.
        reach: what the connection begins with.

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
    try:
        async with asyncio.timeout(timeout_s or None):
            if isinstance(where, str):
                _, protocol = await loop.create_unix_connection(lambda: Upstream(line), where, **tls)
            else:
                _, protocol = await loop.create_connection(lambda: Upstream(line), *where, **tls)
    except TimeoutError:
        raise ConnectTimeout(f"no connection to {server.address} within {timeout_s} s", server=server.name) from None
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error.reason or str(error)
        raise ConnectError(
            f"no TLS connection to {server.address}: {reason}", server=server.name, phase="handshake"
        ) from error
    except OSError as error:
        raise ConnectError(f"no connection to {server.address}: {error}", server=server.name) from error
    return protocol
