"""The asyncio driver of the shared cache: it carries out the steps of core.py and its like.

What it is: waiting, single flight, tasks, the timers that renew leases.
Not here: what is asked and decided (core.py, reading.py, writing.py), the calls of applications (shared.py), threads
(sync_driver.py).

Rules of this file:
  - The first question to the store is answered in a callback, without a task: only what takes more gets one. It is not
    cancelled with its caller: its answer may be a lease, which has to be given back.
  - One object belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastroute._core.cache_flight import Fill, Flight
from fastroute._core.mc_reply import STORED
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import HELD_S_MAX, RENEW_RATIO, Lease
from fastroute.cache.near import MISS
from fastroute.cache.placement import Placement
from fastroute.cache.reading import Ask, Compute, Gather, Pause, Refresh, Steps
from fastroute.cache.tiers import Name
from fastroute.cache.writing import Writing
from fastroute.errors import CacheError, UsageError

__all__ = ["REFRESHES_MAX", "Driver"]

REFRESHES_MAX = 64
"""Refreshes in the background at once; beyond it the stale value is served and a later request refreshes it."""


_within: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("fastroute_cache_within", default=())


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
            await asyncio.shield(self._task)

    def drop(self) -> None:
        """Give the lease back without waiting, for a task that is being cancelled."""
        self._handle.cancel()
        if self._task is None or self._done is None or self._task.done():
            self._lease.give_back()
        else:  # a renewal under way makes another token
            lease = self._lease
            lease.given_back = True
            self._done.set()
            self._task.add_done_callback(lambda _: lease.home.abandon(lease.key, lease.token))


class Driver(Writing):
    """Base of fastroute.SharedCache; arguments as its."""

    def __init__(self, *, placement: Placement, away_computations_max: int, **options: Any) -> None:
        super().__init__(away_computations_max=away_computations_max, **options)
        self._placement = placement
        self._flights: dict[str | bytes, Flight] = {}
        self._on_answer = self._answered
        self._refreshes: dict[str | bytes, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._away = asyncio.Semaphore(away_computations_max)

    async def _land_all(self) -> None:
        """End what is under way: its callers get CacheError."""
        if self._tasks:
            await asyncio.sleep(0)  # a task that never began could not give back what it holds
        tasks = [*self._tasks, *self._refreshes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flight in list(self._flights.values()):
            self._land(flight, None, CacheError("the cache was closed while the value was read"))

    # ------------------------------------------------------------------ single flight

    def _take_off(self, fill: Fill, waiter: asyncio.Future[Any]) -> Flight:
        """Begin to read a key of which nothing is under way in this process."""
        name = fill.name
        flight = Flight(self._on_answer, _soon, fill, name.near)
        flight.waiters.append(waiter)
        home = flight.home = self._placement.only or self._home(name.store)
        held = flight.held = self._held(home)
        if held is None:  # the namespace's generation has to be asked for too
            self._flights[name.near] = flight  # before: an eager task may land within the next line
            self._fly(flight, self._steps_fill(fill))
        else:
            self._take_ticket(fill)
            flight.context = contextvars.copy_context()
            flight.asking = True
            home.get_or_lease_into(name.store, self.lease_s, flight)
            flight.asking = False
            self._flights[name.near] = flight
        return flight

    def _board(self, flight: Flight, key: Key) -> None:
        """Count a caller that joins a flight.

        Raises:
            UsageError: it is called by that flight's own computation.
        """
        if flight in _within.get():
            raise UsageError(f"the computation of cache key {key!r} asks for the same key: it would wait for itself")
        self._counters.joined += 1

    def _leave(self, flight: Flight, waiter: asyncio.Future[Any]) -> None:
        """A caller was cancelled."""
        flight.waiters.remove(waiter)
        if not flight.waiters:
            # Every caller has gone: nobody wants the value any more.
            self._remove(flight)
            if flight.task is not None:
                # Not before it has begun: it may hold a lease, and only its own code gives that back.
                asyncio.get_running_loop().call_soon(flight.task.cancel)

    def _answered(self, flight: Flight, reply: Any) -> None:
        """The first question has its answer: mostly that is all. Called by who reads the connection: raises nothing."""
        fill, waiters = flight.fill, flight.waiters
        self._counters.read_time_s += flight.took_s()
        try:
            if not waiters or self._closed:
                if reply.won:
                    flight.home.delete(fill.name.store, reply.token)
                if waiters:  # _land_all knew nothing of a flight that a write had made forgotten
                    self._land(flight, None, CacheError("the cache was closed while the value was read"))
                return
            value = self._glance(fill.name, reply, fill.ticket, flight.held)
            if value is MISS:
                assert flight.context is not None
                flight.context.run(self._go_on, flight, reply)  # `compute` runs where its caller is
            else:
                self._land(flight, value, None)
        except Exception as error:
            self._land(flight, None, error)

    def _go_on(self, flight: Flight, reply: Any) -> None:
        """Take the steps that follow from the first answer."""
        steps = self._steps_fill(flight.fill, flight.home, reply)
        try:
            step = next(steps)
        except StopIteration as end:
            self._land(flight, end.value, None)
        except Exception as error:
            self._land(flight, None, error)
        else:
            self._fly(flight, steps, step)

    def _fly(self, flight: Flight, steps: Steps, step: Any = None) -> None:
        task = flight.task = asyncio.get_running_loop().create_task(self._flown(flight, steps, step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flown(self, flight: Flight, steps: Steps, step: Any) -> None:
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

    def _land(self, flight: Flight, value: Any, error: BaseException | None) -> None:
        self._remove(flight)
        for waiter in flight.waiters:
            if not waiter.done():
                if error is None:
                    waiter.set_result(value)
                else:
                    waiter.set_exception(error)

    def _remove(self, flight: Flight) -> None:
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
        if step is None:
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

    def _run_ahead(self, steps: Steps) -> Coroutine[Any, Any, Any]:
        """As _run, but the first requests are written to the store now, before whoever is awaited gets his turn."""
        self._check_open()
        step = next(steps)
        if type(step) is Gather:
            answers = [ask.function(*ask.args) for ask in step.asks]
            for node in self._placement.nodes:
                if node.codec.on_burst is not None:
                    node.codec.on_burst()
            step = Gather([Ask(functools.partial(_itself, answer), ()) for answer in answers])
        return self._run(steps, step)

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
        try:
            await renewal.end()
        except asyncio.CancelledError:
            renewal.drop()
            raise
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


def _soon(answered: Callable[[Flight, Any], None], flight: Flight, reply: Any) -> None:
    # Answered without being sent: the caller does not wait yet.
    asyncio.get_running_loop().call_soon(answered, flight, reply)


def _itself(answer: asyncio.Future[Any]) -> asyncio.Future[Any]:
    return answer


def _give_back(asked: Ask, answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        reply = answer.result()
        if reply.won or reply.status == STORED:  # a stub left, or put over what could not be used
            asked.home.delete(asked.args[0], reply.token)
