"""The forms of an answer from a stored response: whole, 304, one range, 416; and of a request that asks about one.

Pure functions of values. Not here: whether the stored response may be used (fastroute.http_cache.reuse).
"""

from __future__ import annotations

import re

from fastroute._core.http_stored import Stored
from fastroute.http_cache.fields import Fields, parse_date_s, values
from fastroute.http_cache.ranges import UNSATISFIABLE, byte_range
from fastroute.http_cache.reuse import if_range_holds, not_modified

__all__ = ["Answer", "answer_of", "unconditional", "validating"]

Answer = tuple[int, bytes, bytes, int, int]
"""Status, head without its end, body, first byte of it, the one behind the last."""

_OF_304 = frozenset(("cache-control", "content-location", "date", "etag", "expires", "vary", "cdn-cache-control"))
"""RFC 9110, 15.4.5."""

_CONDITIONS = re.compile(
    rb"\r\n(?:if-none-match|if-modified-since|if-range|range|cache-control|pragma):[^\r\n]*", re.IGNORECASE
)


def answer_of(
    stored: Stored,
    request: Fields,
    now_ms: int,
    says: str,
    *,
    is_head: bool,
    extra: tuple[tuple[str, str], ...] = (),
) -> Answer:
    """What a request gets of a stored response.

    Args:
        stored: may be used.
        request: fields of the request, names in lower case.
        now_ms: wall clock.
        says: value of Cache-Status.
        is_head: a HEAD request: ranges do not count.
        extra: lines for this client alone.
    """
    age_s = max(0, now_ms - stored.born_ms) // 1000
    tail = "".join(f"{name}: {value}\r\n" for name, value in extra) + f"Age: {age_s}\r\nCache-Status: {says}\r\n"
    body, size = stored.body, len(stored.body)
    if not_modified(request, stored.lowered, stored.status, now_ms / 1000):
        lines = "".join(f"{name}: {value}\r\n" for name, value in stored.fields if name.lower() in _OF_304)
        return 304, f"HTTP/1.1 304 Not Modified\r\n{lines}{tail}".encode("latin-1"), b"", 0, 0
    wanted = values(request, "range")
    if wanted and not is_head and stored.status == 200 and len(wanted) == 1 and if_range_holds(request, stored.lowered):
        found = byte_range(wanted[0], size)
        if found == UNSATISFIABLE:
            text = f"HTTP/1.1 416 Range Not Satisfiable\r\n{_date(stored)}Content-Range: bytes */{size}\r\n"
            text += "Content-Length: 0\r\n"
            return 416, (text + tail).encode("latin-1"), b"", 0, 0
        if found is not None:
            first, behind = found
            lines = "".join(f"{name}: {value}\r\n" for name, value in stored.fields)
            lines += f"Content-Range: bytes {first}-{behind - 1}/{size}\r\nContent-Length: {behind - first}\r\n"
            return 206, f"HTTP/1.1 206 Partial Content\r\n{lines}{tail}".encode("latin-1"), body, first, behind
    return stored.status, stored.head + tail.encode("latin-1"), body, 0, size


def _date(stored: Stored) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in stored.fields if name.lower() == "date")


def unconditional(head: bytes) -> bytes:
    """A request's head without conditions, ranges and directives."""
    return _CONDITIONS.sub(b"", head)


def validating(head: bytes, stored: Stored) -> bytes:
    """A request's head that asks whether a stored response still holds (RFC 9111, 4.3.1): its own conditions and ranges
    give way to the stored validators. Without a validator it asks for a new response."""
    bare = re.sub(rb"\r\n(?:if-none-match|if-modified-since|if-range|range):[^\r\n]*", b"", head, flags=re.IGNORECASE)
    etag = next(iter(values(stored.lowered, "etag")), None)
    modified = next(iter(values(stored.lowered, "last-modified")), None)
    lines = b""
    if etag:
        lines += b"If-None-Match: " + etag.encode("latin-1") + b"\r\n"
    if modified and parse_date_s(modified) is not None:
        lines += b"If-Modified-Since: " + modified.encode("latin-1") + b"\r\n"
    return bare[:-2] + lines + b"\r\n" if lines else bare
