"""Who may do what at the admin listener. Pure: configuration and a request's fields in, a refusal or nothing out.

The rules:
- A change is a POST with the operator's token in `Authorization: Bearer`: no cookie and no form can carry that, so no
  other web page can make a browser do it. Without a configured token nothing can be changed.
- Reading is free on the loopback (or a unix socket, whose file only its owner can open) while no read_token is
  configured; elsewhere it takes one of the tokens. /healthz, /readyz and the empty page of the dashboard are free.
- On the loopback a request must name it: the Host of a web page that lets its name point there is refused.
- Tokens are compared in constant time and are in no answer and no log line.
"""

from __future__ import annotations

import hmac
import ipaddress

from fastroute.admin.http import Request, Response, error
from fastroute.config.schema import AdminConfig
from fastroute.model import parse_address

__all__ = ["may_change", "may_read", "refuse_host"]


def _bearer(request: Request) -> bytes | None:
    kind, _, token = request.fields.get("authorization", "").partition(" ")
    return token.strip().encode("latin-1") if kind.lower() == "bearer" else None


def _matches(given: bytes | None, *tokens: bytes | None) -> bool:
    """Compares with every token, whatever the others said."""
    found = False
    for token in tokens:
        if token is not None and given is not None:
            found |= hmac.compare_digest(given, bytes(token))
    return found


def may_change(config: AdminConfig, request: Request) -> Response | None:
    """None, or why not."""
    if config.token is None:
        return error(
            403,
            "no-token",
            "changes are off: no token is configured",
            'set token = "file:PATH" or "env:NAME" under [admin] and reload',
        )
    given = _bearer(request)
    if given is None or "authorization" in request.repeated:
        return error(
            401,
            "unauthorized",
            "a change needs the operator's token",
            "send Authorization: Bearer TOKEN (fastroute ctl --token-file FILE)",
            WWW_Authenticate='Bearer realm="fastroute"',
        )
    if not _matches(given, config.token):
        if _matches(given, config.read_token):
            return error(403, "read-only", "this token may read, not change", "use the operator's token")
        return error(
            401,
            "unauthorized",
            "the token is not the configured one",
            "compare the file that --token-file names with the replica's",
            WWW_Authenticate='Bearer realm="fastroute", error="invalid_token"',
        )
    return None


def may_read(config: AdminConfig, request: Request) -> Response | None:
    """None, or why not."""
    given = _bearer(request)
    if given is None and config.is_local and config.read_token is None:
        return None
    if "authorization" not in request.repeated and _matches(given, config.token, config.read_token):
        return None
    if given is not None and config.is_local and config.read_token is None and config.token is None:
        return None  # a token where none is needed
    return error(
        401,
        "unauthorized",
        "the token is not a configured one" if given is not None else "reading needs a token here",
        "send Authorization: Bearer TOKEN (fastroute ctl --token-file FILE)",
        WWW_Authenticate='Bearer realm="fastroute"',
    )


def refuse_host(config: AdminConfig, request: Request) -> Response | None:
    """None, or the refusal of a Host that is no name of the loopback."""
    parsed = parse_address(config.bind)
    if not config.is_local or isinstance(parsed, str):
        return None
    if "host" not in request.fields:  # no browser leaves it out
        return None
    host = request.fields["host"]
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if name.lower() == "localhost":
        return None
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return error(421, "misdirected", "the Host is no name of this machine's loopback", "ask 127.0.0.1 or localhost")
    return None
