"""Cache-Status: what the cache did with a request (RFC 9211).

The key is never told: it may hold tokens. Rules of this file: short, fixed words.
"""

from __future__ import annotations

__all__ = ["forward", "hit"]


def hit(ttl_s: int, detail: str = "") -> str:
    """A stored response is the answer; ttl_s below zero: it is stale."""
    return f"fastroute; hit; ttl={ttl_s}{_detail(detail)}"


def forward(why: str, status: int = 0, *, stored: bool = False, collapsed: bool = False, detail: str = "") -> str:
    """The request went to a server.

    Args:
        why: bypass, method, uri-miss, vary-miss, miss, request, stale, partial.
        status: of the server's response, 0 where it is the one that the client gets.
        stored: the response is being stored.
        collapsed: it waited for another one.
        detail: a token.
    """
    text = f"fastroute; fwd={why}"
    if status:
        text += f"; fwd-status={status}"
    if stored:
        text += "; stored"
    if collapsed:
        text += "; collapsed"
    return text + _detail(detail)


def _detail(detail: str) -> str:
    return f"; detail={detail}" if detail else ""
