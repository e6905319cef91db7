"""Push invalidation for threads: the channels of push.py in a thread of their own, one per process and store.

PushThread     runs a Hub in an event loop, tells the caches of all namespaces.
ThreadedPush   one cache's part: as PushInvalidation, under the cache's lock.

What it gives and what it does not is said in push.py: the thread may be late, fail, or be refused by the node; near_ttl
bounds staleness in any case, and nobody waits for it.

Rules: the cache's lock is held for moments only, never for I/O, so that the channel's thread is not held up. A fork
leaves the thread behind: whoever finds himself in another process joins anew.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING

from fastroute.cache.push import Hub, PushInvalidation

if TYPE_CHECKING:
    from fastroute.cache.sync_driver import Driver
    from fastroute.memcache.sync import Memcached

__all__ = ["PushThread", "ThreadedPush", "thread_of"]

START_S = 5.0
"""The thread is there within milliseconds; longer only on a machine that is starved. Then it is gone on without."""


class ThreadedPush(PushInvalidation):
    """One cache's part; what the cache itself says (know, expect) comes with its lock held already."""

    def __init__(self, cache: Driver) -> None:
        super().__init__(cache)
        self._driver = cache

    def announced(self, key: bytes) -> None:
        """A key was written."""
        with self._driver._lock:
            super().announced(key)

    def lost(self, cause: str) -> None:
        """Lines may have been missed."""
        with self._driver._lock:
            super().lost(cause)


class PushThread:
    """The channels to one store's nodes, and their thread; see thread_of.

    Attributes:
        pid: the process that it belongs to.
    """

    def __init__(self, store: Memcached, fleet: str) -> None:
        self.pid = os.getpid()
        self._twin, self._fleet = store.for_asyncio(), fleet
        self._turn = threading.Lock()
        self._members: list[PushInvalidation] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._hub: Hub | None = None

    @property
    def live(self) -> bool:
        """Whether every node's announcements are heard now."""
        hub = self._hub
        return hub is not None and hub.live

    @property
    def running(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, member: PushInvalidation) -> None:
        """Tell a cache too; the first one starts the thread."""
        with self._turn:
            self._members.append(member)
            if self._thread is None:
                started = threading.Event()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._run(started)), name="fastroute-cache-watch", daemon=True
                )
                self._thread.start()
                started.wait(START_S)
            elif self._loop is not None and self._hub is not None:
                self._loop.call_soon_threadsafe(self._hub.join, member)

    def leave(self, member: PushInvalidation) -> None:
        """Tell it no more; with the last one the thread ends."""
        with self._turn:
            if member in self._members:
                self._members.remove(member)
            loop, hub, end, thread = self._loop, self._hub, self._end, self._thread
            if loop is None or hub is None or end is None or thread is None:
                return
            if self._members:
                loop.call_soon_threadsafe(hub.drop, member)
                return
            self._thread = None
            if thread.is_alive():
                loop.call_soon_threadsafe(end.set)
                thread.join()

    async def _run(self, started: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        hub = self._hub = Hub(self._twin, self._fleet)
        members = list(self._members)
        for member in members:
            hub.join(member)
        started.set()
        try:
            await self._end.wait()
        finally:
            self._hub = None
            await hub.aclose()
            await self._twin.aclose()


_threads: weakref.WeakKeyDictionary[Memcached, PushThread] = weakref.WeakKeyDictionary()
_turn = threading.Lock()


def thread_of(store: Memcached, fleet: str) -> PushThread:
    """The thread of a store in this process."""
    with _turn:
        thread = _threads.get(store)
        if thread is None or thread.pid != os.getpid():
            thread = _threads[store] = PushThread(store, fleet)
        return thread


def _forked() -> None:
    # Another thread of the parent may have held it.
    global _turn
    _turn = threading.Lock()


os.register_at_fork(after_in_child=_forked)
