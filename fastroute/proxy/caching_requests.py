"""Requests before the cache, and who waits for whom in this process.

Not here: what is done with them (caching.py), what comes back from a server (caching_fill.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastroute._core.http_caching import Caching
from fastroute.cache.leased import Moment
from fastroute.http_cache.fields import Fields
from fastroute.http_cache.reuse import PLAIN, wants_of

__all__ = ["LOST", "Asked", "Flight"]


class Asked:
    """One request that waits for the cache's word."""

    __slots__ = ("_fields", "collapsed", "conditional", "epoch", "head", "is_head", "key", "ranged", "request", "wants")

    def __init__(self, request: Caching, epoch: int, key: str, head: bytes, is_head: bool, simple: bool) -> None:
        self.request, self.epoch, self.key, self.head, self.is_head = request, epoch, key, head, is_head
        self._fields: Fields | None = None
        self.collapsed = False
        self.conditional = self.ranged = False
        self.wants = PLAIN
        if not simple:
            self.wants = wants_of(self.fields)
            self.conditional = any(name in ("if-none-match", "if-modified-since") for name, _ in self.fields)
            self.ranged = any(name == "range" for name, _ in self.fields)

    @property
    def fields(self) -> Fields:
        """Its field lines, names in lower case."""
        if self._fields is None:
            lines = self.head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
            self._fields = [
                (name.lower(), value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)
            ]
        return self._fields

    @property
    def plain(self) -> bool:
        """Its response may be another request's too, and nobody else's is worse for it."""
        return not (self.is_head or self.ranged or self.conditional or self.wants.no_cache)

    @property
    def authorization(self) -> bool:
        """Does it carry Authorization?"""
        return b"\r\nauthorization:" in self.head.lower() and any(name == "authorization" for name, _ in self.fields)

    @property
    def waits(self) -> bool:
        """Does the client still wait?"""
        return self.request is None or self.request.waits(self.epoch)


class _Lost:
    """The filler went away."""


LOST = _Lost()


class Flight:
    """A key that this process is filling; its result is a Stored, Variants, UNCACHEABLE or LOST.

    Attributes:
        since: when it began; nobody joins it who comes after the key was deleted or purged.
        away: the store is away.
        failed: the server failed, and the result stands in for its answer.
    """

    __slots__ = ("_key", "_of", "_result", "away", "failed", "since")

    def __init__(self, of: dict[str, Flight], key: str, since: Moment) -> None:
        self._of, self._key, self.since, self.away, self.failed = of, key, since, False, False
        self._result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        of[key] = self

    @property
    def is_told(self) -> bool:
        """The result is known: nobody waits for it any more."""
        return self._result.done()

    async def wait(self, until_s: float) -> Any:
        """The result; None when the time is over."""
        left_s = until_s - asyncio.get_running_loop().time()
        if not self._result.done():
            await asyncio.wait((self._result,), timeout=max(0.0, left_s))
        return self._result.result() if self._result.done() else None

    def tell(self, result: Any) -> None:
        """Whoever waits, and whoever still comes, has this result."""
        if not self._result.done():
            self._result.set_result(result)

    def end(self, result: Any = LOST) -> None:
        """Nobody joins any more."""
        self.tell(result)
        if self._of.get(self._key) is self:
            del self._of[self._key]
