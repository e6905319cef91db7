"""PROXY protocol headers: what is accepted, what is refused, and that pieces say the same as the whole."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute.proxy.proxy_protocol import (
    HEADER_BYTES_MAX,
    SIGNATURE,
    Header,
    ProxyProtocolError,
    crc32c,
    format_header,
    parse_header,
)

V4 = (("192.0.2.1", 56324), ("198.51.100.1", 443))
V6 = (("2001:db8::1", 56324), ("2001:db8::2", 443))


def v2(command: int = 0x21, family: int = 0x11, body: bytes = b"", *, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if size is None else size) + body


def packed(places) -> bytes:
    ends = [ipaddress.ip_address(place[0]).packed for place in places]
    return ends[0] + ends[1] + struct.pack("!HH", places[0][1], places[1][1])


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def checked(family: int, body: bytes, *, wrong: int = 0) -> bytes:
    """A header with a checksum at its end."""
    whole = v2(0x21, family, body + tlv(3, bytes(4)))
    return whole[:-4] + struct.pack("!I", crc32c(whole) ^ wrong)


GOOD = {
    "v1-tcp4": (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", V4),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", V6),
    "v1-mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 56324 443\r\n", V4),
    "v1-port-0": (b"PROXY TCP4 192.0.2.1 198.51.100.1 0 65535\r\n", (("192.0.2.1", 0), ("198.51.100.1", 65535))),
    "v1-longest": (
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".replace(b"f...f", b"ffff:ffff:ffff:ffff:ffff:ffff")
        + b"\r\n",
        None,
    ),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1-unknown-and-more": (b"PROXY UNKNOWN whatever it is\r\n", None),
    "v2-tcp4": (v2(body=packed(V4)), V4),
    "v2-tcp6": (v2(family=0x21, body=packed(V6)), V6),
    "v2-tlvs": (v2(body=packed(V4) + tlv(4, b"") + tlv(0x20, b"x" * 300) + tlv(0xE0, b"y")), V4),
    "v2-checksum": (checked(0x11, packed(V4)), V4),
    "v2-checksum-of-v6": (checked(0x21, packed(V6) + tlv(1, b"h2")), V6),
    "v2-local": (v2(0x20, 0), None),
    "v2-local-with-anything": (v2(0x20, 0xFF, b"\xff" * 40), None),
    "v2-unspecified": (v2(0x21, 0, b"\xff" * 7), None),
    "v2-udp": (v2(0x21, 0x12, packed(V4)), None),
    "v2-unix": (v2(0x21, 0x31, bytes(216)), None),
    "v2-largest": (v2(body=packed(V4) + tlv(4, bytes(HEADER_BYTES_MAX - 16 - 12 - 3))), V4),
}

BAD = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    "lower-case": b"proxy TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
    "post": b"POST / HTTP/1.1\r\n",
    "two-spaces": b"PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
    "tab": b"PROXY\tTCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
    "bare-lf": b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n" + bytes(70),
    "no-port": b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
    "one-too-many": b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
    "port-65536": b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
    "port-zeros": b"PROXY TCP4 192.0.2.1 198.51.100.1 00080 443\r\n",
    "port-sign": b"PROXY TCP4 192.0.2.1 198.51.100.1 +80 443\r\n",
    "address-of-v6": b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n",
    "address-of-v4": b"PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
    "address-short": b"PROXY TCP4 192.0.2 198.51.100.1 56324 443\r\n",
    "address-octal": b"PROXY TCP4 192.0.02.01 198.51.100.1 56324 443\r\n",
    "address-name": b"PROXY TCP4 localhost 198.51.100.1 56324 443\r\n",
    "address-zone": b"PROXY TCP6 fe80::1%eth0 fe80::2 56324 443\r\n",
    "udp": b"PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
    "unknown-glued": b"PROXY UNKNOWNS\r\n",
    "nul": b"PROXY TCP4 192.0.2.1\0 198.51.100.1 56324 443\r\n",
    "never-ends": b"PROXY UNKNOWN " + b"x" * 200,
    "v1-108-bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "only-cr": b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r" + bytes(80),
    "v2-signature": b"\r\n\r\n\0\r\nQUIX\n" + bytes(20),
    "v2-version-1": v2(0x11, 0x11, packed(V4)),
    "v2-version-3": v2(0x31, 0x11, packed(V4)),
    "v2-command-2": v2(0x22, 0x11, packed(V4)),
    "v2-family-4": v2(0x21, 0x41, packed(V4)),
    "v2-transport-3": v2(0x21, 0x13, packed(V4)),
    "v2-short-v4": v2(body=packed(V4)[:-1]),
    "v2-short-v6": v2(family=0x21, body=packed(V6)[:-1]),
    "v2-short-unix": v2(family=0x31, body=bytes(215)),
    "v2-empty": v2(),
    "v2-too-large": v2(size=HEADER_BYTES_MAX - 15),
    "v2-64k": v2(size=65535),
    "v2-tlv-cut": v2(body=packed(V4) + b"\x04"),
    "v2-tlv-length-cut": v2(body=packed(V4) + b"\x04\x00"),
    "v2-tlv-over-the-end": v2(body=packed(V4) + b"\x04\x00\x05abcd"),
    "v2-tlv-64k": v2(body=packed(V4) + b"\x04\xff\xff"),
    "v2-checksum-wrong": checked(0x11, packed(V4), wrong=1),
    "v2-checksum-short": v2(body=packed(V4) + tlv(3, b"abc")),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_headers_say_whose_the_connection_is(name):
    data, places = GOOD[name]
    header = parse_header(data + b"GET / HTTP/1.1\r\n")
    assert header == Header(len(data), *(places or ()))


@pytest.mark.parametrize("name", BAD)
def test_hostile_headers_are_refused_whole_and_in_pieces(name):
    with pytest.raises(ProxyProtocolError):
        parse_header(BAD[name])
    for size in range(1, len(BAD[name])):
        try:
            assert parse_header(BAD[name][:size]) is None
        except ProxyProtocolError:
            break  # refused before it was whole


@pytest.mark.parametrize("name", GOOD)
def test_a_header_is_whole_at_its_last_byte_and_not_before(name):
    data, _ = GOOD[name]
    for size in range(len(data)):
        assert parse_header(data[:size]) is None, size
    assert parse_header(data) is not None


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_noise_ends_in_a_header_or_one_error(noise, begin):
    try:
        header = parse_header(begin + noise)
    except ProxyProtocolError:
        return
    assert header is None or header.size <= len(begin + noise)


ADDRESS = st.ip_addresses().map(str)
PLACES = st.tuples(ADDRESS, st.integers(0, 65535))


@given(st.sampled_from(["v1", "v2"]), PLACES, PLACES)
def test_what_is_written_is_read_back(version, source, destination):
    def plain(place):
        address = ipaddress.ip_address(place[0])
        return str(getattr(address, "ipv4_mapped", None) or address), place[1]

    header = parse_header(format_header(version, source, destination))
    assert (header.source, header.destination) == (plain(source), plain(destination))


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("places", [(None, None), (("unix:", 0), V4[1]), (V4[0], None)])
def test_what_has_no_address_is_written_as_unknown(version, places):
    data = format_header(version, *places)
    assert parse_header(data) == Header(len(data))


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


def test_a_line_feed_in_an_unknown_line_is_refused_whole_as_in_pieces():
    data = b"PROXY UNKNOWN \n\r\n"
    for size in range(data.index(b"\n") + 1, len(data) + 1):
        with pytest.raises(ProxyProtocolError):
            parse_header(data[:size])
