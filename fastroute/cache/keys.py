"""Keys of the shared cache: what an application calls a value -> what the store calls it.

Not here: affinity keys (routing, affinity), the store's own checks of a key (memcache).

Rules of this file:
  - A key is a str, bytes, or a tuple of plain values (str, bytes, int, float, bool, None, tuples of these).
  - The encoding is canonical and unambiguous: equal keys of equal types encode alike in every process, and different
    ones differ. Types count: "1", b"1", 1, 1.0 and True are five keys; -0.0 and 0.0 are two.
  - Nothing of a key reaches the store but a digest: keys may hold anything, of any length up to KEY_BYTES_MAX.

Encoding: one letter for the type, then for what has no fixed size its length in decimal and a colon, then the content
(netstrings with a type): ("user", 7) is t2:s4:useri1:7 . A store key is
<fleet>:c:<namespace>:<digest>, the digest being 22 characters of base64url: the first 128 bits of a BLAKE2b-256 over
fleet, namespace and key. All 256 bits stand in the value and are compared when it is read (codec.py).
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

from fastroute.errors import UsageError
from fastroute.model import check_name

__all__ = ["DIGEST_BYTES", "KEY_BYTES_MAX", "Key", "KeySpace", "encode_key"]

KEY_BYTES_MAX = 65_536
"""Longest encoded key: a limit against mistakes (a whole document as a key), not of the store."""

KEY_DEPTH_MAX = 8
"""Tuples within tuples: a limit against mistakes."""

DIGEST_BYTES = 32
"""BLAKE2b-256: two keys with one digest are not to be found, even on purpose."""

STORE_DIGEST_BYTES = 16
"""What of it stands in the store key: 22 characters of base64url."""

Key = str | bytes | tuple[Any, ...]


def encode_key(key: Key) -> bytes:
    """The canonical encoding of a key.

    Raises:
        UsageError: a key that is not accepted, with the part of it that is not.
    """
    if not isinstance(key, (str, bytes, tuple)):
        raise UsageError(f"cache key {key!r}: accepted are str, bytes and tuples of plain values")
    parts: list[bytes] = []
    _encode(key, parts, 0)
    encoded = b"".join(parts)
    if len(encoded) > KEY_BYTES_MAX:
        raise UsageError(f"cache key of {len(encoded)} bytes: accepted are up to {KEY_BYTES_MAX}; digest it first")
    return encoded


def _encode(value: object, parts: list[bytes], depth: int) -> None:
    # bool before int: it is one.
    if isinstance(value, str):
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"cache key {value!r}: accepted are strings that can be written as UTF-8") from None
        parts += (b"s%d:" % len(raw), raw)
    elif isinstance(value, bytes):
        parts += (b"b%d:" % len(value), value)
    elif value is None:
        parts.append(b"n")
    elif value is True or value is False:
        parts.append(b"T" if value else b"F")
    elif isinstance(value, int):
        digits = b"%x" % value  # hexadecimal: Python limits long decimal ones
        parts += (b"i%d:" % len(digits), digits)
    elif isinstance(value, float):
        if value != value:
            raise UsageError("cache key with a float that is not a number: it would never be found again")
        parts += (b"f", struct.pack(">d", value))
    elif isinstance(value, tuple):
        if depth >= KEY_DEPTH_MAX:
            raise UsageError(f"cache key with tuples more than {KEY_DEPTH_MAX} deep")
        parts.append(b"t%d:" % len(value))
        for item in value:
            _encode(item, parts, depth + 1)
    else:
        raise UsageError(
            f"cache key part {value!r} of type {type(value).__name__}: accepted are str, bytes, int, float, bool, None "
            "and tuples of these"
        )


class KeySpace:
    """The keys of one namespace of one fleet.

    Args:
        fleet: 1-64 characters of A-Za-z0-9._:-
        namespace: the same.

    Raises:
        UsageError: another fleet or namespace.

    Notes: immutable; about 2 us for a digest and its store key.
    """

    __slots__ = ("_base", "_prefix", "fleet", "namespace")

    def __init__(self, fleet: str, namespace: str) -> None:
        self.fleet = check_name("fleet", fleet)
        self.namespace = check_name("namespace", namespace)
        self._base = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"fr cache key 1")
        self._base.update(encode_key((fleet, namespace)))
        self._prefix = f"{fleet}:c:{namespace}:"

    def near_key(self, key: Key) -> str | bytes:
        """What the near cache calls it: a str is its own key, anything else its encoding."""
        return key if type(key) is str else encode_key(key)

    def digest(self, key: Key) -> bytes:
        """The 32 bytes that stand for a key."""
        state = self._base.copy()
        state.update(encode_key(key))
        return state.digest()

    def store_key(self, digest: bytes) -> str:
        """What the store calls it: at most 154 characters of safe ASCII."""
        return self._prefix + base64.urlsafe_b64encode(digest[:STORE_DIGEST_BYTES])[:22].decode()

    def counter_key(self, digest: bytes) -> str:
        """What the store calls the counter under a key. A counter is a bare number that no digest can stand beside, so
        all 256 bits are in its key: at most 177 characters."""
        return f"{self._prefix}{base64.urlsafe_b64encode(digest)[:43].decode()}:n"
