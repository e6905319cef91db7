"""SharedCache for threads: same names, same keys, values and leases as the asyncio one (shared.py); it blocks.

Both kinds share one cache: what one computes the other reads, and a key that a thread computes is not computed by a
task of another process, because both take part in the same leases (lease.py; sync_store.py says how).

What differs:
  - A caller whose key is stale and who wins the refresh computes it in its own thread, before it returns: computations
    run where the application's thread-local state is. All others get the stale value at once.
  - One thread per cache, started with the first computation, renews the leases of computations that take long.
  - A caller that is interrupted (KeyboardInterrupt) ends its computation; those who waited for it compute again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from fastroute._core.mc_reply import DELETED, EXISTS, HIT, NOT_FOUND, STORED, CasToken
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
from fastroute.cache.sync_store import BlockingStore, StoreReply
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX, Name, Tiers
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.memcache.sync import Memcached

__all__ = ["SharedCache"]

T = TypeVar("T")
_log = logging.getLogger("fastroute.cache")


class _Flight:
    """A read or computation that is under way in this process."""

    __slots__ = ("future", "thread")

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.thread = threading.get_ident()


class _Again(Exception):
    """The thread that computed was interrupted: compute for yourself."""


class _Lease:
    """A stub of ours in the store."""

    __slots__ = ("_lock", "began_s", "ended", "key", "token")

    def __init__(self, key: str, token: CasToken) -> None:
        self.key, self.token = key, token
        self.began_s = time.monotonic()
        self.ended = False
        self._lock = threading.Lock()

    def renew(self, store: BlockingStore, lease_s: float) -> None:
        with self._lock:
            if self.ended or time.monotonic() - self.began_s > HELD_S_MAX:
                return
            reply = store.cas_set(self.key, b"", self.token, lease_s)
            if reply.status == STORED and reply.token is not None:
                self.token = reply.token
            elif reply.status in (EXISTS, NOT_FOUND):
                self.ended = True

    def end(self) -> CasToken:
        """No renewal after this, one under way included; the token that is valid now."""
        with self._lock:
            self.ended = True
            return self.token


class _Renewer:
    """The thread that renews leases each quarter of their life; it sleeps while there is none."""

    def __init__(self, store: BlockingStore, lease_s: float) -> None:
        self._store, self._lease_s = store, lease_s
        self._wake = threading.Condition()
        self._leases: set[_Lease] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, lease: _Lease) -> None:
        with self._wake:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():  # none yet, or left behind by a fork
                self._thread = threading.Thread(target=self._run, name="fastroute-cache-leases", daemon=True)
                self._thread.start()
            self._wake.notify()

    def remove(self, lease: _Lease) -> None:
        with self._wake:
            self._leases.discard(lease)

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._closed:
                    self._wake.wait(self._lease_s * RENEW_RATIO / 2 if self._leases else None)
                if self._closed:
                    return
                leases = list(self._leases)
            now_s = time.monotonic()
            for lease in leases:
                if now_s - lease.began_s >= self._lease_s * RENEW_RATIO:
                    lease.renew(self._store, self._lease_s)


class SharedCache(Tiers):
    """Values shared by all processes that use the same memcached, fleet and namespace.

    Args:
        store: a fastroute.memcache.sync.Memcached; it stays the caller's to close.
        namespace, near_bytes, secret, fleet, near_ttl, lease, clock: as fastroute.SharedCache.

    Raises:
        UsageError: an argument that is not accepted.

    Notes: safe with threads. A context manager.
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
        self.store = BlockingStore(store)
        self._lock = threading.Lock()  # of the flights and the counters
        self._flights: dict[str | bytes, _Flight] = {}
        self._away = threading.BoundedSemaphore(AWAY_COMPUTATIONS_MAX)
        self._renewer = _Renewer(self.store, self.lease_s)

    def close(self) -> None:
        """Stop renewing and forget near values; the store stays open."""
        self._closed = True
        self._renewer.close()
        self._near.clear()

    def __enter__(self) -> SharedCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ requests

    def get_or_compute(
        self,
        key: Key,
        compute: Callable[[], T],
        *,
        ttl: float | str,
        stale: float | str = 0,
        tags: Sequence[str] = (),
        negative_ttl: float | str = 0,
    ) -> T:
        """The value of a key; where there is none, one thread of one process of the fleet computes it for all.

        Arguments, result and errors as fastroute.SharedCache.get_or_compute; `compute` is a plain function.
        """
        if tags:
            raise UsageError("tags of a cached value: not available yet")
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        lifetime = Lifetime.of(ttl, stale, negative_ttl)
        while True:
            self._check_open()
            with self._lock:
                flight = self._flights.get(near_key)
                mine = flight is None
                if flight is None:
                    flight = self._flights[near_key] = _Flight()
                elif flight.thread == threading.get_ident():
                    raise UsageError(
                        f"the computation of cache key {key!r} asks for that key: it would wait for itself"
                    )
                else:
                    self._counters.joined += 1
            if mine:
                return self._fly(flight, near_key, key, compute, lifetime)  # type: ignore[no-any-return]
            try:
                return flight.future.result()  # type: ignore[no-any-return]
            except _Again:
                continue

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, fresh or within its stale time; else `default`."""
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if value is not MISS:
            return value
        self._check_open()
        name = self._name(near_key, key)
        ticket = self._near.begin_fill(near_key)
        reply = self.store.get(name.store)
        outcome, entry, reason = judge(reply, self._codec, name.digest, self._wall_ms())
        with self._lock:
            if entry is not None:
                return self._use(name, entry, outcome, ticket)
            if outcome is Outcome.AWAY:
                self._counters.unknown += 1
                return self._near_while_away(near_key, default)
            if reason and reason != "absent":
                self._counters.rejected[reason] += 1
            self._counters.misses += 1
            return default

    def set(self, key: Key, value: object, *, ttl: float | str, stale: float | str = 0) -> bool:
        """Store a value for everybody; True when the store confirmed it. Details as fastroute.SharedCache.set."""
        near_key = key if type(key) is str else encode_key(key)
        lifetime = Lifetime.of(ttl, stale)
        payload, value = round_trip(value)
        self._check_open()
        name = self._name(near_key, key)
        self._forget(near_key)
        with self._lock:
            sealed = self._seal(name, payload, lifetime.ttl_ms, lifetime.stale_ms, 0)
        if sealed is None:
            self.store.expire_key(name.store)
            self._near.invalidate(near_key)
            return False
        ticket = self._near.begin_fill(near_key)
        reply = self.store.set(name.store, sealed, store_ttl_s(lifetime.ttl_ms, lifetime.stale_ms))
        with self._lock:
            if reply.status != STORED:
                self._counters.unknown += 1
                self._near.invalidate(near_key)
                return False
            self._counters.stored += 1
            self._counters.bytes_written += len(sealed)
        self._near_fill(near_key, ticket, value, lifetime.ttl_ms, lifetime.stale_ms)
        return True

    def delete(self, key: Key) -> bool:
        """Forget a key everywhere; True when the store confirmed it. Details as fastroute.SharedCache.delete."""
        near_key = key if type(key) is str else encode_key(key)
        self._check_open()
        name = self._name(near_key, key)
        self._forget(near_key)
        reply = self.store.expire_key(name.store)
        self._near.invalidate(near_key)
        confirmed = reply.status in (STORED, DELETED, NOT_FOUND)
        with self._lock:
            self._counters.unknown += not confirmed
        return confirmed

    # ------------------------------------------------------------------ single flight and computation

    def _forget(self, near_key: str | bytes) -> None:
        with self._lock:
            self._flights.pop(near_key, None)
        self._near.invalidate(near_key)

    def _fly(
        self, flight: _Flight, near_key: str | bytes, key: Key, compute: Callable[[], Any], lifetime: Lifetime
    ) -> Any:
        try:
            value = self._fill(self._name(near_key, key), compute, lifetime)
        except BaseException as error:
            flight.future.set_exception(error if isinstance(error, Exception) else _Again())
            raise
        else:
            flight.future.set_result(value)
            return value
        finally:
            with self._lock:
                if self._flights.get(near_key) is flight:
                    del self._flights[near_key]

    def _fill(self, name: Name, compute: Callable[[], Any], lifetime: Lifetime) -> Any:
        ticket = self._near.begin_fill(name.near)
        found = self._drive(name)
        with self._lock:
            self._counters.rejected.update(found.rejected)
            self._counters.misses += found.outcome is Outcome.WON
            self._counters.unknown += found.outcome is Outcome.AWAY
            value = self._use(name, found.entry, found.outcome, ticket) if found.entry is not None else None
        if found.entry is not None:
            return value if found.outcome is Outcome.FRESH else self._refresh(name, value, compute, lifetime)
        if found.outcome is Outcome.WON:
            return self._compute_and_store(name, _Lease(name.store, found.token), None, compute, lifetime, ticket)
        if found.outcome is Outcome.AWAY:
            with self._lock:
                value = self._near_while_away(name.near, MISS)
            if value is not MISS:
                return value
        with self._away:
            with self._lock:
                self._counters.computations_away += 1
            value, _ = self._call(compute)
            _, value = round_trip(value)
            if value is not None or lifetime.negative_ms:
                self._near_fill(name.near, ticket, value, *self._life(value, lifetime))
            return value

    def _drive(self, name: Name) -> Claim:
        steps = claim(self._codec, name.digest, now_ms=self._wall_ms)
        started_s = 0.0
        answer: StoreReply | None = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Pause):
                    started_s = started_s or time.perf_counter()
                    time.sleep(step.seconds)
                    answer = None
                elif isinstance(step, TakeOver):
                    answer = self.store.cas_set(name.store, b"", step.token, self.lease_s)
                else:
                    answer = self.store.get_or_lease(name.store, self.lease_s)
        except StopIteration as end:
            found: Claim = end.value
            return found
        finally:
            if started_s:
                with self._lock:
                    self._counters.waits += 1
                    self._counters.wait_time_s += time.perf_counter() - started_s

    def _call(self, compute: Callable[[], Any]) -> tuple[Any, int]:
        started_s = time.perf_counter()
        failed = True
        try:
            value = compute()
            failed = False
        finally:
            took_s = time.perf_counter() - started_s
            with self._lock:
                self._counters.computations += 1
                self._counters.compute_errors += failed
                self._counters.compute_time_s += took_s
        return value, round(took_s * 1000)

    def _compute_and_store(
        self,
        name: Name,
        lease: _Lease,
        target: CasToken | None,
        compute: Callable[[], Any],
        lifetime: Lifetime,
        ticket: int,
    ) -> Any:
        """Compute under a lease and store with cas: over the lease's own stub (target None), or over a stale value."""
        self._renewer.add(lease)
        try:
            value, compute_ms = self._call(compute)
            payload, value = round_trip(value)
        except BaseException:
            if target is None:
                self.store.delete(lease.key, lease.end())
            raise
        finally:
            self._renewer.remove(lease)
            token = lease.end()
        if value is None and not lifetime.negative_ms:
            self.store.delete(lease.key, token)
            return None
        ttl_ms, stale_ms = self._life(value, lifetime)
        with self._lock:
            sealed = self._seal(name, payload, ttl_ms, stale_ms, compute_ms)
        if sealed is None:
            self.store.delete(lease.key, token)
            self._near_fill(name.near, ticket, value, ttl_ms, stale_ms)
            return value
        reply = self.store.cas_set(name.store, sealed, target or token, store_ttl_s(ttl_ms, stale_ms))
        overtaken = reply.status in (EXISTS, NOT_FOUND)
        with self._lock:
            self._counters.overtaken += overtaken
            self._counters.unknown += not overtaken and reply.status != STORED
            if reply.status == STORED:
                self._counters.stored += 1
                self._counters.bytes_written += len(sealed)
        if not overtaken:
            self._near_fill(name.near, ticket, value, ttl_ms, stale_ms)
        if target is not None:
            self.store.delete(lease.key, token)
        return value

    def _refresh(self, name: Name, old: Any, compute: Callable[[], Any], lifetime: Lifetime) -> Any:
        """Who gets the lock key's lease and still finds the value stale computes it; all others return the old one."""
        lock = name.store + ":r"
        ticket = self._near.begin_fill(name.near)
        locked = self.store.get_or_lease(lock, self.lease_s)
        if locked.status != HIT or not locked.won or locked.token is None:
            return old
        reply = self.store.get(name.store)
        outcome, entry, _ = judge(reply, self._codec, name.digest, self._wall_ms())
        if outcome is not Outcome.STALE or reply.token is None:
            self.store.delete(lock, locked.token)
            if entry is None:
                return old
            with self._lock:
                return self._use(name, entry, outcome, ticket)
        with self._lock:
            self._counters.refreshes += 1
        try:
            lease = _Lease(lock, locked.token)
            return self._compute_and_store(name, lease, reply.token, compute, lifetime, ticket)
        except Exception as error:  # of compute: the stale value serves on, and the lock stays until it runs out
            _log.warning("refresh of a stale value in namespace %s failed: %r", self.namespace, error)
            return old
