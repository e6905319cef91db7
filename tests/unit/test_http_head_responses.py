"""The scanner on responses, chunked bodies and cookies: what it finds and what it refuses."""

from __future__ import annotations

import pytest

from fastroute._core.http_head import cookie_value, decode_chunked, scan_time_ns
from fastroute.errors import DownstreamProtocolError
from tests.support.heads import answer_of, request, response

# -- responses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("HTTP/1.1 200 OK", b"OK"),
        ("HTTP/1.1 200 ", b""),
        ("HTTP/1.1 200", b""),
        ("HTTP/1.0 200 a b\t\xff", b"a b\t\xff"),
    ],
)
def test_status_lines_with_and_without_reason(start: str, reason: bytes) -> None:
    head = answer_of(response(start=start))
    assert head is not None
    assert (head["status"], head["reason"]) == (200, reason)


@pytest.mark.parametrize(
    "start",
    [
        "HTTP/1.1 200OK",
        "HTTP/1.1 2000",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 20",
        "ICY 200 OK",
        "HTTP/1.1 +20 x",
        "HTTP/1.1\t200 OK",
    ],
)
def test_other_status_lines_are_refused(start: str) -> None:
    assert answer_of(response(start=start)) is None


@pytest.mark.parametrize(
    ("start", "lines", "body", "keep_alive"),
    [
        ("HTTP/1.1 200 OK", ["Content-Length: 5"], "length", True),
        ("HTTP/1.1 200 OK", ["Content-Length: 5", "Connection: close"], "length", False),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"], "chunked", True),
        ("HTTP/1.1 200 OK", [], "until-close", False),
        ("HTTP/1.0 200 OK", ["Content-Length: 5"], "length", False),
        ("HTTP/1.0 200 OK", ["Content-Length: 5", "Connection: Keep-Alive"], "length", True),
        ("HTTP/1.1 204 No Content", [], "none", True),
        ("HTTP/1.1 204 No Content", ["Content-Length: 0"], "none", True),
        ("HTTP/1.1 204 No Content", ["Content-Length: 5"], "none", False),
        ("HTTP/1.1 204 No Content", ["Transfer-Encoding: chunked"], "none", False),
        ("HTTP/1.1 304 Not Modified", ["Content-Length: 5"], "none", True),
        ("HTTP/1.1 100 Continue", [], "none", True),
        ("HTTP/1.1 100 Continue", ["Content-Length: 5"], "none", False),
        ("HTTP/1.1 101 Switching", ["Connection: upgrade", "Upgrade: websocket"], "none", True),
    ],
)
def test_framing_of_responses(start: str, lines: list[str], body: str, keep_alive: bool) -> None:
    head = answer_of(response(*lines, start=start))
    assert head is not None
    assert (head["body"], head["keep_alive"]) == (body, keep_alive)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip"],
        ["Content-Length: 5, 5"],
    ],
)
def test_ambiguous_responses_are_refused(lines: list[str]) -> None:
    assert answer_of(response(*lines)) is None


def test_a_switch_without_a_protocol_is_refused() -> None:
    assert answer_of(response("Connection: upgrade", start="HTTP/1.1 101 Switching")) is None


def test_an_empty_line_before_a_response_is_refused() -> None:
    assert answer_of(b"\r\n" + response()) is None


# -- chunked -----------------------------------------------------------------------------------------------------------


def test_chunks_are_joined_and_the_end_is_found() -> None:
    data = b"5;a=b\r\nhello\r\n1\r\n,\r\n0006\r\n world\r\n000\r\nX: y\r\n\r\nGET"
    assert decode_chunked(data) == (b"hello, world", len(data) - 3, True)
    assert decode_chunked(data, splits=range(len(data))) == (b"hello, world", len(data) - 3, True)


def test_an_unfinished_body_says_what_came() -> None:
    assert decode_chunked(b"5\r\nhel") == (b"hel", 6, False)
    assert decode_chunked(b"5\r\nhello\r\n0\r\n\r") == (b"hello", 14, False)


@pytest.mark.parametrize("size", ["7fffffffffffffff", "0" * 15 + "5"])
def test_chunk_sizes_up_to_2_63_are_read(size: str) -> None:
    assert decode_chunked(size.encode() + b"\r\nhello")[0] == b"hello"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"8000000000000000\r\n", 400),
        (b"00000000000000005\r\n", 400),
        (b"5;" + b"a" * 4096, 400),
        (b'5;a="\x7f"\r\n', 400),
        (b'5;a="\\\x01"\r\n', 400),
        (b"5;a=\r\n", 400),
        (b"5;=a\r\n", 400),
        (b'5;a="b"c\r\n', 400),
        (b"5 \r\n", 400),
        (b"5\r\r", 400),
        (b"0\r\n X: y\r\n", 400),
        (b"0\r\nX: y\n", 400),
        (b"0\r\n:\r\n", 400),
        (b"0\r\n" + b"X: y\r\n" * 101, 431),
        (b"0\r\nX: " + b"y" * 32_768, 431),
    ],
)
def test_malformed_chunks_are_refused(data: bytes, status: int) -> None:
    for splits in ((), range(len(data))):
        with pytest.raises(DownstreamProtocolError) as caught:
            decode_chunked(data, splits=splits)
        assert caught.value.status_hint == status


# -- cookies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        (["a=1; b=2"], b"2"),
        (["b=1", "b=2"], b"1"),
        (["a=1", "x=y;\tb=2 ;c"], b"2"),
        (["b=a=b"], b"a=b"),
        (["b="], b""),
        (["b"], None),
        (["b =1"], None),
        (["B=1; bb=2; ab=3"], None),
        ([';;b="x;y"'], b'"x'),
        ([""], None),
        ([], None),
        (["a=b=1,b=2"], None),
    ],
)
def test_a_cookie_is_the_first_pair_with_exactly_its_name(cookies: list[str], value: bytes | None) -> None:
    assert cookie_value(request(*(f"Cookie: {text}" for text in cookies)), b"b") == value


def test_a_scan_can_be_timed() -> None:
    assert scan_time_ns(request(), 10) > 0
    assert scan_time_ns(response("Content-Length: 0"), 10, request=False) > 0
    with pytest.raises(ValueError, match="complete"):
        scan_time_ns(b"GET", 1)
