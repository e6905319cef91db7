"""The server name in a TLS ClientHello, read without ending TLS. Pure: bytes in, a name out.

Rules of this file: every length is checked against what stands around it; what does not parse has no name, and is for
the server to refuse. The message may come in several records (RFC 8446, 5.1).
"""

from __future__ import annotations

import re

__all__ = ["HELLO_BYTES_MAX", "server_name"]

HELLO_BYTES_MAX = 16384
"""How far a name is looked for: one full record. Hellos with post-quantum keys have some 1,700 bytes; HAProxy looks
through its buffer, 16 KiB too."""

_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,253}\Z")


def server_name(data: bytes) -> str | None:
    """The name that the client asks for, in lower case; "": there is none; None: more has to come.

    Args:
        data: what the client sent so far.
    """
    message = bytearray()
    at = 0
    while True:
        if len(data) - at < 5:
            whole = False
            break
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        if data[at] != 22 or data[at + 1] != 3 or not 0 < size <= 16384 + 256:
            return ""
        message += data[at + 5 : at + 5 + size]
        if len(message) >= 4 and (message[0] != 1 or int.from_bytes(message[1:4], "big") > HELLO_BYTES_MAX):
            return ""
        whole = len(message) >= 4 and len(message) - 4 >= int.from_bytes(message[1:4], "big")
        at += 5 + size
        if whole or at > len(data):
            break
    if whole:
        return _name_of(bytes(message[4 : 4 + int.from_bytes(message[1:4], "big")]))
    if (data[:1] and data[0] != 22) or (len(data) > 1 and data[1] != 3) or len(data) >= HELLO_BYTES_MAX:
        return ""
    return None


class _Over(Exception):
    """A length reaches over the end."""


def _take(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    """A vector with a length of `width` bytes before it, and where it ends."""
    size = int.from_bytes(data[at : at + width], "big")
    end = at + width + size
    if at + width > len(data) or end > len(data):
        raise _Over
    return data[at + width : end], end


def _name_of(hello: bytes) -> str:
    """Of the body of a ClientHello: version, random, session id, cipher suites, compression, extensions."""
    try:
        at = 34
        _, at = _take(hello, at, 1)
        _, at = _take(hello, at, 2)
        _, at = _take(hello, at, 1)
        if at == len(hello):
            return ""
        extensions, _ = _take(hello, at, 2)
        at = 0
        while at < len(extensions):
            kind = extensions[at : at + 2]
            body, at = _take(extensions, at + 2, 2)
            if kind == b"\0\0":
                return _host(body)
    except _Over:
        pass
    return ""


def _host(body: bytes) -> str:
    """The first host name of a server_name extension (RFC 6066, 3)."""
    names, _ = _take(body, 0, 2)
    at = 0
    while at < len(names):
        kind = names[at]
        name, at = _take(names, at + 1, 2)
        if kind == 0:
            return name.decode("ascii").lower().rstrip(".") if _NAME.match(name) else ""
    return ""
