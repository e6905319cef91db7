"""May a response be stored by a shared cache, and how long is it good for (RFC 9111, 3, 4.2; RFC 5861; RFC 9213).

Not here: whether a stored response may answer a request (reuse.py). Rules of this file: as the package's; the reasons
are the words of Cache-Status' `detail`.
"""

from __future__ import annotations

from typing import NamedTuple

from fastroute.http_cache.fields import (
    DELTA_S_MAX,
    INVALID,
    Fields,
    directives,
    parse_date_s,
    parse_delta_s,
    targeted,
    tokens,
    values,
)

__all__ = ["HEURISTIC_STATUSES", "Defaults", "Terms", "age_s", "judge_response", "lifetime_s"]

HEURISTIC_STATUSES = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""What may be stored without explicit freshness (RFC 9110, 15.1); 206 is not understood here."""

UNDERSTOOD = HEURISTIC_STATUSES | {302, 303, 307, 400, 401, 403, 416, 421, 422, 429, 500, 502, 503, 504}
"""Statuses whose caching is known: what `must-understand` asks for."""

HEURISTIC_RATIO = 0.1
"""Of the time since Last-Modified: the value that RFC 9111, 4.2.2 names as typical."""

HEURISTIC_S_MAX = 86_400.0
"""Longest heuristic lifetime: a day. RFC 9111 names none; Apache: CacheMaxExpire 24 h."""


class Defaults(NamedTuple):
    """What the configuration says where responses are silent."""

    heuristic: bool = False
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    store_set_cookie: bool = False


class Terms(NamedTuple):
    """On what terms a response was stored, or why it may not be.

    Attributes:
        refused: why it may not be stored; "" where it may.
        lifetime_s: freshness lifetime; 0 where it is stale from the beginning.
        age_s: how old it was when it came.
        stale_while_revalidate_s, stale_if_error_s: how long after its lifetime it may be used so.
        no_cache: never used without asking the server.
        must_revalidate: never used stale.
        omit: names of fields that are not stored.
    """

    refused: str = ""
    lifetime_s: float = 0.0
    age_s: float = 0.0
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    no_cache: bool = False
    must_revalidate: bool = False
    omit: frozenset[str] = frozenset()


def age_s(fields: Fields, response_s: float, delay_s: float) -> float:
    """corrected_initial_age of RFC 9111, 4.2.3.

    Args:
        fields: of the response.
        response_s: when it came, wall clock.
        delay_s: between the request and that.

    Notes: what is not one line with one number says nothing that can be relied on, so the response counts as old as can
        be. (RFC 9111, 5.1 would have it ignored; most caches do as here: it costs a request and tells no lie.)
    """
    date_s = parse_date_s(next(iter(values(fields, "date")), None), response_s)
    apparent_s = max(0.0, response_s - date_s) if date_s is not None else 0.0
    told = values(fields, "age")
    told_s = parse_delta_s(told[0].strip(" \t")) if len(told) == 1 else (INVALID if told else 0)
    if told_s == INVALID:
        return float(DELTA_S_MAX)
    return max(apparent_s, told_s + delay_s)


def lifetime_s(fields: Fields, cc: dict[str, str | None], response_s: float, *, by_cc_alone: bool) -> float | None:
    """Freshness lifetime of RFC 9111, 4.2.1 for a shared cache; None where nothing explicit is said.

    Args:
        fields: of the response.
        cc: the directives that count.
        response_s: when it came.
        by_cc_alone: the directives are of a targeted field: Expires does not count (RFC 9213, 2.1).
    """
    for name in ("s-maxage", "max-age"):
        if name in cc:
            return float(max(0, parse_delta_s(cc[name])))  # what is no number is stale
    expires = values(fields, "expires")
    if not expires or by_cc_alone:
        return None
    until_s = parse_date_s(expires[0], response_s) if len(expires) == 1 else None
    if until_s is None:  # "0" and the like: in the past (RFC 9111, 5.3)
        return 0.0
    date_s = parse_date_s(next(iter(values(fields, "date")), None), response_s)
    return max(0.0, until_s - (response_s if date_s is None else date_s))


def judge_response(
    status: int,
    fields: Fields,
    *,
    response_s: float,
    delay_s: float = 0.0,
    authorization: bool = False,
    defaults: Defaults = Defaults(),  # noqa: B008
) -> Terms:
    """May this final response to a GET be stored?

    Args:
        status, fields: of the response, hop-by-hop fields left out.
        response_s: when its head came, wall clock.
        delay_s: since its request.
        authorization: the request carried Authorization.
        defaults: of the configuration.
    """
    edge = targeted(values(fields, "cdn-cache-control"))
    cc = directives(values(fields, "cache-control")) if edge is None else edge
    if status < 200 or status in (206, 304):
        return Terms("status")
    if "must-understand" in cc:
        if status not in UNDERSTOOD:
            return Terms("must-understand")
    elif "no-store" in cc:
        return Terms("no-store")
    if "private" in cc and not cc["private"]:
        return Terms("private")
    if "*" in tokens(values(fields, "vary")):
        return Terms("vary")
    if authorization and not ("public" in cc or "must-revalidate" in cc or "s-maxage" in cc):
        return Terms("authorization")
    omit = {name for key in ("private", "no-cache") for name in tokens([cc.get(key) or ""])}
    if any(name == "set-cookie" and name not in omit for name, _ in fields) and not defaults.store_set_cookie:
        return Terms("set-cookie")
    no_cache = "no-cache" in cc and not cc["no-cache"]
    if not cc and "no-cache" in tokens(values(fields, "pragma")):
        no_cache = True
    lifetime = lifetime_s(fields, cc, response_s, by_cc_alone=edge is not None)
    if lifetime is None:
        if no_cache and status in HEURISTIC_STATUSES:
            lifetime = 0.0
        elif defaults.heuristic and (status in HEURISTIC_STATUSES or "public" in cc):
            lifetime = _heuristic_s(fields, response_s)
        if lifetime is None:
            return Terms("no-freshness")
    must = no_cache or any(name in cc for name in ("must-revalidate", "proxy-revalidate", "s-maxage"))
    validator = any(name in ("etag", "last-modified") for name, _ in fields)
    while_s = _allowed_s(cc, "stale-while-revalidate", defaults.stale_while_revalidate_s)
    error_s = _allowed_s(cc, "stale-if-error", defaults.stale_if_error_s)
    if must:  # s-maxage includes proxy-revalidate (RFC 9111, 5.2.2.10)
        while_s = error_s = 0.0
    old_s = age_s(fields, response_s, delay_s)
    if not validator and (no_cache or lifetime + max(while_s, error_s) <= old_s):
        return Terms("stale")
    return Terms("", lifetime, old_s, while_s, error_s, no_cache, must, frozenset(omit))


def _allowed_s(cc: dict[str, str | None], name: str, otherwise_s: float) -> float:
    if name not in cc:
        return otherwise_s
    told = parse_delta_s(cc[name])
    return 0.0 if told == INVALID else float(told)


def _heuristic_s(fields: Fields, response_s: float) -> float | None:
    modified_s = parse_date_s(next(iter(values(fields, "last-modified")), None), response_s)
    if modified_s is None:
        return None
    date_s = parse_date_s(next(iter(values(fields, "date")), None), response_s)
    since_s = (response_s if date_s is None else date_s) - modified_s
    return min(max(0.0, since_s) * HEURISTIC_RATIO, HEURISTIC_S_MAX)
