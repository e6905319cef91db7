"""What must hold of everything that went through the relay, judged from the bytes on both sides.

Theory of operation. The client's bytes are read by the strict scanner, whole: these are the requests that there are.
What each server got is read by a strict parser of the relay's own way to write (canonical fields, one framing) and
by h11. A request that reached a server must be one of the client's, by its mark, with its body or the beginning of
it; an answer that reached the client must be the one that was given to that very request, with its status and its
body.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import h11

from fastroute._core.http_head import decode_chunked, scan_request, scan_response
from fastroute.errors import DownstreamProtocolError, UpstreamProtocolError
from tests.fuzz.relay_words import is_mark
from tests.fuzz.relay_world import Finding

_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?\Z")
_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e\x80-\xff]+ HTTP/1\.1\Z")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [^\x00-\x08\x0a-\x1f\x7f]*\Z")

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})


def check(claim: object, *about: object) -> None:
    if not claim:
        raise Finding(" ".join(str(one)[:600] for one in about))


@dataclass
class Message:
    """A request or a response as it stood on the wire."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    raw: bytes = b""
    body: bytes = b""
    complete: bool = False
    until_close: bool = False
    status: int = 0
    end: int = 0

    def named(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]

    @property
    def mark(self) -> bytes | None:
        found = self.named(b"x-mark")
        return found[0] if found and is_mark(found[0]) else None


@dataclass
class Asked:
    """A request of the client's, as the strict scanner reads its bytes."""

    method: str
    mark: bytes | None
    body: bytes
    complete: bool
    end: int
    upgrade: bool
    minor: int
    raw: bytes
    """All that its client said."""


@dataclass
class Exchange:
    """What one server connection was asked, and what it said to it."""

    mark: bytes
    given: bytearray = field(default_factory=bytearray)


def requests_of(raw: bytes) -> tuple[list[Asked], int | None]:
    """The client's requests up to the one that ends the connection; and how the rest is refused, if it is."""
    found: list[Asked] = []
    at = 0
    while at < len(raw):
        try:
            head = scan_request(raw[at : at + 40_000])
        except DownstreamProtocolError as error:
            return found, error.status_hint
        if head is None:
            return found, None
        at += head["head_size"]
        mark = next((one[1] for one in head["fields"] if one[0].lower() == b"x-mark"), None)
        one = Asked(head["method"].decode("latin-1"), mark, b"", True, at, bool(head["upgrade"]), head["minor"], raw)
        found.append(one)
        if head["body"] == "length":
            one.body = raw[at : at + head["content_length"]]
            one.complete = len(one.body) == head["content_length"]
            at += len(one.body)
        elif head["body"] == "chunked":
            try:
                one.body, used, one.complete = decode_chunked(raw[at:])
            except DownstreamProtocolError as error:
                one.complete = False
                one.body = raw[at:]  # some of it may have gone on before the fault was seen
                return found, error.status_hint
            at += used
        one.end = at
        if not head["keep_alive"]:
            return found, None
    return found, None


def answer_of(raw: bytes, method: str) -> tuple[int, bytes, bool, bool, int] | None:
    """A server's final answer: (status, body, complete, its end is the connection's, where its head ends).

    None: it is none, or not whole.
    """
    at = 0
    while True:
        try:
            head = scan_response(raw[at : at + 40_000], status_line_bytes=32768, fields=256)
        except UpstreamProtocolError:
            return None
        if head is None:
            return None
        at += head["head_size"]
        if head["status"] >= 200 or head["status"] == 101:
            break
    status, rest = head["status"], raw[at:]
    if method == "HEAD" or head["body"] == "none" or status in (204, 304, 101):
        return status, b"", True, False, at
    if head["body"] == "length":
        return status, rest[: head["content_length"]], len(rest) >= head["content_length"], False, at
    if head["body"] == "chunked":
        try:
            body, _, complete = decode_chunked(rest)
        except DownstreamProtocolError:
            return status, rest, False, False, at
        return status, body, complete, False, at
    return status, rest, True, True, at


def parse(data: bytes, at: int, *, method: str | None) -> Message | None:
    """The message at data[at:] as the relay writes it; method: of the request that a response answers, None: requests.

    None: its head is not whole.
    """
    stop = data.find(b"\r\n\r\n", at)
    if stop < 0:
        return None
    head = data[at : stop + 4]
    lines = head[:-4].split(b"\r\n")
    message = Message(lines[0], [])
    for line in lines[1:]:
        match = _FIELD.match(line)
        if match is None:
            raise Finding(f"no field as the relay writes it: {line[:200]!r} in {head[:600]!r}")
        message.fields.append((match[1].lower(), (match[2] or b"").strip(b" \t")))
    if method is None:
        check(_REQUEST.match(lines[0]), "request line", lines[0])
    else:
        match = _STATUS.match(lines[0])
        if match is None:
            raise Finding(f"status line {lines[0][:200]!r}")
        message.status = int(match[1])
    _read_body(message, data, stop + 4, method)
    message.raw = data[at : message.end]
    return message


