"""Heads for tests of the scanner: built from lines, and what the scanner says of them."""

from __future__ import annotations

from typing import Any

from fastroute._core.http_head import scan_request, scan_response
from fastroute.errors import DownstreamProtocolError, UpstreamProtocolError

HOST = "Host: a.example\r\n"


def request(*lines: str, start: str = "GET / HTTP/1.1", host: str = HOST) -> bytes:
    return (start + "\r\n" + host + "".join(line + "\r\n" for line in lines) + "\r\n").encode("latin-1")


def response(*lines: str, start: str = "HTTP/1.1 200 OK") -> bytes:
    return (start + "\r\n" + "".join(line + "\r\n" for line in lines) + "\r\n").encode("latin-1")


def scanned(data: bytes, **limits: Any) -> dict[str, Any]:
    head = scan_request(data, **limits)
    assert head is not None
    return head


def status_of(data: bytes, **limits: Any) -> int | None:
    """The status that refuses a request head; None while bytes are missing; 200 when it is accepted."""
    try:
        return None if scan_request(data, **limits) is None else 200
    except DownstreamProtocolError as error:
        return error.status_hint


def answer_of(data: bytes, **limits: Any) -> dict[str, Any] | None:
    """The response head, or None when it is refused."""
    try:
        head = scan_response(data, **limits)
    except UpstreamProtocolError:
        return None
    assert head is not None
    return head
