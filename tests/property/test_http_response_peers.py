"""The scanner of responses beside h11 and llhttp on mutated messages: wherever they differ, a recorded reason says why.

What counts most: a response that we accept and a peer frames otherwise (FRAMED_OTHERWISE) could put bytes of one
response into the next one, so that table is short. We refuse what the peers repair (STRICTER); each entry is an
independent test of the bytes, not of our parser. A disagreement without a reason fails the test and prints the message;
the seed is printed. docs/design/http.md lists the same reasons with the clauses behind them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

import tests.property.test_http_head_peers as requests
from tests.support.http_peers import (
    Response,
    are_options,
    mutate,
    read_response_with_h11,
    read_response_with_httptools,
    unexplained_of,
)
from tests.support.http_rows import response_stream, rows
from tests.support.shared import ROOT

SEED = 20_261_122
MUTATIONS = 6_000
PEERS: dict[str, Callable[[bytes], Response]] = {
    "h11": read_response_with_h11,
    "llhttp": read_response_with_httptools,
}


def heads_of(data: bytes) -> bytes:
    """The heads in front: interim ones and the final one."""
    at = 0
    while (end := re.search(rb"\n\r?\n", data[at:])) is not None:
        head, at = data[at : at + end.end()], at + end.end()
        if not re.match(rb"HTTP/1\.\d 1(?!01)\d\d", head):
            break
    return data[:at] if at else data


def last_head(data: bytes) -> bytes:
    found = re.split(rb"\n\r?\n(?=HTTP/)", heads_of(data))
    return found[-1]


def heads(data: bytes) -> list[bytes]:
    return re.split(rb"(?<=\n)(?=HTTP/\d)", heads_of(data))


def chunk_lines(data: bytes) -> bytes:
    """The lines of a chunked body; nothing of another one."""
    return body_of(data) if values(data, b"Transfer-Encoding") else b""


def start_of(data: bytes) -> bytes:
    return data.partition(b"\n")[0].rstrip(b"\r")


def values(data: bytes, name: bytes) -> list[bytes]:
    return [m.strip(b" \t\r") for m in re.findall(rb"(?im)^%b[ \t]*:([^\n]*)$" % re.escape(name), last_head(data))]


def body_of(data: bytes) -> bytes:
    return data[len(heads_of(data)) :]


def bad_options(data: bytes) -> bool:
    return not are_options(values(data, b"Connection"))


def length_in_trailers(data: bytes) -> bool:
    return bool(re.search(rb"(?im)^content-length:", body_of(data)))


STRICTER: dict[str, Callable[[bytes], bool]] = {
    "bare CR or LF": lambda d: bool(re.search(rb"\r(?!\n)|(?<!\r)\n", heads_of(d) + chunk_lines(d))),
    "control byte or DEL": lambda d: bool(re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]", heads_of(d) + chunk_lines(d))),
    "folded line": lambda d: bool(re.search(rb"\n[ \t]", heads_of(d))),
    "bytes before a status line": lambda d: not d.startswith(b"HTTP/") or bool(re.search(rb"\n\r?\n\r?\n\s*HTTP/", d)),
    "version is not HTTP/1.x": lambda d: any(not re.match(rb"HTTP/1\.\d ", one) for one in heads(d)),
    "status line is not version SP three digits SP": lambda d: any(
        not re.match(rb"HTTP/\d\.\d \d\d\d (?!\t)", one) for one in heads(d)
    ),
    "status of 600 and more": lambda d: bool(re.match(rb"HTTP/1\.\d [6-9]\d\d", last_head(d))),
    "101 without Upgrade": lambda d: bool(re.match(rb"HTTP/1\.\d 101", last_head(d))),
    "Content-Length repeated, a list, or of more than 19 digits": lambda d: any(
        len(lengths) > 1 or any(not re.fullmatch(rb"[0-9]{1,19}", v) for v in lengths)
        for lengths in [values(one, b"Content-Length") for one in heads(d)]
    ),
    "Transfer-Encoding that is not chunked alone": lambda d: any(
        len(codings) > 1 or any(v.lower() != b"chunked" for v in codings)
        for codings in [values(one, b"Transfer-Encoding") for one in heads(d)]
    ),
    "Transfer-Encoding beside Content-Length, in HTTP/1.0, 1xx or 204": lambda d: any(
        values(one, b"Transfer-Encoding")
        and (values(one, b"Content-Length") or re.match(rb"HTTP/1\.(0|\d (1\d\d|204))", one))
        for one in heads(d)
    ),
    "Content-Length in 1xx or 204": lambda d: any(
        values(one, b"Content-Length") and re.match(rb"HTTP/1\.\d (1\d\d|204)", one) for one in heads(d)
    ),
    "malformed Connection option": bad_options,
    "framing nominated by Connection": lambda d: bool(
        re.search(rb"(?i)\b(content-length|transfer-encoding)\b", b",".join(values(d, b"Connection")))
    ),
    "white space in a name or before its colon": lambda d: any(
        re.search(rb"(?m)^[^:\r\n]*[ \t][^:\r\n]*:", one[len(start_of(one)) :]) for one in heads(d)
    ),
    "name is not a token": lambda d: any(
        re.search(rb"(?m)^(?:[^:\r\n]*[^!#$%&'*+.^_`|~0-9A-Za-z:\r\n-]|[^:\r\n]+\r?$|:)", one.partition(b"\n")[2])
        for one in heads(d)
    ),
    "white space around a chunk size or extension": lambda d: bool(
        re.search(rb"(?m)^[0-9A-Fa-f]+[^\r\n]*[ \t]", chunk_lines(d))
    ),
    "chunk extension that is not name or name=value": lambda d: bool(re.search(rb"(?m)^[0-9A-Fa-f]+;", chunk_lines(d))),
    "chunk size of more than 16 digits or 2^63": lambda d: bool(re.search(rb"(?m)^[0-9A-Fa-f]{16,}", chunk_lines(d))),
    "last line of the chunked body is wrong and has not ended: the peer waits for its end": lambda d: (
        bool(chunk_lines(d)) and not d.endswith(b"\n")
    ),
    "trailer is not a field": lambda d: bool(re.search(rb"(?m)^0+(;[^\r\n]*)?\r\n", chunk_lines(d))),
}
"""We refuse, the peer accepts."""

LENIENT: dict[str, dict[str, Callable[[bytes], bool]]] = {
    "h11": {"h11 judges Content-Length in trailers; we drop trailers": length_in_trailers},
    "llhttp": {
        "llhttp judges Content-Length in trailers; we drop trailers": length_in_trailers,
        "llhttp knows no HTTP/1.2 and higher; RFC 9110 2.5 treats them as 1.1": lambda d: any(
            re.match(rb"HTTP/1\.[2-9]", one) for one in heads(d)
        ),
        "llhttp reads a body behind an interim response with Content-Length": lambda d: any(
            re.match(rb"HTTP/1\.\d 1\d\d", one) and values(one, b"Content-Length") for one in heads(d)
        ),
    },
}
"""We accept, the peer refuses."""

FRAMED_OTHERWISE: dict[str, dict[str, Callable[[bytes], bool]]] = {
    "h11": {},
    "llhttp": {
        # It is written anew without the HTAB, so that nobody behind us can read it so.
        "llhttp takes chunked with HTAB behind it for no framing": lambda d: bool(
            re.search(rb"(?i)\ntransfer-encoding:[^\n]*\t", d)
        ),
    },
}
"""Both accept, and read another status or body."""


def ours(data: bytes) -> Response:
    outcome = response_stream(data)
    if any(entry[0] == "refused" for entry in outcome):
        return Response("refused")
    if outcome[-1][0] == "more":
        return Response("more")
    head = next(entry[1] for entry in reversed(outcome) if entry[0] == "response")
    if head["status"] == 101:
        return Response("message", 101, b"", True)
    body = next(entry for entry in outcome if entry[0] == "body")
    return Response("message", head["status"], body[1], None if head["body"] == "until-close" else body[2])


def unexplained(data: bytes) -> list[str]:
    return unexplained_of(data, ours(data), PEERS, STRICTER, LENIENT, FRAMED_OTHERWISE)


def seeds() -> list[bytes]:
    try:
        listed = [row["raw"].encode("latin-1") for row in rows("responses.jsonl")]
    except pytest.skip.Exception:
        listed = []
    own = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
    ]
    return own + [raw for raw in listed if 0 < len(raw) < 600]


def test_mutated_responses_are_read_as_by_the_peers_or_for_a_recorded_reason() -> None:
    rng, listed = random.Random(SEED), seeds()
    for number in range(MUTATIONS):
        assert not (found := unexplained(mutate(rng.choice(listed), rng))), (SEED, number, found)


def test_every_reason_for_a_difference_stands_in_the_design_notes() -> None:
    page = (ROOT / "docs" / "design" / "http.md").read_text()
    of_requests = (requests.STRICTER, *requests.LENIENT.values(), *requests.FRAMED_OTHERWISE.values())
    of_responses = (STRICTER, *LENIENT.values(), *FRAMED_OTHERWISE.values())
    missing = [reason for table in (*of_requests, *of_responses) for reason in table if f"| {reason} |" not in page]
    assert missing == []
