"""fastroute inside your own uvloop protocol: a sticky TCP/HTTP balancer in under 100 lines.

    python examples/embed_proxy.py 127.0.0.1:8000 127.0.0.1:9001 127.0.0.1:9002 127.0.0.1:9003

It reads the first request head of a connection, finds the user by the cookie `sid`, asks the router which server the
user belongs to, and then copies bytes both ways. Start it twice with FASTROUTE_MEMCACHED=host:port and both agree.
"""

import asyncio
import contextlib
import os
import re
import sys

from fastroute import Affinity, Memcached, Pool, Router, Server

HEAD_BYTES_MAX = 16_384
COOKIE = re.compile(rb"\r\ncookie:[^\r\n]*?\bsid=([^;\s]+)", re.IGNORECASE)


class Upstream(asyncio.Protocol):
    """The server's side: what comes from the server goes to the client."""

    def __init__(self, client: asyncio.Transport) -> None:
        self.client = client

    def data_received(self, data: bytes) -> None:
        self.client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.client.close()


class Downstream(asyncio.Protocol):
    """The client's side: waits for one head, routes it, then copies."""

    def __init__(self, router: Router) -> None:
        self.router, self.head, self.server, self.task = router, b"", None, None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.server is not None:
            self.server.write(data)
            return
        self.head += data
        if len(self.head) > HEAD_BYTES_MAX:
            self.transport.abort()
        elif b"\r\n\r\n" in self.head and self.task is None:
            found = COOKIE.search(self.head)
            self.task = asyncio.ensure_future(self.forward(found[1] if found else None))

    async def forward(self, key: bytes | None) -> None:
        """Near answers come at once; only an unknown user costs a round trip to the store."""
        try:
            selection = self.router.route_nowait(key) or await self.router.route(key)
            for _attempt in range(3):
                try:
                    await self.connect(selection.server.address)
                    return
                except OSError as error:  # refused: out with it, and its user moves, once for all balancers
                    self.router.pool.set_state(selection.server.name, "down")
                    selection = await self.router.move(selection, error)
        finally:
            if self.server is None:
                self.transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                self.transport.close()

    async def connect(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        self.server, _ = await loop.create_connection(lambda: Upstream(self.transport), host, int(port))
        self.server.write(self.head)

    def connection_lost(self, error: Exception | None) -> None:
        if self.server is not None:
            self.server.close()


async def main(listen: str, *addresses: str) -> None:
    pool = Pool("app", [Server(address) for address in addresses])
    node = os.environ.get("FASTROUTE_MEMCACHED")
    store = Memcached([node]) if node else None
    async with Affinity(store) as affinity:
        router = Router(pool, affinity=affinity, key="cookie:sid")
        host, _, port = listen.rpartition(":")
        server = await asyncio.get_running_loop().create_server(lambda: Downstream(router), host, int(port))
        print("ready on", *(f"{h}:{p}" for h, p in (s.getsockname() for s in server.sockets)), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(*sys.argv[1:]))
