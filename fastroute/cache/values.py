"""Values of the shared cache as msgpack and back: plain data, exact types, and the extensions that are registered.

Not here: the envelope around a value, its authentication and compression (codec.py), HTTP responses and sessions (they
register extensions of their own).

Rules of this file:
  - pickle is never written nor read, and no type is ever imported by a name that was read. What msgpack has no type for
    is a registered extension, or refused when it is written: types are kept exactly, nothing is silently turned into
    something similar.
  - Reading raises Unreadable and nothing else, whatever the bytes are.
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
    16 .. 127       the application's own (Extension)
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from fastroute.errors import UsageError

__all__ = ["Extension", "Unreadable", "Values", "pack", "round_trip", "unpack"]

CONTAINER_DEPTH_MAX = 16
"""Tuples and sets within each other: each level is a decoder of its own with some 40 KB on the C stack."""

EXTENSION_CODE_MIN, EXTENSION_CODE_MAX = 1, 127
"""msgpack's own limit; applications take theirs from 16 on."""

_EXT_SCALAR, _EXT_CONTAINER = 3, 4
_ACCEPTED = "None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, datetime, date, Decimal, UUID"


class Unreadable(ValueError):
    """Bytes that are no value."""


class Extension(NamedTuple):
    """A type of the application's own.

    Attributes:
        code: 16 to 127, the same in every process of the fleet, and never reused for another type.
        kind: the type; its subclasses are not meant.
        pack: value -> bytes.
        unpack: bytes -> value; what it raises makes the value a miss.
    """

    code: int
    kind: type
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]


def _pack_int(value: int) -> bytes:
    return b"i" + value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


_SCALAR_PACKERS: dict[type, Callable[[Any], bytes]] = {
    datetime.datetime: lambda value: b"t" + value.isoformat().encode(),
    datetime.date: lambda value: b"D" + value.isoformat().encode(),
    decimal.Decimal: lambda value: b"d" + str(value).encode(),
    uuid.UUID: lambda value: b"u" + value.bytes,
    int: _pack_int,
}
_SCALARS: dict[bytes, Callable[[bytes], Any]] = {
    b"i": lambda data: int.from_bytes(data, "little", signed=True),
    b"d": lambda data: decimal.Decimal(data.decode("ascii")),
    b"D": lambda data: datetime.date.fromisoformat(data.decode("ascii")),
    b"t": lambda data: datetime.datetime.fromisoformat(data.decode("ascii")),
    b"u": lambda data: uuid.UUID(bytes=data),
}
_CONTAINER_LETTERS: dict[type, bytes] = {tuple: b"t", set: b"s", frozenset: b"f"}
_CONTAINERS: dict[bytes, Callable[[list[Any]], Any]] = {b"t": tuple, b"s": set, b"f": frozenset}


