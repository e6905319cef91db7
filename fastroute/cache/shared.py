"""SharedCache: one near and one far cache for all processes of a fleet, and one computation per key over all of them.

Not here: what a value looks like in the store (codec.py), keys (keys.py), the claim's decisions (lease.py), the near
cache (near.py), what does not wait (tiers.py), blocking use (sync.py).

How a request is answered, first match wins:
  1. near, fresh: no store, no task, no copy.
  2. a read or computation of this key that is under way in this process: its result (single flight).
  3. store, fresh. 4. store, stale: at once; one process refreshes it in the background.
  5. nothing usable, lease won: compute, store with the lease's cas, unless the key changed meanwhile.
  6. another process computes: wait for it; its death is survived within the lease.
  7. the store is away: near until the value's stale limit, then compute, at most AWAY_COMPUTATIONS_MAX at once.
No caller sees an exception because of the store; those of `compute` go to every caller that waited for it here.

Rules of this file:
  - Values are shared, not copied: whoever gets one must not change it. Who computed it gets it decoded, as all others.
  - Near entries answer unasked for near_ttl at most (near.py): the bound of staleness between replicas. Own writes and
    deletes are seen at once in this process.
  - One object belongs to one event loop. It does not own its store: close that one yourself, after this.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from fastroute._core.mc_reply import DELETED, EXISTS, HIT, NOT_FOUND, STORED, CasToken, Reply
from fastroute.cache.codec import round_trip
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import (
    HELD_S_MAX,
    LEASE_S,
    RENEW_RATIO,
    Claim,
    Lifetime,
    Outcome,
    Pause,
    TakeOver,
    claim,
    judge,
    store_ttl_s,
)
from fastroute.cache.near import MISS, NEAR_TTL_S
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX, Name, Tiers
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import CacheError, UsageError

if TYPE_CHECKING:
    from fastroute.memcache.cluster import Memcached

__all__ = ["REFRESHES_MAX", "SharedCache"]

REFRESHES_MAX = 64
"""Refreshes in the background at once; beyond it the stale value is served and a later request refreshes it."""

T = TypeVar("T")
_log = logging.getLogger("fastroute.cache")


class _Flight:
    """A read or computation that is under way, and how many wait for it."""

    __slots__ = ("task", "waiters")

    task: asyncio.Task[Any]

    def __init__(self) -> None:
        self.waiters = 0


_within: contextvars.ContextVar[tuple[_Flight, ...]] = contextvars.ContextVar("fastroute_cache_within", default=())


class _Lease:
    """A stub of ours in the store, renewed while we compute.

    Notes: a computation shorter than a quarter of the lease costs one timer handle and no task.
    """

    __slots__ = ("_cache", "_done", "_handle", "_task", "key", "lost", "token")

    def __init__(self, cache: SharedCache, key: str, token: CasToken) -> None:
        self._cache, self.key, self.token, self.lost = cache, key, token, False
        self._done: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(cache.lease_s * RENEW_RATIO, self._start)

    def _start(self) -> None:
        self._done = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._renew(self._done))

    async def _renew(self, done: asyncio.Event) -> None:
        pause_s = self._cache.lease_s * RENEW_RATIO
        for _ in range(int(HELD_S_MAX / pause_s)):
            reply = await self._cache.store.cas_set(self.key, b"", self.token, self._cache.lease_s)
            if reply.status == STORED and reply.token is not None:
                self.token = reply.token
            elif reply.status in (EXISTS, NOT_FOUND):
                self.lost = True  # deleted, set, or run out: the result will not be stored
                return
            try:
                async with asyncio.timeout(pause_s):
                    await done.wait()
                return
            except TimeoutError:
                continue

    async def end(self) -> CasToken:
        """Stop renewing, a renewal under way included; the token that is valid now."""
        self._handle.cancel()
        if self._task is not None and self._done is not None:
            self._done.set()
            await self._task
        return self.token

    async def release(self) -> None:
        """Give the lease back, so that nobody waits for it."""
        await self._cache.store.delete(self.key, await self.end())

    def drop(self) -> None:
        """The same without waiting, for a task that is being cancelled."""
        self._handle.cancel()
        if self._task is not None:
            self._task.cancel()
        self._cache.store.delete(self.key, self.token)


class SharedCache(Tiers):
    """Values shared by all processes that use the same store, fleet and namespace.

    Args:
        store: the store, a fastroute.Memcached.
        namespace: 1-64 characters of A-Za-z0-9._:- ; keys of two namespaces never meet.
        near_bytes: budget of the near cache, "64MiB" or bytes; 0 turns it off.
        secret: None, or at least 32 bytes with which stored values are authenticated; a sequence is a key ring.
        fleet: prefix of every key in the store.
        near_ttl: how long a near value answers without asking the store: the bound of staleness.
        lease: how long the others wait for a process that died while computing, 2 s to 5 minutes.
        clock: for tests.

    Raises:
        UsageError: an argument that is not accepted.
    """

    def __init__(
        self,
        store: Memcached,
        *,
        namespace: str,
        near_bytes: int | str = "64MiB",
        secret: str | bytes | Sequence[str | bytes] | None = None,
        fleet: str = "fr",
        near_ttl: float | str = NEAR_TTL_S,
        lease: float | str = LEASE_S,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(
            namespace=namespace,
            near_bytes=near_bytes,
            secret=secret,
            fleet=fleet,
            near_ttl=near_ttl,
            lease=lease,
            clock=clock,
        )
        self.store = store
        self._flights: dict[str | bytes, _Flight] = {}
        self._refreshes: dict[str | bytes, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._away = asyncio.Semaphore(AWAY_COMPUTATIONS_MAX)

    # ------------------------------------------------------------------ life

    async def aclose(self) -> None:
        """Stop what is under way (its callers get CacheError); the store stays open."""
        self._closed = True
        tasks = [*self._tasks, *self._refreshes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._near.clear()

    async def __aenter__(self) -> SharedCache:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ------------------------------------------------------------------ requests

    async def get_or_compute(
        self,
        key: Key,
        compute: Callable[[], Awaitable[T]] | Callable[[], T],
        *,
        ttl: float | str,
        stale: float | str = 0,
        tags: Sequence[str] = (),
        negative_ttl: float | str = 0,
    ) -> T:
        """The value of a key; where there is none, one process of the fleet computes it for all.

        Args:
            key: str, bytes, or a tuple of plain values.
            compute: called without arguments; returns the value or an awaitable of it. A plain function runs on the
                event loop: one that blocks longer than the lease is computed by others too.
            ttl: how long the value is fresh.
            stale: how long after that it may still be served, while it is refreshed or the store is away.
            tags: not available yet.
            negative_ttl: how long None is kept as a value; with 0 it is not kept.

        Returns:
            The value. It is shared with other callers: do not change it.

        Raises:
            UsageError: an argument, or a computed value, that is not accepted.
            CacheError: the cache was closed meanwhile.
            Exception: what compute raised, in every caller that waited for it in this process. Other processes that
                waited compute for themselves, one after the other.
        """
        if tags:
            raise UsageError("tags of a cached value: not available yet")
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        lifetime = Lifetime.of(ttl, stale, negative_ttl)
        return await self._join(near_key, key, compute, lifetime)  # type: ignore[no-any-return]

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, fresh or within its stale time; else `default`. Computes nothing, waits for nobody."""
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if value is not MISS:
            return value
        name = self._name(near_key, key)
        ticket = self._near.begin_fill(near_key)
        reply = await self._store().get(name.store)
        outcome, entry, reason = judge(reply, self._codec, name.digest, self._wall_ms())
        if entry is not None:
            return self._use(name, entry, outcome, ticket)
        if outcome is Outcome.AWAY:
            self._counters.unknown += 1
            return self._near_while_away(near_key, default)
        if reason and reason != "absent":
            self._counters.rejected[reason] += 1
        self._counters.misses += 1
        return default

    async def set(self, key: Key, value: object, *, ttl: float | str, stale: float | str = 0) -> bool:
        """Store a value for everybody; True when the store confirmed it.

        False: the store is away or did not answer (it may have stored it), or the value is too large; then no near
        value is left in this process.

        Raises:
            UsageError: an argument that is not accepted.
        """
        near_key = key if type(key) is str else encode_key(key)
        lifetime = Lifetime.of(ttl, stale)
        payload, value = round_trip(value)
        name = self._name(near_key, key)
        self._forget(near_key)
        sealed = self._seal(name, payload, lifetime.ttl_ms, lifetime.stale_ms, 0)
        if sealed is None:
            # What is stored under the key is older than what the caller wanted there.
            await self._store().expire_key(name.store)
            self._near.invalidate(near_key)
            return False
        ticket = self._near.begin_fill(near_key)
        reply = await self._store().set(name.store, sealed, store_ttl_s(lifetime.ttl_ms, lifetime.stale_ms))
        if reply.status != STORED:
            self._counters.unknown += 1
            self._near.invalidate(near_key)
            return False
        self._counters.stored += 1
        self._counters.bytes_written += len(sealed)
        self._near_fill(near_key, ticket, value, lifetime.ttl_ms, lifetime.stale_ms)
        return True

    async def delete(self, key: Key) -> bool:
        """Forget a key everywhere; True when the store confirmed it.

        Computations that are under way anywhere still answer their callers, but are not stored. Other processes may
        serve their near value for near_ttl more.
        """
        near_key = key if type(key) is str else encode_key(key)
        name = self._name(near_key, key)
        self._forget(near_key)
        # An expired write, not `md`: only that one is announced to the watchers of every memcached version.
        reply = await self._store().expire_key(name.store)
        self._near.invalidate(near_key)
        confirmed = reply.status in (STORED, DELETED, NOT_FOUND)
        self._counters.unknown += not confirmed
        return confirmed

    # ------------------------------------------------------------------ single flight

    async def _join(self, near_key: str | bytes, key: Key, compute: Callable[[], Any], lifetime: Lifetime) -> Any:
        self._check_open()
        flight = self._flights.get(near_key)
        if flight is None:
            flight = self._flights[near_key] = _Flight()
            flight.task = asyncio.get_running_loop().create_task(self._fly(flight, near_key, key, compute, lifetime))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._landed)
        else:
            if flight in _within.get():
                raise UsageError(
                    f"the computation of cache key {key!r} asks for the same key: it would wait for itself"
                )
            self._counters.joined += 1
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if self._closed and flight.task.done():
                raise CacheError("the cache was closed while the value was computed") from None
            raise
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                # Every caller has gone: nobody wants the value any more.
                self._remove(near_key, flight)
                flight.task.cancel()

    async def _fly(
        self, flight: _Flight, near_key: str | bytes, key: Key, compute: Callable[[], Any], lifetime: Lifetime
    ) -> Any:
        _within.set((*_within.get(), flight))
        try:
            return await self._fill(self._name(near_key, key), compute, lifetime)
        finally:
            self._remove(near_key, flight)

    def _landed(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    def _remove(self, near_key: str | bytes, flight: _Flight) -> None:
        if self._flights.get(near_key) is flight:
            del self._flights[near_key]

    def _forget(self, near_key: str | bytes) -> None:
        # Whoever asks after a write must not be given a computation that began before it.
        self._flights.pop(near_key, None)
        self._near.invalidate(near_key)

    # ------------------------------------------------------------------ store and computation

    async def _fill(self, name: Name, compute: Callable[[], Any], lifetime: Lifetime) -> Any:
        ticket = self._near.begin_fill(name.near)
        found = await self._drive(name, claim(self._codec, name.digest, now_ms=self._wall_ms))
        self._counters.rejected.update(found.rejected)
        if found.entry is not None:
            if found.outcome is Outcome.STALE and found.token is not None:
                self._refresh_soon(name, found.token, compute, lifetime)
            return self._use(name, found.entry, found.outcome, ticket)
        if found.outcome is Outcome.WON:
            self._counters.misses += 1
            lease = _Lease(self, name.store, found.token)
            return await self._compute_and_store(name, lease, None, compute, lifetime, ticket)
        if found.outcome is Outcome.AWAY:
            self._counters.unknown += 1
            value = self._near_while_away(name.near, MISS)
            if value is not MISS:
                return value
        async with self._away:
            # Somebody may have filled it while we queued.
            value = self._near_get(name.near)
            if value is not MISS:
                return value
            self._counters.computations_away += 1
            value, _ = await self._call(compute)
            _, value = round_trip(value)
            if value is not None or lifetime.negative_ms:
                ttl_ms, stale_ms = self._life(value, lifetime)
                self._near_fill(name.near, ticket, value, ttl_ms, stale_ms)
            return value

    async def _drive(self, name: Name, steps: Generator[Any, Any, Claim]) -> Claim:
        started_s = 0.0
        answer: Reply | None = None
        try:
            while True:
                step = steps.send(answer)
                if type(step) is Pause:
                    if not started_s:
                        started_s = time.perf_counter()
                        self._counters.waits += 1
                    await asyncio.sleep(step.seconds)
                    answer = None
                elif type(step) is TakeOver:
                    answer = await self.store.cas_set(name.store, b"", step.token, self.lease_s)
                else:
                    answer = await self.store.get_or_lease(name.store, self.lease_s)
        except StopIteration as end:
            found: Claim = end.value
            return found
        finally:
            if started_s:
                self._counters.wait_time_s += time.perf_counter() - started_s

    async def _call(self, compute: Callable[[], Any]) -> tuple[Any, int]:
        """(value, milliseconds it took)."""
        self._counters.computations += 1
        started_s = time.perf_counter()
        try:
            value = compute()
            if inspect.isawaitable(value):
                value = await value
        except BaseException:
            self._counters.compute_errors += 1
            raise
        finally:
            took_s = time.perf_counter() - started_s
            self._counters.compute_time_s += took_s
        return value, round(took_s * 1000)

    async def _compute_and_store(
        self,
        name: Name,
        lease: _Lease,
        target: CasToken | None,
        compute: Callable[[], Any],
        lifetime: Lifetime,
        ticket: int,
    ) -> Any:
        """Compute under a lease and store with cas: over the lease's own stub (target None), or over a stale value."""
        try:
            value, compute_ms = await self._call(compute)
            payload, value = round_trip(value)
        except asyncio.CancelledError:
            lease.drop()
            raise
        except BaseException:
            # A failed refresh keeps its lock: the next try comes when it has run out, not with the next request.
            await (lease.release() if target is None else lease.end())
            raise
        if value is None and not lifetime.negative_ms:
            await lease.release()
            return None
        ttl_ms, stale_ms = self._life(value, lifetime)
        sealed = self._seal(name, payload, ttl_ms, stale_ms, compute_ms)
        if sealed is None:
            await lease.release()
            self._near_fill(name.near, ticket, value, ttl_ms, stale_ms)
            return value
        token = await lease.end()
        reply = await self.store.cas_set(name.store, sealed, target or token, store_ttl_s(ttl_ms, stale_ms))
        if reply.status == STORED:
            self._counters.stored += 1
            self._counters.bytes_written += len(sealed)
        elif reply.status in (EXISTS, NOT_FOUND):
            self._counters.overtaken += 1
        else:
            self._counters.unknown += 1
        if reply.status not in (EXISTS, NOT_FOUND):
            self._near_fill(name.near, ticket, value, ttl_ms, stale_ms)
        if target is not None:
            await lease.release()
        return value

    def _refresh_soon(self, name: Name, token: CasToken, compute: Callable[[], Any], lifetime: Lifetime) -> None:
        if name.near in self._refreshes or len(self._refreshes) >= REFRESHES_MAX or self._closed:
            return
        task = asyncio.get_running_loop().create_task(self._refresh(name, token, compute, lifetime))
        self._refreshes[name.near] = task
        task.add_done_callback(lambda _: self._refreshes.pop(name.near, None))

    async def _refresh(self, name: Name, token: CasToken, compute: Callable[[], Any], lifetime: Lifetime) -> None:
        """One process of the fleet refreshes a stale value: who gets the lock key's lease, and still finds it stale."""
        lock = name.store + ":r"
        ticket = self._near.begin_fill(name.near)
        locked = await self.store.get_or_lease(lock, self.lease_s)
        if locked.status != HIT or not locked.won or locked.token is None:
            return
        lease = _Lease(self, lock, locked.token)
        try:
            reply = await self.store.get(name.store)
        except BaseException:
            lease.drop()
            raise
        outcome, entry, _ = judge(reply, self._codec, name.digest, self._wall_ms())
        if outcome is not Outcome.STALE or entry is None or reply.token is None:
            await lease.release()
            if entry is not None:
                self._use(name, entry, outcome, ticket)
            return
        self._counters.refreshes += 1
        try:
            await self._compute_and_store(name, lease, reply.token, compute, lifetime, ticket)
        except Exception as error:  # of compute: nobody waits for it, the stale value serves on
            _log.warning("refresh of a stale value in namespace %s failed: %r", self.namespace, error)

    def _store(self) -> Memcached:
        self._check_open()
        return self.store