def _read_body(message: Message, data: bytes, at: int, method: str | None) -> None:
    lengths, codings = message.named(b"content-length"), message.named(b"transfer-encoding")
    check(len(lengths) + len(codings) <= 1, "two framings", message.start, message.fields)
    check(codings in ([], [b"chunked"]), "a coding", codings)
    check(all(one.isdigit() for one in lengths), "a length", lengths)
    if method is not None and (method == "HEAD" or message.status < 200 or message.status in (204, 304)):
        check(message.status >= 200 or not (lengths or codings), "an interim answer with a framing", message.fields)
        message.complete, message.end = True, at
    elif codings:
        while True:
            line = data.find(b"\r\n", at)
            if line < 0:
                check(re.fullmatch(rb"[0-9a-f]*\r?", data[at:]), "a chunk's size", data[at : at + 40])
                message.end = len(data)
                return
            check(re.fullmatch(rb"0|[1-9a-f][0-9a-f]*", data[at:line]), "a chunk's size", data[at : at + 40])
            size = int(data[at:line], 16)
            at = line + 2
            message.body += data[at : at + size]
            ends = data[at + size : at + size + 2]
            check(b"\r\n".startswith(ends), "a chunk's end", ends)
            if len(ends) < 2:
                message.end = len(data)
                return
            at += size + 2
            if size == 0:
                message.complete, message.end = True, at
                return
    elif lengths:
        size = int(lengths[0])
        message.body = data[at : at + size]
        message.complete, message.end = len(message.body) == size, at + len(message.body)
    elif method is not None:
        message.body, message.until_close, message.end = data[at:], True, len(data)
    else:
        message.complete, message.end = True, at


def by_h11(message: Message, *, method: str | None, upgrade: bool, closed: bool) -> None:
    """h11 reads the message alone as we do."""
    if method is None:
        one = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    else:
        one = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        asked = [("Host", "a"), *([("Connection", "upgrade"), ("Upgrade", "websocket")] if upgrade else [])]
        one.send(h11.Request(method=method, target="/", headers=asked))
        one.send(h11.EndOfMessage())
    one.receive_data(message.raw)
    if message.until_close and closed:
        one.receive_data(b"")
    body, ended = b"", False
    try:
        while not ended:
            event: Any = one.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                break
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            ended = isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed))
            if isinstance(event, h11.InformationalResponse) and message.status < 200:
                return
    except h11.RemoteProtocolError as error:
        raise Finding(f"h11: {error}: {message.raw[:600]!r}") from None
    check(body == message.body, "h11 reads another body", message.raw[:400])
    check(ended == (message.complete or (message.until_close and closed)), "h11 sees another end", message.raw[:400])


def forwarded(sent: bytes, exchanges: list[Exchange], asked: list[Asked]) -> list[Message]:
    """What one server got, judged; the requests in it."""
    found: list[Message] = []
    marks = [one.mark for one in asked]
    by_mark = {
        one.mark: one for one in asked if one.mark is not None and marks.count(one.mark) == 1
    }  # a doubled request has its twin's mark
    at = 0
    while at < len(sent):
        message = parse(sent, at, method=None)
        check(message is not None, "half a head went on", sent[at : at + 300])
        assert message is not None
        found.append(message)
        check(len(message.named(b"host")) == 1, "hosts", message.fields)
        check(not message.named(b"x-fastroute"), "X-Fastroute goes on", message.fields)
        check(message.named(b"via")[-1:] in ([b"1.1 fastroute"], [b"1.0 fastroute"]), "Via", message.fields)
        if message.named(b"host") != [b""]:  # of an HTTP/1.0 request
            by_h11(message, method=None, upgrade=False, closed=False)
        known = by_mark.get(message.mark)
        if message.mark is not None:
            check(message.mark in marks, "a request that nobody made", message.raw[:400])
        if known is not None:
            check(known.method.encode() == message.start.split(b" ")[0], "another method", message.start)
            if known.complete:
                check(known.body.startswith(message.body), "another body", known.body[:100], message.body[:100])
                check(not message.complete or message.body == known.body, "less of a body", message.raw[:300])
            else:
                check(not message.complete, "a body that has not come went on whole", message.raw[:300])
        at = message.end
        given = exchanges[len(found) - 1].given if len(found) <= len(exchanges) else b""
        if message.named(b"upgrade"):
            answer = answer_of(bytes(given), message.start.split(b" ")[0].decode("latin-1"))
            if answer is not None and answer[0] == 101:
                if known is not None:
                    check(known.raw[known.end :].startswith(sent[at:]), "a tunnel's bytes", sent[at : at + 100])
                break
        check(message.complete or at == len(sent), "bytes after half a request", sent[at : at + 100])
    return found