class Values:
    """Packs and unpacks values.

    Args:
        extensions: types of the application's own, beside the built-in ones.

    Raises:
        UsageError: a code or a type that is taken, or a code out of range.

    Notes: immutable and safe with threads, as far as the extensions' functions are.
    """

    def __init__(self, extensions: Iterable[Extension] = ()) -> None:
        self._by_kind: dict[type, Extension] = {}
        self._by_code: dict[int, Extension] = {}
        for one in extensions:
            if not EXTENSION_CODE_MIN <= one.code <= EXTENSION_CODE_MAX or one.code in (_EXT_SCALAR, _EXT_CONTAINER):
                raise UsageError(f"extension code {one.code}: accepted are 16 to {EXTENSION_CODE_MAX}")
            if one.code in self._by_code or one.kind in self._by_kind:
                raise UsageError(
                    f"extension {one.code} of {one.kind.__name__}: its code or its type is registered twice"
                )
            if one.kind in _SCALAR_PACKERS or one.kind in _CONTAINER_LETTERS:
                raise UsageError(f"extension {one.code}: {one.kind.__name__} is built in")
            self._by_kind[one.kind] = self._by_code[one.code] = one
        self._packers = tuple(self._packer(depth) for depth in range(CONTAINER_DEPTH_MAX + 1))
        self._unpackers = tuple(self._unpacker(depth) for depth in range(CONTAINER_DEPTH_MAX + 1))
        self._first_packer, self._first_unpacker = self._packers[0], self._unpackers[0]

    def _packer(self, depth: int) -> Callable[[Any], Any]:
        def default(value: Any) -> Any:
            kind = type(value)
            letter = _CONTAINER_LETTERS.get(kind)
            if letter is not None:
                if depth >= CONTAINER_DEPTH_MAX:
                    raise UsageError(
                        f"a value with tuples or sets more than {CONTAINER_DEPTH_MAX} deep cannot be cached"
                    )
                items = msgpack.packb(list(value), default=self._packers[depth + 1], strict_types=True)
                return msgpack.ExtType(_EXT_CONTAINER, letter + items)
            if kind in _SCALAR_PACKERS:
                return msgpack.ExtType(_EXT_SCALAR, _SCALAR_PACKERS[kind](value))
            if kind in self._by_kind:
                own = self._by_kind[kind]
                return msgpack.ExtType(own.code, own.pack(value))
            raise UsageError(
                f"a value of type {kind.__module__}.{kind.__qualname__} cannot be cached: accepted are {_ACCEPTED}"
                " and registered extensions"
            )

        return default

    def _unpacker(self, depth: int) -> Callable[[int, bytes], Any]:
        def ext_hook(code: int, data: bytes) -> Any:
            own = self._by_code.get(code)
            if own is not None:
                try:
                    return own.unpack(data)
                except Exception as error:
                    raise Unreadable(f"extension {code}: {error}") from None
            letter, content = data[:1], data[1:]
            if code == _EXT_SCALAR and letter in _SCALARS:
                return _SCALARS[letter](content)
            if code == _EXT_CONTAINER and letter in _CONTAINERS and depth < CONTAINER_DEPTH_MAX:
                items = msgpack.unpackb(content, ext_hook=self._unpackers[depth + 1], strict_map_key=False)
                if type(items) is list:
                    return _CONTAINERS[letter](items)
            raise Unreadable(f"extension {code} {letter!r} is not known here")

        return ext_hook

    def pack(self, value: object) -> bytes:
        """A value as msgpack.

        Raises:
            UsageError: a type that is not accepted (subclasses are not), a value within itself, no Unicode text.
        """
        try:
            packed: bytes = msgpack.packb(value, default=self._first_packer, strict_types=True)
            return packed
        except UsageError:
            raise
        except (ValueError, OverflowError, TypeError, RecursionError) as error:
            raise UsageError(f"a value of type {type(value).__name__} cannot be cached: {error}") from None

    def unpack(self, data: bytes) -> Any:
        """A value from msgpack.

        Raises:
            Unreadable: whatever is wrong with the bytes; nothing else but MemoryError escapes.
        """
        try:
            return msgpack.unpackb(data, ext_hook=self._first_unpacker, strict_map_key=False)
        except Unreadable:
            raise
        except (
            ValueError,
            TypeError,
            OverflowError,
            ArithmeticError,
            RecursionError,
            msgpack.UnpackException,
        ) as error:
            raise Unreadable(str(error)) from None

    def round_trip(self, value: object) -> tuple[bytes, Any]:
        """A value as msgpack, and as everybody else will see it.

        Raises:
            UsageError: as pack.
        """
        packed = self.pack(value)
        try:
            return packed, self.unpack(packed)
        except Unreadable as error:
            raise UsageError(f"a value of type {type(value).__name__} could not be read back: {error}") from None


_PLAIN = Values()
pack, unpack, round_trip = _PLAIN.pack, _PLAIN.unpack, _PLAIN.round_trip
