"""h11 and httptools (llhttp) as second opinions on a stream of HTTP: what each understands of the first message."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import h11
import httptools


class Reading(NamedTuple):
    """What a parser makes of the first message: refused, incomplete, or a message with its body so far."""

    verdict: str  # "refused", "more", "message"
    method: bytes = b""
    target: bytes = b""
    body: bytes = b""
    complete: bool = False


def read_with_h11(data: bytes) -> Reading:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        connection.receive_data(data)
        event = connection.next_event()
        if not isinstance(event, h11.Request):
            return Reading("more")
    except h11.RemoteProtocolError:
        return Reading("refused")
    body = b""
    while True:
        try:
            part = connection.next_event()
        except h11.RemoteProtocolError:
            return Reading("refused")
        if isinstance(part, h11.Data):
            body += bytes(part.data)
        else:
            return Reading("message", event.method, event.target, body, isinstance(part, h11.EndOfMessage))


class _Collector:
    def __init__(self) -> None:
        self.target = self.body = b""
        self.heads = 0
        self.complete = False

    def on_message_begin(self) -> None:
        if self.complete:
            raise StopAsyncIteration

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_headers_complete(self) -> None:
        self.heads += 1

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def read_with_httptools(data: bytes) -> Reading:
    seen = _Collector()
    parser: Any = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if not seen.complete:
            return Reading("refused")
    if not seen.heads:
        return Reading("more")
    return Reading("message", parser.get_method(), seen.target, seen.body, seen.complete)


class Response(NamedTuple):
    """What a parser makes of the first final response to a GET: refused, incomplete, or a status with its body so far.

    complete: None where the body ends with the connection.
    """

    verdict: str  # "refused", "more", "message"
    status: int = 0
    body: bytes = b""
    complete: bool | None = False


def read_response_with_h11(data: bytes) -> Response:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(
        h11.Request(method="GET", target="/", headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "x")])
    )
    connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return Response("message", 101, b"", True)
            if not isinstance(event, h11.InformationalResponse):
                break
        if not isinstance(event, h11.Response):
            return Response("more")
    except h11.RemoteProtocolError:
        return Response("refused")
    names = dict(event.headers)
    until_close = b"content-length" not in names and b"transfer-encoding" not in names
    until_close = until_close and event.status_code not in (204, 304)
    body = b""
    while True:
        try:
            part = connection.next_event()
        except h11.RemoteProtocolError:
            return Response("refused")
        if not isinstance(part, h11.Data):
            done = None if until_close else isinstance(part, h11.EndOfMessage)
            return Response("message", event.status_code, body, done)
        body += bytes(part.data)


class _ResponseCollector:
    def __init__(self) -> None:
        self.body = b""
        self.names: set[bytes] = set()
        self.status = 0
        self.parser: Any = None
        self.headed = self.complete = False

    def on_message_begin(self) -> None:
        if self.complete and self.status >= 200:
            raise StopAsyncIteration
        self.headed = self.complete = False
        self.names = set()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.add(name.lower())

    def on_headers_complete(self) -> None:
        self.headed = True
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def read_response_with_httptools(data: bytes) -> Response:
    seen = _ResponseCollector()
    seen.parser = parser = httptools.HttpResponseParser(seen)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return Response("message", seen.status, b"", True)
    except httptools.HttpParserError:
        if not (seen.complete and seen.status >= 200):
            return Response("refused")
    if not seen.headed or (seen.status < 200 and seen.status != 101):
        return Response("more")
    if not seen.names & {b"content-length", b"transfer-encoding"} and seen.status not in (204, 304):
        return Response("message", seen.status, seen.body, None)
    return Response("message", seen.status, seen.body, seen.complete)


# -- comparing ---------------------------------------------------------------------------------------------------------

Reasons = Mapping[str, Callable[[bytes], bool]]
"""Why readings may differ -> whether it is so for these bytes."""


def unexplained_of(
    data: bytes,
    mine: Reading | Response,
    peers: Mapping[str, Callable[[bytes], Any]],
    stricter: Reasons,
    lenient: Mapping[str, Reasons],
    framed_otherwise: Mapping[str, Reasons],
) -> list[str]:
    """Disagreements about data for which no reason is recorded."""
    found = []
    for name, read in peers.items():
        theirs = read(data)
        if mine == theirs or "more" in (mine.verdict, theirs.verdict):
            continue  # we judge whole heads, the peers each line: who is still waiting has not disagreed
        if mine.verdict == theirs.verdict:
            table = framed_otherwise[name]
        else:
            table = stricter if mine.verdict == "refused" else lenient[name]
        if not any(applies(data) for applies in table.values()):
            found.append(f"{name}: we {mine}, it {theirs}: {data!r}")
    return found


def are_options(values: list[bytes]) -> bool:
    """Do these values of Connection hold options (tokens) alone?"""
    return all(
        re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]*", one.strip(b" \t")) for one in b",".join(values).split(b",")
    )


NASTY = b'\r\n\t \0:;,AZaz09/"\x7f\x80_-#%@[]=*'


def mutate(raw: bytes, rng: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(5)
        run = rng.randrange(20)
        if kind == 0 and at < len(data):
            data[at] = rng.choice(NASTY)
        elif kind == 1:
            data.insert(at, rng.choice(NASTY))
        elif kind == 2:
            del data[at : at + 1]
        elif kind == 3:
            data[at:at] = data[at : at + run]
        else:
            del data[at : at + run]
    return bytes(data)
