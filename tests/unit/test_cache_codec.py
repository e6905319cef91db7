"""Values of the shared cache as bytes: exact types back, and nothing but misses from bytes that are not ours."""

import contextlib
import datetime
import enum
import os
import pickle
import struct
import zoneinfo
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given

from fastroute.cache.codec import HEAD_BYTES, Codec, Entry
from fastroute.cache.values import CONTAINER_DEPTH_MAX, Unreadable, pack, round_trip, unpack
from fastroute.errors import UsageError

DIGEST, OTHER_DIGEST = b"d" * 32, b"e" * 32
SECRET, OTHER_SECRET = b"s" * 32, b"t" * 32
NOW_MS = 1_800_000_000_000

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
TIMES = st.datetimes(timezones=st.sampled_from([None, datetime.UTC])).map(lambda time: time.replace(fold=0))
HASHABLE = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False), TEXT, st.binary(max_size=8),
    st.uuids(), st.dates(), TIMES,
    st.decimals(allow_nan=False),
)  # fmt: skip
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(TEXT, st.integers(), st.binary(max_size=4)), inner, max_size=4),
        st.sets(HASHABLE, max_size=3),
        st.frozensets(HASHABLE, max_size=3),
    ),
    max_leaves=12,
)


def exact(value: Any) -> Any:
    if isinstance(value, dict):
        return "dict", [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, sorted(repr(exact(item)) for item in value)
    return type(value).__name__, repr(value)


@given(VALUES)
def test_a_value_comes_back_with_exactly_its_types(value: Any) -> None:
    assert exact(unpack(pack(value))) == exact(value)


def test_an_offset_is_kept_and_a_zones_name_is_not() -> None:
    there = datetime.datetime(2026, 11, 22, 12, tzinfo=zoneinfo.ZoneInfo("Etc/GMT-3"))
    back = unpack(pack(there))
    assert back == there
    assert back.utcoffset() == datetime.timedelta(hours=3)


def test_changeable_bytes_come_back_as_bytes() -> None:
    assert round_trip([bytearray(b"x"), memoryview(b"y")])[1] == [b"x", b"y"]


def test_what_could_not_be_read_back_is_refused_when_written() -> None:
    with pytest.raises(UsageError, match="read back"):
        round_trip(msgpack.ExtType(9, b"x"))


class Colour(enum.IntEnum):
    RED = 1


class Named(dict[str, int]):
    pass


@pytest.mark.parametrize("value", [object(), Colour.RED, Named(a=1), [Named()], {"a": (Colour.RED,)}, "\ud800"])
def test_what_would_come_back_as_something_else_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="cannot be cached"):
        pack(value)


def test_a_value_within_itself_is_refused() -> None:
    inner: list[object] = []
    inner.append((inner,))
    with pytest.raises(UsageError, match="cannot be cached"):
        pack(inner)
    deep: object = 1
    for _ in range(CONTAINER_DEPTH_MAX):
        deep = (deep,)
    assert unpack(pack(deep)) == deep
    with pytest.raises(UsageError, match="deep"):
        pack(((deep,),))


def bombs() -> dict[str, bytes]:
    nested = b"\xc0"
    for _ in range(300):
        nested = b"\xc9" + struct.pack(">IB", len(nested) + 2, 4) + b"t\x91" + nested
    return {
        "nothing": b"",
        "array that claims 4 G items": b"\xdd\xff\xff\xff\xff",
        "map that claims 4 G items": b"\xdf\xff\xff\xff\xff",
        "text that claims 4 GB": b"\xdb\xff\xff\xff\xff",
        "arrays 100,000 deep": b"\x91" * 100_000 + b"\xc0",
        "large arrays 1,000 deep": b"\xdd\x00\x01\x00\x00" * 1000 + b"\xc0" * 65536,
        "tuples 300 deep": nested,
        "trailing bytes": b"\xc0\xc0",
        "cut off": pack({"a": [1, 2, 3]})[:-1],
        "not UTF-8": b"\xa1\xff",
        "reserved byte": b"\xc1",
        "unknown extension": msgpack.packb(msgpack.ExtType(9, b"x")),
        "reserved extension": msgpack.packb(msgpack.ExtType(1, b"x")),
        "unknown scalar": msgpack.packb(msgpack.ExtType(3, b"?x")),
        "empty extension": msgpack.packb(msgpack.ExtType(3, b"")),
        "UUID of 3 bytes": msgpack.packb(msgpack.ExtType(3, b"uabc")),
        "no number": msgpack.packb(msgpack.ExtType(3, b"dx")),
        "no date": msgpack.packb(msgpack.ExtType(3, b"D2026-13-01")),
        "no time": msgpack.packb(msgpack.ExtType(3, b"t\xff")),
        "container that is no array": msgpack.packb(msgpack.ExtType(4, b"t\xc0")),
        "set of lists": msgpack.packb(msgpack.ExtType(4, b"s" + msgpack.packb([[1]]))),
        "list as a map's key": b"\x81\x90\xc0",
        "timestamp out of range": b"\xc7\x0c\xff" + b"\xff" * 12,
        "pickle": pickle.dumps({"a": 1}),
    }


