"""The glance at a stored value agrees with the codec, and takes nothing that has to be looked at with all rules."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.cache_head import plain_fresh_left_ms
from fastroute._core.mc_reply import HIT
from fastroute.cache import compress
from fastroute.cache.codec import HEAD_BYTES, Codec, Tag
from fastroute.cache.lease import Outcome, judge
from fastroute.cache.values import pack

DIGEST, NOW_MS = b"d" * 32, 1_800_000_000_000


class Answer:
    status, won, token = HIT, False, None

    def __init__(self, value: bytes) -> None:
        self.value = value


def sealed(codec: Codec | None = None, value: object = "v", **options: Any) -> bytes:
    options = {"made_ms": NOW_MS - 100, "ttl_ms": 1000, "stale_ms": 500, "generation": 7, **options}
    found = (codec or Codec()).seal(DIGEST, pack(value), **options)
    assert found is not None
    return found.envelope


def test_a_plain_fresh_value_is_recognised_with_what_is_left_of_it() -> None:
    assert plain_fresh_left_ms(sealed(), DIGEST, 7, NOW_MS) == (900, 500)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        sealed()[: HEAD_BYTES - 1],
        b"\x03" + sealed()[1:],
        sealed(Codec(b"s" * 32)),
        sealed(tags=[Tag(b"t" * 16, 1)]),
        pytest.param(
            sealed(value="again and again " * 1000),
            marks=pytest.mark.skipif(not compress.AVAILABLE, reason="zstandard is not installed"),
        ),
        sealed(value=os.urandom(1_200_000)),
        sealed(generation=8),
        sealed(ttl_ms=100),
        sealed(made_ms=NOW_MS + 1),
        sealed(compute_ms=45),
        sealed(ttl_ms=2**63),
    ],
)
def test_everything_else_is_looked_at_again(data: bytes) -> None:
    assert plain_fresh_left_ms(data, DIGEST, 7, NOW_MS) is None


def test_what_is_no_answer_of_this_key_is_not_recognised() -> None:
    assert plain_fresh_left_ms(sealed(), b"e" * 32, 7, NOW_MS) is None
    for data, digest in ((None, DIGEST), ("text", DIGEST), (sealed(), b"short"), (bytearray(sealed()), DIGEST)):
        assert plain_fresh_left_ms(data, digest, 7, NOW_MS) is None


@given(
    st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1),
    st.integers(0, 2**62), st.sampled_from([7, 8]),
)  # fmt: skip
def test_what_is_recognised_is_fresh_for_the_codec_too(
    made_ms: int, ttl_ms: int, stale_ms: int, compute_ms: int, now_ms: int, generation: int
) -> None:
    data = sealed(made_ms=made_ms, ttl_ms=ttl_ms, stale_ms=stale_ms, compute_ms=compute_ms, generation=generation)
    left = plain_fresh_left_ms(data, DIGEST, 7, now_ms)
    if left is not None:
        seen = judge(Answer(data), Codec(), DIGEST, now_ms, 7)
        assert seen.outcome is Outcome.FRESH
        assert seen.entry is not None
        assert left == (made_ms + ttl_ms - now_ms, stale_ms)
