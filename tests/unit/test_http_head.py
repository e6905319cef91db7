"""The scanner of heads: what it finds, what it refuses beyond the catalogue, limits, and that pieces change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from fastroute._core.http_head import scan_request
from fastroute.errors import DownstreamProtocolError
from tests.support.heads import answer_of, request, response, scanned, status_of

# -- what is found -----------------------------------------------------------------------------------------------------


def test_a_request_head_is_taken_apart() -> None:
    head = scanned(request("X-A:  one\ttwo \t", "Content-Length: 5", start="POST /a/b?c=d HTTP/1.1"))
    assert (head["method"], head["method_known"], head["target"], head["path"]) == (
        b"POST",
        "POST",
        b"/a/b?c=d",
        b"/a/b?c=d",
    )
    assert (head["minor"], head["authority"], head["body"], head["content_length"]) == (1, b"a.example", "length", 5)
    assert head["fields"] == [
        (b"Host", b"a.example", "host", False),
        (b"X-A", b"one\ttwo", "", False),
        (b"Content-Length", b"5", "content-length", False),
    ]
    assert head["keep_alive"]
    assert not head["upgrade"]
    assert not head["expect_continue"]


def test_head_size_counts_empty_lines_before_and_after() -> None:
    data = b"\r\n\r\n" + request()
    assert scanned(data + b"GET /next")["head_size"] == len(data)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_known_methods_are_named(method: str) -> None:
    assert scanned(request(start=f"{method} / HTTP/1.1"))["method_known"] == method


@pytest.mark.parametrize("method", ["get", "GETS", "PROPFIND", "M-SEARCH", "X"])
def test_other_methods_are_kept_as_they_are(method: str) -> None:
    head = scanned(request(start=f"{method} / HTTP/1.1"))
    assert (head["method"], head["method_known"]) == (method.encode(), "")


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_tunnels_and_reflection_are_not_implemented(method: str) -> None:
    assert status_of(request(start=f"{method} a.example:443 HTTP/1.1")) == 501


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        ("http://a.example/x?y", b"/x?y", b"a.example"),
        ("HTTP://A.Example", b"", b"A.Example"),
        ("https://a.example:443/", b"/", b"a.example:443"),
        ("http://a.example:80/", b"/", b"a.example:80"),
        ("http://a.example?q", b"?q", b"a.example"),
    ],
)
def test_absolute_form_gives_path_and_authority(target: str, path: bytes, authority: bytes) -> None:
    head = scanned(request(start=f"GET {target} HTTP/1.1"))
    assert (head["path"], head["authority"]) == (path, authority)


@pytest.mark.parametrize(
    "target",
    [
        "http://b.example/",
        "http://a.example:81/",
        "https://a.example:80/",
        "http:///x",
        "http://",
        "//",
        "a.example",
        "http:/a",
    ],
)
def test_absolute_form_that_is_not_hosts_or_not_http_is_refused(target: str) -> None:
    assert status_of(request(start=f"GET {target} HTTP/1.1")) == (200 if target == "//" else 400)


def test_absolute_form_without_host_is_enough_in_http_10() -> None:
    head = scanned(request(start="GET http://b.example/x HTTP/1.0", host=""))
    assert (head["authority"], head["path"], head["keep_alive"]) == (b"b.example", b"/x", False)


def test_a_higher_minor_version_is_treated_as_11() -> None:
    assert scanned(request(start="GET / HTTP/1.9"))["minor"] == 1


@pytest.mark.parametrize(
    ("start", "status"),
    [("GET / HTTP/3.0", 505), ("GET / HTTP/0.9", 505), ("PRI * HTTP/2.0", 505), ("GET /\t HTTP/1.1", 400)],
)
def test_other_versions_are_refused(start: str, status: int) -> None:
    assert status_of(request(start=start)) == status


@pytest.mark.parametrize("target", ["/\xe9", "/a b", "/\x7f", "", "#", "/a#"])
def test_targets_hold_visible_ascii_without_fragment(target: str) -> None:
    assert status_of(request(start=f"GET {target} HTTP/1.1")) == 400


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "cookie",
        "set-cookie",
        "expect",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "via",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "date",
        "http2-settings",
        "proxy-authenticate",
        "proxy-authorization",
        "x-fastroute",
        "x-real-ip",
        "max-forwards",
        "content-type",
    ],
)
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title, str.swapcase])
def test_known_fields_are_told_by_name_in_any_case(name: str, spelling: Any) -> None:
    found = answer_of(response(f"{spelling(name)}: chunked" if name == "transfer-encoding" else f"{spelling(name)}: 1"))
    assert found is not None
    assert found["fields"][0][2] == name
    neighbour = answer_of(response(f"{name[:-1]}: 1", f"{name}y: 1", f"{name[:-1]}~: 1"))
    assert neighbour is not None
    assert {field[2] for field in neighbour["fields"]} <= ({"", "x-fastroute"} if name == "x-fastroute" else {""})


@pytest.mark.parametrize(
    "name",
    [
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
        "Proxy-Authorization",
        "X-Fastroute-Server",
    ],
)
def test_hop_by_hop_fields_are_marked_unasked(name: str) -> None:
    assert scanned(request(f"{name}: a"))["fields"][1][3]


def test_fields_named_by_connection_are_marked_before_and_behind_it() -> None:
    head = scanned(
        request("X-One: 1", "Connection: x-one, ,close", "X-ONE: 2", "connection:x-two", "X-Two: 1", "X-Three: 1")
    )
    assert [field[0] for field in head["fields"] if field[3]] == [
        b"X-One",
        b"Connection",
        b"X-ONE",
        b"connection",
        b"X-Two",
    ]
    assert not head["keep_alive"]


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding"])
def test_clients_cannot_nominate_framing_away(name: str) -> None:
    framing = "Transfer-Encoding: chunked" if name == "Transfer-Encoding" else "Content-Length: 1"
    assert status_of(request(f"Connection: {name}", framing)) == 400


def test_servers_nominating_framing_away_are_not_obeyed() -> None:
    head = answer_of(response("Connection: Content-Length, Set-Cookie", "Set-Cookie: a=1", "Content-Length: 5"))
    assert head is not None
    assert [(field[2], field[3]) for field in head["fields"][1:]] == [("set-cookie", True), ("content-length", False)]


def test_malformed_connection_options_are_refused_and_end_reuse() -> None:
    assert status_of(request('Connection: "close"')) == 400
    head = answer_of(response("Connection: keep alive", "Content-Length: 0"))
    assert head is not None
    assert not head["keep_alive"]


def test_a_storm_of_connection_options_is_refused_within_a_bound() -> None:
    data = request(
        "Connection: " + ",".join("abcdefgh"[n % 8] for n in range(14_000)), *(f"h{n}: 1" for n in range(90))
    )
    assert status_of(data) == 431


@pytest.mark.parametrize(
    "name", ["Content_Length", "TRANSFER_ENCODING", "x_forwarded-for", "X_Fastroute_Server", "X_Real_IP"]
)
def test_underscore_aliases_of_known_fields_are_refused(name: str) -> None:
    assert status_of(request(f"{name}: 1")) == 400


def test_other_names_with_underscores_pass() -> None:
    assert status_of(request("x_request_id: 1")) == 200


@pytest.mark.parametrize("byte", [*range(0x09), *range(0x0A, 0x20), 0x7F])
def test_control_bytes_are_refused_anywhere(byte: int) -> None:
    base = request("X-A: abcdefghijklmnopqrstuvwxyz")
    for at in range(len(base) - 2):
        if byte == 0x0D and base[at + 1] == 0x0A:
            continue  # an inserted CR is then the one before CR LF: refused too, but as the next byte
        assert status_of(base[:at] + bytes([byte]) + base[at:]) == 400, at


def test_high_bytes_in_values_pass_unchanged() -> None:
    head = scanned(request("X-A: \x80\xff\xa0"))
    assert head["fields"][1][1] == b"\x80\xff\xa0"


# -- host --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a.b:1",
        "a:",
        "127.0.0.1:65535",
        "[::]",
        "[::1]:80",
        "[1:2:3:4:5:6:7:8]",
        "[1::8]",
        "[::ffff:1.2.3.4]",
        "[1:2:3:4:5:6:1.2.3.4]",
        "a_b",
        "x.",
        "[2001:DB8::]",
    ],
)
def test_valid_hosts_pass(host: str) -> None:
    assert scanned(request(host=f"Host: {host}\r\n"))["authority"] == host.encode()


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a:65536",
        "a:0x5",
        "a b",
        "a/b",
        "a@b",
        "[]",
        "[:]",
        "[:::]",
        "[1]",
        "[1:2:3:4:5:6:7]",
        "[1:2:3:4:5:6:7:8:9]",
        "[1::2::3]",
        "[12345::]",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[fe80::1%25eth0]",
        "[::1.2.3]",
        "[::1.2.3.256]",
        "[1:2:3:4:5:6:7:1.2.3.4]",
        "[v1.a]",
        "[1:2:3:4:5:6:7::8]",
        "a,b",
        "%61",
        "a\x80",
        "[::1.2.3.4.5]",
        "[1:2:3:4:5:6:7:]",
        "a:123456789012345678901234567890",
    ],
)
def test_invalid_hosts_are_refused(host: str) -> None:
    assert status_of(request(host=f"Host: {host}\r\n")) == (200 if host == "[::1]:" else 400)


def test_http_10_needs_no_host_and_refuses_a_second_one() -> None:
    assert status_of(request(start="GET / HTTP/1.0", host="")) == 200
    assert status_of(request("Host: a.example", start="GET / HTTP/1.0")) == 400


# -- framing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("9" * 19, int("9" * 19)), ("0" * 18 + "7", 7)])
def test_content_length_is_up_to_nineteen_digits(value: str, length: int) -> None:
    assert scanned(request(f"Content-Length: {value}"))["content_length"] == length


@pytest.mark.parametrize("value", ["1" * 20, "0" * 20, "1 ,1", "0x1", "٣"])
def test_other_content_lengths_are_refused(value: str) -> None:
    data = request("Content-Length: @").replace(b"@", value.encode())
    assert status_of(data) == 400


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Transfer-Encoding: chunked", "Content-Length: 1"], 400),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: chunked, chunked"], 400),
        (["Transfer-Encoding: ,chunked"], 400),
        (["Transfer-Encoding: chunked;q=1"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: "], 400),
    ],
)
def test_ambiguous_framing_is_refused(lines: list[str], status: int) -> None:
    assert status_of(request(*lines)) == status


def test_transfer_coding_in_http_10_is_refused() -> None:
    assert status_of(request("Transfer-Encoding: chunked", start="POST / HTTP/1.0")) == 400


def test_a_client_waits_for_100_only_with_a_body() -> None:
    assert scanned(request("Expect: 100-Continue", "Content-Length: 5"))["expect_continue"]
    assert scanned(request("Expect: 100-continue", "Transfer-Encoding: chunked"))["expect_continue"]
    assert not scanned(request("Expect: 100-continue", "Content-Length: 0"))["expect_continue"]
    assert not scanned(request("Expect: 100-continue", "Content-Length: 5", start="POST / HTTP/1.0"))["expect_continue"]
    assert status_of(request("Expect: 100-continue, x", "Content-Length: 5")) == 417


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        (["Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"], True),
        (["Connection: keep-alive, Upgrade", "Upgrade: foo/2"], True),
        (["Upgrade: foo"], False),
        (["Connection: upgrade"], False),
        (["Connection: upgrade", "Upgrade: h2c"], False),
        (["Connection: upgrade, http2-settings", "Upgrade: foo, H2C", "HTTP2-Settings: x"], False),
        (["Connection: upgrade", "Upgrade: a b"], False),
        (["Connection: upgrade", "Upgrade: foo", "Upgrade: bar"], False),
    ],
)
def test_upgrade_needs_option_and_one_usable_field(lines: list[str], upgrade: bool) -> None:
    assert scanned(request(*lines))["upgrade"] is upgrade


# -- limits ------------------------------------------------------------------------------------------------------------


def test_request_line_limit_is_exact_and_found_before_the_line_ends() -> None:
    line = "GET /aaaa HTTP/1.1"
    assert status_of(request(start=line), request_line_bytes=len(line)) == 200
    assert status_of(request(start=line), request_line_bytes=len(line) - 1) == 414
    assert status_of(b"G" * 20, request_line_bytes=20) is None
    assert status_of(b"G" * 21, request_line_bytes=20) == 414


def test_head_limit_is_exact_and_found_before_the_head_ends() -> None:
    data = request("X-A: 1")
    assert status_of(data, head_bytes=len(data)) == 200
    assert status_of(data, head_bytes=len(data) - 1) == 431
    assert status_of(data[:-1], head_bytes=len(data) - 1) == 431
    assert status_of(data[:-2], head_bytes=len(data) - 1) is None


def test_field_limit_is_exact_and_bounded_by_the_capacity() -> None:
    data = request(*(f"h{n}: 1" for n in range(9)))
    assert status_of(data, fields=10) == 200
    assert status_of(data, fields=9) == 431
    many = request(*(f"h{n}: 1" for n in range(256)))
    assert status_of(many, fields=0) == 431
    assert status_of(many, fields=1000) == 431
    assert len(scanned(request(*(f"h{n}: 1" for n in range(255))), fields=0)["fields"]) == 256


def test_method_limit_is_exact() -> None:
    assert status_of(request(start="ABCDE / HTTP/1.1"), method_bytes=5) == 200
    assert status_of(request(start="ABCDEF / HTTP/1.1"), method_bytes=5) == 501


def test_a_limit_of_zero_is_no_limit() -> None:
    data = request("X-A: " + "a" * 70_000, start="M" * 300 + " /" + "a" * 9000 + " HTTP/1.1")
    assert status_of(data, request_line_bytes=0, head_bytes=0, method_bytes=0) == 200


def test_empty_lines_before_a_request_are_bounded() -> None:
    assert status_of(b"\r\n" * 4 + request()) == 200
    assert status_of(b"\r\n" * 5) == 400


def test_names_beyond_the_fields_capacity_are_refused() -> None:
    assert status_of(request("n" * 65_535 + ": 1"), head_bytes=0) == 200
    assert status_of(request("n" * 65_536 + ": 1"), head_bytes=0) == 431


# -- pieces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        request("X-A: 1", "Cookie: a=b", start="POST /x HTTP/1.1"),
        b"\r\n\r\n" + request("Transfer-Encoding: chunked"),
        request("X-A: a\nb"),
        request("X A: 1", "X-B: \x00"),
        request(start="GET / HTTP/2.0"),
        request(*(f"h{n}: 1" for n in range(120))),
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\rX",
    ],
)
def test_byte_by_byte_gives_what_the_whole_gives(data: bytes) -> None:
    def outcome(splits: Any) -> Any:
        try:
            return scan_request(data, splits=splits)
        except DownstreamProtocolError as error:
            return error.status_hint

    assert outcome(range(len(data))) == outcome(()) is not None


def test_the_cost_of_a_head_in_pieces_is_linear() -> None:
    # 100 fields of 300 bytes: found complete at the last byte although each call sees all earlier bytes again
    data = request(*(f"h{n}: " + "v" * 300 for n in range(99)))
    assert scan_request(data, splits=range(0, len(data), 7)) == scan_request(data)
