"""Asking one server once: TCP, TLS, HTTP or a command. An answer is an Outcome, never an exception.

Not here: how often and what follows (state, fastroute.fleet.probes), how a command is run and ended (command).
Rules of this file: each check has a connection of its own, which it closes, and one time limit over all of it; it
reads at most HEAD_BYTES_MAX of a head and HEAVY_BYTES of a body.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastroute._core.http_head import scan_response
from fastroute.errors import FastrouteError
from fastroute.health.command import run_command
from fastroute.health.head_request import HEAD_BYTES_MAX
from fastroute.health.state import HEAVY_BYTES
from fastroute.model import parse_address

__all__ = ["CheckSpec", "Outcome", "expected", "run_check"]


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """How a pool's servers are asked.

    Attributes:
        kind: "tcp", "tls", "http" or "command".
        path, method, host: of the request; host "" stands for the server's address.
        expect: two numbers that rise are a range of status codes, others are the codes themselves.
        body: text that the answer's body must contain; "": anything.
        port: where to ask instead of the server's own port; 0: there.
        command: program and arguments; {address}, {host}, {port}, {server}, {pool} stand for the server's.
        timeout_s: of all of it.
        tls: context for "tls" and, if given, for "http"; tls_name: the name to verify, "" for the host asked.
        begin: sent before everything else, TLS included: a PROXY header that speaks of nobody. Not to another `port`.
    """

    kind: str = "tcp"
    path: str = "/healthz"
    method: str = "HEAD"
    host: str = ""
    expect: tuple[int, ...] = (200, 399)
    body: str = ""
    port: int = 0
    command: tuple[str, ...] = ()
    timeout_s: float = 1.0
    tls: ssl.SSLContext | None = None
    tls_name: str = ""
    begin: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check came to.

    Attributes:
        ok: did the server answer as expected?
        detail: in words, for people: "200", "refused", "no answer within 1 s".
        seconds: how long it took.
        size_bytes: of the answer's body as far as it was read, or as it says.
        refused: nobody listens there: the process is gone, or was a moment ago.
        status: of an HTTP answer, 0 where there was none.
        fields: of an HTTP answer, names in lower case.
        body: of an HTTP answer, cut at HEAVY_BYTES.
    """

    ok: bool
    detail: str
    seconds: float = 0.0
    size_bytes: int = 0
    refused: bool = False
    status: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def expected(status: int, expect: Sequence[int]) -> bool:
    """Is a status among the expected ones?"""
    if len(expect) == 2 and expect[0] < expect[1]:
        return expect[0] <= status <= expect[1]
    return status in expect


async def run_check(spec: CheckSpec, address: str, *, pool: str = "", server: str = "") -> Outcome:
    """Ask a server.

    Args:
        spec: how.
        address: the server's, "host:port", "[v6]:port" or "unix:PATH".
        pool, server: names, for a command.
    """
    began_s = time.monotonic()

    def outcome(ok: bool, detail: str, refused: bool = False) -> Outcome:
        return Outcome(ok, detail[:160], time.monotonic() - began_s, refused=refused)

    where = parse_address(address)
    if spec.port and not isinstance(where, str):
        where = (where[0], spec.port)
    try:
        async with asyncio.timeout(spec.timeout_s):
            if spec.kind == "command":
                ok, detail = await run_command(spec.command, where, pool, server)
                return outcome(ok, detail)
            reader, writer = await _connect(spec, where)
            try:
                if spec.kind != "http":
                    return outcome(True, "handshake done" if spec.kind == "tls" else "accepted")
                found = await _http(spec, address, reader, writer)
            finally:
                writer.transport.abort()  # nothing is left to say: no waiting for the other side
            status, ok, detail, size_bytes, fields, body = found
            seconds = time.monotonic() - began_s
            return Outcome(ok, detail, seconds, size_bytes, status=status, fields=fields, body=body)
    except TimeoutError:
        return outcome(False, f"no answer within {spec.timeout_s:g} s")
    except ConnectionRefusedError:
        return outcome(False, "refused", True)
    except ssl.SSLError as error:
        return outcome(False, f"TLS: {error.reason or error}")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return outcome(False, "no whole answer")
    except FastrouteError as error:
        return outcome(False, f"no valid answer: {error}")
    except OSError as error:
        return outcome(False, error.strerror or str(error), isinstance(error, FileNotFoundError))


