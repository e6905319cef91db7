"""The scanner beside h11 and llhttp on mutated messages: wherever they differ, a recorded reason says why.

What counts most: a message that we accept and a peer frames otherwise (FRAMED_OTHERWISE) could be a smuggled request,
so that table is short. We refuse much that the peers repair (STRICTER); each entry is an independent test of the bytes,
not of our parser. A disagreement without a reason fails the test and prints the message.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.http_peers import Reading, are_options, mutate, read_with_h11, read_with_httptools, unexplained_of
from tests.support.http_rows import request_stream, rows

SEED = 20_260_728
MUTATIONS = 6_000
PEERS: dict[str, Callable[[bytes], Reading]] = {"h11": read_with_h11, "llhttp": read_with_httptools}

LLHTTP_METHODS = (
    b"DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND "
    b"UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK "
    b"UNLINK SOURCE QUERY"
).split()


def head_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[0] + b"\r\n"


def start_of(data: bytes) -> bytes:
    return data.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")


def values(data: bytes, name: bytes) -> list[bytes]:
    """Values of the fields of a name, read as leniently as the peers do."""
    return [m.strip(b" \t\r") for m in re.findall(rb"(?im)^%b[ \t]*:([^\n]*)$" % re.escape(name), head_of(data))]


def valid_host(host: bytes) -> bool:
    found = re.fullmatch(rb"(?:[A-Za-z0-9._~!$&'()*+;=-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]*))?", host)
    if not found or int(found[2] or b"0") > 65535:
        return False
    try:
        return found[1] is None or bool(ipaddress.IPv6Address(found[1].decode()))
    except ValueError:
        return False


def length_in_trailers(data: bytes) -> bool:
    return bool(re.search(rb"(?im)^content-length:", data.partition(b"\r\n\r\n")[2]))


def bad_options(data: bytes) -> bool:
    return not are_options(values(data, b"Connection"))


STRICTER: dict[str, Callable[[bytes], bool]] = {
    "bare CR or LF": lambda d: bool(re.search(rb"\r(?!\n)|(?<!\r)\n", d)),
    "control byte or DEL": lambda d: bool(re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]", d)),
    "folded line": lambda d: bool(re.search(rb"\r\n[ \t]", d)),
    "more than four empty lines in front": lambda d: d.startswith(b"\r\n" * 5),
    "whitespace in the request line": lambda d: start_of(d).count(b" ") != 2 or b"\t" in start_of(d),
    "target holds more than visible ASCII, or a fragment": lambda d: bool(
        re.search(rb"[^!-~ ]|#", start_of(d).partition(b" ")[2])
    ),
    "target is neither path, * nor http(s)": lambda d: not re.match(rb"(?i)\S+ (/|https?://|\* )", start_of(d)),
    "* without OPTIONS": lambda d: b" * " in start_of(d) and not start_of(d).startswith(b"OPTIONS "),
    "authority of the target is invalid or not Host": lambda d: (
        bool(re.match(rb"(?i)\S+ https?:", start_of(d)))
        and [(re.search(rb"(?i)//([^/? ]*)", start_of(d)) or [b"", b""])[1].lower()]
        != [v.lower() for v in values(d, b"Host")]
    ),
    "version": lambda d: not start_of(d).endswith((b" HTTP/1.1", b" HTTP/1.0")),
    "CONNECT or TRACE": lambda d: start_of(d).startswith((b"CONNECT ", b"TRACE ")),
    "method over 64 bytes": lambda d: len(start_of(d).partition(b" ")[0]) > 64,
    "Host is missing, repeated or invalid": lambda d: (
        len(values(d, b"Host")) != 1 or not valid_host(values(d, b"Host")[0])
    ),
    "Content-Length repeated, a list, or of more than 19 digits": lambda d: (
        len(values(d, b"Content-Length")) > 1
        or any(not re.fullmatch(rb"[0-9]{1,19}", v) for v in values(d, b"Content-Length"))
    ),
    "Transfer-Encoding that is not chunked alone": lambda d: (
        any(v.lower() != b"chunked" for v in values(d, b"Transfer-Encoding"))
        or len(values(d, b"Transfer-Encoding")) > 1
    ),
    "Transfer-Encoding beside Content-Length or in HTTP/1.0": lambda d: (
        bool(values(d, b"Transfer-Encoding")) and (bool(values(d, b"Content-Length")) or start_of(d).endswith(b"1.0"))
    ),
    "expectation": lambda d: any(v.lower() != b"100-continue" for v in values(d, b"Expect")),
    "underscore alias": lambda d: bool(re.search(rb"(?im)^[a-z0-9-]+_[a-z0-9_-]*[ \t]*:", head_of(d))),
    "two Content-Type": lambda d: len(values(d, b"Content-Type")) > 1,
    "malformed Connection option": bad_options,
    "framing nominated by Connection": lambda d: bool(
        re.search(rb"(?i)\b(host|content-length|transfer-encoding)\b", b",".join(values(d, b"Connection")))
    ),
    "upgrade with a body, or WebSocket without a key": lambda d: bool(values(d, b"Upgrade")),
    "white space in a name or before its colon": lambda d: bool(
        re.search(rb"(?m)^[^:\r\n]*[ \t][^:\r\n]*:", head_of(d)[len(start_of(d)) :])
    ),
    "name is not a token": lambda d: bool(
        re.search(rb"(?m)^[^:\r\n]*[^!#$%&'*+.^_`|~0-9A-Za-z:\r\n-]", head_of(d).partition(b"\r\n")[2])
    ),
    "white space around a chunk size or extension": lambda d: bool(
        re.search(rb"(?m)^[0-9A-Fa-f]+[^\r\n]*[ \t]", d.partition(b"\r\n\r\n")[2])
    ),
    "chunk extension that is not name or name=value": lambda d: bool(
        re.search(rb"(?m)^[0-9A-Fa-f]+;", d.partition(b"\r\n\r\n")[2])
    ),
    "chunk size of more than 16 digits or 2^63": lambda d: bool(
        re.search(rb"(?m)^[0-9A-Fa-f]{16,}", d.partition(b"\r\n\r\n")[2])
    ),
    "last line of the chunked body is wrong and has not ended: the peer waits for its end": lambda d: (
        bool(values(d, b"Transfer-Encoding")) and not d.endswith(b"\n")
    ),
    "trailer is not a field": lambda d: (
        bool(values(d, b"Transfer-Encoding"))
        and bool(re.search(rb"(?m)^0+(;[^\r\n]*)?\r\n", d.partition(b"\r\n\r\n")[2]))
    ),
}
"""We refuse, the peer accepts."""

LENIENT: dict[str, dict[str, Callable[[bytes], bool]]] = {
    "h11": {
        "h11 takes no empty line in front": lambda d: d.startswith(b"\r\n"),
        "h11 judges Content-Length in trailers; we drop trailers": length_in_trailers,
    },
    "llhttp": {
        "llhttp knows a fixed list of methods": lambda d: start_of(d).partition(b" ")[0] not in LLHTTP_METHODS,
        "llhttp judges Content-Length in trailers; we drop trailers": length_in_trailers,
        "llhttp knows no HTTP/1.2 and higher; RFC 9110 2.5 treats them as 1.1": lambda d: bool(
            re.search(rb" HTTP/1\.[2-9]\Z", start_of(d))
        ),
        "llhttp takes no HTAB behind chunked": lambda d: bool(re.search(rb"(?i)\ntransfer-encoding:[^\n]*\t", d)),
    },
}
"""We accept, the peer refuses."""

FRAMED_OTHERWISE: dict[str, dict[str, Callable[[bytes], bool]]] = {
    "h11": {},
    "llhttp": {
        # The field is hop-by-hop and not forwarded, so nobody behind us can take the body for a tunnel's first bytes.
        "llhttp takes Connection: upgrade with any Upgrade field for a switch": lambda d: bool(values(d, b"Upgrade")),
    },
}
"""Both accept, and read another method, target or body."""


def ours(data: bytes) -> Reading:
    outcome = request_stream(data)
    if not outcome or outcome[0][0] == "more":
        return Reading("more")
    if outcome[0][0] == "refused":
        return Reading("refused")
    head = outcome[0][1]
    if head["body"] == "none":
        return Reading("message", head["method"], head["target"], b"", True)
    if len(outcome) > 1 and outcome[1][0] == "body":
        return Reading("message", head["method"], head["target"], outcome[1][1], outcome[1][2])
    if len(outcome) > 1:
        return Reading("refused")
    return Reading(
        "message", head["method"], head["target"], b"", head["content_length"] == 0 and head["body"] == "length"
    )


def unexplained(data: bytes) -> list[str]:
    return unexplained_of(data, ours(data), PEERS, STRICTER, LENIENT, FRAMED_OTHERWISE)


def seeds() -> list[bytes]:
    try:
        listed = [row["raw"].encode("latin-1") for row in rows("requests.jsonl") if row["group"] != "proxy-protocol"]
    except pytest.skip.Exception:
        listed = []
    own = [
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive, x\r\nX: 1\r\n\r\n",
    ]
    return own + [raw for raw in listed if 0 < len(raw) < 600]


def test_mutated_messages_are_read_as_by_the_peers_or_for_a_recorded_reason() -> None:
    rng, listed = random.Random(SEED), seeds()
    for number in range(MUTATIONS):
        assert not (found := unexplained(mutate(rng.choice(listed), rng))), (SEED, number, found)


NAMES = st.sampled_from(
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Expect",
        b"X-A",
        b"x_a",
        b"TE",
        b"Trailer",
        b"content-length",
        b"Cookie",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            b"a",
            b"5",
            b"0",
            b"05",
            b"chunked",
            b"Chunked ",
            b"close",
            b"keep-alive",
            b"100-continue",
            b"a:80",
            b"[::1]",
            b"",
            b"5,5",
            b"x-a",
        ]
    ),
    st.binary(max_size=6),
)
HEADS = st.builds(
    lambda method, target, version, fields, body: (
        b"%b %b %b\r\nHost: a\r\n%b\r\n%b"
        % (method, target, version, b"".join(b"%b: %b\r\n" % field for field in fields), body)
    ),
    st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT"]),
    st.sampled_from([b"/", b"/a?b", b"*", b"http://a/", b"http://b/", b"/%zz", b"//x"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
    st.one_of(
        st.sampled_from(
            [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;x\r\nhello\r\n0\r\nA: b\r\n\r\n"]
        ),
        st.binary(max_size=12),
    ),
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(HEADS)
def test_made_messages_are_read_as_by_the_peers_or_for_a_recorded_reason(data: bytes) -> None:
    assert not unexplained(data)
