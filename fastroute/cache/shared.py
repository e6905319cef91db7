"""SharedCache: one near and one far cache for all processes of a fleet, and one computation per key over all of them.

What it is: the asyncio driver of core.py and its like: waiting, single flight, tasks, the timers that renew leases.
Not here: what is asked and decided (core.py), what a value looks like in the store (codec.py), keys (keys.py), the
claim (lease.py), the near cache (near.py), blocking use (sync.py).

Rules of this file:
  - Values are shared, not copied: whoever gets one must not change it. Who computed it gets it decoded, as all others.
  - Near entries answer unasked for near_ttl at most (near.py): the bound of staleness between replicas. Own writes and
    deletes are seen at once in this process.
  - The first question to the store is answered in a callback, without a task: only what takes more gets one. It is not
    cancelled with its caller: its answer may be a lease, which has to be given back.
  - One object belongs to one event loop. It does not own its store: close that one yourself, after this.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from fastroute._core.mc_meta import homes_of, seed_of
from fastroute.cache.codec import COMPRESS_BYTES, OBJECT_BYTES_MAX
from fastroute.cache.generations import Tagged
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import HELD_S_MAX, LEASE_S, RENEW_RATIO, Lease, Lifetime
from fastroute.cache.memoize import memoize
from fastroute.cache.near import MISS, NEAR_TTL_S
from fastroute.cache.push import PushInvalidation, hub_of
from fastroute.cache.reading import Ask, Compute, Gather, Pause, Refresh, Steps, Version, Versioned
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX, Name
from fastroute.cache.values import Extension
from fastroute.cache.writing import Writing
from fastroute.clock import SYSTEM, Clock
from fastroute.errors import CacheError, UsageError
from fastroute.model import parse_duration_s

if TYPE_CHECKING:
    from fastroute.memcache.cluster import Memcached

__all__ = ["REFRESHES_MAX", "SharedCache", "check_copies"]

REFRESHES_MAX = 64
"""Refreshes in the background at once; beyond it the stale value is served and a later request refreshes it."""

COPIES_MAX = 3
"""Copies of a value: each more costs a write per value; three outlive two nodes that are away at once."""

T = TypeVar("T")


class _Flight:
    """A read or computation that is under way, who waits for it, and what it is about."""

    __slots__ = (
        "began_s",
        "compute",
        "digests",
        "held",
        "home",
        "lifetime",
        "name",
        "near_key",
        "task",
        "ticket",
        "waiters",
    )

    def __init__(self, name: Name, compute: Callable[[], Any], lifetime: Lifetime, digests: tuple[bytes, ...]) -> None:
        self.name, self.near_key = name, name.near
        self.compute, self.lifetime, self.digests = compute, lifetime, digests
        self.waiters: list[asyncio.Future[Any]] = []
        self.task: asyncio.Task[None] | None = None
        self.home: Any = None
        self.held: Any = None
        self.ticket = 0
        self.began_s = time.perf_counter()


_within: contextvars.ContextVar[tuple[_Flight, ...]] = contextvars.ContextVar("fastroute_cache_within", default=())


class _Renewal:
    """Renews a lease while we compute.

    Notes: a computation shorter than a quarter of the lease costs one timer handle and no task.
    """

    __slots__ = ("_done", "_handle", "_lease", "_lease_s", "_task")

    def __init__(self, lease: Lease, lease_s: float) -> None:
        self._lease, self._lease_s = lease, lease_s
        self._done: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._handle = asyncio.get_running_loop().call_later(lease_s * RENEW_RATIO, self._start)

    def _start(self) -> None:
        self._done = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._renew(self._done))

    async def _renew(self, done: asyncio.Event) -> None:
        lease, pause_s = self._lease, self._lease_s * RENEW_RATIO
        for _ in range(int(HELD_S_MAX / pause_s)):
            if not lease.renewed(await lease.home.cas_set(lease.key, b"", lease.token, self._lease_s)):
                return
            try:
                async with asyncio.timeout(pause_s):
                    await done.wait()
                return
            except TimeoutError:
                continue

    async def end(self) -> None:
        """Stop renewing, a renewal under way included."""
        self._handle.cancel()
        if self._task is not None and self._done is not None:
            self._done.set()
            await self._task

    def drop(self) -> None:
        """Give the lease back without waiting, for a task that is being cancelled."""
        self._handle.cancel()
        if self._task is not None:
            self._task.cancel()
        self._lease.home.delete(self._lease.key, self._lease.token)


class SharedCache(Writing):
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
        self._nodes = tuple(store.nodes)
        self._copies = check_copies(copies, len(self._nodes))
        self._seeds = tuple(seed_of(node.name) for node in self._nodes)
        self._alone = self._nodes[:1] if len(self._nodes) == 1 else None
        self._only_home = self._nodes[0] if len(self._nodes) == 1 else None
        self._flights: dict[str | bytes, _Flight] = {}
        self._refreshes: dict[str | bytes, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._away = asyncio.Semaphore(away_computations_max)
        self._watch = store.watch if watch is None else watch

    # ------------------------------------------------------------------ life

    async def aclose(self) -> None:
        """Stop what is under way (its callers get CacheError); the store stays open."""
        self._closed = True
        if self._push is not None:
            await hub_of(self.store, self.keys.fleet).leave(self._push)
        tasks = [*self._tasks, *self._refreshes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flight in list(self._flights.values()):
            self._land(flight, None, CacheError("the cache was closed while the value was read"))
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
        if flight is None:
            lifetime = Lifetime.of(ttl, stale, negative_ttl, stale_if_error)
            digests = self._generations.digests(tags) if tags else ()
            self._check_open()
            flight = _Flight(self._name(near_key, key), compute, lifetime, digests)
            self._begin(flight)
            self._flights[near_key] = flight
        else:
            if flight in _within.get():
                raise UsageError(
                    f"the computation of cache key {key!r} asks for the same key: it would wait for itself"
                )
            self._counters.joined += 1
        waiter = asyncio.get_running_loop().create_future()
        flight.waiters.append(waiter)
        try:
            return await waiter  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            flight.waiters.remove(waiter)
            if not flight.waiters:
                # Every caller has gone: nobody wants the value any more.
                self._remove(flight)
                if flight.task is not None:
                    flight.task.cancel()
            raise

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, fresh or within its stale time; else `default`. Computes nothing, waits for nobody."""
        near_key = key if type(key) is str else encode_key(key)
        value = self._near_value(near_key)
        if value is not MISS:
            return value
        self._check_open()
        name = self._name(near_key, key)
        home = self._home(name.store)
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

    # ------------------------------------------------------------------ placement

    def _homes(self, store_key: str) -> Sequence[Any]:
        if self._alone is not None:
            return self._alone
        first = self.store.node_of(store_key)
        if self._copies == 1:
            return (first,)
        order = homes_of(store_key, self._seeds, min(self._copies + 1, len(self._nodes)))
        others = [self._nodes[index] for index in order if self._nodes[index] is not first]
        return (first, *others[: self._copies - 1])

    def _all_homes(self) -> Sequence[Any]:
        return self._nodes

    # ------------------------------------------------------------------ single flight

    def _begin(self, flight: _Flight) -> None:
        name = flight.name
        home = flight.home = self._home(name.store)
        held = flight.held = self._held(home)
        if held is None:  # the namespace's generation has to be asked for too
            self._fly(flight, self._steps_fill(name, flight.compute, flight.lifetime, flight.digests))
            return
        flight.ticket = self._begin_fill(name)
        home.get_or_lease(name.store, self.lease_s).add_done_callback(functools.partial(self._answered, flight))

    def _answered(self, flight: _Flight, answer: asyncio.Future[Any]) -> None:
        """The first question has its answer: mostly that is all."""
        reply = answer.result()
        name = flight.name
        self._counters.read_time_s += time.perf_counter() - flight.began_s
        if not flight.waiters or self._closed:
            if reply.won:  # all have gone
                flight.home.delete(name.store, reply.token)
            return
        value = self._glance(name, reply, flight.ticket, flight.held)
        if value is not MISS:
            self._land(flight, value, None)
            return
        steps = self._steps_fill(
            name, flight.compute, flight.lifetime, flight.digests, flight.ticket, flight.home, reply
        )
        try:
            step = next(steps)
        except StopIteration as end:
            self._land(flight, end.value, None)
        except Exception as error:
            self._land(flight, None, error)
        else:
            self._fly(flight, steps, step)

    def _fly(self, flight: _Flight, steps: Steps, step: Any = None) -> None:
        task = flight.task = asyncio.get_running_loop().create_task(self._flown(flight, steps, step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flown(self, flight: _Flight, steps: Steps, step: Any) -> None:
        _within.set((*_within.get(), flight))
        try:
            value = await self._run(steps, step)
        except asyncio.CancelledError:
            self._land(flight, None, CacheError("the cache was closed while the value was computed"))
            raise
        except BaseException as error:
            self._land(flight, None, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._land(flight, value, None)

    def _land(self, flight: _Flight, value: Any, error: BaseException | None) -> None:
        self._remove(flight)
        for waiter in flight.waiters:
            if not waiter.done():
                if error is None:
                    waiter.set_result(value)
                else:
                    waiter.set_exception(error)

    def _remove(self, flight: _Flight) -> None:
        if self._flights.get(flight.near_key) is flight:
            del self._flights[flight.near_key]

    def _forget(self, near_key: str | bytes) -> None:
        self._flights.pop(near_key, None)
        self._near.invalidate(near_key)

    def _forget_all(self) -> None:
        self._flights.clear()
        super()._forget_all()

    # ------------------------------------------------------------------ steps

    def _any_name(self, key: Key) -> Name:
        self._check_open()
        return self._name(key if type(key) is str else encode_key(key), key)

    async def _run(self, steps: Steps, step: Any = None) -> Any:
        """Carry steps out, from the first one, or from one that was taken out already."""
        self._check_open()
        try:
            if step is None:
                step = next(steps)
            while True:
                kind = type(step)
                if kind is Ask:
                    answer = await (step.function(*step.args) if step.home is None else self._leased(step))
                elif kind is Gather:
                    answers = [ask.function(*ask.args) if ask.home is None else self._leased(ask) for ask in step.asks]
                    answer = await asyncio.gather(*answers)
                elif kind is Compute:
                    try:
                        answer = await self._compute_now(step)
                    except Exception as error:
                        step = steps.throw(error)
                        continue
                elif kind is Pause:
                    await self._pause(step)
                    answer = None
                else:
                    assert kind is Refresh
                    answer = MISS
                    self._refresh_soon(step)
                step = steps.send(answer)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    async def _leased(self, step: Ask) -> Any:
        """Ask what may win a lease: when nobody waits for the answer any more, what was won is given back."""
        answer = step.function(*step.args)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(functools.partial(_give_back, step))
            raise

    async def _pause(self, step: Pause) -> None:
        started_s = time.perf_counter()
        try:
            await asyncio.sleep(step.seconds)
        finally:
            self._counters.wait_time_s += time.perf_counter() - started_s

    async def _compute_now(self, step: Compute) -> tuple[Any, int]:
        if step.lease is None:
            async with self._away:
                # Somebody may have filled it while we queued.
                value = self._near_value(step.near_key)
                if value is not MISS:
                    return value, -1
                self._counters.computations_away += 1
                return await self._call(step.compute)
        renewal = _Renewal(step.lease, self.lease_s)
        try:
            answer = await self._call(step.compute)
        except asyncio.CancelledError:
            renewal.drop()
            raise
        except BaseException:
            await renewal.end()
            raise
        await renewal.end()
        return answer

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

    def _refresh_soon(self, step: Refresh) -> None:
        if step.near_key in self._refreshes or len(self._refreshes) >= REFRESHES_MAX or self._closed:
            step.steps.close()
            return
        task = asyncio.get_running_loop().create_task(self._run(step.steps))
        self._refreshes[step.near_key] = task
        task.add_done_callback(lambda _: self._refreshes.pop(step.near_key, None))


def _give_back(asked: Ask, answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and answer.result().won:
        asked.home.delete(asked.args[0], answer.result().token)


def check_copies(copies: int, nodes: int) -> int:
    """The number of copies, if these nodes can hold them.

    Raises:
        UsageError: they cannot.
    """
    if not isinstance(copies, int) or isinstance(copies, bool) or not 1 <= copies <= min(COPIES_MAX, nodes):
        raise UsageError(f"copies {copies!r} of a value on {nodes} nodes: accepted are 1 to {min(COPIES_MAX, nodes)}")
    return copies
