"""Values of the shared cache as bytes: plain data in msgpack, in an envelope that says what it is and whose.

Not here: which key (keys.py), who computes a value (shared.py), HTTP responses and sessions (their own codecs).

Rules of this file:
  - pickle is never written nor read. What msgpack has no type for is a registered extension below, or refused when it
    is written: types are kept exactly, nothing is silently turned into something similar.
  - Reading never raises: what is not a whole, current, authentic value of exactly this key is a reason, and a miss.
  - Lists stay lists and tuples stay tuples (an extension, 4 bytes more): a value looks the same to the process that
    computed it and to all others, because that one too gets it decoded. bytearray and memoryview become bytes.

Extensions (code, first byte of the content, content):
    1, 2            reserved: HTTP response, session
    3  i            whole number beyond 64 bits: two's complement, little endian
       d            decimal.Decimal: its text
       D            datetime.date: YYYY-MM-DD
       t            datetime.datetime: ISO 8601; the UTC offset is kept, a zone's name and `fold` are not
       u            uuid.UUID: 16 bytes
    4  t, s, f      tuple, set, frozenset: the items as a msgpack array; at most CONTAINER_DEPTH_MAX within each other

Envelope, little endian (format 1, HEAD_BYTES = 64, then with FLAG_MAC 16 bytes of MAC, then msgpack):
    0 format u8 | 1 flags u8 | 2 spare u16 | 4 compute_ms u32 | 8 made_ms u64 | 16 ttl_ms u64 | 24 stale_ms u64 |
    32 digest of the key, 32 bytes
made_ms is the writer's wall clock. Clocks of two machines that differ make a value fresh for longer or shorter by the
difference, never beyond the store's own, relative, time to live.

The MAC is BLAKE2b keyed with the secret, 128 bits, over head and content; it covers the key's digest, so that a value
cannot be moved to another key. It does not stop someone who can write to the store from putting an older value back.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import hmac
import struct
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from fastroute.cache.keys import DIGEST_BYTES
from fastroute.errors import UsageError

__all__ = ["FORMAT", "HEAD_BYTES", "Codec", "Entry", "Unreadable", "pack", "round_trip", "unpack"]

FORMAT = 1
"""Format that is written. A fleet upgrades through two adjacent formats; an unknown one is a miss."""

FLAG_MAC = 1
"""A MAC follows the head. Other bits are unknown: a miss."""

MAC_BYTES = 16
_HEAD = struct.Struct(f"<BBHIQQQ{DIGEST_BYTES}s")
HEAD_BYTES = _HEAD.size

CONTAINER_DEPTH_MAX = 16
"""Tuples and sets within each other: each level is a decoder of its own with some 40 KB on the C stack."""

SECRET_BYTES_MIN = 32
"""As for every other secret of the configuration."""

SECRETS_MAX = 8
"""Secrets that are tried on a value: the current one and those that are being retired."""

_EXT_SCALAR, _EXT_CONTAINER = 3, 4
_ACCEPTED = "None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date, Decimal, UUID"


class Unreadable(ValueError):
    """Bytes that are no value."""


class Entry(NamedTuple):
    """What was read from an envelope.

    Attributes:
        value: the value.
        made_ms: wall clock of the writer, milliseconds since 1970.
        ttl_ms: fresh for so long from made_ms on.
        stale_ms: usable as stale for so long after that.
        compute_ms: how long it took to compute, 0 where that is not known.
        size_bytes: of its msgpack.
    """

    value: Any
    made_ms: int
    ttl_ms: int
    stale_ms: int
    compute_ms: int
    size_bytes: int

    def age_ms(self, now_ms: int) -> int:
        """Never below zero: a writer whose clock is ahead does not lengthen a value's life here."""
        return max(0, now_ms - self.made_ms)


# ---------------------------------------------------------------- values


def _refused(value: object) -> UsageError:
    kind = type(value)
    return UsageError(
        f"a value of type {kind.__module__}.{kind.__qualname__} cannot be cached: accepted are {_ACCEPTED}"
    )


def _packer(depth: int) -> Callable[[Any], Any]:
    def default(value: Any) -> Any:
        kind = type(value)
        if kind is tuple or kind is set or kind is frozenset:
            if depth >= CONTAINER_DEPTH_MAX:
                raise UsageError(f"a value with tuples or sets more than {CONTAINER_DEPTH_MAX} deep cannot be cached")
            letter = b"t" if kind is tuple else b"s" if kind is set else b"f"
            items = msgpack.packb(list(value), default=_PACKERS[depth + 1], strict_types=True)
            return msgpack.ExtType(_EXT_CONTAINER, letter + items)
        if kind is datetime.datetime:
            return msgpack.ExtType(_EXT_SCALAR, b"t" + value.isoformat().encode())
        if kind is datetime.date:
            return msgpack.ExtType(_EXT_SCALAR, b"D" + value.isoformat().encode())
        if kind is decimal.Decimal:
            return msgpack.ExtType(_EXT_SCALAR, b"d" + str(value).encode())
        if kind is uuid.UUID:
            return msgpack.ExtType(_EXT_SCALAR, b"u" + value.bytes)
        if kind is int:
            size = value.bit_length() // 8 + 1
            return msgpack.ExtType(_EXT_SCALAR, b"i" + value.to_bytes(size, "little", signed=True))
        raise _refused(value)

    return default


_PACKERS = tuple(_packer(depth) for depth in range(CONTAINER_DEPTH_MAX + 1))

