"""May this stored response answer that request, and with what (RFC 9111, 4, 5.2.1; RFC 9110, 13).

Not here: which stored response is meant (variants.py), parts of it (ranges.py). Rules of this file: as the package's.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from fastroute.http_cache.fields import (
    DELTA_S_MAX,
    Fields,
    directives,
    entity_tags,
    list_items,
    parse_date_s,
    parse_delta_s,
    values,
)

__all__ = ["PLAIN", "Reuse", "Wants", "decide", "if_range_holds", "may_fail_to", "not_modified", "same_tag", "wants_of"]


class Reuse(enum.Enum):
    """What to do with a stored response."""

    FRESH = "fresh"
    """Use it."""
    STALE = "stale"
    """Use it, and ask the server in the background."""
    ALLOWED = "allowed"
    """Use it though it is stale: the client said so."""
    VALIDATE = "validate"
    """Ask the server first."""


class StoredLike(Protocol):
    """What is read of a stored response; milliseconds of the wall clock."""

    @property
    def born_ms(self) -> int: ...
    @property
    def lifetime_ms(self) -> int: ...
    @property
    def stale_while_revalidate_ms(self) -> int: ...
    @property
    def stale_if_error_ms(self) -> int: ...
    @property
    def no_cache(self) -> bool: ...
    @property
    def must_revalidate(self) -> bool: ...


class Wants(NamedTuple):
    """What a request says to caches.

    Attributes:
        no_store: nothing of it is stored, and nothing stored is used.
        no_cache: only what the server has confirmed now.
        max_age_s, min_fresh_s: None: not said.
        max_stale_s: 0: not said.
        only_if_cached: never ask the server.
    """

    no_store: bool = False
    no_cache: bool = False
    max_age_s: int | None = None
    min_fresh_s: int | None = None
    max_stale_s: int = 0
    only_if_cached: bool = False


PLAIN = Wants()


def wants_of(fields: Fields) -> Wants:
    """The directives of a request; Pragma counts where there is no Cache-Control (RFC 9111, 5.4)."""
    texts = values(fields, "cache-control")
    if not texts:
        pragma = values(fields, "pragma")
        return Wants(no_cache=True) if pragma and "no-cache" in directives(pragma) else PLAIN
    cc = directives(texts)
    max_stale_s = 0
    if "max-stale" in cc:
        told = cc["max-stale"]
        max_stale_s = DELTA_S_MAX if told is None else max(0, parse_delta_s(told))
    return Wants(
        "no-store" in cc,
        "no-cache" in cc,
        max(0, parse_delta_s(cc["max-age"])) if "max-age" in cc else None,
        max(0, parse_delta_s(cc["min-fresh"])) if "min-fresh" in cc else None,
        max_stale_s,
        "only-if-cached" in cc,
    )


def decide(stored: StoredLike, wants: Wants, now_ms: int) -> Reuse:
    """What a stored response is good for now, for this request."""
    if stored.no_cache or wants.no_cache:
        return Reuse.VALIDATE
    age_ms = max(0, now_ms - stored.born_ms)
    over_ms = age_ms - stored.lifetime_ms
    if wants.max_age_s is not None and age_ms >= wants.max_age_s * 1000:
        return Reuse.VALIDATE
    if over_ms < 0:
        short = wants.min_fresh_s is not None and -over_ms < wants.min_fresh_s * 1000
        return Reuse.VALIDATE if short else Reuse.FRESH
    if stored.must_revalidate or wants.min_fresh_s is not None:
        return Reuse.VALIDATE
    if over_ms < stored.stale_while_revalidate_ms:
        return Reuse.STALE
    return Reuse.ALLOWED if over_ms < wants.max_stale_s * 1000 else Reuse.VALIDATE


def may_fail_to(stored: StoredLike, now_ms: int, down_ms: int = 0) -> bool:
    """May it be used when the server fails (RFC 5861, 4)? A fresh one may: nobody forbade it but the client.

    Args:
        stored: the response.
        now_ms: wall clock.
        down_ms: how long after its lifetime it may be used because no server gives any answer (RFC 9111, 4.2.4 allows
            that to a cache that is disconnected); 0 where one did.
    """
    over_ms = now_ms - stored.born_ms - stored.lifetime_ms
    if stored.no_cache:
        return False
    return over_ms < 0 or (not stored.must_revalidate and over_ms < max(stored.stale_if_error_ms, down_ms))


def same_tag(one: str, other: str) -> bool:
    """Weak comparison (RFC 9110, 8.8.3.2)."""
    return one.removeprefix("W/") == other.removeprefix("W/")


def not_modified(request: Fields, response: Fields, status: int, now_s: float = 0.0) -> bool | None:
    """Does the stored response make a conditional GET or HEAD a 304? None: the request asks for nothing of the kind.

    If-None-Match counts alone where it is there (RFC 9110, 13.2.2). If-Match and If-Unmodified-Since are the server's
    business: see `conditional_for_server`.
    """
    wanted = values(request, "if-none-match")
    if wanted:
        if status != 200:
            return False
        tags = entity_tags(", ".join(wanted))
        own = next(iter(values(response, "etag")), None)
        if tags is None:  # not well-formed: the same text is the same thing
            return own is not None and own in list_items(wanted)
        if tags == ["*"]:
            return True
        return own is not None and any(same_tag(own, tag) for tag in tags)
    since = values(request, "if-modified-since")
    if not since:
        return None
    if status != 200 or len(since) != 1:
        return False
    since_s = parse_date_s(since[0], now_s)
    if since_s is None:
        return False
    own_s = parse_date_s(next(iter(values(response, "last-modified")), None))
    if own_s is None:
        own_s = parse_date_s(next(iter(values(response, "date")), None))
    return own_s is not None and own_s <= since_s


def conditional_for_server(request: Fields) -> bool:
    """Preconditions that only the server may judge (RFC 9110, 13.1.1, 13.1.4)."""
    return any(name in ("if-match", "if-unmodified-since") for name, _ in request)


def if_range_holds(request: Fields, response: Fields) -> bool:
    """May the range be served from the stored response: no If-Range, or one that matches (RFC 9110, 13.1.5)."""
    texts = values(request, "if-range")
    if not texts:
        return True
    if len(texts) != 1:
        return False
    text = texts[0].strip(" \t")
    if text.startswith(('"', "W/")):
        own = next(iter(values(response, "etag")), "")
        return own == text and not text.startswith("W/")
    own = next(iter(values(response, "last-modified")), "")
    date_s, modified_s = parse_date_s(next(iter(values(response, "date")), None)), parse_date_s(own)
    # A date is strong when it is at least a second before the response's (RFC 9110, 8.8.2.2).
    return own.strip() == text and modified_s is not None and date_s is not None and date_s - modified_s >= 1
