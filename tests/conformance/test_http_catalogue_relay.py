"""Every row of the catalogue through the relay, in process: where a message is cut must not change what comes of it.

The relay is the product's, built from a configuration; the connections are tests/fuzz/relay_world's, so that a row can
be cut at every position within the time that sockets would take for one. What a row must come to is asked over sockets
(test_http_catalogue_sockets); here each cut is compared with the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.fuzz import relay_world
from tests.fuzz.relay_world import Transport, World, open_world
from tests.support.http_rows import request_stream, response_stream, rows

LISTENER = """
[listeners.web]
bind = "127.0.0.1:1"
pool = "app"
[listeners.web.limits]
body_bytes = 65536
[pools.app]
[[pools.app.servers]]
name = "s1"
address = "127.0.0.1:1001"
"""
"""The limits that the catalogue is run with; without stickiness, whose cookie would be another one each time."""

ASKS = {
    "GET": b"GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "HEAD": b"HEAD /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "POST": b"POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi",
    "GET-HTTP10": b"GET /x HTTP/1.0\r\nHost: a.example\r\n\r\n",
    "GET-CONDITIONAL": b'GET /x HTTP/1.1\r\nHost: a.example\r\nIf-None-Match: "a"\r\n\r\n',
    "GET-AUTHORIZATION": b"GET /x HTTP/1.1\r\nHost: a.example\r\nAuthorization: Basic Zm9v\r\n\r\n",
    "WS-UPGRADE": b"GET /x HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "POST-LARGE": b"POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 60000\r\n\r\n" + b"a" * 1000,
}
"""By the catalogue's word for what the client had asked."""


