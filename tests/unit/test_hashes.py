"""XXH64 and SipHash-2-4-128 against published values and independent implementations."""

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.hashes import siphash128, xxh64
from fastroute.errors import UsageError
from tests.support import selection_oracles as oracles

# xxHash's own sanity check values (specification's test vectors) and the xxhash packages' documentation.
XXH64_PUBLISHED = [
    (b"", 0, 0xEF46DB3751D8E999),
    (b"a", 0, 0xD24EC4F1A98C6E5B),
    (b"abc", 0, 0x44BC2CF5AD770999),
    (b"Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
]

# Rows of the authors' vectors_sip128 (vectors.h): key 00..0f, message 00..len-1.
SIPHASH128_PUBLISHED = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    2: "8177228da4a45dc7fca38bdef60affe4",
    3: "9c70b60c5267a94e5f33b6b02985ed51",
    4: "f88164c12d9c8faf7d0f6e7c7bcd5579",
    5: "1368875980776f8854527a07690e9627",
    6: "14eeca338b208613485ea0308fd7a15e",
    7: "a1f1ebbed8dbc153c0b84aa61ff08239",
    8: "3b62a9ba6258f5610f83e264f31497b4",
    9: "264499060ad9baabc47f8b02bb6d71ed",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
    16: "6ee2a4ca67b054bbfd3315bf85230577",
    31: "2939b0183223fafc1723de4f52c43d35",
    32: "7c3956ca5eeafc3e363e9d556546eb68",
    47: "e61c432b720b19d18ec8d84bdc63151b",
    62: "5853542321f567a005d547a4f04759bd",
    63: "5150d1772f50834a503e069a973fbd7c",
}


@pytest.mark.parametrize(("data", "seed", "expected"), XXH64_PUBLISHED)
def test_xxh64_gives_the_published_value(data, seed, expected):
    assert xxh64(data, seed) == expected


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_xxh64_equals_the_xxhash_package(data, seed):
    assert xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed)


@given(st.text(max_size=60).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_a_str_hashes_as_its_utf8(text):
    assert xxh64(text) == xxh64(text.encode())
    assert siphash128(bytes(16), text) == siphash128(bytes(16), text.encode())


@pytest.mark.parametrize("size", SIPHASH128_PUBLISHED)
def test_siphash128_gives_the_authors_vector(size):
    assert siphash128(bytes(range(16)), bytes(range(size))).hex() == SIPHASH128_PUBLISHED[size]


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=100))
def test_siphash128_equals_the_reference(key, data):
    assert siphash128(key, data) == oracles.siphash128(key, data)


@pytest.mark.parametrize("data", [None, 1, bytearray(b"a"), ["a"], "\ud800"])
def test_other_data_is_refused_with_what_was_found(data):
    with pytest.raises(UsageError, match="accepted are"):
        xxh64(data)
    with pytest.raises(UsageError, match="accepted are"):
        siphash128(bytes(16), data)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", None])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match="seed"):
        xxh64(b"", seed)


@pytest.mark.parametrize("key", [b"", bytes(15), bytes(17), "0" * 16, None])
def test_a_siphash_key_of_another_length_is_refused(key):
    with pytest.raises(UsageError, match="16 bytes"):
        siphash128(key, b"")
