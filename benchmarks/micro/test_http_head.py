"""What a request head, a response head and a token cost; beside h11 and httptools (llhttp), which also only scan.

The scanner is called in a compiled loop (scan_time_ns), as the relay calls it; the peers through Python, as their users
do.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import h11
import httptools
import pytest

from fastroute._core.http_head import scan_request, scan_response, scan_time_ns
from fastroute._core.token import TokenCodec

ROUNDS = 10_000
REQUEST = (
    b"GET /api/items/12345?page=2&sort=asc HTTP/1.1\r\nHost: app.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Cookie: sid=0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 512\r\nServer: app\r\n"
    b"Date: Tue, 28 Jul 2026 10:00:00 GMT\r\nCache-Control: no-store\r\n\r\n"
)
CODEC = TokenCodec([bytes(range(32))], "fr", "benchmark")
TOKEN = CODEC.sign_text(bytes(16), 1, 2, 3, 4).encode()


@pytest.mark.benchmark(group="request head of 250 bytes")
def test_scan_request(benchmark: Any) -> None:
    assert 240 <= len(REQUEST) <= 260
    benchmark.extra_info.update(operations=ROUNDS, label="fastroute, compiled call")
    benchmark(scan_time_ns, REQUEST, ROUNDS)


@pytest.mark.benchmark(group="request head of 250 bytes")
def test_scan_request_to_python(benchmark: Any) -> None:
    benchmark.extra_info["label"] = "fastroute, copied into Python objects (tests only)"
    assert benchmark(scan_request, REQUEST)["method"] == b"GET"


@pytest.mark.benchmark(group="request head of 250 bytes")
def test_scan_request_httptools(benchmark: Any) -> None:
    benchmark.extra_info.update(ours=False, label="httptools, no callbacks")
    handler = object()
    benchmark(lambda: httptools.HttpRequestParser(handler).feed_data(REQUEST))


@pytest.mark.benchmark(group="request head of 250 bytes")
def test_scan_request_h11(benchmark: Any) -> None:
    benchmark.extra_info.update(ours=False, label="h11")

    def scan() -> Any:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(REQUEST)
        return connection.next_event()

    assert isinstance(benchmark(scan), h11.Request)


@pytest.mark.benchmark(group="response head of 180 bytes")
def test_scan_response(benchmark: Any) -> None:
    assert scan_response(RESPONSE) is not None
    benchmark.extra_info.update(operations=ROUNDS, label="fastroute, compiled call")
    benchmark(scan_time_ns, RESPONSE, ROUNDS, request=False)


@pytest.mark.benchmark(group="signed cookie")
@pytest.mark.parametrize("what", ["sign", "verify_remembered", "verify_fresh"])
def test_token(benchmark: Any, what: str) -> None:
    benchmark.extra_info.update(operations=ROUNDS, label=f"fastroute, {what.replace('_', ' ')}, compiled call")
    benchmark(CODEC.repeat, what, TOKEN, ROUNDS)


@pytest.mark.benchmark(group="signed cookie")
def test_python_hmac(benchmark: Any) -> None:
    benchmark.extra_info.update(ours=False, label="Python's hmac over 40 bytes, SHA-256, the MAC alone")
    key = bytes(32)
    benchmark(hmac.digest, key, bytes(40), hashlib.sha256)
