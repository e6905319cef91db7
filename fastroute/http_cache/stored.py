"""Stored responses: made from what came, changed by a 304 (RFC 9111, 3.2, 4.3.4), and as they stand in the store.

Not here: whether they may be stored or used. Rules of this file: as the package's; a Stored never changes, a change
makes another one with another number.
"""

from __future__ import annotations

import math
import os
from email.utils import formatdate
from typing import Any

from fastroute._core.http_stored import Stored
from fastroute.cache.values import Extension, pack, unpack
from fastroute.http_cache.storing import Defaults, Terms, judge_response
from fastroute.http_cache.variants import Variants

__all__ = ["EXTENSIONS", "KEEP_MS", "Uncacheable", "freshened", "keep_ms", "make_stored", "softened"]

KEEP_MS = 600_000
"""How long after its end a response is kept for the server to confirm. nginx: proxy_cache_path inactive=10m."""

KEEP_MS_MAX = 365 * 86_400_000
"""Longest life in the cache: a year, what HTTP calls for ever."""

UNCACHEABLE_MS = 120_000
"""How long a URL is remembered to answer with what cannot be stored. Varnish's built-in VCL: 120 s."""

Lines = tuple[tuple[str, str], ...]

_NOT_STORED = frozenset(
    ("age", "content-length", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade")
)
_NOT_FOR_CACHES = frozenset(
    ("proxy-authenticate", "proxy-authentication-info", "proxy-authorization", "transfer-encoding", "cache-status")
)
_NOT_FROM_304 = _NOT_STORED | _NOT_FOR_CACHES | {"content-encoding", "content-md5", "content-range", "etag"}


class Uncacheable:
    """Stands under a key whose last response could not be stored: requests do not wait for each other there."""

    __slots__ = ()


def make_stored(
    status: int,
    reason: str,
    lines: Lines,
    body: bytes,
    terms: Terms,
    *,
    response_s: float,
    store_set_cookie: bool = False,
) -> Stored:
    """A response that may be stored.

    Args:
        status, reason, lines: as they came, hop-by-hop fields left out.
        body: all of it.
        terms: of judge_response.
        response_s: when its head came, wall clock.
    """
    dropped = _NOT_STORED | _NOT_FOR_CACHES | terms.omit
    if not store_set_cookie:
        dropped |= {"set-cookie"}
    kept = tuple((name, value) for name, value in lines if name.lower() not in dropped)
    if not any(name.lower() == "date" for name, _ in kept):
        kept += (("Date", formatdate(response_s, usegmt=True)),)
    return Stored(
        status,
        reason,
        kept,
        body,
        os.urandom(8),
        born_ms=round((response_s - terms.age_s) * 1000),
        made_ms=round(response_s * 1000),
        lifetime_ms=round(terms.lifetime_s * 1000),
        stale_while_revalidate_ms=round(terms.stale_while_revalidate_s * 1000),
        stale_if_error_ms=round(terms.stale_if_error_s * 1000),
        no_cache=terms.no_cache,
        must_revalidate=terms.must_revalidate,
    )


def freshened(
    stored: Stored, lines: Lines, *, response_s: float, delay_s: float, authorization: bool, defaults: Defaults
) -> tuple[Stored, Terms]:
    """The stored response after a 304 that confirmed it, and on what terms it may be stored now.

    Args:
        stored: what was confirmed.
        lines: of the 304, hop-by-hop fields left out.
        response_s, delay_s: of the 304.
        authorization: its request carried Authorization.
    """
    news = tuple((name, value) for name, value in lines if name.lower() not in _NOT_FROM_304)
    names = {name.lower() for name, _ in news}
    if "date" not in names:
        news += (("Date", formatdate(response_s, usegmt=True)),)
        names.add("date")
    merged = tuple((name, value) for name, value in stored.fields if name.lower() not in names) + news
    ages = tuple((name, value) for name, value in lines if name.lower() == "age")
    judged = [(name.lower(), value) for name, value in (*merged, *ages) if name.lower() != "set-cookie"]
    terms = judge_response(
        stored.status, judged, response_s=response_s, delay_s=delay_s, authorization=authorization, defaults=defaults
    )
    made = make_stored(
        stored.status,
        stored.reason,
        merged,
        stored.body,
        terms,
        response_s=response_s,
        store_set_cookie=defaults.store_set_cookie,
    )
    return made, terms


def softened(stored: Stored, now_ms: int) -> Stored:
    """The same, stale from now on: what a soft purge leaves. Its times of being stale begin now."""
    return Stored(
        stored.status,
        stored.reason,
        stored.fields,
        stored.body,
        os.urandom(8),
        born_ms=stored.born_ms,
        made_ms=stored.made_ms,
        lifetime_ms=max(0, min(stored.lifetime_ms, now_ms - stored.born_ms)),
        stale_while_revalidate_ms=stored.stale_while_revalidate_ms,
        stale_if_error_ms=stored.stale_if_error_ms,
        no_cache=stored.no_cache,
        must_revalidate=stored.must_revalidate,
    )


def keep_ms(stored: Stored, now_ms: int, extra_ms: int = KEEP_MS, down_ms: int = 0) -> int:
    """How long the store keeps it.

    Args:
        stored: the response.
        now_ms: wall clock.
        extra_ms: beyond its end, if it can be confirmed.
        down_ms: beyond its end, for the time when no server answers.
    """
    validator = any(name in ("etag", "last-modified") for name, _ in stored.lowered)
    down_ms = 0 if stored.must_revalidate or stored.no_cache else down_ms
    after_ms = max(stored.stale_while_revalidate_ms, stored.stale_if_error_ms, extra_ms if validator else 0, down_ms)
    return min(max(1, math.ceil(stored.born_ms + stored.lifetime_ms + after_ms - now_ms)), KEEP_MS_MAX)


def _pack(stored: Stored) -> bytes:
    return pack(
        [
            stored.status,
            stored.reason,
            [list(line) for line in stored.fields],
            stored.number,
            stored.born_ms,
            stored.made_ms,
            stored.lifetime_ms,
            stored.stale_while_revalidate_ms,
            stored.stale_if_error_ms,
            stored.no_cache,
            stored.must_revalidate,
            stored.body,
        ]
    )


def _unpack(data: bytes) -> Stored:
    of: list[Any] = unpack(data)
    return Stored(
        of[0],
        of[1],
        tuple((name, value) for name, value in of[2]),
        of[11],
        of[3],
        born_ms=of[4],
        made_ms=of[5],
        lifetime_ms=of[6],
        stale_while_revalidate_ms=of[7],
        stale_if_error_ms=of[8],
        no_cache=of[9],
        must_revalidate=of[10],
    )


def _unpack_variants(data: bytes) -> Variants:
    names, number, soft_ms = unpack(data)
    return Variants(tuple(names), number, soft_ms)


UNCACHEABLE = Uncacheable()

EXTENSIONS = (
    Extension(16, Stored, _pack, _unpack),
    Extension(17, Variants, lambda of: pack([list(of.names), of.number, of.soft_ms]), _unpack_variants),
    Extension(18, Uncacheable, lambda _: b"", lambda _: UNCACHEABLE),
)
"""How they stand in the store. Codes of this namespace alone; never reused for something else."""
