"""What a request of the admin interface asks for, checked: its JSON, the pool and the server that it names. Pure."""

from __future__ import annotations

import json
from typing import Any

from fastroute.admin.http import Request, Response, error
from fastroute.metrics.figures import Figures, PoolFigures, ServerFigures

__all__ = ["BY_MAX", "Wrong", "body_of", "by_of", "known_pool", "known_server", "scope_of"]

BY_MAX = 64
"""Characters of the name that a change is kept under."""


class Wrong(Exception):
    """The request is refused with this response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def body_of(request: Request, *known: str) -> dict[str, Any]:
    """The JSON object of a change; nothing but these keys.

    Raises:
        Wrong: anything else.
    """
    try:
        told = json.loads(request.body) if request.body else {}
    except (ValueError, RecursionError):
        raise Wrong(error(400, "malformed", "the body is no JSON", 'send an object such as {"weight": 2}')) from None
    if not isinstance(told, dict):
        raise Wrong(error(400, "malformed", "the body is no JSON object"))
    unknown = sorted(set(told) - set(known))
    if unknown:
        accepted = f"accepted: {', '.join(known)}" if known else "accepted: nothing"
        raise Wrong(error(400, "unknown-key", f"unknown: {', '.join(unknown)[:200]}", accepted))
    return told


def scope_of(told: dict[str, Any]) -> bool:
    """Is a change for the whole fleet? Takes "scope" out.

    Raises:
        Wrong: another scope.
    """
    scope = told.pop("scope", "replica")
    if scope not in ("replica", "fleet"):
        raise Wrong(error(400, "refused", f"scope {scope!r}", 'accepted: "replica", "fleet"'))
    return bool(scope == "fleet")


def by_of(told: dict[str, Any], otherwise: str) -> str:
    """Under whose name a change is kept; takes "by" out.

    Raises:
        Wrong: no printable text of 1 to BY_MAX characters.
    """
    by = told.pop("by", otherwise)
    if not isinstance(by, str) or not 1 <= len(by) <= BY_MAX or not by.isprintable():
        raise Wrong(error(400, "refused", f"by: accepted are 1 to {BY_MAX} printable characters"))
    return by


def known_pool(figures: Figures, name: str) -> PoolFigures:
    """A pool that is there.

    Raises:
        Wrong: it is not.
    """
    for pool in figures.pools:
        if pool.name == name:
            return pool
    known = ", ".join(pool.name for pool in figures.pools)
    raise Wrong(error(404, "no-such-pool", f"there is no pool {name!r}", f"there are: {known}"))


def known_server(pool: PoolFigures, name: str) -> ServerFigures:
    """A server that is there.

    Raises:
        Wrong: it is not.
    """
    for server in pool.servers:
        if server.name == name:
            return server
    some = ", ".join(server.name for server in pool.servers[:10]) + (", ..." if len(pool.servers) > 10 else "")
    raise Wrong(error(404, "no-such-server", f"pool {pool.name!r} has no server {name!r}", f"it has: {some}"))
