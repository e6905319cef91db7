"""What may stand before HTTP: TLS ClientHellos (proxy/client_hello.py) and PROXY headers (proxy/proxy_protocol.py),
spoiled.

What must hold: nothing but ProxyProtocolError is raised; what was decided of a beginning is not decided otherwise
when more has come; what was not spoiled is read as it was written; a name is a host's name.
"""

from __future__ import annotations

import random
import re

from fastroute.proxy.client_hello import HELLO_BYTES_MAX, server_name
from fastroute.proxy.proxy_protocol import (
    HEADER_BYTES_MAX,
    Header,
    ProxyProtocolError,
    crc32c,
    format_header,
    parse_header,
)
from tests.fuzz import seeded

_NAME = re.compile(r"[a-z0-9_.-]{0,253}\Z")
_ADDRESSES = ("192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:10.1.2.3", "::", "255.255.255.255")
_WORDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"UNKNOWN",
    b"65536",
    b"00",
    b"1.2.3.4",
    b"::1",
    b"\0",
    b"\x16\x03\x01\0\x05",
    b"\0\0",
    b"\xff\xff",
    b"\x21\x11\0\x0c",
    b"\x20\0\0\0",
    b"\x03\0\x04",
    b"\r\n\r\n\0\r\nQUIT\n",
)


def sized(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width) + data


def a_hello(choice: random.Random) -> tuple[bytes, str]:
    """(what a client sends first, the name it asks for)."""
    name = choice.choice(("a.test", "X.b.Test", "a-very.long.name." + "x" * 60 + ".test", ""))
    extensions = [
        b"\0\x2b" + sized(b"\x02\x03\x04", 2),
        b"\0\x33" + sized(choice.randbytes(choice.choice((36, 1200))), 2),
    ]
    if name:
        extensions.append(b"\0\0" + sized(sized(b"\0" + sized(name.encode(), 2), 2), 2))
    choice.shuffle(extensions)
    hello = b"\x03\x03" + choice.randbytes(32) + sized(choice.randbytes(choice.choice((0, 32))), 1)
    hello += sized(choice.randbytes(choice.choice((2, 30))), 2) + b"\x01\0" + sized(b"".join(extensions), 2)
    message, data = b"\x01" + sized(hello, 3), b""
    size = choice.choice((1, 4, 100, 1000, 16384, 16384))
    while message:
        part, message = message[:size], message[size:]
        data += b"\x16\x03\x01" + sized(part, 2)
    return data, name.lower()


def a_header(choice: random.Random) -> bytes:
    version = choice.choice(("v1", "v2"))
    ends = [(choice.choice(_ADDRESSES), choice.choice((0, 1, 443, 65535))) for _ in range(2)]
    header = format_header(version, *ends) if choice.randrange(6) else format_header(version, None, None)
    if version == "v2" and choice.randrange(2) and header[13]:
        tlvs = b"".join(b"\x04" + size.to_bytes(2) + b"x" * size for size in choice.choices((0, 1, 3, 300), k=2))
        checked = choice.randrange(2)
        tlvs += b"\x03\0\x04\0\0\0\0" if checked else b""
        header = header[:14] + (len(header) - 16 + len(tlvs)).to_bytes(2) + header[16:] + tlvs
        if checked:
            header = header[:-4] + crc32c(header).to_bytes(4)
    return header


def spoil(data: bytes, choice: random.Random) -> bytes:
    for _ in range(choice.choice((0, 1, 1, 2, 4))):
        at, how = choice.randrange(len(data) + 1), choice.randrange(5)
        if how == 0 and data:
            data = data[:at] + bytes([choice.choice((0, 1, 3, 16, 255, choice.randrange(256)))]) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[at + choice.choice((1, 2, 4, 40)) :]
        elif how == 2:
            data = data[:at] + data[at : at + choice.choice((1, 8, 500))] + data[at:]
        else:
            data = data[:at] + choice.choice(_WORDS) + data[at:]
    return data


def read(data: bytes) -> Header | str | None:
    """What parse_header says of data; "refused"."""
    try:
        return parse_header(data)
    except ProxyProtocolError:
        return "refused"


def judge(seed: int) -> None:
    """One input of each kind."""
    choice = random.Random(seed)
    hello, name = a_hello(choice)
    assert len(hello) >= HELLO_BYTES_MAX or server_name(hello) == name
    data = spoil(hello, choice)[: HELLO_BYTES_MAX - 1]
    whole = server_name(data)
    assert whole is None or _NAME.match(whole), whole
    for cut in [choice.randrange(len(data) + 1) for _ in range(4)]:
        part = server_name(data[:cut])
        assert part is None or part == whole, (cut, part, whole)
    header, rest = a_header(choice), choice.choice((b"", b"GET / HTTP/1.1\r\n", b"\n"))
    plain = read(header + rest)
    assert isinstance(plain, Header), "a header as it should be"
    assert plain.size == len(header)
    data = spoil(header, choice) + rest
    found = read(data)
    assert not isinstance(found, Header) or 0 < found.size <= min(len(data), HEADER_BYTES_MAX)
    for cut in [choice.randrange(1, len(data) + 1) for _ in range(4)] if data else []:
        before = read(data[:cut])
        assert before is None or before == found, (data, cut, before, found)


def run(seconds: float, runs: int = 0, seed: int = 1) -> int:
    """Judge inputs for so long or so many; -> how many. Any exception is a finding."""
    return seeded.run("openings", judge, seconds, runs, seed)
