"""What a server's response to one request means for the cache: the objects that a compiled connection tells of it.

The connection calls head() once, then end(), or lost(); error() when no server answered. Not here: who asks servers
(caching.py), copying the body (http_caching), the rules (fastroute.http_cache).

Rules of this file: a Hold is put or given back exactly once, whatever happens; whoever waits in this process is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastroute._core.http_caching import FILL_PASS, FILL_SWALLOW, FILL_TEE, FILL_WATCH
from fastroute._core.http_stored import Stored
from fastroute.cache.leased import Hold
from fastroute.http_cache import report
from fastroute.http_cache.invalidating import invalidated_groups, invalidated_keys, tags_of
from fastroute.http_cache.reuse import may_fail_to
from fastroute.http_cache.stored import UNCACHEABLE, Lines, freshened, make_stored
from fastroute.http_cache.storing import judge_response
from fastroute.proxy.caching_requests import Asked, Flight
from fastroute.proxy.stored_answer import Answer, answer_of

if TYPE_CHECKING:
    from fastroute.proxy.caching import ResponseCache

__all__ = ["BYPASS", "COLLAPSED", "ERROR", "HIT", "MISSED", "REVALIDATED", "STALE", "Fill", "Note"]

HIT, STALE, REVALIDATED, MISSED, BYPASS, COLLAPSED, ERROR = range(7)
"""Words of fastroute.metrics.layout.CACHE_RESULTS."""

FAILURES = frozenset((500, 502, 503, 504))
"""What stale-if-error is for (RFC 5861, 4)."""


class Fill:
    """Hears of the response to one request that went to a server; called by the compiled connection.

    Args:
        cache: whose it is.
        asked: the request.
        key: what is filled; "" for nothing.
        hold: the right to, or None.
        flight: who waits, or None.
        stored: what the server is asked to confirm, or None.
        why: Cache-Status' word.
        place: of the limited number while the store is away, or None.
    """

    def __init__(
        self,
        cache: ResponseCache,
        asked: Asked,
        key: str,
        *,
        hold: Hold | None = None,
        flight: Flight | None = None,
        stored: Stored | None = None,
        why: str,
        place: Callable[[], None] | None = None,
    ) -> None:
        self.cache, self.asked, self.key, self.hold, self.flight = cache, asked, key, hold, flight
        self.stored, self.why, self._place = stored, why, place
        self.began_s = cache.wall_s()
        self._response: tuple[int, str, Lines, float] | None = None
        self._failed = False
        self._tags: list[str] = []
        self._length: int | None = None

    def head(self, status: int, reason: str, lines: Lines, length: int | None, framed: bool) -> tuple[int, bytes]:
        """The response's head is there: (FILL_*, field lines for the client)."""
        cache, asked, now_s = self.cache, self.asked, self.cache.wall_s()
        self._response = (status, reason, lines, now_s)
        self._length = length
        if self.stored is not None:
            if status == 304:
                return FILL_SWALLOW, b""
            if status in FAILURES and may_fail_to(self.stored, round(now_s * 1000)):
                self._failed = True
                return FILL_SWALLOW, b""
        detail = self._judge(status, lines, length, framed, now_s)
        if not asked.collapsed:
            cache.count(MISSED if status not in FAILURES else ERROR)
        else:
            cache.count(COLLAPSED)
        says = report.forward(
            self.why, 0 if self.stored is None else status, stored=not detail, collapsed=asked.collapsed, detail=detail
        )
        text = f"Cache-Status: {says}\r\n".encode("latin-1")
        if not detail:
            return FILL_TEE, text
        self._unstorable(status)
        if self._place is not None:
            return FILL_WATCH, text
        return FILL_PASS, text

    def _judge(self, status: int, lines: Lines, length: int | None, framed: bool, now_s: float) -> str:
        """Why it is not stored; "" where it is."""
        fields = [(name.lower(), value) for name, value in lines]
        self._terms = judge_response(
            status,
            fields,
            response_s=now_s,
            delay_s=max(0.0, now_s - self.began_s),
            authorization=self.asked.authorization,
            defaults=self.cache.defaults,
        )
        if self.asked.is_head:
            return "head"
        if self._terms.refused:
            return self._terms.refused
        if self.hold is None:
            return "not-leased"
        if not framed:
            return "unframed"
        if length is not None and length > self.cache.object_bytes_max:
            return "too-large"
        tags = tags_of(self.asked.key, fields)
        if tags is None:
            return "tags"
        self._tags = tags
        return ""

    def end(self, body: bytes) -> Answer | None:
        """The response is complete: the answer from the cache, where the client did not get the server's."""
        try:
            return self._ended(body)
        except BaseException:
            self.lost()
            raise

    def _ended(self, body: bytes) -> Answer | None:
        self._leave()
        if self._response is None:
            self.lost()
            return None
        status, reason, lines, response_s = self._response
        if self._failed:
            return self._stale(status)
        if self.stored is not None and status == 304:
            return self._confirmed(lines, response_s)
        if self.hold is None or self.flight_is_told:
            return None
        if self._length is not None and len(body) != self._length:
            self.lost()
            return None
        made = make_stored(
            status,
            reason,
            lines,
            body,
            self._terms,
            response_s=response_s,
            store_set_cookie=self.cache.defaults.store_set_cookie,
        )
        self.cache.store(self, made, self._tags)
        return None

    flight_is_told = False

    def error(self, status: int) -> Answer | None:
        """No server gave a response: the answer from the cache, if it may stand in."""
        try:
            return self._failed_with(status)
        except BaseException:
            self.lost()
            raise

    def _failed_with(self, status: int) -> Answer | None:
        self._leave()
        now_ms = round(self.cache.wall_s() * 1000)
        if self.stored is not None and may_fail_to(self.stored, now_ms, self.cache.down_ms):
            return self._stale(status)
        self.cache.count(ERROR)
        self._unstorable(599)
        return None

    def lost(self) -> None:
        """The response will not be complete, or nobody wants it any more."""
        self._leave()
        if self.flight is not None:
            self.flight.end()
        self.cache.give_back(self.hold)
        self.hold = None

    def _leave(self) -> None:
        if self._place is not None:
            self._place()
            self._place = None

    def _unstorable(self, status: int) -> None:
        """Whoever waits need not; and need not next time, unless it was a failure."""
        hold, self.hold = self.hold, None
        self.flight_is_told = True
        if status < 500 and self.stored is not None:
            self.cache.forget(self.key)
        if hold is not None and status < 500 and hold.lease is not None and hold.target is None and self.asked.plain:
            self.cache.mark_uncacheable(hold, self.flight)
            return
        if self.flight is not None:
            self.flight.end(UNCACHEABLE)
        self.cache.give_back(hold)

    def _stale(self, status: int) -> Answer | None:
        stored = self.stored
        assert stored is not None
        if self.flight is not None:
            self.flight.failed = True
            self.flight.end(stored)
        self.cache.give_back(self.hold)
        self.hold = None
        self.cache.count(STALE)
        now_ms = round(self.cache.wall_s() * 1000)
        ttl_s = (stored.born_ms + stored.lifetime_ms - now_ms) // 1000
        says = report.hit(ttl_s, "stale-if-error") + f"; fwd=stale; fwd-status={status}"
        return answer_of(stored, self.asked.fields, now_ms, says, is_head=self.asked.is_head)

    def _confirmed(self, lines: Lines, response_s: float) -> Answer:
        assert self.stored is not None
        made, terms = freshened(
            self.stored,
            lines,
            response_s=response_s,
            delay_s=max(0.0, response_s - self.began_s),
            authorization=self.asked.authorization,
            defaults=self.cache.defaults,
        )
        tags = tags_of(self.asked.key, made.lowered)
        if terms.refused or tags is None:
            self._unstorable(304)
        elif self.hold is not None and not self.asked.is_head:
            self.cache.store(self, made, tags)
        elif self.flight is not None:
            self.flight.end(made)
        self.cache.count(REVALIDATED)
        says = report.forward(self.why, 304, collapsed=self.asked.collapsed, stored=not terms.refused)
        cookies = tuple((name, value) for name, value in lines if name.lower() == "set-cookie")
        now_ms = round(self.cache.wall_s() * 1000)
        return answer_of(made, self.asked.fields, now_ms, says, is_head=self.asked.is_head, extra=cookies)


class Note:
    """A Fill for a request that the cache has no part in: it says so, and hears what an unsafe one makes unusable."""

    def __init__(self, cache: ResponseCache, key: str | None, unsafe: bool, says: str) -> None:
        self._cache, self._key, self._unsafe, self._says = cache, key, unsafe, says

    def head(self, status: int, reason: str, lines: Lines, length: int | None, framed: bool) -> tuple[int, bytes]:
        if self._unsafe and self._key is not None:
            fields = [(name.lower(), value) for name, value in lines]
            for key in invalidated_keys(self._key, status, fields):
                self._cache.forget(key)
            groups = invalidated_groups(self._key, True, status, fields)
            if groups:
                self._cache.forget_tags(groups)
        self._cache.count(BYPASS)
        return FILL_PASS, f"Cache-Status: {self._says}\r\n".encode("latin-1")

    def end(self, body: bytes) -> None: ...
    def lost(self) -> None: ...
    def error(self, status: int) -> None:
        self._cache.count(BYPASS)
