"""Asks a replica's admin listener; turns whatever goes wrong into one FastrouteError that says what to do.

Not here: commands (ctl), tables (ctl_tables). One request per connection, with a time limit, over the standard library.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import Any
from urllib.parse import quote

from fastroute.errors import FastrouteError, UsageError
from fastroute.model import parse_address

__all__ = ["AdminClient", "AdminError", "read_token"]

TIMEOUT_S = 40.0
"""A reload is answered when its workers accept: up to 35 s."""

TOKEN_BYTES_MAX = 4096


class AdminError(FastrouteError):
    """The admin listener refused, or did not answer.

    Attributes:
        status: of the answer; 0: there was none.
        told: the answer's JSON, {} without one.
    """

    def __init__(self, message: str, status: int = 0, told: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.told = status, told or {}


def read_token(path: str | None) -> str | None:
    """The token in a file, None for no file.

    Raises:
        UsageError: it cannot be read, or holds no token.
    """
    if path is None:
        return None
    try:
        with open(path, encoding="latin-1") as file:
            token = file.read(TOKEN_BYTES_MAX).strip()
    except OSError as error:
        raise UsageError(f"--token-file {path}: {error.strerror}") from None
    if not token or not all("!" <= c <= "~" for c in token):
        raise UsageError(f"--token-file {path}: it holds no token (printable ASCII without blanks)")
    return token


class _Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminClient:
    """One replica.

    Args:
        address: "host:port", "[v6]:port" or "unix:PATH", with or without "http://".
        token: for changes, and for reading where the listener asks for one.
        everywhere: are changes meant for the whole fleet?

    Raises:
        UsageError: another address.
    """

    def __init__(self, address: str, token: str | None = None, *, everywhere: bool = False) -> None:
        self.everywhere = everywhere
        self.address = address.removeprefix("http://").rstrip("/")
        self._where = parse_address(self.address)
        self._token = token

    def get(self, *path: str, **query: str) -> Any:
        """JSON of GET /api/v1/<path>; segments and values are escaped."""
        return self._ask("GET", path, query)

    def post(self, *path: str, body: dict[str, Any]) -> Any:
        """JSON of POST /api/v1/<path>."""
        return self._ask("POST", path, {}, body)

    def delete(self, *path: str, body: dict[str, Any]) -> Any:
        """JSON of DELETE /api/v1/<path>."""
        return self._ask("DELETE", path, {}, body)

    def _ask(self, method: str, path: tuple[str, ...], query: dict[str, str], body: Any = None) -> Any:
        target = "/api/v1/" + "/".join(_escaped(part) for part in path)
        if query:
            target += "?" + "&".join(f"{name}={_escaped(text)}" for name, text in query.items())
        fields = {"Connection": "close"}
        if self._token is not None:
            fields["Authorization"] = f"Bearer {self._token}"
        if isinstance(self._where, str):
            connection: http.client.HTTPConnection = _Unix(self._where)
        else:
            connection = http.client.HTTPConnection(*self._where, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, None if body is None else json.dumps(body), fields)
            answer = connection.getresponse()
            data = answer.read()
        except TimeoutError:
            raise AdminError(
                f"{self.address} did not answer within {TIMEOUT_S:g} s: the admin process hangs, or the way there does"
            ) from None
        except OSError as error:
            raise AdminError(self._unreachable(error)) from None
        except http.client.HTTPException as error:
            raise AdminError(
                f"{self.address} answered, but not with HTTP ({error!r}): is it the admin address?"
            ) from None
        finally:
            connection.close()
        try:
            told = json.loads(data)
        except ValueError:
            raise AdminError(
                f"{self.address} answered {answer.status} without JSON: is it the admin address, not a listener's?",
                answer.status,
            ) from None
        if answer.status >= 400:
            raise AdminError(_complaint(told), answer.status, told if isinstance(told, dict) else {})
        return told

    def _unreachable(self, error: OSError) -> str:
        why = error.strerror or str(error)
        return (
            f"no admin listener answers at {self.address}: {why}; is the replica running there, and does its file "
            "have an [admin] section with this address (or was it started with --admin)?"
        )


def _escaped(text: str) -> str:
    return quote(os.fsencode(text), safe="")


def _complaint(told: Any) -> str:
    if not isinstance(told, dict) or "detail" not in told:
        return "the answer is an error without a reason"
    hint = told.get("hint")
    return f"{told['detail']}; {hint}" if hint else str(told["detail"])
