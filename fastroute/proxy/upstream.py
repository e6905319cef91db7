"""Opening connections to servers: the slow half of http_upstream, one attempt each, with a time limit.

Rules of this file: no retry and no choice of servers here; every failure becomes a ConnectError that names the server.
"""

from __future__ import annotations

import asyncio

from fastroute._core.http_upstream import ServerLine, Upstream
from fastroute.errors import ConnectError, ConnectTimeout
from fastroute.model import parse_address

__all__ = ["open_upstream"]


async def open_upstream(line: ServerLine, timeout_s: float) -> Upstream:
    """A fresh connection to the line's server.

    Args:
        line: whose server.
        timeout_s: for name resolution and connect together; 0 for none.

    Raises:
        ConnectTimeout: the limit passed.
        ConnectError: refused, unreachable, or no such name.
    """
    loop = asyncio.get_running_loop()
    server = line.server
    if server is None:
        raise ConnectError("it was taken out of the pool", server="")
    where = parse_address(server.address)
    try:
        async with asyncio.timeout(timeout_s or None):
            if isinstance(where, str):
                _, protocol = await loop.create_unix_connection(lambda: Upstream(line), where)
            else:
                _, protocol = await loop.create_connection(lambda: Upstream(line), *where)
    except TimeoutError:
        raise ConnectTimeout(f"no connection to {server.address} within {timeout_s} s", server=server.name) from None
    except OSError as error:
        raise ConnectError(f"no connection to {server.address}: {error}", server=server.name) from error
    return protocol
