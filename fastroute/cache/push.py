"""Push invalidation of the near cache: what the store's nodes announce, this process forgets at once.

PushInvalidation   one cache's part: which announced key is which near value.
Hub                one per process and store: the channels (memcache/watch.py), shared by the caches of all namespaces,
                   because a node admits 20 watchers.
Not here: affinity's own (affinity/push.py), threads (push_thread.py).

What it gives: a write, delete or purge through one process is seen by the others as soon as its line arrives, some
milliseconds, in place of near_ttl. What it does not: near values live no longer because of it. near_ttl stays the bound
of staleness whatever happens to a line or to the channel, so that silence, doubts and losses need no proof here: after
a loss near values are asked for again, everything else is left to the bound.

Own writes are announced too; their near value is what was written, so the line is expected, for EXPECTED_S, and does
nothing. A line of somebody else that is taken for the expected one costs what no line costs: near_ttl.

Rules: belongs to one event loop. Nothing here waits or raises. A near value is told of before the store is asked
for it: a line that arrives meanwhile has to find the fill that it forbids.
"""

from __future__ import annotations

import asyncio
import collections
import secrets
import time
import weakref
from typing import TYPE_CHECKING

from fastroute.memcache.watch import NodeFacts, NodeWatch

if TYPE_CHECKING:
    from fastroute.cache.reading import Reading
    from fastroute.memcache.cluster import Memcached

__all__ = ["Hub", "PushInvalidation", "hub_of"]

EXPECTED_S = 0.5
"""How long a line about an own write is waited for: ten heartbeats of the channel."""

KNOWN_SLACK = 4096
"""Store keys that are remembered beyond the near cache's entries; the newest of them may be fills under way."""

LIVE_S = 1.0
"""A channel that has proved itself within this is called live; nothing but the statistics depends on it."""


class PushInvalidation:
    """One cache's part.

    Args:
        cache: whose near values, and generations.

    Attributes:
        invalidations: near values, tags and namespaces that were forgotten because of a line.
        losses: cause -> count; after each every near value was asked for again.
    """

    def __init__(self, cache: Reading) -> None:
        self.invalidations = 0
        self.losses: collections.Counter[str] = collections.Counter()
        self._cache = cache
        self._near_keys: dict[bytes, str | bytes] = {}
        self._expected: dict[bytes, float] = {}
        self._prefix = f"{cache.keys.fleet}:c:{cache.keys.namespace}:".encode()
        self._namespace_key = cache._generations.namespace_key.encode()
        self._tag_prefix = self._namespace_key + b":"

    # ------------------------------------------------------------------ what the cache says

    def know(self, store_key: str, near_key: str | bytes) -> None:
        """The store is about to be asked for this near value."""
        known = self._near_keys
        name = store_key.encode()
        if name in known:
            return
        known[name] = near_key
        near = self._cache._near
        if len(known) > 2 * (len(near) + KNOWN_SLACK):
            newest = len(known) - KNOWN_SLACK
            self._near_keys = {
                store: key for at, (store, key) in enumerate(known.items()) if at >= newest or key in near
            }

    def expect(self, store_key: str) -> None:
        """An own write of this key is about to be asked for."""
        now_s = time.monotonic()
        if len(self._expected) > KNOWN_SLACK:
            self._expected = {key: until_s for key, until_s in self._expected.items() if until_s > now_s}
        self._expected[store_key.encode()] = now_s + EXPECTED_S

    # ------------------------------------------------------------------ what the nodes say

    def announced(self, key: bytes) -> None:
        """A key was written."""
        if key.startswith(self._prefix):
            near_key = self._near_keys.get(key)
            if near_key is None or self._is_own(key):
                return
            self._cache._near.invalidate(near_key)
            self.invalidations += 1
        elif key == self._namespace_key:
            if self._cache._generations.any_node and not self._is_own(key):
                self._cache._forget_all()
                self.invalidations += 1
        elif key.startswith(self._tag_prefix) and not self._is_own(key):
            try:
                digest = bytes.fromhex(key[len(self._tag_prefix) :].decode("ascii"))
            except ValueError:  # not ours
                return
            self._cache._generations.purged(digest)
            self.invalidations += 1

    def _is_own(self, key: bytes) -> bool:
        return self._expected.pop(key, 0.0) > time.monotonic()

    def lost(self, cause: str) -> None:
        """Lines may have been missed: what is near has to be asked for again, and serves on while the store is away."""
        self.losses[cause] += 1
        self._expected.clear()
        self._cache._doubt_all()


class Hub:
    """The channels to one store's nodes; see hub_of.

    Attributes:
        lines: announcements so far, about whatever key.
    """

    def __init__(self, store: Memcached, fleet: str) -> None:
        self.lines = 0
        self._members: list[PushInvalidation] = []
        self._tasks: list[asyncio.Task[None]] = []
        beat_key = f"{fleet}:w:{secrets.randbits(32):08x}:".encode()
        self._watches = [NodeWatch(node.connection, node.name, beat_key=beat_key, events=self) for node in store.nodes]

    def join(self, member: PushInvalidation) -> None:
        """Tell a cache too; the first one starts the channels, in the running event loop."""
        self._members.append(member)
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(watch.run()) for watch in self._watches]

    async def leave(self, member: PushInvalidation) -> None:
        """Tell it no more; with the last one the channels end."""
        self.drop(member)
        if not self._members:
            await self.aclose()

    def drop(self, member: PushInvalidation) -> None:
        """Tell it no more; the channels stay."""
        if member in self._members:
            self._members.remove(member)

    async def aclose(self) -> None:
        """End the channels."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def live(self) -> bool:
        """Whether every node's announcements are heard now."""
        now_s = time.monotonic()
        return all(now_s - watch.alive_s < LIVE_S for watch in self._watches)

    # ------------------------------------------------------------------ what the nodes say (WatchEvents)

    def announced(self, key: bytes, evicted: bool) -> None:
        """A key was written, or evicted: what was evicted was right, and may stay near."""
        self.lines += 1
        if not evicted:
            for member in self._members:
                member.announced(key)

    def lost(self, node: NodeWatch, cause: str) -> None:
        """Lines of this node may have been missed."""
        for member in self._members:
            member.lost(cause)

    def doubted(self, node: NodeWatch, cause: str) -> None:
        """Nothing: near_ttl holds."""

    def alive(self, node: NodeWatch) -> None:
        """Nothing: the nodes are asked (live)."""

    def facts(self, node: NodeWatch, facts: NodeFacts, first: bool) -> None:
        """Nothing."""


_hubs: weakref.WeakKeyDictionary[Memcached, Hub] = weakref.WeakKeyDictionary()


def hub_of(store: Memcached, fleet: str) -> Hub:
    """The hub of a store in this process."""
    hub = _hubs.get(store)
    if hub is None:
        hub = _hubs[store] = Hub(store, fleet)
    return hub