async def _connect(spec: CheckSpec, where: tuple[str, int] | str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = spec.tls
    if tls is None and spec.kind == "tls":
        tls = ssl.create_default_context()
    if spec.begin and not spec.port:
        if isinstance(where, str):
            reader, writer = await asyncio.open_unix_connection(where, limit=HEAD_BYTES_MAX)
        else:
            reader, writer = await asyncio.open_connection(*where, limit=HEAD_BYTES_MAX)
        writer.write(spec.begin)
        if tls is not None:
            name = spec.tls_name or ("localhost" if isinstance(where, str) else where[0])
            await writer.start_tls(tls, server_hostname=name)
        return reader, writer
    if isinstance(where, str):
        if tls is None:
            return await asyncio.open_unix_connection(where, limit=HEAD_BYTES_MAX)
        name = spec.tls_name or "localhost"
        return await asyncio.open_unix_connection(where, limit=HEAD_BYTES_MAX, ssl=tls, server_hostname=name)
    if tls is None:
        return await asyncio.open_connection(*where, limit=HEAD_BYTES_MAX)
    return await asyncio.open_connection(
        *where, limit=HEAD_BYTES_MAX, ssl=tls, server_hostname=spec.tls_name or where[0]
    )


async def _http(
    spec: CheckSpec, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, bool, str, int, dict[str, str], bytes]:
    host = spec.host or ("localhost" if address.startswith("unix:") else address)
    lines = f"{spec.method} {spec.path} HTTP/1.1", f"Host: {host}", "User-Agent: fastroute-check", "Connection: close"
    writer.write("\r\n".join((*lines, "", "")).encode("latin-1"))
    while True:
        head = scan_response(await reader.readuntil(b"\r\n\r\n"), head_bytes=HEAD_BYTES_MAX)
        if head is not None and head["status"] >= 200:
            break
    fields: dict[str, str] = {}
    for name, value, *_ in head["fields"]:
        fields.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    body, size_bytes = b"", _told_length(fields) or 0  # of HEAD too: it had to be made to be counted
    if spec.method != "HEAD" and head["status"] not in (204, 304):
        body, size_bytes = await _body(fields, reader)
    status = head["status"]
    if not expected(status, spec.expect):
        return status, False, f"{status}, which is not expected", size_bytes, fields, body
    if spec.body and spec.body.encode() not in body:
        return status, False, f"{status}, but the body lacks the expected text", size_bytes, fields, body
    return status, True, str(status), size_bytes, fields, body


async def _body(fields: Mapping[str, str], reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """(body as far as it counts, how long it is or says it is)."""
    if "chunked" in fields.get("transfer-encoding", "").lower():
        return await _chunks(reader)
    length = _told_length(fields)
    told = HEAVY_BYTES + 1 if length is None else length
    body = bytearray()
    while len(body) <= HEAVY_BYTES and len(body) < told:
        piece = await reader.read(min(told - len(body), HEAD_BYTES_MAX))
        if not piece:
            break
        body += piece
    if length is not None and len(body) < min(told, HEAVY_BYTES):
        raise asyncio.IncompleteReadError(bytes(body), told)
    return bytes(body[:HEAVY_BYTES]), max(len(body), length or 0)


def _told_length(fields: Mapping[str, str]) -> int | None:
    """What the answer says of its length."""
    text = fields.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


async def _chunks(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    body = bytearray()
    while len(body) <= HEAVY_BYTES:
        line = (await reader.readuntil(b"\r\n")).partition(b";")[0].strip()
        if not 0 < len(line) <= 15 or line.strip(b"0123456789abcdefABCDEF"):
            raise asyncio.IncompleteReadError(bytes(body), None)
        size = int(line, 16)
        if not size:
            break
        wanted = min(size, HEAVY_BYTES + 1 - len(body))
        body += await reader.readexactly(wanted)
        if wanted == size:
            await reader.readexactly(2)
    return bytes(body[:HEAVY_BYTES]), len(body)
