"""The server name in a ClientHello: from real clients, in pieces, over several records, and from liars."""

from __future__ import annotations

import contextlib
import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.proxy.client_hello import HELLO_BYTES_MAX, server_name


def real(name: str | None) -> bytes:
    """What OpenSSL's client sends first."""
    out, context = ssl.MemoryBIO(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def records(message: bytes, *sizes: int) -> bytes:
    """A handshake message in records of these sizes, the rest in one more."""
    out, at = b"", 0
    for size in (*sizes, len(message)):
        part = message[at : at + size]
        out += struct.pack("!BHH", 22, 0x0301, len(part)) + part
        at += size
        if at >= len(message):
            return out
    return out


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def hello(extensions: bytes | None, *, size: int | None = None) -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    body += b"" if extensions is None else vector(2, extensions)
    return records(b"\x01" + (len(body) if size is None else size).to_bytes(3, "big") + body)


def asking(*names: bytes, kind: int = 0) -> bytes:
    return b"\0\0" + vector(2, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


@pytest.mark.parametrize(
    ("name", "found"), [("a.example", "a.example"), ("A.Example.ORG", "a.example.org"), (None, "")]
)
def test_a_real_hello_has_its_name_at_its_last_byte_and_not_before(name, found):
    data = real(name)
    for size in range(len(data)):
        assert server_name(data[:size]) is None, size
    assert server_name(data) == server_name(data + b"more") == found


def test_a_hello_in_many_records_is_the_same():
    message = real("many.example")[5:]
    for sizes in ((1,), (3,), (4,), (100,), (1,) * 50, (64,) * 20):
        data = records(message, *sizes)
        assert server_name(data) == "many.example"
        assert server_name(data[:-1]) is None


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (hello(None), ""),
        (hello(b""), ""),
        (hello(asking(b"a.example")), "a.example"),
        (hello(b"\0\x0b" + vector(2, b"\x01\0") + asking(b"a.example")), "a.example"),
        (hello(asking(b"a.example.")), "a.example"),
        (hello(asking(b"a.example", b"b.example")), "a.example"),
        (hello(asking(b"a.example", kind=1)), ""),
        (hello(asking(b"")), ""),
        (hello(asking(b"a b")), ""),
        (hello(asking(b"\xff\xfe")), ""),
        (hello(asking(b"a\0b")), ""),
        (hello(asking(b"a" * 254)), ""),
        (hello(b"\0\0\0\x05abcd"), ""),  # over the end
        (hello(b"\0\0" + vector(2, b"\0\x09\0\0\x07abcd")), ""),
        (hello(b"\0"), ""),
        (b"GET / HTTP/1.1\r\n", ""),
        (b"\x16\x02", ""),
        (b"\x16\x03\x01\0\0", ""),  # an empty record
        (b"\x16\x03\x01\xff\xff", ""),  # more than a record may hold
        (records(b"\x02\0\0\x05hello"), ""),  # a ServerHello
        (records(b"\x01\xff\xff\xff"), ""),
        (b"\x16", None),
        (b"", None),
    ],
)
def test_hellos_by_hand(data, found):
    assert server_name(data) == found


def test_what_never_ends_is_given_up():
    assert (
        server_name(
            b"".join(records(b"\x01\0\x40\0" + bytes(100)) if not i else b"\x16\x03\x01\0\x01a" for i in range(5000))
        )
        == ""
    )
    assert HELLO_BYTES_MAX < 5000 * 6


@given(st.binary(max_size=200), st.integers(0, 400))
def test_noise_never_raises(noise, at):
    data = real("a.example")
    seen = server_name(data[:at] + noise + data[at + len(noise) :])
    assert seen is None or seen == seen.lower()
