"""A small HTTP/1.1 server for the admin listener: one request per connection, everything bounded.

Not here: what is answered (fastroute.admin.api). Heads are read by the relay's own strict scanner, so that there is
one reading of HTTP in the program. Not aiohttp or the like: an admin listener needs no keep-alive, no chunks, no
uploads and no upgrades, and each of them would be one more way in.

Rules of this file: a request's head, body and time are limited; so are connections; every answer closes its
connection, after reading away for a moment what the client still sends, so that the answer is not lost to a reset.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from fastroute._core.http_head import scan_request
from fastroute.errors import DownstreamProtocolError

__all__ = ["BODY_BYTES_MAX", "HEAD_BYTES_MAX", "AdminServer", "Request", "Response", "error", "json_response"]

HEAD_BYTES_MAX = 16384
"""A browser's largest head, a token and a key in the URL included."""

REQUEST_LINE_BYTES_MAX = 8192
FIELDS_MAX = 64

BODY_BYTES_MAX = 65536
"""The largest change is a key: 4096 bytes, escaped."""

REQUEST_S = 10.0
"""From the connection to the whole request."""

CONNECTIONS_MAX = 64
"""Open at once: scrapers, dashboards and people, not users."""

LINGER_S = 1.0

log = logging.getLogger("fastroute.admin")

_PHRASES = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 417: "Expectation Failed", 421: "Misdirected Request", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Attributes:
        path: segments of the path, unescaped; ("",) for "/".
        query: the last value of each name.
        fields: names in lower case; of several of one name the last, and `repeated` has its name.
    """

    method: str
    path: tuple[str, ...]
    query: dict[str, str]
    fields: dict[str, str]
    repeated: frozenset[str]
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    fields: dict[str, str] = field(default_factory=dict)


def json_response(value: Any, status: int = 200) -> Response:
    """JSON, with a newline for people."""
    return Response(status, json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def error(status: int, name: str, detail: str, hint: str = "", **fields: str) -> Response:
    """The shape of every error.

    Args:
        name: a word for programs; detail: what happened; hint: what to do.
    """
    made = json_response({"error": name, "detail": detail, "hint": hint}, status)
    made.fields.update(fields)
    return made


Handler = Callable[[Request], Awaitable[Response]]


class AdminServer:
    """Accepts on one listening socket and asks `handler` for each answer."""

    def __init__(self, handler: Handler, sock: socket.socket) -> None:
        self._handler, self._socket = handler, sock
        self._server: asyncio.AbstractServer | None = None
        self.connections: set[_Connection] = set()

    async def start(self) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        make: Any = loop.create_unix_server if self._socket.family == socket.AF_UNIX else loop.create_server
        self._server = await make(lambda: _Connection(self, self._handler), sock=self._socket)

    async def aclose(self, grace_s: float = 1.0) -> None:
        """Accept no more; connections that are open get a moment to ask, to be answered and to read it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        loop = asyncio.get_running_loop()
        end_s = loop.time() + grace_s
        await asyncio.sleep(0.01)  # what was accepted in this turn of the loop is a connection in one of the next
        while self.connections:
            if loop.time() >= end_s:
                break
            await asyncio.sleep(0.01)
        for one in list(self.connections):
            one.drop()
        await asyncio.sleep(0)  # the loop tells the connections that they are gone


class _Connection(asyncio.Protocol):
    """One connection: one request, one answer."""

    def __init__(self, server: AdminServer, handler: Handler) -> None:
        self._server, self._handler = server, handler
        self._data = bytearray()
        self._head: dict[str, Any] | None = None
        self._done = False
        self._is_head = False
        self._continued = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._server.connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_S, self._too_late)
        if len(self._server.connections) > CONNECTIONS_MAX:
            self._answer(error(503, "busy", f"{CONNECTIONS_MAX} admin connections are open", "try again in a moment"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self.task is not None:
            self.task.cancel()

    def eof_received(self) -> bool:
        if self._done or self._transport is None:
            return False
        if self.task is None:  # it left in the middle of its request
            self.drop()
            return False
        return True

    def drop(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._done or self.task is not None:
            return  # read away
        self._data += data
        try:
            request = self._request()
        except DownstreamProtocolError as refused:
            self._answer(error(refused.status_hint or 400, "malformed", str(refused), "send one HTTP/1.1 request"))
            return
        except _Refused as refused:
            self._answer(refused.response)
            return
        if request is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._is_head = request.method == "HEAD"
            self.task = asyncio.get_running_loop().create_task(self._handle(request))

    def _request(self) -> Request | None:
        """The request, once it is whole."""
        if self._head is None:
            self._head = scan_request(
                bytes(self._data),
                request_line_bytes=REQUEST_LINE_BYTES_MAX,
                head_bytes=HEAD_BYTES_MAX,
                fields=FIELDS_MAX,
            )
            if self._head is None:
                return None
        head, size = self._head, 0
        if head["body"] == "chunked":
            raise _Refused(error(411, "length-required", "chunked bodies are not accepted", "send Content-Length"))
        if head["body"] == "length":
            size = head["content_length"]
        if size > BODY_BYTES_MAX:
            raise _Refused(error(413, "too-large", f"a body of {size} bytes; accepted are {BODY_BYTES_MAX}"))
        if len(self._data) < head["head_size"] + size:
            if head["expect_continue"] and not self._continued and self._transport is not None:
                self._continued = True
                self._transport.write(_CONTINUE)
            return None
        return _parsed(head, bytes(self._data[head["head_size"] : head["head_size"] + size]))

    async def _handle(self, request: Request) -> None:
        try:
            response = await self._handler(request)
        except Exception:
            log.exception("admin request failed; this is a bug in fastroute, please report it")
            response = error(500, "internal", "the request failed", "the log says why")
        self.task = None
        self._answer(response)

    def _too_late(self) -> None:
        self._timer = None
        if self._done:
            self.drop()
        else:
            self._answer(error(408, "timeout", f"no whole request within {REQUEST_S:g} s"))

    def _answer(self, response: Response) -> None:
        if self._transport is None or self._done:
            return
        self._done = True
        lines = [
            f"HTTP/1.1 {response.status} {_PHRASES.get(response.status, 'Unknown')}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.body)}",
            "Connection: close",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            *(f"{name.replace('_', '-')}: {value}" for name, value in response.fields.items()),
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._transport.write(head + (b"" if self._is_head else response.body))
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._transport.write_eof()
        except (OSError, RuntimeError):
            self.drop()
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._close)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Refused(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _parsed(head: dict[str, Any], body: bytes) -> Request:
    path, _, query = head["target"].decode("latin-1").partition("?")
    if not path.startswith("/"):
        raise _Refused(error(400, "malformed", "the target is no path", "ask for /metrics or /api/v1/pools"))
    fields: dict[str, str] = {}
    repeated = set()
    for name, value, *_ in head["fields"]:
        lower = name.decode("latin-1").lower()
        if lower in fields:
            repeated.add(lower)
        fields[lower] = value.decode("latin-1")
    try:
        segments = tuple(unquote(part, errors="strict") for part in path.split("/")[1:])
        pairs = dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=16))
    except ValueError:
        raise _Refused(error(400, "malformed", "the target holds escapes that are no UTF-8")) from None
    method = head["method"].decode("latin-1")
    return Request(method, segments, pairs, fields, frozenset(repeated), body)
