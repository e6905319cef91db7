"""A light HTTP/1.1 client for asking servers how they are: HEAD requests over one kept connection. Nothing else.

Rules of this file: every request has a time limit; a head longer than HEAD_BYTES_MAX, or one that the strict scanner of
the proxy refuses, closes the connection; a kept connection that the server closed meanwhile is replaced once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from fastroute._core.http_head import scan_response
from fastroute.errors import ConnectError, ReadTimeout, UpstreamProtocolError, UsageError
from fastroute.model import parse_address

__all__ = ["HEAD_BYTES_MAX", "HeadClient", "HeadReply"]

HEAD_BYTES_MAX = 16_384
"""Of a reply; nginx takes 4-8 KiB from upstreams by default (proxy_buffer_size)."""


@dataclass(frozen=True, slots=True)
class HeadReply:
    """Status, field lines (names in lower case, in the order they came), and how long the answer took."""

    status: int
    fields: tuple[tuple[str, str], ...]
    seconds: float

    def value(self, name: str) -> str | None:
        """First value of a field, by its name in lower case."""
        return next((value for found, value in self.fields if found == name), None)


class HeadClient:
    """HEAD requests to one server, one at a time.

    Args:
        address: "host:port", "[v6]:port" or "unix:PATH".
        host: of the Host field; default: the address ("localhost" for a socket).
        timeout_s: of a request, connecting included; over 0.

    Raises:
        UsageError: an address or a limit that is not accepted.
    """

    def __init__(self, address: str, *, host: str = "", timeout_s: float = 1.0) -> None:
        if timeout_s <= 0:
            raise UsageError(f"timeout {timeout_s!r}: accepted is more than 0")
        self._where = parse_address(address)
        self._host = host or ("localhost" if isinstance(self._where, str) else address)
        self.address, self._timeout_s = address, timeout_s
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def head(self, path: str) -> HeadReply:
        """Ask for a path.

        Raises:
            ConnectError: no connection. ReadTimeout: the time limit passed. UpstreamProtocolError: no valid answer.
        """
        began, reused = time.monotonic(), self._line is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    found = await self._exchange(path)
                except (asyncio.IncompleteReadError, ConnectionError):
                    self.close()
                    if not reused:
                        raise
                    found = await self._exchange(path)  # the server had closed the kept one: a fresh one tells
        except TimeoutError:
            self.close()
            raise ReadTimeout(
                f"no answer within {self._timeout_s:g} s", server=self.address, phase="response", retryable=True
            ) from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
            self.close()
            raise UpstreamProtocolError(
                f"no whole response head: {error}", server=self.address, phase="response", retryable=True
            ) from error
        except BaseException:  # cancelled, or refused by the scanner: an answer may still be on its way
            self.close()
            raise
        fields = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value, *_ in found["fields"])
        if found["minor"] == 0 or any(name == "connection" and "close" in value.lower() for name, value in fields):
            self.close()
        return HeadReply(found["status"], fields, time.monotonic() - began)

    async def _exchange(self, path: str) -> dict[str, Any]:
        """The final response head, as the scanner tells it."""
        if self._line is None:
            self._line = await self._connect()
        reader, writer = self._line
        writer.write(f"HEAD {path} HTTP/1.1\r\nHost: {self._host}\r\nUser-Agent: fastroute\r\n\r\n".encode("latin-1"))
        while True:
            found = scan_response(await reader.readuntil(b"\r\n\r\n"), head_bytes=HEAD_BYTES_MAX)
            if found is None:  # cannot be: the head is whole
                raise UpstreamProtocolError("no head", server=self.address, phase="response", retryable=True)
            if found["status"] >= 200:
                return found

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            if isinstance(self._where, str):
                return await asyncio.open_unix_connection(self._where, limit=HEAD_BYTES_MAX)
            return await asyncio.open_connection(*self._where, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise ConnectError(f"no connection to {self.address}: {error}", server=self.address) from error

    def close(self) -> None:
        """Close the kept connection; the client can be used again."""
        if self._line is not None:
            self._line[1].close()
            self._line = None
