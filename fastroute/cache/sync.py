"""SharedCache for threads: same names, same keys, values and leases as the asyncio one (shared.py); it blocks.

What it is: the blocking driver of core.py and its like: waiting, single flight over threads, the renewal of leases.

Both kinds share one cache: what one computes the other reads, and a key that a thread computes is not computed by a
task of another process, because both take part in the same leases (sync_store.py says how).

What differs:
  - A caller whose key is stale and who wins the refresh computes it in its own thread, before it returns: computations
    run where the application's thread-local state is. All others get the stale value at once.
  - One thread per cache, started with the first computation, renews the leases of computations that take long.
  - A caller that is interrupted (KeyboardInterrupt) ends its computation; those who waited for it compute again.

Rule of this file: the steps of reading.py, core.py and writing.py, and what they count, run under one lock. They never
wait; the store and `compute` are called without it. One thread may take it twice: freeing a near value runs any code.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from fastroute._core.mc_meta import homes_of, seed_of
from fastroute.cache.codec import COMPRESS_BYTES, OBJECT_BYTES_MAX
from fastroute.cache.generations import Tagged
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import HELD_S_MAX, LEASE_S, RENEW_RATIO, Lease, Lifetime
from fastroute.cache.memoize import memoize
from fastroute.cache.near import MISS, NEAR_TTL_S
from fastroute.cache.reading import Ask, Compute, Gather, Pause, Refresh, Steps, Version, Versioned
from fastroute.cache.shared import check_copies
from fastroute.cache.sync_store import BlockingNode
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX, Name
from fastroute.cache.values import Extension
from fastroute.cache.writing import Writing
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import UsageError
from fastroute.memcache.sync import Memcached
from fastroute.model import parse_duration_s

__all__ = ["SharedCache"]

T = TypeVar("T")


class _Flight:
    """A read or computation that is under way in this process; `done` is made by the first thread that joins."""

    __slots__ = ("done", "error", "thread", "value")

    def __init__(self) -> None:
        self.done: threading.Event | None = None
        self.error: BaseException | None = None
        self.value: Any = None
        self.thread = threading.get_ident()

    def result(self) -> Any:
        """What the other thread's flight came to."""
        assert self.done is not None
        self.done.wait()
        if self.error is not None:
            raise self.error
        return self.value


class _Again(Exception):
    """The thread that computed was interrupted: compute for yourself."""


class _Held:
    """A lease that is being renewed."""

    __slots__ = ("_lock", "began_s", "ended", "lease")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.began_s = time.monotonic()
        self.ended = False
        self._lock = threading.Lock()

    def renew(self, lease_s: float) -> None:
        with self._lock:
            if self.ended or time.monotonic() - self.began_s > HELD_S_MAX:
                return
            lease = self.lease
            if not lease.renewed(lease.home.cas_set(lease.key, b"", lease.token, lease_s)):
                self.ended = True

    def end(self) -> None:
        """No renewal after this, one under way included."""
        with self._lock:
            self.ended = True