_SCALARS: dict[bytes, Callable[[bytes], Any]] = {
    b"i": lambda data: int.from_bytes(data, "little", signed=True),
    b"d": lambda data: decimal.Decimal(data.decode("ascii")),
    b"D": lambda data: datetime.date.fromisoformat(data.decode("ascii")),
    b"t": lambda data: datetime.datetime.fromisoformat(data.decode("ascii")),
    b"u": lambda data: uuid.UUID(bytes=data),
}
_CONTAINERS: dict[bytes, Callable[[list[Any]], Any]] = {b"t": tuple, b"s": set, b"f": frozenset}


def _unpacker(depth: int) -> Callable[[int, bytes], Any]:
    def ext_hook(code: int, data: bytes) -> Any:
        letter, content = data[:1], data[1:]
        if code == _EXT_SCALAR and letter in _SCALARS:
            return _SCALARS[letter](content)
        if code == _EXT_CONTAINER and letter in _CONTAINERS and depth < CONTAINER_DEPTH_MAX:
            items = msgpack.unpackb(content, ext_hook=_UNPACKERS[depth + 1], strict_map_key=False)
            if type(items) is list:
                return _CONTAINERS[letter](items)
        raise Unreadable(f"extension {code} {letter!r} is not known here")

    return ext_hook


_UNPACKERS = tuple(_unpacker(depth) for depth in range(CONTAINER_DEPTH_MAX + 1))


def pack(value: object) -> bytes:
    """A value as msgpack.

    Raises:
        UsageError: a type that is not accepted (subclasses are not), a value within itself, text that is not Unicode.
    """
    try:
        packed: bytes = msgpack.packb(value, default=_PACKERS[0], strict_types=True)
        return packed
    except UsageError:
        raise
    except (ValueError, OverflowError, TypeError, RecursionError) as error:
        raise UsageError(f"a value of type {type(value).__name__} cannot be cached: {error}") from None


def unpack(data: bytes) -> Any:
    """A value from msgpack.

    Raises:
        Unreadable: whatever is wrong with the bytes; nothing else but MemoryError escapes.
    """
    try:
        return msgpack.unpackb(data, ext_hook=_UNPACKERS[0], strict_map_key=False)
    except Unreadable:
        raise
    except (ValueError, TypeError, OverflowError, ArithmeticError, RecursionError, msgpack.UnpackException) as error:
        raise Unreadable(str(error)) from None


def round_trip(value: object) -> tuple[bytes, Any]:
    """A value as msgpack, and as everybody else will see it.

    Raises:
        UsageError: as pack.
    """
    packed = pack(value)
    try:
        return packed, unpack(packed)
    except Unreadable as error:
        raise UsageError(f"a value of type {type(value).__name__} could not be read back: {error}") from None


# ---------------------------------------------------------------- envelope


class Codec:
    """Puts values into envelopes and takes them out.

    Args:
        secret: None, or at least 32 bytes (str as UTF-8); or a sequence of these: the first signs, all verify.
            With a secret a value without a MAC is a miss; without one a value with a MAC is.

    Raises:
        UsageError: a secret that is too short, or too many.
    """

    __slots__ = ("_keys",)

    def __init__(self, secret: str | bytes | Sequence[str | bytes] | None = None) -> None:
        secrets = [] if secret is None else [secret] if isinstance(secret, (str, bytes)) else list(secret)
        if len(secrets) > SECRETS_MAX or (secret is not None and not secrets):
            raise UsageError(f"{len(secrets)} secrets of a cache: accepted are 1 to {SECRETS_MAX}, or None")
        self._keys = tuple(_mac_key(one) for one in secrets)

    def seal(
        self, digest: bytes, payload: bytes, *, made_ms: int, ttl_ms: int, stale_ms: int = 0, compute_ms: int = 0
    ) -> bytes:
        """The envelope of a packed value, for the key with this digest."""
        flags = FLAG_MAC if self._keys else 0
        head = _HEAD.pack(FORMAT, flags, 0, min(compute_ms, 0xFFFFFFFF), made_ms, ttl_ms, stale_ms, digest)
        return head + _mac(self._keys[0], head, payload) + payload if self._keys else head + payload

    def open(self, digest: bytes, data: bytes) -> Entry | str:
        """The entry in an envelope, or why it is none.

        Returns:
            Entry, or "format" (not ours, or a newer one), "key" (another key's value), "mac" (missing, wrong, or made
            with a secret that is not known here) or "corrupt".
        """
        if len(data) < HEAD_BYTES or data[0] != FORMAT:
            return "format"
        _, flags, spare, compute_ms, made_ms, ttl_ms, stale_ms, found = _HEAD.unpack_from(data)
        if flags & ~FLAG_MAC or spare:
            return "format"
        if found != digest:
            return "key"
        at = HEAD_BYTES
        if flags & FLAG_MAC or self._keys:
            if not (flags & FLAG_MAC and self._keys):
                return "mac"
            at += MAC_BYTES
            head, mac, payload = data[:HEAD_BYTES], data[HEAD_BYTES:at], data[at:]
            if not any(hmac.compare_digest(_mac(key, head, payload), mac) for key in self._keys):
                return "mac"
        try:
            value = unpack(data[at:])
        except (Unreadable, MemoryError):
            return "corrupt"
        return Entry(value, made_ms, ttl_ms, stale_ms, compute_ms, len(data) - at)


def _mac_key(secret: str | bytes) -> bytes:
    raw = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(raw, bytes) or len(raw) < SECRET_BYTES_MIN:
        raise UsageError(f"the secret of a cache: accepted are str or bytes of at least {SECRET_BYTES_MIN} bytes")
    return hashlib.blake2b(raw, digest_size=32, person=b"fr cache mac 1").digest()


def _mac(key: bytes, head: bytes, payload: bytes) -> bytes:
    state = hashlib.blake2b(head, digest_size=MAC_BYTES, key=key, person=b"fr cache value")
    state.update(payload)
    return state.digest()
