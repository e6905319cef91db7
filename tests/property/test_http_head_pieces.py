"""Whatever bytes come, in whatever pieces: the scanner's answer is one, and only documented errors leave it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core.http_head import decode_chunked, scan_request, scan_response
from fastroute._core.token import TokenCodec
from fastroute.errors import DownstreamProtocolError, UpstreamProtocolError
from tests.support.http_rows import rows

SEED = 4_711
PIECES = st.lists(st.integers(0, 400), max_size=6)
CHUNKED_BYTES = st.lists(
    st.sampled_from(
        [
            b"5",
            b"0",
            b"a",
            b"F",
            b"\r\n",
            b"\r",
            b"\n",
            b";",
            b"=",
            b'"',
            b"\\",
            b" ",
            b"x",
            b":",
            b"hello",
            b"\x80",
            b"\0",
            b"5\r\nhello\r\n",
            b"0\r\n",
        ]
    ),
    max_size=14,
).map(b"".join)
LINES = st.lists(
    st.sampled_from(
        [
            b"GET / HTTP/1.1",
            b"HTTP/1.1 200 OK",
            b"\r\n",
            b"\r\n",
            b"\r\n",
            b"\r",
            b"\n",
            b"Host: a",
            b"X: y",
            b" ",
            b"\t",
            b"\x7f",
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            b"Connection: x",
            b"\xff",
            b":",
            b"a" * 40,
        ]
    ),
    max_size=16,
).map(b"".join)


def outcome(call: Callable[..., Any], data: bytes, splits: Sequence[int], **limits: int) -> Any:
    try:
        return call(data, splits=splits, **limits)
    except (DownstreamProtocolError, UpstreamProtocolError) as error:
        return getattr(error, "status_hint", 502)


def within(pieces: list[int], data: bytes) -> list[int]:
    return sorted(at for at in pieces if at <= len(data))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.one_of(LINES, st.binary(max_size=60)),
    PIECES,
    st.sampled_from([0, 10, 17, 40, 100]),
    st.sampled_from([0, 1, 2, 3]),
)
def test_pieces_change_no_answer_about_a_head(data: bytes, pieces: list[int], limit: int, fields: int) -> None:
    limits = {"head_bytes": limit, "fields": fields}
    for call in (scan_request, scan_response):
        whole = outcome(call, data, (), **limits)
        assert outcome(call, data, within(pieces, data), **limits) == whole
        assert outcome(call, data, range(len(data)), **limits) == whole


@settings(max_examples=400, deadline=None, derandomize=True)
@given(CHUNKED_BYTES, PIECES)
def test_pieces_change_no_answer_about_a_chunked_body(data: bytes, pieces: list[int]) -> None:
    whole = outcome(decode_chunked, data, ())
    assert outcome(decode_chunked, data, within(pieces, data)) == whole
    assert outcome(decode_chunked, data, range(len(data))) == whole
    if not isinstance(whole, int) and whole[2]:
        assert whole[:2] == reference(data)


NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\""
EXTENSION = rb"(?:;%b(?:=(?:%b|%b))?)*" % (NAME, NAME, QUOTED)
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})" + EXTENSION + rb"\r\n")
TRAILERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*\r\n")


def reference(data: bytes) -> tuple[bytes, int] | None:
    """A complete chunked body by the grammar of RFC 9112, section 7.1: (body, size of it all), or None."""
    body, at = b"", 0
    while line := SIZE_LINE.match(data, at):
        size, at = int(line[1], 16), line.end()
        if size == 0:
            end = TRAILERS.match(data, at)
            return (body, end.end()) if end else None
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        body, at = body + data[at : at + size], at + size + 2
    return None


@settings(max_examples=600, deadline=None, derandomize=True)
@given(CHUNKED_BYTES)
def test_a_chunked_body_ends_where_the_grammar_says(data: bytes) -> None:
    said = outcome(decode_chunked, data, ())
    by_grammar = reference(data)
    assert (not isinstance(said, int) and said[2]) == (by_grammar is not None)


def test_mutated_responses_give_one_answer_in_any_pieces() -> None:
    try:
        listed = [row["raw"].encode("latin-1") for row in rows("responses.jsonl") if len(row["raw"]) < 500]
    except pytest.skip.Exception:
        listed = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"]
    rng = random.Random(SEED)
    for number in range(3000):
        data = bytearray(rng.choice(listed))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randrange(3)] = bytes(
                rng.choice(b"\r\n \t:;,059aZ\x00\x7f\x80") for _ in range(rng.randrange(3))
            )
        raw = bytes(data)
        splits = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.randrange(4)))
        assert outcome(scan_response, raw, splits) == outcome(scan_response, raw, ()), (SEED, number, raw, splits)


CODEC = TokenCodec([bytes(range(32))], "fr", "test")
TOKEN = CODEC.sign_text(bytes(16), 1, 2, 3, 4).encode()


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=200), st.tuples(st.integers(0, 89), st.integers(0, 89), st.binary(max_size=4))))
def test_no_other_text_is_a_token(made: bytes | tuple[int, int, bytes]) -> None:
    text = made if isinstance(made, bytes) else TOKEN[: made[0]] + made[2] + TOKEN[made[1] :]
    said = CODEC.verify_text(text)
    assert isinstance(said, tuple) == (text == TOKEN)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_tokens_say_what_was_signed(key: bytes, digest: int, term: int, generation: int, minute: int) -> None:
    assert CODEC.verify_text(CODEC.sign_text(key, digest, term, generation, minute)) == (
        key,
        digest,
        term,
        generation,
        minute,
    )
