"""SharedCache: one near and one far cache for all processes of a fleet, and one computation per key over all of them.

What it is: the calls that applications make, for asyncio.
Not here: how they are carried out (driver.py), what is asked and decided (core.py), what a value looks like in the
store (codec.py), keys (keys.py), the claim (lease.py), the near cache (near.py), blocking use (sync.py).

Rules of this file:
  - Values are shared, not copied: whoever gets one must not change it. Who computed it gets it decoded, as all others.
  - Near entries answer unasked for near_ttl at most (near.py): the bound of staleness between replicas. Own writes and
    deletes are seen at once in this process.
  - One object belongs to one event loop. It does not own its store: close that one yourself, after this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from fastroute._core.cache_flight import Fill
from fastroute.cache.codec import COMPRESS_BYTES, OBJECT_BYTES_MAX
from fastroute.cache.driver import Driver
from fastroute.cache.generations import Tagged
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import LEASE_S, Lifetime
from fastroute.cache.memoize import memoize
from fastroute.cache.near import MISS, NEAR_TTL_S
from fastroute.cache.placement import Placement
from fastroute.cache.push import PushInvalidation, hub_of
from fastroute.cache.reading import Version, Versioned
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX
from fastroute.cache.values import Extension
from fastroute.clock import SYSTEM, Clock
from fastroute.model import parse_duration_s

if TYPE_CHECKING:
    from fastroute.memcache.cluster import Memcached

__all__ = ["SharedCache"]

T = TypeVar("T")


class SharedCache(Driver):
    """Values shared by all processes that use the same store, fleet and namespace.

    Args:
        store: the store, a fastroute.Memcached.
        namespace: 1-64 characters of A-Za-z0-9._:- ; keys of two namespaces never meet.
        near_bytes: budget of the near cache, "64MiB" or bytes; 0 turns it off.
        secret: None, or at least 32 bytes with which stored values are authenticated; a sequence is a key ring.
        fleet: prefix of every key in the store.
        near_ttl: how long a near value answers without asking the store: the bound of staleness.
        lease: how long the others wait for a process that died while computing, 2 s to 5 minutes.
        copies: nodes that hold each value, 1 to 3: with 2, the loss of a node costs no value.
        watch: whether to follow the nodes' announcements, so that writes of others are seen within milliseconds; None
            as the store says. It begins with `async with`.
        extensions: types of the application's own (fastroute.cache.Extension).
        compress_bytes: packed values from this length on are compressed; 0 turns it off.
        object_bytes_max: longest packed value; what is longer is computed and not stored.
        away_computations_max: computations at once while the store is away; one per key in any case.
        strict: raise CacheError where the store did not answer, in place of defaults, False and own computations.
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
        copies: int = 1,
        watch: bool | None = None,
        extensions: Iterable[Extension] = (),
        compress_bytes: int | str = COMPRESS_BYTES,
        object_bytes_max: int | str = OBJECT_BYTES_MAX,
        away_computations_max: int = AWAY_COMPUTATIONS_MAX,
        strict: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        nodes = store.nodes[: store.count]
        super().__init__(
            placement=Placement(nodes, [node.name for node in nodes], copies),
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
        self._watch = store.watch if watch is None else watch

    # ------------------------------------------------------------------ life

    async def aclose(self) -> None:
        """Stop what is under way (its callers get CacheError); the store stays open."""
        self._closed = True
        if self._push is not None:
            await hub_of(self.store, self.keys.fleet).leave(self._push)
        await self._land_all()
        self._near.clear()

    async def __aenter__(self) -> SharedCache:
        if self._watch and self._push is None and self._near_bytes:
            self._push = PushInvalidation(self)
            hub_of(self.store, self.keys.fleet).join(self._push)
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
        stale_if_error: float | str = 0,
    ) -> T:
        """The value of a key; where there is none, one process of the fleet computes it for all.

        Args:
            key: str, bytes, or a tuple of plain values.
            compute: called without arguments; returns the value or an awaitable of it. A plain function runs on the
                event loop: one that blocks longer than the lease is computed by others too.
            ttl: how long the value is fresh. Near its end one reader refreshes it early: hot keys do not expire.
            stale: how long after that it may still be served, while it is refreshed or the store is away.
            tags: names under which it can be purged together with others (purge_tags).
            negative_ttl: how long None is kept as a value; with 0 it is not kept.
            stale_if_error: how long after ttl the value may be served when `compute` raises; the error is logged.

        Returns:
            The value. It is shared with other callers: do not change it.

        Raises:
            UsageError: an argument, or a computed value, that is not accepted.
            CacheError: the cache was closed meanwhile; with strict, the store did not answer.
            Exception: what compute raised, in every caller that waited for it in this process. Other processes that
                waited compute for themselves, one after the other.
        """
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_get(near_key)
        if type(value) is Tagged:
            value = self._untag(near_key, value)
        if value is not MISS:
            return value  # type: ignore[no-any-return]
        flight = self._flights.get(near_key)
        waiter = asyncio.get_running_loop().create_future()
        if flight is None:
            lifetime = Lifetime.of(ttl, stale, negative_ttl, stale_if_error)
            digests = self._generations.digests(tags) if tags else ()
            if self._closed:
                self._check_open()
            flight = self._take_off(
                Fill(self._names.get(near_key) or self._name(near_key, key), compute, lifetime, digests), waiter
            )
        else:
            self._board(flight, key)
            flight.waiters.append(waiter)
        try:
            return await waiter  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._leave(flight, waiter)
            raise

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, fresh or within its stale time; else `default`. Computes nothing, waits for nobody."""
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_value(near_key)
        if value is not MISS:
            return value
        self._check_open()
        name = self._names.get(near_key) or self._name(near_key, key)
        home = self._placement.only or self._home(name.store)
        held = self._held(home)
        if held is None:
            return await self._run(self._steps_get(name, default))
        ticket = self._begin_fill(name)
        reply = await home.get(name.store)
        value = self._glance(name, reply, ticket, held)
        if value is not MISS:
            return value
        return await self._run(self._steps_get(name, default, ticket, home, reply))

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those of the keys that have one, asked for at once."""
        found, missing = {}, {}
        for key in keys:
            near_key = key if type(key) is str else encode_key(key)
            value = self._near_value(near_key)
            if value is not MISS:
                found[key] = value
            else:
                missing[near_key] = key
        if missing:
            read = await self._run(self._steps_get_many([self._name(near, key) for near, key in missing.items()]))
            found.update((missing[near_key], value) for near_key, value in read.items())
        return found

    async def get_version(self, key: Key, default: Any = None) -> Versioned:
        """The value as the store has it now, never the near one, with a version for `cas`.

        A key without a value has a version too: `cas` then stores only if there still is none.
        """
        return await self._run(self._steps_get_version(self._any_name(key), default))  # type: ignore[no-any-return]

    async def set(
        self,
        key: Key,
        value: object,
        *,
        ttl: float | str,
        stale: float | str = 0,
        tags: Sequence[str] = (),
        stale_if_error: float | str = 0,
    ) -> bool:
        """Store a value for everybody; True when the store confirmed it.

        False: the store is away or did not answer (it may have stored it), or the value is too large; then no near
        value is left in this process.

        Raises:
            UsageError: an argument that is not accepted.
        """
        life = Lifetime.of(ttl, stale, 0, stale_if_error).life
        steps = self._steps_set(self._any_name(key), value, life, self._generations.digests(tags))
        return await self._run(steps)  # type: ignore[no-any-return]

    async def add(
        self, key: Key, value: object, *, ttl: float | str, stale: float | str = 0, tags: Sequence[str] = ()
    ) -> bool:
        """Store a value where there is none; True when the store confirmed it."""
        life = Lifetime.of(ttl, stale).life
        steps = self._steps_set_if(self._any_name(key), value, None, life, self._generations.digests(tags), "add")
        return await self._run(steps)  # type: ignore[no-any-return]

    async def cas(
        self,
        key: Key,
        value: object,
        version: Version | None,
        *,
        ttl: float | str,
        stale: float | str = 0,
        tags: Sequence[str] = (),
    ) -> bool:
        """Store a value if the key is as `version` (of get_version) saw it; True when the store confirmed it.

        False also where the version is None, and where the connection that it came from is gone: read again.
        """
        if version is None:
            return False
        life = Lifetime.of(ttl, stale).life
        steps = self._steps_set_if(self._any_name(key), value, version, life, self._generations.digests(tags), "cas")
        return await self._run(steps)  # type: ignore[no-any-return]

    async def touch(self, key: Key, *, ttl: float | str, stale: float | str = 0) -> bool:
        """Begin a value's life again; False where there is none, or no answer."""
        steps = self._steps_touch(self._any_name(key), Lifetime.of(ttl, stale).life)
        return await self._run(steps)  # type: ignore[no-any-return]

    async def increment(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: float | str = 0
    ) -> int | None:
        """Add to the counter of a key and return it; None where there is none and no `initial`, or no answer.

        A counter is apart from the key's value: `get` does not see it, no tag purges it, `delete` removes it. It has 64
        bits, and a negative delta stops at 0. With delta 0 it is read.

        Args:
            key: as everywhere.
            delta: -(2**64 - 1) to 2**64 - 1.
            initial: the number where there is none; delta is not added to it.
            ttl: life of a counter that is made so, 0 for no end.
        """
        steps = self._steps_increment(self._any_name(key), delta, initial, parse_duration_s(ttl, name="ttl"))
        return await self._run(steps)  # type: ignore[no-any-return]

    async def delete(self, key: Key) -> bool:
        """Forget a key everywhere; True when the store confirmed it.

        Computations that are under way anywhere still answer their callers, but are not stored. Other processes may
        serve their near value for near_ttl more.
        """
        return await self._run(self._steps_delete(self._any_name(key)))  # type: ignore[no-any-return]

    async def purge_tags(self, *tags: str) -> bool:
        """Forget every value that has one of these tags: one request per tag, whatever the number of values.

        True when the store confirmed it. Other processes may serve near values for near_ttl more.
        """
        return await self._run(self._steps_purge_tags(self._generations.digests(tags)))  # type: ignore[no-any-return]

    async def purge_namespace(self) -> bool:
        """Forget every value of the namespace (not its counters): one request per node."""
        return await self._run(self._steps_purge_namespace())  # type: ignore[no-any-return]

    def memoize(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Decorator: the function's results, by its arguments; see fastroute.cache.memoize."""
        return memoize(self, **options)
