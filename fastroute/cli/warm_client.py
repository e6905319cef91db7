"""Asks for URLs through a proxy, so that its cache holds them: a few connections, each kept and used in turn.

Not here: lists and progress (cache, long_work). It runs in threads, over the standard library; nothing is followed,
and nothing that comes back is kept.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from fastroute.cli.long_work import Failed
from fastroute.errors import UsageError
from fastroute.model import parse_address

__all__ = ["Url", "WarmClient", "parse_url"]


class Url(NamedTuple):
    """What is asked for: `where` without --through, `host` as the field Host."""

    tls: bool
    where: tuple[str, int]
    host: str
    target: str


def parse_url(text: str, host: str | None = None) -> Url:
    """A URL, or with `host` also a path.

    Raises:
        Failed: neither.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Failed(f"no URL: {error}") from None
    if not all("!" <= c <= "~" for c in text):
        raise Failed("a URL is printable ASCII without blanks: escape the rest as %XX")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query or text.split("#", 1)[0].endswith("?") else "")
    if parts.scheme in ("http", "https") and parts.hostname:
        tls = parts.scheme == "https"
        return Url(tls, (parts.hostname, port or (443 if tls else 80)), host or parts.netloc.rpartition("@")[2], target)
    if text.startswith("/") and host is not None:
        return Url(False, ("", 0), host, target)
    raise Failed("accepted are http:// and https:// URLs, and with --host paths")


class WarmClient:
    """GET, once per URL.

    Args:
        through: addresses of proxies, taken in turn; none: each URL's own host.
        timeout_s: of each step of a request.
        fields: sent with each, such as ("Accept-Encoding", "gzip").

    Raises:
        UsageError: an address is not accepted.
    """

    def __init__(self, through: Sequence[str], timeout_s: float, fields: Sequence[tuple[str, str]]) -> None:
        self._through: list[tuple[str, int]] = []
        for address in through:
            where = parse_address(address)
            if isinstance(where, str):
                raise UsageError(f"--through {address}: accepted is host:port")
            self._through.append((where[0], where[1]))
        self._turn = itertools.count()
        self._timeout_s = timeout_s
        self._fields = fields
        self._idle: dict[tuple[bool, str, int], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what is idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def get(self, url: Url) -> int:
        """Ask for it and read it: the number of bytes.

        Raises:
            Failed: no answer, or a status of 400 and more.
        """
        where = self._through[next(self._turn) % len(self._through)] if self._through else url.where
        place = (url.tls and not self._through, *where)
        with self._lock:
            idle = self._idle.get(place)
            connection = idle.pop() if idle else None
        used = connection is not None
        while True:
            if connection is None:
                kind = http.client.HTTPSConnection if place[0] else http.client.HTTPConnection
                connection = kind(where[0], where[1], timeout=self._timeout_s)
            try:
                return self._ask(connection, url, place)
            except (ConnectionError, http.client.BadStatusLine) as error:
                connection.close()
                if not used:
                    raise Failed(_plain(error)) from None
                connection, used = None, False  # it was closed while it was idle: once more, on a new one
            except TimeoutError:
                connection.close()
                raise Failed(f"no answer within {self._timeout_s:g} s") from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise Failed(_plain(error)) from None

    def _ask(self, connection: http.client.HTTPConnection, url: Url, place: tuple[bool, str, int]) -> int:
        connection.putrequest("GET", url.target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", url.host)
        for name, value in self._fields:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        size = 0
        while piece := answer.read(65536):
            size += len(piece)
        if answer.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.setdefault(place, []).append(connection)
        if answer.status >= 400:
            raise Failed(f"status {answer.status}")
        return size


def _plain(error: BaseException) -> str:
    with contextlib.suppress(AttributeError):
        return str(error.strerror or error)  # type: ignore[attr-defined]
    return str(error) or type(error).__name__
