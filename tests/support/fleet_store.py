"""A store in this process for tests of what replicas tell each other: a dict with time to live, and a wire to cut.

store = DictStore(clock); here = store.connect(); here.cut = True      # answers DOWN from now on
"""

from __future__ import annotations

import asyncio

from fastroute._core.mc_reply import DELETED, DOWN, EXISTS, HIT, MISS, NOT_FOUND, NOT_STORED, STORED, Reply, make_reply
from fastroute.clock import Clock


class DictStore:
    """What all connections share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.items: dict[bytes, tuple[bytes, int, float]] = {}
        self.cas = 0
        self.requests = 0

    def connect(self) -> StoreLine:
        return StoreLine(self)

    def find(self, key: bytes) -> tuple[bytes, int] | None:
        found = self.items.get(key)
        if found is None or found[2] <= self.clock.monotonic_s():
            return None
        return found[0], found[1]

    def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        self.cas += 1
        until_s = self.clock.monotonic_s() + ttl_s if ttl_s else float("inf")
        self.items[key] = (value, self.cas, until_s)


class StoreLine:
    """One replica's connection."""

    def __init__(self, store: DictStore) -> None:
        self.store, self.cut = store, False

    def _answer(self, status: int, value: bytes | None = None, cas: int = 0) -> asyncio.Future[Reply]:
        self.store.requests += 1
        future = asyncio.get_running_loop().create_future()
        future.set_result(make_reply(status, value, cas, 1))
        return future

    def get(self, key: bytes, touch_s: float | None = None) -> asyncio.Future[Reply]:
        found = None if self.cut else self.store.find(key)
        if found is None:
            return self._answer(DOWN if self.cut else MISS)
        return self._answer(HIT, *found)

    def set(self, key: bytes, value: bytes, ttl_s: float = 0) -> asyncio.Future[Reply]:
        if self.cut:
            return self._answer(DOWN)
        self.store.put(key, value, ttl_s)
        return self._answer(STORED)

    def add(self, key: bytes, value: bytes, ttl_s: float = 0) -> asyncio.Future[Reply]:
        if self.cut:
            return self._answer(DOWN)
        if self.store.find(key) is not None:
            return self._answer(NOT_STORED)
        return self.set(key, value, ttl_s)

    def cas_set(self, key: bytes, value: bytes, token: object, ttl_s: float = 0) -> asyncio.Future[Reply]:
        if self.cut:
            return self._answer(DOWN)
        found = self.store.find(key)
        if found is None:
            return self._answer(NOT_FOUND)
        return self.set(key, value, ttl_s) if found[1] == token.cas else self._answer(EXISTS)  # type: ignore[attr-defined]

    def delete(self, key: bytes) -> asyncio.Future[Reply]:
        if self.cut:
            return self._answer(DOWN)
        return self._answer(DELETED if self.store.items.pop(key, None) else NOT_FOUND)