def cuts_of(size: int) -> Iterator[int]:
    """Every position of a short message; of a long one both ends, the limits' neighbourhood and a stride."""
    if size <= 600:
        yield from range(1, size)
        return
    near = {at + d for at in (8192, 8206, 32768, size) for d in range(-3, 4)}
    yield from sorted(at for at in {*range(1, 60), *range(60, size, size // 40), *near} if 0 < at < size)


class Server:
    """One connection to a server that answers each whole request."""

    def __init__(self, transport: Transport) -> None:
        self.transport, self.answered = transport, 0

    def requests(self) -> list[tuple[Any, ...]]:
        """Whole ones that it got: (method, path, fields, body)."""
        found, stream = [], request_stream(bytes(self.transport.written))
        for n, entry in enumerate(stream):
            if entry[0] != "request":
                continue
            head, body = entry[1], b""
            if head["body"] != "none":
                if n + 1 >= len(stream) or stream[n + 1][0] != "body" or not stream[n + 1][2]:
                    break
                body = stream[n + 1][1]
            found.append((head["method"], head["path"], tuple(map(tuple, head["fields"])), body))
        return found


class Stage:
    """One client, its servers, and what came of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = Transport(world.loop, slow=False)
        self.client.begin(world.relay.make())
        self.servers: list[Server] = []

    def connect(self) -> bool:
        made = False
        while self.world.slow.asked:
            transport = self.world.connect(0, slow=False, outcome="open")
            assert transport is not None
            self.servers.append(Server(transport))
            made = True
        return made

    def run(self, pieces: list[bytes], serve: Callable[[Server], bool]) -> None:
        """The client sends, servers answer, until nothing more happens."""
        moved = True
        while moved:
            moved = False
            if pieces and self.client.hears:
                self.client.give(pieces.pop(0))
                moved = True
            self.world.settle()
            moved |= self.connect()
            for one in self.servers:
                moved |= serve(one)
            self.world.settle()

    def over(self) -> None:
        """Everybody leaves."""
        if not self.client.lost:
            self.client.reset()
        for one in self.servers:
            if not one.transport.lost:
                one.transport.reset()
        self.world.settle()
        assert not self.world.loop.errors, self.world.loop.errors
        assert not self.world.relay.connections


def request_outcome(world: World, pieces: list[bytes], end: str | None) -> Any:
    stage = Stage(world)

    def serve(one: Server) -> bool:
        if one.transport.lost or not one.transport.hears:
            return False
        new = one.requests()[one.answered :]
        for method, *_ in new:
            one.answered += 1
            one.transport.give(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if method == b"HEAD" else b"ok"))
        return bool(new)

    stage.run(pieces, serve)
    if end == "shut_wr" and stage.client.hears:
        stage.client.give_eof()
        stage.run([], serve)
    one = stage.client
    told = one.seen, one.closing or one.ended, [request for server in stage.servers for request in server.requests()]
    stage.over()
    return told


def response_outcome(world: World, row: dict[str, Any], pieces: list[bytes]) -> Any:
    stage = Stage(world)

    def serve(one: Server) -> bool:
        if not pieces or not one.transport.written or not one.transport.hears:
            return False
        one.transport.give(pieces.pop(0))
        return True

    stage.run([ASKS[row["request"]]], serve)
    server = stage.servers[0].transport
    if row["end"] == "close" and server.hears:
        server.give_eof()
        stage.run([], lambda _: False)
    one = stage.client
    told = (
        response_stream(one.seen, method="HEAD" if row["request"] == "HEAD" else "GET"),
        one.closing or one.ended,
        server.closing,
        len(stage.servers),
    )
    stage.over()
    return told


@contextlib.asynccontextmanager
async def relaying(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(relay_world, "CONFIGURATIONS", (LISTENER,))
    async with open_world(0) as world:
        yield world


def same_refusal(row: dict[str, Any], whole: Any, cut: Any) -> bool:
    """Refused both times, for the first of two reasons that was seen: a chunk's size that has come to the limit of the
    body (413) is not waited for to show that it is no number either (400)."""
    said = [response_stream(seen)[0][1] for seen, _, _ in (whole, cut)]
    return whole[1:] == cut[1:] == (True, []) and {head["status"] for head in said} <= {400, 413} & set(row["status"])


def told_before(whole: Any, cut: Any) -> bool:
    """Refused when it came whole; cut, the client had heard the beginning, which nobody can take back: it sees a body
    that is broken off, or an interim response and then the same refusal."""
    (stream, *ends), (cut_stream, ended, *server) = whole, cut
    if stream[0][1]["status"] != 502 or ends[1:] != server:
        return False
    while cut_stream[0][1]["status"] < 200:
        cut_stream = cut_stream[1:]
    return cut_stream == stream or (cut_stream[1][:1] == ("body",) and not cut_stream[1][2] and ended)


@pytest.mark.parametrize(
    "behind", [b"", b"GET /second HTTP/1.1\r\nHost: example.com\r\n\r\n"], ids=["alone", "followed"]
)
async def test_no_request_of_the_catalogue_depends_on_where_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    differ = []
    async with relaying(monkeypatch) as world:
        for row in rows("requests.jsonl"):
            raw, end = row["raw"].encode("latin-1") + behind, row.get("end")
            if row["group"] == "proxy-protocol" or (behind and end):
                continue
            whole = request_outcome(world, [raw], end)
            for at in cuts_of(len(raw)):
                cut = request_outcome(world, [raw[:at], raw[at:]], end)
                if cut != whole and not same_refusal(row, whole, cut):
                    differ.append((row["id"], at, whole, cut))
            bytes_ = (
                request_outcome(world, [raw[at : at + 1] for at in range(len(raw))], end) if len(raw) < 600 else whole
            )
            if bytes_ != whole and not same_refusal(row, whole, bytes_):
                differ.append((row["id"], "bytes", whole, bytes_))
            await asyncio.sleep(0)
    assert not differ


async def test_no_response_of_the_catalogue_depends_on_where_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    differ = []
    async with relaying(monkeypatch) as world:
        for row in rows("responses.jsonl"):
            raw = row["raw"].encode("latin-1")
            whole = response_outcome(world, row, [raw])
            deliveries = [[raw[:at], raw[at:]] for at in cuts_of(len(raw))]
            deliveries += [[raw[at : at + 1] for at in range(len(raw))]] if len(raw) < 600 else []
            for pieces in deliveries:
                first = len(pieces[0])
                cut = response_outcome(world, row, pieces)
                if cut != whole and not told_before(whole, cut):
                    differ.append((row["id"], first, whole, cut))
            await asyncio.sleep(0)
    assert not differ


async def test_the_comparison_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
    async with relaying(monkeypatch) as world:
        whole = request_outcome(world, [raw], None)
        assert whole[0].endswith(b"ok")
        assert whole[2][0][1] == b"/a"
        other = request_outcome(world, [raw.replace(b"/a", b"/b")], None)
        assert other != whole
        assert not same_refusal({"status": [200]}, whole, other)
        row = {"request": "GET", "end": "open"}
        good = response_outcome(world, row, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"])
        bad = response_outcome(world, row, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok?"])
        assert good[0] == bad[0]  # what is behind an answer is nobody's
        assert (good[2], bad[2]) == (False, True)  # and ends the connection
        assert not told_before(good, bad)
