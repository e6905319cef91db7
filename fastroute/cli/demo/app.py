"""The demo's application server: `python -m fastroute.cli.demo.app NAME`. It keeps state per session in its own memory,
as many real ones do, and therefore only works right when each user comes back to the same one.

Every answer names the server (X-Served-By, and the body). A visitor without a session gets one (cookie `sid`), so that
curl with a cookie jar, or a browser, is a user like any other. Prints its port as the first line. Loopback only; it is
no example of how to write an HTTP server.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import sys

SESSIONS_MAX = 100_000
"""Oldest sessions are forgotten beyond this."""

HEAD_BYTES_MAX = 65_536

_SID = re.compile(rb"(?:^|[;\s])sid=([A-Za-z0-9_-]{8,64})(?:;|\s*$)")


class _Application(asyncio.Protocol):
    def __init__(self, name: str, visits: dict[bytes, int]) -> None:
        self.name, self.visits = name.encode(), visits
        self.buffer = b""
        self.body_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.buffer:
            if self.body_left:
                used = min(self.body_left, len(self.buffer))
                self.buffer, self.body_left = self.buffer[used:], self.body_left - used
                continue
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                if len(self.buffer) > HEAD_BYTES_MAX:
                    self.transport.close()
                return
            self.buffer = rest
            self.answer(head)

    def answer(self, head: bytes) -> None:
        request, *lines = head.split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"transfer-encoding" in fields:
            self.transport.write(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
            return
        length = fields.get(b"content-length", b"0")
        self.body_left = int(length) if length.isdigit() and len(length) < 10 else 0
        found = _SID.search(fields.get(b"cookie", b""))
        sid = found[1] if found else secrets.token_urlsafe(16).encode()
        if len(self.visits) >= SESSIONS_MAX and sid not in self.visits:
            self.visits.pop(next(iter(self.visits)))
        count = self.visits[sid] = self.visits.get(sid, 0) + 1
        body = b"%b here: request number %d of this session.\n" % (self.name, count)
        cookie = b"" if found else b"Set-Cookie: sid=%b; Path=/; HttpOnly; SameSite=Lax\r\n" % sid
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
            b"X-Served-By: %b\r\n%bContent-Length: %d\r\n\r\n"
            % (self.name, cookie, len(body))
            + (b"" if request.startswith(b"HEAD ") else body)
        )


async def _main(name: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    visits: dict[bytes, int] = {}
    server = await loop.create_server(lambda: _Application(name, visits), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