class _Renewer:
    """The thread that renews leases each quarter of their life; it sleeps while there is none."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._wake = threading.Condition()
        self._held: set[_Held] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, held: _Held) -> None:
        with self._wake:
            self._held.add(held)
            if self._thread is None or not self._thread.is_alive():  # none yet, or left behind by a fork
                self._thread = threading.Thread(target=self._run, name="fastroute-cache-leases", daemon=True)
                self._thread.start()
            self._wake.notify()

    def remove(self, held: _Held) -> None:
        with self._wake:
            self._held.discard(held)

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
                    self._wake.wait(self._lease_s * RENEW_RATIO / 2 if self._held else None)
                if self._closed:
                    return
                held = list(self._held)
            now_s = time.monotonic()
            for one in held:
                if now_s - one.began_s >= self._lease_s * RENEW_RATIO:
                    one.renew(self._lease_s)


class SharedCache(Writing):
    """Values shared by all processes that use the same memcached, fleet and namespace.

    Args:
        store: a fastroute.memcache.sync.Memcached; it stays the caller's to close.
        namespace, near_bytes, secret, fleet, near_ttl, lease, copies, extensions, compress_bytes, object_bytes_max,
            away_computations_max, strict, clock: as fastroute.SharedCache.

    Raises:
        UsageError: an argument that is not accepted.

    Notes: safe with threads, and usable after a fork. A context manager.
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
        copies: int = 1,
        extensions: Iterable[Extension] = (),
        compress_bytes: int | str = COMPRESS_BYTES,
        object_bytes_max: int | str = OBJECT_BYTES_MAX,
        away_computations_max: int = AWAY_COMPUTATIONS_MAX,
        strict: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(
            namespace=namespace,
            near_bytes=near_bytes,
            secret=secret,
            fleet=fleet,
            near_ttl=near_ttl,
            lease=lease,
            extensions=extensions,
            compress_bytes=compress_bytes,
            object_bytes_max=object_bytes_max,
            away_computations_max=away_computations_max,
            strict=strict,
            clock=clock,
        )
        self.store = store
        self._nodes = tuple(BlockingNode(store, number) for number in range(len(store.names)))
        self._copies = check_copies(copies, len(self._nodes))
        self._seeds = tuple(seed_of(name) for name in store.names)
        self._only_home = self._nodes[0] if len(self._nodes) == 1 else None
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._flights: dict[str | bytes, _Flight] = {}
        self._away = threading.BoundedSemaphore(self._away_max)
        self._renewer = _Renewer(self.lease_s)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            self._start()  # forked: threads of the parent may hold these locks for ever
        super()._check_open()

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
        stale_if_error: float | str = 0,
    ) -> T:
        """The value of a key; where there is none, one thread of one process of the fleet computes it for all.

        Arguments, result and errors as fastroute.SharedCache.get_or_compute; `compute` is a plain function.
        """
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if type(value) is Tagged:
            with self._lock:
                value = self._untag(near_key, value)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        lifetime = Lifetime.of(ttl, stale, negative_ttl, stale_if_error)
        while True:
            self._check_open()
            with self._lock:
                flight = self._flights.get(near_key)
                mine = flight is None
                if flight is None:
                    digests = self._generations.digests(tags) if tags else ()
                    name = self._name(near_key, key)
                    flight = self._flights[near_key] = _Flight()
                elif flight.thread == threading.get_ident():
                    raise UsageError(
                        f"the computation of cache key {key!r} asks for that key: it would wait for itself"
                    )
                else:
                    self._counters.joined += 1
                    flight.done = flight.done or threading.Event()
            if mine:
                return self._fly(flight, name, compute, lifetime, digests)  # type: ignore[no-any-return]
            try:
                return flight.result()  # type: ignore[no-any-return]
            except _Again:
                continue

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, fresh or within its stale time; else `default`."""
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if value is MISS or type(value) is Tagged:
            return self._run(self._steps_get_near(self._any_name(key), default))
        return value

    def _steps_get_near(self, name: Name, default: Any) -> Steps:
        value = self._near_value(name.near)
        if value is not MISS:
            return value
        return (yield from self._steps_get(name, default))

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those of the keys that have one."""
        self._check_open()
        found, missing = {}, {}
        for key in keys:
            near_key = key if type(key) is str else encode_key(key)
            with self._lock:
                value = self._near_value(near_key)
            if value is not MISS:
                found[key] = value
            else:
                missing[near_key] = key
        if missing:
            read = self._run(self._steps_get_many([self._name(near, key) for near, key in missing.items()]))
            found.update((missing[near_key], value) for near_key, value in read.items())
        return found

    def get_version(self, key: Key, default: Any = None) -> Versioned:
        """The value as the store has it now, with a version for `cas`. As fastroute.SharedCache.get_version."""
        return self._run(self._steps_get_version(self._any_name(key), default))  # type: ignore[no-any-return]

    def set(
        self,
        key: Key,
        value: object,
        *,
        ttl: float | str,
        stale: float | str = 0,
        tags: Sequence[str] = (),
        stale_if_error: float | str = 0,
    ) -> bool:
        """Store a value for everybody; True when the store confirmed it. Details as fastroute.SharedCache.set."""
        life = Lifetime.of(ttl, stale, 0, stale_if_error).life
        steps = self._steps_set(self._any_name(key), value, life, self._generations.digests(tags))
        return self._run(steps)  # type: ignore[no-any-return]

    def add(
        self, key: Key, value: object, *, ttl: float | str, stale: float | str = 0, tags: Sequence[str] = ()
    ) -> bool:
        """Store a value where there is none; True when the store confirmed it."""
        life = Lifetime.of(ttl, stale).life
        steps = self._steps_set_if(self._any_name(key), value, None, life, self._generations.digests(tags), "add")
        return self._run(steps)  # type: ignore[no-any-return]

    def cas(
        self,
        key: Key,
        value: object,
        version: Version | None,
        *,
        ttl: float | str,
        stale: float | str = 0,
        tags: Sequence[str] = (),
    ) -> bool:
        """Store a value if the key is as `version` saw it. Details as fastroute.SharedCache.cas."""
        if version is None:
            return False
        life = Lifetime.of(ttl, stale).life
        steps = self._steps_set_if(self._any_name(key), value, version, life, self._generations.digests(tags), "cas")
        return self._run(steps)  # type: ignore[no-any-return]

    def touch(self, key: Key, *, ttl: float | str, stale: float | str = 0) -> bool:
        """Begin a value's life again; False where there is none, or no answer."""
        return self._run(self._steps_touch(self._any_name(key), Lifetime.of(ttl, stale).life))  # type: ignore[no-any-return]

    def increment(self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: float | str = 0) -> int | None:
        """Add to the counter of a key and return it. Details as fastroute.SharedCache.increment."""
        ttl_s = parse_duration_s(ttl, name="ttl")
        return self._run(self._steps_increment(self._any_name(key), delta, initial, ttl_s))  # type: ignore[no-any-return]

    def delete(self, key: Key) -> bool:
        """Forget a key everywhere; True when the store confirmed it. Details as fastroute.SharedCache.delete."""
        return self._run(self._steps_delete(self._any_name(key)))  # type: ignore[no-any-return]

    def purge_tags(self, *tags: str) -> bool:
        """Forget every value that has one of these tags. Details as fastroute.SharedCache.purge_tags."""
        return self._run(self._steps_purge_tags(self._generations.digests(tags)))  # type: ignore[no-any-return]

    def purge_namespace(self) -> bool:
        """Forget every value of the namespace (not its counters): one request per node."""
        return self._run(self._steps_purge_namespace())  # type: ignore[no-any-return]

    def memoize(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Decorator: the function's results, by its arguments; see fastroute.cache.memoize."""
        return memoize(self, **options)

    # ------------------------------------------------------------------ placement

    def _homes(self, store_key: str) -> Sequence[BlockingNode]:
        if len(self._nodes) == 1:
            return self._nodes
        first = self.store.node_of(store_key)
        if self._copies == 1:
            return (self._nodes[first],)
        order = homes_of(store_key, self._seeds, min(self._copies + 1, len(self._nodes)))
        others = [self._nodes[index] for index in order if index != first]
        return (self._nodes[first], *others[: self._copies - 1])

    def _all_homes(self) -> Sequence[BlockingNode]:
        return self._nodes

    # ------------------------------------------------------------------ single flight

    def _forget(self, near_key: str | bytes) -> None:
        self._flights.pop(near_key, None)
        self._near.invalidate(near_key)

    def _forget_all(self) -> None:
        self._flights.clear()
        super()._forget_all()

    def _fly(
        self, flight: _Flight, name: Name, compute: Callable[[], Any], lifetime: Lifetime, digests: tuple[bytes, ...]
    ) -> Any:
        try:
            flight.value = self._first(name, compute, lifetime, digests)
            return flight.value
        except BaseException as error:
            flight.error = error if isinstance(error, Exception) else _Again()
            raise
        finally:
            with self._lock:
                if self._flights.get(name.near) is flight:
                    del self._flights[name.near]
                if flight.done is not None:
                    flight.done.set()

    def _first(self, name: Name, compute: Callable[[], Any], lifetime: Lifetime, digests: tuple[bytes, ...]) -> Any:
        """Ask the store once: mostly that is all; else the steps go on from its answer."""
        home = self._home(name.store)
        with self._lock:
            held = self._held(home)
            ticket = self._begin_fill(name)
        if held is None:  # the namespace's generation has to be asked for too
            return self._run(self._steps_fill(name, compute, lifetime, digests))
        started_s = time.perf_counter()
        reply = home.get_or_lease(name.store, self.lease_s)
        with self._lock:
            self._counters.read_time_s += time.perf_counter() - started_s
            value = self._glance(name, reply, ticket, held)
        if value is not MISS:
            return value
        return self._run(self._steps_fill(name, compute, lifetime, digests, ticket, home, reply))

    # ------------------------------------------------------------------ steps

    def _any_name(self, key: Key) -> Name:
        self._check_open()
        return self._name(key if type(key) is str else encode_key(key), key)

    def _run(self, steps: Steps) -> Any:
        """Carry steps out."""
        self._check_open()
        lock = self._lock
        answer: Any = None
        try:
            while True:
                with lock:
                    step = steps.send(answer)
                kind = type(step)
                while kind is Compute:
                    try:
                        answer = self._compute_now(step)
                        break
                    except Exception as error:
                        with lock:
                            step = steps.throw(error)
                        kind = type(step)
                if kind is Ask:
                    answer = step.function(*step.args)
                elif kind is Gather:
                    answer = [ask.function(*ask.args) for ask in step.asks]
                elif kind is Pause:
                    self._pause(step)
                    answer = None
                elif kind is Refresh:
                    answer = self._run(step.steps)
        except StopIteration as end:
            return end.value
        finally:
            with lock:
                steps.close()

    def _pause(self, step: Pause) -> None:
        started_s = time.perf_counter()
        time.sleep(step.seconds)
        with self._lock:
            self._counters.wait_time_s += time.perf_counter() - started_s

    def _compute_now(self, step: Compute) -> tuple[Any, int]:
        if step.lease is None:
            with self._away:
                with self._lock:
                    value = self._near_value(step.near_key)
                    if value is not MISS:
                        return value, -1
                    self._counters.computations_away += 1
                return self._call(step.compute)
        held = _Held(step.lease)
        self._renewer.add(held)
        try:
            return self._call(step.compute)
        except Exception:
            raise
        except BaseException:
            held.end()
            step.lease.home.delete(step.lease.key, step.lease.token)
            raise
        finally:
            self._renewer.remove(held)
            held.end()

    def _call(self, compute: Callable[[], Any]) -> tuple[Any, int]:
        """(value, milliseconds it took)."""
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
