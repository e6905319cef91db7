"""h11 and httptools (llhttp) as second opinions on a request stream: what each understands of the first message."""

from __future__ import annotations

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
