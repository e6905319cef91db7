"""The dialects' hash functions against published test values, hashlib and zlib."""

import hashlib
import random
import zlib

import pytest

from fastroute._core.ring_hashes import NAMES, avalanche, digest
from fastroute.errors import UsageError

LENGTHS = [*range(140), 255, 256, 1000, 4097]


def _data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ],
)
def test_md5_gives_the_values_of_rfc_1321(text: str, expected: str) -> None:
    assert digest("md5", text).hex() == expected


def test_md5_agrees_with_hashlib_at_every_length() -> None:
    assert all(digest("md5", _data(n)) == hashlib.md5(_data(n)).digest() for n in LENGTHS)


def test_crc32_agrees_with_zlib_at_every_length() -> None:
    assert all(digest("crc32", _data(n)) == zlib.crc32(_data(n)) for n in LENGTHS)
    assert digest("crc32", "123456789") == 0xCBF43926


def _murmur64a(data: bytes, seed: int) -> int:
    m, mask = 0xC6A4A7935BD1E995, 2**64 - 1
    h = seed ^ (len(data) * m & mask)
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        k = int.from_bytes(data[at : at + 8], "little") * m & mask
        h = (h ^ ((k ^ k >> 47) * m & mask)) * m & mask
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 47) * m & mask
    return h ^ h >> 47


def test_murmur64a_agrees_with_a_plain_reference_at_every_length() -> None:
    assert all(digest("murmur64a", _data(n), 0xC70F6907) == _murmur64a(_data(n), 0xC70F6907) for n in LENGTHS)


@pytest.mark.parametrize(
    ("text", "bits32", "bits64"),
    [
        ("", 0x811C9DC5, 0xCBF29CE484222325),
        ("a", 0xE40C292C, 0xAF63DC4C8601EC8C),
        ("foobar", 0xBF9CF968, 0x85944171F73967E8),
    ],
)
def test_fnv1a_gives_the_values_of_the_draft(text: str, bits32: int, bits64: int) -> None:
    assert (digest("fnv1a_32", text), digest("fnv1a_64", text)) == (bits32, bits64)


@pytest.mark.parametrize(
    ("text", "expected"), [("a", 0xCA2E9442), ("The quick brown fox jumps over the lazy dog", 0x519E91F5)]
)
def test_one_at_a_time_gives_its_published_values(text: str, expected: int) -> None:
    assert digest("one_at_a_time", text) == expected


def test_sdbm_and_djb2_are_their_recurrences() -> None:
    for n in LENGTHS:
        sdbm, djb2 = 0, 5381
        for byte in _data(n):
            sdbm, djb2 = (byte + sdbm * 65599) % 2**32, (djb2 * 33 + byte) % 2**32
        assert (digest("sdbm", _data(n)), digest("djb2", _data(n))) == (sdbm, djb2)


def test_avalanche_spreads_consecutive_numbers() -> None:
    found = [avalanche(n) for n in range(1000)]
    assert len(set(found)) == 1000
    assert all(400 < sum(value >> bit & 1 for value in found) < 600 for bit in range(32))


def test_an_unknown_hash_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="md5, crc32"):
        digest("sha1", "")
    with pytest.raises(UsageError, match="accepted are str"):
        digest("md5", 1)  # type: ignore[arg-type]
    assert len(NAMES) == 9
