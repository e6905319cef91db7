"""Keys of the shared cache: canonical, unambiguous, safe for the store."""

import itertools
import os
import re
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fastroute.cache.keys import KEY_BYTES_MAX, KeySpace, encode_key
from fastroute.errors import UsageError

PLAIN = st.recursive(
    st.one_of(
        st.text(max_size=4).filter(lambda text: text.isprintable()),
        st.binary(max_size=4),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.booleans(),
        st.none(),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)
KEYS = st.one_of(st.text(max_size=6).filter(str.isprintable), st.binary(max_size=6), st.lists(PLAIN).map(tuple))


def exact(value: object) -> object:
    """Equal only for values that are the same key: types count, and so does the sign of zero."""
    if isinstance(value, tuple):
        return tuple(exact(item) for item in value)
    return type(value).__name__, repr(value)


@given(KEYS, KEYS)
def test_two_keys_encode_alike_only_if_they_are_the_same(first: object, second: object) -> None:
    assert (encode_key(first) == encode_key(second)) == (exact(first) == exact(second))  # type: ignore[arg-type]


def test_no_two_of_many_similar_keys_meet() -> None:
    similar = [
        "1", b"1", (1,), (1.0,), (True,), ("1",), (b"1",), (), ((),), ((), ()), (((),),), ("",), "", b"", (None,), (0,),
        (0.0,), (-0.0,), (False,), ("a", "b"), ("ab",), ("a", ("b",)), (("a",), "b"), ("a:", "b"), ("a", ":b"), "i1:1",
        b"t1:i1:1", (255,), (-255,), ("ff",), (float("inf"),),
    ]  # fmt: skip
    space = KeySpace("fr", "ns")
    for first, second in itertools.combinations(similar, 2):
        assert encode_key(first) != encode_key(second), (first, second)
        assert space.store_key(space.digest(first)) != space.store_key(space.digest(second)), (first, second)
    assert len({space.near_key(key) for key in similar}) == len(similar)


def test_the_encoding_is_what_the_file_says() -> None:
    assert encode_key(("user", 7)) == b"t2:s4:useri1:7"


@pytest.mark.parametrize(
    "key", [1, None, ["a"], {"a": 1}, ("a", ["b"]), (object(),), (float("nan"),), "\ud800", "x" * (KEY_BYTES_MAX + 1)]
)
def test_other_keys_are_refused(key: object) -> None:
    with pytest.raises(UsageError, match="cache key"):
        encode_key(key)  # type: ignore[arg-type]


def test_tuples_too_deep_are_refused() -> None:
    key: tuple[object, ...] = ()
    for _ in range(20):
        key = (key,)
    with pytest.raises(UsageError, match="deep"):
        encode_key(key)


@pytest.mark.parametrize("key", ["", "x" * 10_000, b"\x00\r\n ", "get a\r\nflush_all", ("a", 2**100), "ключ"])
def test_a_store_key_is_short_safe_ascii(key: object) -> None:
    space = KeySpace("f" * 64, "n" * 64)
    store_key = space.store_key(space.digest(key))  # type: ignore[arg-type]
    assert len(store_key) <= 200
    assert re.fullmatch(r"f{64}:c:n{64}:[A-Za-z0-9_-]{22}", store_key)


def test_fleets_and_namespaces_never_meet() -> None:
    spaces = [KeySpace("a", "b:c:d"), KeySpace("a:c:b", "d"), KeySpace("a", "b"), KeySpace("b", "a")]
    assert len({space.digest("k") for space in spaces}) == len(spaces)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "a\n", None, 1])
def test_names_out_of_the_rules_are_refused(name: object) -> None:
    with pytest.raises(UsageError, match="namespace"):
        KeySpace("fr", name)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="fleet"):
        KeySpace(name, "ns")  # type: ignore[arg-type]


def test_another_process_makes_the_same_store_key() -> None:
    program = (
        "from fastroute.cache.keys import KeySpace; s = KeySpace('fr', 'ns'); print(s.store_key(s.digest(('u', 1))))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    space = KeySpace("fr", "ns")
    assert seen == {space.store_key(space.digest(("u", 1)))}
