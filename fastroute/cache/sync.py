"""SharedCache for threads: same names, same keys, values and leases as the asyncio one (shared.py); it blocks.

What it is: the calls that applications make, for threads.
Not here: how they are carried out (sync_driver.py), what is asked and decided (core.py).

Both kinds share one cache: what one computes the other reads, and a key that a thread computes is not computed by a
task of another process, because both take part in the same leases (sync_store.py says how).

What differs:
  - A caller whose key is stale and who wins the refresh computes it in its own thread, before it returns: computations
    run where the application's thread-local state is. All others get the stale value at once.
  - One thread per cache, started with the first computation, renews the leases of computations that take long.
  - A caller that is interrupted (KeyboardInterrupt) ends its computation; those who waited for it compute again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from fastroute._core.cache_flight import Fill
from fastroute.cache.codec import COMPRESS_BYTES, OBJECT_BYTES_MAX
from fastroute.cache.generations import Tagged
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import LEASE_S, Lifetime
from fastroute.cache.memoize import memoize
from fastroute.cache.near import MISS, NEAR_TTL_S
from fastroute.cache.placement import Placement
from fastroute.cache.push_thread import ThreadedPush, thread_of
from fastroute.cache.reading import Steps, Version, Versioned
from fastroute.cache.sync_driver import Driver
from fastroute.cache.sync_store import BlockingNode
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX, Name
from fastroute.cache.values import Extension
from fastroute.clock import SYSTEM, Clock
from fastroute.memcache.forks import forks
from fastroute.memcache.sync import Memcached
from fastroute.model import parse_duration_s

__all__ = ["SharedCache"]

T = TypeVar("T")


class SharedCache(Driver):
    """Values shared by all processes that use the same memcached, fleet and namespace.

    Args:
        store: a fastroute.memcache.sync.Memcached; it stays the caller's to close.
        namespace, near_bytes, secret, fleet, near_ttl, lease, copies, extensions, compress_bytes, object_bytes_max,
            away_computations_max, strict, clock: as fastroute.SharedCache.
        watch: whether to follow the nodes' announcements in a thread, so that writes of others are seen within
            milliseconds. It begins with `with`, or with start(), and again in a process that was forked after that.

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
        watch: bool = True,
        extensions: Iterable[Extension] = (),
        compress_bytes: int | str = COMPRESS_BYTES,
        object_bytes_max: int | str = OBJECT_BYTES_MAX,
        away_computations_max: int = AWAY_COMPUTATIONS_MAX,
        strict: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(
            placement=Placement(
                [BlockingNode(store, number) for number in range(store.count)], store.names[: store.count], copies
            ),
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
        self._watch = watch

    def start(self) -> SharedCache:
        """Begin to follow the nodes' announcements, where `watch` allows it; returns itself."""
        self._check_open()
        if self._watch and self._push is None and self._near_bytes:
            with self._lock:
                self._join_push()
        return self

    def _join_push(self) -> None:
        push = self._push = ThreadedPush(self)
        thread_of(self.store, self.keys.fleet).join(push)

    def _start(self) -> None:
        super()._start()
        if self._push is not None:  # forked: the thread is the parent's
            self._near.clear()
            self._join_push()

    def close(self) -> None:
        """Stop renewing and watching, and forget near values; the store stays open."""
        self._closed = True
        if isinstance(self._push, ThreadedPush) and self._born == forks.count:
            thread_of(self.store, self.keys.fleet).leave(self._push)
        self._renewer.close()
        self._near.clear()

    def __enter__(self) -> SharedCache:
        return self.start()

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
            self._check_open()  # after a fork this lock may be held for ever
            with self._lock:
                value = self._untag(near_key, value)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        lifetime = Lifetime.of(ttl, stale, negative_ttl, stale_if_error)
        digests = self._generations.digests(tags) if tags else ()
        return self._fetch(key, Fill(self._any_name(key), compute, lifetime, digests))  # type: ignore[no-any-return]

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, fresh or within its stale time; else `default`."""
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if value is not MISS and type(value) is not Tagged:
            return value
        name = self._any_name(key)
        if value is not MISS:
            return self._run(self._steps_get_near(name, default))
        lock = self._lock
        home = self._placement.only or self._home(name.store)
        with lock:
            held = self._held(home)
            ticket = self._begin_fill(name)
        if held is None:
            return self._run(self._steps_get(name, default))
        reply = home.get(name.store)
        with lock:
            value = self._glance(name, reply, ticket, held)
        if value is not MISS:
            return value
        return self._run(self._steps_get(name, default, ticket, home, reply))

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
