"""A member of a JSON body as a key: as Python's json reads it, and nothing for what is no JSON object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.http_sticky import JSON_BYTES_MAX, json_key

NAME = "user"
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES: Any = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
OBJECTS = st.dictionaries(st.sampled_from([NAME, "x", "users", "", "é"]) | st.text(max_size=4), VALUES, max_size=6)


def expected(value: Any, text: str) -> bytes | None:
    if isinstance(value, str):
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            return None
        return raw if 0 < len(raw) <= 4092 else None
    if isinstance(value, (dict, list)) or value is None:
        return None
    return text.encode()


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_the_member_is_read_as_json_reads_it(document, ascii_only, indent):
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    shown = json.dumps(document.get(NAME), ensure_ascii=ascii_only)
    assert json_key(body, NAME.encode()) == expected(document.get(NAME), shown)


@given(OBJECTS, st.data())
def test_a_text_that_is_changed_has_a_key_only_if_it_is_still_json(document, data):
    body = bytearray(json.dumps({**document, NAME: "ann"}).encode())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    found = json_key(bytes(body), NAME.encode())
    if found is not None:
        pairs: Any = json.loads(bytes(body).decode("utf-8", "surrogateescape"), object_pairs_hook=list)
        assert NAME in [name for name, _ in pairs]


@given(st.binary(max_size=200))
def test_bytes_never_hurt(body):
    found = json_key(body, b"user")
    assert found is None or found


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"user":"a","user":"b"}', b"a"),
        (b'{"\\u0075ser":"a"}', None),
        (b'{"user":"\\ud83d\\ude00"}', "\U0001f600".encode()),
        (b'{"user":"\\ud83d"}', None),
        (b'{"user":1.50e1}', b"1.50e1"),
        (b'{"user":01}', None),
        (b'{"user":"a"} x', None),
        (b'{"user":"a",}', None),
        (b'{"user":"a\nb"}', None),
        (b'{"user":""}', None),
        (b"\xef\xbb\xbf{}", None),
        (b'{"a":' + b"[" * 63 + b"]" * 63 + b',"user":"a"}', b"a"),
        (b'{"a":' + b"[" * 65 + b"]" * 65 + b',"user":"a"}', None),
        (b'{"user":"a","x":"' + b"x" * JSON_BYTES_MAX + b'"}', None),
    ],
)
def test_rules_of_json_keys(body, key):
    assert json_key(body, b"user") == key
