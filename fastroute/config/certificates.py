"""When certificates end: the times of validity, read out of a PEM file.

Not here: whether a certificate is any good (OpenSSL says so where it is loaded), who is told (rules_tls, metrics). Why
not OpenSSL's own answer: Python's ssl module tells it of a certificate that was received, or of an authority, not of a
file.

Rules of this file: of DER only what stands in front of the times is walked over, by its lengths; what is not
understood has no times, and is nobody's mistake here.
"""

from __future__ import annotations

import binascii
import calendar
import re
from typing import NamedTuple

__all__ = ["Validity", "validity"]

CHAIN_MAX = 16
"""Certificates of one file that are looked at: the longest chains on the web have five."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_TIME = re.compile(rb"(\d\d(?:\d\d)?)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z\Z")

SEQUENCE, INTEGER, UTC_TIME, GENERALIZED_TIME, VERSION = 0x30, 0x02, 0x17, 0x18, 0xA0


class Validity(NamedTuple):
    """Seconds since 1970 between which every certificate of a chain is valid; 0: not known."""

    begins_s: float = 0.0
    ends_s: float = 0.0


def validity(pem: bytes) -> Validity:
    """Of the certificates in a PEM file, the chain included: the last to begin, the first to end.

    Source: RFC 5280, 4.1.2.5.
    """
    found = []
    for match in _PEM.findall(pem)[:CHAIN_MAX]:
        try:
            found.append(_times(binascii.a2b_base64(match)))
        except (ValueError, IndexError):
            continue
    if not found:
        return Validity()
    return Validity(max(one.begins_s for one in found), min(one.ends_s for one in found))


def _times(der: bytes) -> Validity:
    """Of one certificate.

    Raises:
        ValueError, IndexError: it is not one.
    """
    inside = _enter(der, _enter(der, 0))  # Certificate, TBSCertificate
    if der[inside] == VERSION:
        inside = _after(der, inside)
    for wanted in (INTEGER, SEQUENCE, SEQUENCE):  # serial number, signature, issuer
        if der[inside] != wanted:
            raise ValueError("not a certificate")
        inside = _after(der, inside)
    first = _enter(der, inside)
    return Validity(_time(der, first), _time(der, _after(der, first)))


def _head(der: bytes, at: int) -> tuple[int, int]:
    """(where the contents of the value at `at` begin, their length)."""
    length, begin = der[at + 1], at + 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("length")
        length, begin = int.from_bytes(der[begin : begin + size], "big"), begin + size
    if begin + length > len(der):
        raise ValueError("length")
    return begin, length


def _enter(der: bytes, at: int) -> int:
    if der[at] != SEQUENCE:
        raise ValueError("not a sequence")
    return _head(der, at)[0]


def _after(der: bytes, at: int) -> int:
    begin, length = _head(der, at)
    return begin + length


def _time(der: bytes, at: int) -> float:
    begin, length = _head(der, at)
    match = _TIME.match(der[begin : begin + length])
    if match is None or der[at] not in (UTC_TIME, GENERALIZED_TIME):
        raise ValueError("not a time")
    year, *rest = map(int, match.groups())
    if der[at] == UTC_TIME:
        year += 1900 if year >= 50 else 2000
    return float(calendar.timegm((year, *rest)))