def once(got: list[Message], asked: list[Asked]) -> None:
    """Requests that may not be done twice went to one server at most (RFC 9110, 9.2.2)."""
    marks, sent = [one.mark for one in asked], [one.mark for one in got]
    for message in got:
        if (
            message.mark is not None
            and marks.count(message.mark) == 1
            and message.start.split(b" ")[0] not in IDEMPOTENT
        ):
            check(sent.count(message.mark) == 1, "sent twice", message.raw[:300])


def answered(
    seen: bytes,
    asked: list[Asked],
    refused: int | None,
    exchanges: dict[bytes, tuple[Exchange, Message | None]],
    *,
    ended: bool,
    aborted: bool,
) -> int:
    """What the client got, judged; how many final answers."""
    at = count = 0
    while at < len(seen):
        one = asked[count] if count < len(asked) else None
        check(
            one is not None or (refused is not None and count == len(asked)) or count == len(asked),
            "an answer too many",
            seen[at : at + 300],
        )
        method = one.method if one is not None else "GET"
        message = parse(seen, at, method=method)
        if message is None:
            check(ended or aborted, "half a head", seen[at : at + 300])
            return count
        by_h11(message, method=method, upgrade=one is not None and one.upgrade, closed=ended and not aborted)
        at = message.end
        if message.status == 101:
            _tunnel(seen[at:], message, exchanges)
            return count + 1
        if message.status < 200:
            check(one is not None and one.minor > 0, "an interim answer to HTTP/1.0", message.raw)
            continue
        count += 1
        whole = message.complete or (message.until_close and ended and not aborted)
        _judge(message, one, exchanges, whole=whole, aborted=aborted)
        check(message.complete or at == len(seen), "bytes after half an answer")
        if b"close" in b",".join(message.named(b"connection")).lower() and message.complete:
            check(at == len(seen), "bytes after the last answer", seen[at : at + 200])
    return count


def _protocols(message: Message) -> set[bytes]:
    """That its Upgrade names; empty elements of a list are nothing (RFC 9110, 5.6.1.2)."""
    return {one.strip(b" \t").lower() for one in b",".join(message.named(b"upgrade")).split(b",")} - {b""}


def _tunnel(rest: bytes, message: Message, exchanges: dict[bytes, tuple[Exchange, Message | None]]) -> None:
    if message.mark in exchanges:
        exchange, request = exchanges[message.mark]
        given = bytes(exchange.given)
        answer = answer_of(given, "GET")
        check(
            request is not None and bool(_protocols(message)) and _protocols(message) <= _protocols(request),
            "a switch to what nobody asked for",
            message.raw,
        )
        check(answer is not None and answer[0] == 101, "a switch that no server agreed to", message.raw)
        assert answer is not None
        check(given[answer[4] :].startswith(rest), "a tunnel's bytes", rest[:100])


def _judge(
    message: Message,
    one: Asked | None,
    exchanges: dict[bytes, tuple[Exchange, Message | None]],
    *,
    whole: bool,
    aborted: bool,
) -> None:
    if message.mark is None:
        check(message.body != b"Internal Server Error\n", "our own 500", message.raw)
        return
    check(message.mark in exchanges, "an answer that no server gave", message.raw[:300])
    exchange, request = exchanges[message.mark]
    check(one is not None and request is not None, "an answer to nothing", message.raw[:300])
    assert one is not None
    assert request is not None
    if request.mark is not None and one.mark is not None:
        check(request.mark == one.mark, "another request's answer", request.raw[:300], message.raw[:300])
    answer = answer_of(bytes(exchange.given), one.method)
    check(answer is not None, "an answer that is none went on", message.raw[:300])
    assert answer is not None
    status, body, complete, until_close, _ = answer
    check(status == message.status, "another status", message.start)
    if complete:
        check(body.startswith(message.body), "another body", body[:80], message.body[:80])
        check(not whole or body == message.body, "less of a body", len(body), len(message.body))
        check(whole or aborted or until_close, "an answer that came whole broke off", message.raw[:300])
    elif not message.until_close:
        check(not whole or one.method == "HEAD", "an answer that broke off went on whole", message.raw[:300])


def logged(text: bytes) -> None:
    """Every line of the access log is one JSON object, and says less than it was asked."""
    for line in text.splitlines():
        found = json.loads(line)
        check(
            100 <= found["status"] <= 599 and found["bytes"] >= 0 and "cookie" not in found, "a line of the log", line
        )
