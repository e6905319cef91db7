"""The catalogue of odd HTTP messages, judged in process: what the scanner and the decoder say of a whole stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fastroute._core.http_head import decode_chunked, scan_request, scan_response
from fastroute.errors import DownstreamProtocolError, UpstreamProtocolError
from tests.support.shared import shared

Outcome = list[tuple[Any, ...]]


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file of shared/http; skips where there is none."""
    return [json.loads(line) for line in shared("http", name).read_text(encoding="utf-8").splitlines() if line]


def splits_of(size: int) -> Iterator[int]:
    """Every position of a short message; of a long one the edges, the limits' neighbourhood and a stride."""
    if size <= 600:
        yield from range(size + 1)
        return
    near = {at + d for at in (8192, 8206, 32768, size) for d in range(-20, 20)}
    yield from sorted(at for at in {*range(200), *range(200, size, 397), *near} if 0 <= at <= size)


def request_stream(raw: bytes, at: int | None = None) -> Outcome:
    """What a strict server understands of raw, delivered whole or cut once at `at`.

    Entries: ("request", head as dict), ("body", bytes, complete), ("refused", status), ("more",) and ("close",).
    """
    out: Outcome = []
    position = 0

    def cuts(start: int) -> tuple[int, ...]:
        return () if at is None or not start <= at <= len(raw) else (at - start,)

    while position < len(raw):
        try:
            head = scan_request(raw[position:], splits=cuts(position))
        except DownstreamProtocolError as error:
            return [*out, ("refused", error.status_hint)]
        if head is None:
            return [*out, ("more",)]
        position += head["head_size"]
        out.append(("request", head))
        if head["body"] == "chunked":
            try:
                body, used, complete = decode_chunked(raw[position:], splits=cuts(position))
            except DownstreamProtocolError as error:
                return [*out, ("refused", error.status_hint)]
            out.append(("body", body, complete))
            position += used
        elif head["body"] == "length":
            body = raw[position : position + head["content_length"]]
            out.append(("body", body, len(body) == head["content_length"]))
            position += len(body)
        if not head["keep_alive"]:
            return [*out, ("close",)]
    return out


def response_stream(raw: bytes, at: int | None = None, *, method: str = "GET") -> Outcome:
    """What a strict client understands of raw: interim heads, the final one and its body; or ("refused", 502)."""
    out: Outcome = []
    position = 0
    while position < len(raw) or not out:
        cuts = () if at is None or not position <= at <= len(raw) else (at - position,)
        try:
            head = scan_response(raw[position:], splits=cuts)
        except UpstreamProtocolError:
            return [*out, ("refused", 502)]
        if head is None:
            return [*out, ("more",)]
        position += head["head_size"]
        out.append(("response", head))
        if head["status"] >= 200 or head["status"] == 101:
            break
    else:
        return [*out, ("more",)]
    rest = raw[position:]
    if method == "HEAD" or head["body"] == "none":
        return [*out, ("body", b"", True), ("left", len(rest))]
    if head["body"] == "chunked":
        try:
            body, used, complete = decode_chunked(rest, splits=() if at is None or at < position else (at - position,))
        except DownstreamProtocolError:
            return [*out, ("refused", 502)]
        return [*out, ("body", body, complete), ("left", len(rest) - used)]
    if head["body"] == "length":
        size = head["content_length"]
        return [*out, ("body", rest[:size], len(rest) >= size), ("left", max(0, len(rest) - size))]
    return [*out, ("body", rest, True), ("left", 0)]


def refusal(outcome: Outcome) -> int | None:
    """The status of the refusal in an outcome, or None."""
    return next((entry[1] for entry in outcome if entry[0] == "refused"), None)
