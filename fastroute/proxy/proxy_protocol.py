"""The PROXY protocol, versions 1 and 2: who a connection is really from. Pure: bytes in, values out.

Not here: reading it from a socket (door), deciding whom to believe.

    v1   "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443" CR LF, at most 107 bytes
    v2   12 bytes of signature | version and command | family | length | addresses | TLVs

Rules of this file:
- Nothing is guessed: what begins like neither version is refused at the first byte that differs, what is longer than it
  may be is refused before it has come whole.
- Addresses count for TCP over IPv4 and IPv6; LOCAL, UNKNOWN and every other family say nothing of the client, and the
  connection's own addresses stay (specification, sections 2.1 and 2.2).
- TLVs are walked within their bounds and skipped; a checksum among them must be right.

Source: Willy Tarreau, "The PROXY protocol", versions 1 & 2, 2020/03/05.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

from fastroute.errors import FastrouteError

__all__ = ["HEADER_BYTES_MAX", "Header", "ProxyProtocolError", "format_header", "parse_header"]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_BYTES_MAX = 107
"""Section 2.1: the longest line, both addresses IPv6, CR LF included."""

HEADER_BYTES_MAX = 4096
"""Of version 2, addresses and TLVs. nginx: NGX_PROXY_PROTOCOL_MAX_HEADER 4096; senders are asked for at most 536."""

_TYPE_CRC32C = 3
_V1 = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})\r\n\Z")
_FAMILIES = {0x11: (4, "!4s4sHH"), 0x21: (16, "!16s16sHH")}
_SIZES = {0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}

Place = tuple[str, int]


class ProxyProtocolError(FastrouteError):
    """What came is not a header of either version."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header.

    Attributes:
        size: bytes it takes.
        source: (address, port) of the client; None: the connection's own counts.
        destination: where the client connected to; None likewise.
    """

    size: int
    source: Place | None = None
    destination: Place | None = None


def parse_header(data: bytes) -> Header | None:
    """The header that data begins with; None: all of data belongs to it, and more has to come.

    Raises:
        ProxyProtocolError: no header, whatever may follow.
    """
    if data[:1] == b"P" or not data:
        return _parse_v1(data)
    return _parse_v2(data)


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, V1_BYTES_MAX)
    if end < 0:
        if len(data) >= V1_BYTES_MAX:
            raise ProxyProtocolError(f"a line of more than {V1_BYTES_MAX} bytes")
        begin = data[:6]
        if not b"PROXY ".startswith(begin) or (b"\n" in data):
            raise ProxyProtocolError("it does not begin as a PROXY line does")
        return None
    line = data[: end + 2]
    if b"\n" in data[:end]:  # refused before the line had come whole; so it is when it comes at once
        raise ProxyProtocolError("a line that is no PROXY line")
    if line.startswith(b"PROXY UNKNOWN") and line[13:14] in (b" ", b"\r"):
        return Header(end + 2)
    found = _V1.match(line)
    if found is None:
        raise ProxyProtocolError("a line that is no PROXY line")
    version = 4 if found[1] == b"TCP4" else 6
    places = []
    for address, port in ((found[2], found[4]), (found[3], found[5])):
        try:
            parsed = ipaddress.ip_address(address.decode())
        except ValueError:
            raise ProxyProtocolError("an address that is none") from None
        if parsed.version != version or int(port) > 65535:
            raise ProxyProtocolError("an address of the other family, or a port over 65535")
        places.append((_text(parsed), int(port)))
    return Header(end + 2, *places)


def _parse_v2(data: bytes) -> Header | None:
    if not SIGNATURE.startswith(data[:12]):
        raise ProxyProtocolError("it begins as neither version does")
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise ProxyProtocolError(f"version and command {data[12]:#04x}")
    if len(data) < 16:
        return None
    local, family = data[12] == 0x20, data[13]
    size = int.from_bytes(data[14:16], "big")
    if size > HEADER_BYTES_MAX - 16:
        raise ProxyProtocolError(f"{size} bytes of addresses; accepted are at most {HEADER_BYTES_MAX - 16}")
    if not local and (family >> 4 > 3 or family & 15 > 2):
        raise ProxyProtocolError(f"family {family:#04x}")
    needed = 0 if local else _SIZES.get(family, 0)
    if size < needed:
        raise ProxyProtocolError(f"{size} bytes of addresses where {needed} are needed")
    if len(data) < 16 + size:
        return None
    whole = data[: 16 + size]
    if local or not needed:  # whatever stands there is not for us to read
        return Header(len(whole))
    _walk(whole, 16 + needed)
    if family not in _FAMILIES:
        return Header(len(whole))
    source, destination, source_port, destination_port = struct.unpack_from(_FAMILIES[family][1], whole, 16)
    return Header(
        len(whole),
        (_text(ipaddress.ip_address(source)), source_port),
        (_text(ipaddress.ip_address(destination)), destination_port),
    )


def _walk(whole: bytes, at: int) -> None:
    """Go over the TLVs.

    Raises:
        ProxyProtocolError: one reaches over the end, or the checksum is wrong.
    """
    while at < len(whole):
        if len(whole) - at < 3:
            raise ProxyProtocolError("a TLV without its length")
        kind, size = whole[at], int.from_bytes(whole[at + 1 : at + 3], "big")
        at += 3
        if size > len(whole) - at:
            raise ProxyProtocolError("a TLV that reaches over the end")
        if kind == _TYPE_CRC32C:
            if size != 4:
                raise ProxyProtocolError(f"a checksum of {size} bytes")
            if crc32c(whole[:at] + bytes(4) + whole[at + 4 :]) != int.from_bytes(whole[at : at + 4], "big"):
                raise ProxyProtocolError("a wrong checksum")
        at += size


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as sockets show it; IPv4 within IPv6 as IPv4."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def format_header(version: str, source: Place | None, destination: Place | None) -> bytes:
    """A header that says who a connection is from.

    Args:
        version: "v1" or "v2".
        source, destination: (address, port); None, or a text that is no IP address: nothing can be said, as of the peer
            of a unix socket. Two families are both written as IPv6.
    """
    try:
        if source is None or destination is None:
            raise ValueError
        ends = [ipaddress.ip_address(one[0].partition("%")[0]) for one in (source, destination)]
    except ValueError:
        # What HAProxy sends where it knows no address.
        return b"PROXY UNKNOWN\r\n" if version == "v1" else SIGNATURE + b"\x20\x00\x00\x00"
    ends = [getattr(one, "ipv4_mapped", None) or one for one in ends]
    if ends[0].version != ends[1].version:
        ends = [one if one.version == 6 else ipaddress.IPv6Address(f"::ffff:{one}") for one in ends]
    ports = source[1], destination[1]
    if version == "v1":
        return f"PROXY TCP{ends[0].version} {ends[0]} {ends[1]} {ports[0]} {ports[1]}\r\n".encode()
    family, size = (0x11, 12) if ends[0].version == 4 else (0x21, 36)
    addresses = ends[0].packed + ends[1].packed + struct.pack("!HH", *ports)
    return SIGNATURE + struct.pack("!BBH", 0x21, family, size) + addresses


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
