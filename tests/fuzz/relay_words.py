"""What clients and servers say to the relay when it is fuzzed: plausible messages, then spoiled. Drawn from a seed.

Every message carries a mark (X-Mark: m, eight hexadecimal digits, four that check them) by which the oracle knows it
again on the other side; a spoiled mark is none.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import random
import re
import zlib


def a_mark(choice: random.Random) -> str:
    number = choice.getrandbits(32)
    return f"m{number:08x}{zlib.crc32(number.to_bytes(4)) & 0xFFFF:04x}"


def is_mark(text: bytes) -> bool:
    if not re.fullmatch(rb"m[0-9a-f]{12}", text):
        return False
    return zlib.crc32(int(text[1:9], 16).to_bytes(4)) & 0xFFFF == int(text[9:], 16)


PATHS = ["/", "/x", "/a/../x?q=1", "/%2e%2e/x;s=2", "/p?q=u1&q=u2", "http://x.b.test/x", "http://a.test", "*"]
FIELDS = [
    "Cookie: sid=1; fastroute=v1.x.y.z",
    "X-User: u1",
    "X-Forwarded-For: 198.51.100.7, 10.0.0.1",
    "Forwarded: for=198.51.100.8",
    "TE: trailers",
    "Connection: x-hop",
    "X-Hop: 1",
    "Accept: */*",
    'User-Agent: "fuzz\\"',
    "Referer: http://a.test/\t?",
    "Via: 1.1 other",
    "X-Request-Id: abc",
    "Max-Forwards: 1",
    "Max-Forwards: 0",
    "Content-Type: application/json",
    "Trailer: x",
]
ANSWER_FIELDS = [
    "Set-Cookie: sid=2; Path=/",
    "Set-Cookie: fastroute=forged",
    "Connection: close",
    "Connection: keep-alive",
    "Keep-Alive: timeout=5",
    "Date: Sun, 06 Nov 1994 08:49:37 GMT",
    "Content-Type: text/plain",
    "Cache-Control: no-store",
    "Upgrade: h2c",
    "Via: 1.1 s",
    "Trailer: x",
    "X-Fastroute: server=forged",
]
WORDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b":",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b'5;x="y"\r\n',
    b"ffffffffffffffff\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b" folded\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: content-length\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: b.test\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"HEAD ",
    b"CONNECT ",
    b"OPTIONS * ",
    b"304 ",
    b"205 ",
    b"\x88\x02\x03\xe9",
]


@functools.cache
def catalogue(name: str, group_not: str = "proxy-protocol") -> tuple[bytes, ...]:
    """The messages of a file of the catalogue; none where it is not at hand."""
    root = pathlib.Path(__file__).resolve().parents[2]
    path = pathlib.Path(os.environ.get("FASTROUTE_SHARED", root.parent / "shared")) / "http" / name
    if not path.exists():
        return ()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return tuple(row["raw"].encode("latin-1") for row in rows if row["group"] != group_not and len(row["raw"]) < 4000)


def marked(raw: bytes, mark: str) -> bytes:
    """The message with its mark as the first field."""
    return raw.replace(b"\r\n", b"\r\nX-Mark: " + mark.encode() + b"\r\n", 1)


def framed(body: bytes, choice: random.Random, *, chunks: bool = True) -> tuple[str, bytes]:
    """(field of the framing, body on the wire)."""
    if not chunks or choice.randrange(2):
        return f"Content-Length: {len(body)}", body
    out, at = b"", 0
    while at < len(body):
        size = choice.choice((1, 5, 70, 5000))
        out += b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size])
        at += size
    return "Transfer-Encoding: chunked", out + choice.choice((b"0\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n", b"000;e\r\n\r\n"))


def a_body(choice: random.Random) -> bytes:
    kind = choice.randrange(24)
    if kind == 0:
        return b"x" * choice.randrange(60_000, 400_000)
    if kind < 6:
        return choice.choice((b'{"user": "u1"}', b'{"user": 7, "x": [1', b"{}", b'{"a":"user","user":null}'))
    return b"hello world"[: choice.randrange(12)] * choice.choice((1, 1, 1, 400))


def a_request(choice: random.Random, mark: str) -> bytes:
    known = catalogue("requests.jsonl")
    if known and choice.randrange(12) == 0:
        return marked(choice.choice(known), mark)
    method = choice.choice(("GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "BREW"))
    target = choice.choice(PATHS if method == "OPTIONS" else PATHS[:-1])
    host = (
        target.split("/")[2]
        if target.startswith("http")
        else choice.choice(("a.test", "A.test:80", "x.b.test", "[::1]"))
    )
    minor = choice.randrange(8) > 0
    lines = [f"{method} {target} HTTP/1.{minor:d}", f"X-Mark: {mark}", f"Host: {host}"]
    lines += choice.sample(FIELDS, choice.randrange(4))
    if choice.randrange(4) == 0 and FIELDS[0] not in lines:
        lines.append(FIELDS[0])
    body = b""
    upgrade = minor and method in ("GET", "BREW") and choice.randrange(5) == 0
    if upgrade:
        lines += ["Connection: upgrade", choice.choice(("Upgrade: websocket", "Upgrade: websocket", "Upgrade: other"))]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    elif choice.randrange(8) == 0:
        lines.append("Connection: " + choice.choice(("close", "keep-alive", "Close, TE")))
    if method in ("POST", "PUT") or choice.randrange(10) == 0:
        line, body = framed(a_body(choice), choice, chunks=minor)
        lines.append(line)
        if minor and choice.randrange(5) == 0:
            lines.append("Expect: 100-continue")
    choice.shuffle(rest := lines[2:])
    return "\r\n".join([*lines[:2], *rest, "", ""]).encode() + body


def an_answer(choice: random.Random, mark: str, *, upgrade: bool) -> bytes:
    known = catalogue("responses.jsonl")
    if known and choice.randrange(10) == 0:
        return marked(choice.choice(known), mark)
    before = b"".join(
        choice.choices((b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n"), (8, 1, 1))
    )
    if upgrade and choice.randrange(3):
        to = choice.choice(("websocket", "websocket", "WebSocket", "other"))
        head = f"HTTP/1.1 101 Switching\r\nX-Mark: {mark}\r\nConnection: upgrade\r\nUpgrade: {to}\r\n\r\n"
        return before + head.encode() + b"\x81\x05hello" * choice.randrange(4)
    status = choice.choice((200, 200, 200, 200, 201, 204, 206, 301, 304, 404, 500, 503, 599))
    lines = [
        f"HTTP/1.{choice.choice((1, 1, 1, 1, 0))} {status} X",
        f"X-Mark: {mark}",
        *choice.sample(ANSWER_FIELDS, choice.randrange(4)),
    ]
    body = b""
    if status not in (204, 304) or choice.randrange(4) == 0:
        body = a_body(choice)
        if choice.randrange(6):
            line, body = framed(body, choice)
            lines.append(line)
    return before + "\r\n".join([*lines, "", ""]).encode() + body


def spoil(data: bytes, choice: random.Random) -> bytes:
    """Mostly nothing, else one to four changes, near the heads where a message is long."""
    for _ in range(choice.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4))):
        at = choice.randrange(min(len(data), 2000) + 1)
        how = choice.randrange(8)
        if how == 0 and data:
            data = (
                data[:at] + bytes([choice.choice((choice.randrange(256), 0, 9, 10, 13, 32, 44, 58))]) + data[at + 1 :]
            )
        elif how == 1:
            data = data[:at] + data[at + choice.choice((1, 1, 2, 5, 40)) :]
        elif how == 2:
            data = data[:at] + data[at : at + choice.choice((1, 10, 200))] + data[at:]
        elif how == 3:
            data = data[: max(at, len(data) - choice.randrange(9))]
        elif how == 4:
            data = (
                data[:at] + b"z" * choice.choice((70, 9000, 33_000)) + data[at:] if choice.randrange(20) == 0 else data
            )
        else:  # a word, mostly where a line begins
            line = data.find(b"\r\n", at)
            at = line + 2 if line >= 0 and how > 5 else at
            data = data[:at] + choice.choice(WORDS) + data[at:]
    return data