@pytest.mark.parametrize("name", bombs())
def test_bytes_that_are_no_value_are_unreadable_and_harmless(name: str) -> None:
    with pytest.raises(Unreadable):
        unpack(bombs()[name])
    assert Codec().open(DIGEST, envelope(Codec(), DIGEST, bombs()[name], made_ms=1, ttl_ms=1)) == "corrupt"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_reason(data: bytes) -> None:
    assert Codec().open(DIGEST, data) in ("format", "key", "mac", "corrupt")
    with contextlib.suppress(Unreadable):
        unpack(data)


def envelope(codec: Codec, digest: bytes, payload: bytes, **options: Any) -> bytes:
    found = codec.seal(digest, payload, **options)
    assert found is not None
    assert not found.parts
    return found.envelope


def sealed(codec: Codec, value: object = ("v",), digest: bytes = DIGEST) -> bytes:
    return envelope(codec, digest, pack(value), made_ms=NOW_MS, ttl_ms=5000, stale_ms=2000, compute_ms=12)


@pytest.mark.parametrize("secret", [None, SECRET, "x" * 40, [SECRET, OTHER_SECRET]])
def test_an_envelope_gives_back_what_was_sealed(secret: Any) -> None:
    codec = Codec(secret)
    entry = codec.open(DIGEST, sealed(codec))
    assert entry == Entry(("v",), NOW_MS, 5000, 2000, 12, len(pack(("v",))))


def test_the_head_has_the_documented_size() -> None:
    assert HEAD_BYTES == 80
    assert len(sealed(Codec())) == 80 + len(pack(("v",)))
    assert len(sealed(Codec(SECRET))) == 96 + len(pack(("v",)))


def test_another_keys_value_is_refused() -> None:
    assert Codec().open(OTHER_DIGEST, sealed(Codec())) == "key"


@pytest.mark.parametrize("codec", [Codec(), Codec(SECRET)])
def test_another_format_or_flag_is_refused(codec: Codec) -> None:
    data = bytearray(sealed(codec))
    for at, value in ((0, 1), (0, 3), (0, 0), (0, 0x80), (1, 0x88), (1, 0x18), (3, 1)):
        changed = data.copy()
        changed[at] = value
        assert codec.open(DIGEST, bytes(changed)) == "format"


def test_every_truncation_is_refused() -> None:
    for codec in (Codec(), Codec(SECRET)):
        data = sealed(codec, {"a": [1, "text"]})
        for size in range(len(data)):
            assert isinstance(codec.open(DIGEST, data[:size]), str)


def test_with_a_secret_every_changed_bit_is_refused() -> None:
    codec = Codec(SECRET)
    data = sealed(codec, "value")
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert isinstance(codec.open(DIGEST, bytes(changed)), str), bit


def test_a_value_without_or_with_another_mac_is_refused() -> None:
    assert Codec(SECRET).open(DIGEST, sealed(Codec())) == "mac"
    assert Codec(SECRET).open(DIGEST, sealed(Codec(OTHER_SECRET))) == "mac"
    assert Codec().open(DIGEST, sealed(Codec(SECRET))) == "mac"


def test_a_retired_secret_still_verifies() -> None:
    assert isinstance(Codec([OTHER_SECRET, SECRET]).open(DIGEST, sealed(Codec(SECRET))), Entry)


@pytest.mark.parametrize("secret", [b"short", "", [], [SECRET] * 9, 5, [5]])
def test_a_secret_out_of_the_rules_is_refused(secret: Any) -> None:
    with pytest.raises((UsageError, TypeError)):
        Codec(secret)


def test_age_is_never_negative() -> None:
    entry = Codec().open(DIGEST, sealed(Codec()))
    assert isinstance(entry, Entry)
    assert entry.age_ms(NOW_MS - 9999) == 0
    assert entry.age_ms(NOW_MS + 10) == 10


def test_random_bytes_after_a_right_head_are_a_miss() -> None:
    for _ in range(300):
        found = Codec().open(DIGEST, envelope(Codec(), DIGEST, os.urandom(40), made_ms=1, ttl_ms=1))
        assert found == "corrupt" or isinstance(found, Entry)
