"""The blocking driver of the shared cache: it carries out the steps of core.py and its like, for threads.

What it is: waiting, single flight over threads, the thread that renews leases.
Not here: what is asked and decided (core.py, reading.py, writing.py), the calls of applications (sync.py), asyncio
(driver.py), the requests themselves (sync_store.py).

Rule of this file: the steps of reading.py, core.py and writing.py, and what they count, run under one lock. They never
wait; the store and `compute` are called without it. One thread may take it twice: freeing a near value runs any code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fastroute._core.cache_flight import Fill
from fastroute.cache.keys import Key, encode_key
from fastroute.cache.lease import HELD_S_MAX, RENEW_RATIO, Lease
from fastroute.cache.near import MISS
from fastroute.cache.placement import Placement
from fastroute.cache.reading import Ask, Compute, Gather, Pause, Refresh, Steps
from fastroute.cache.tiers import Name
from fastroute.cache.writing import Writing
from fastroute.errors import UsageError
from fastroute.memcache.forks import begin_anew, forks

__all__ = ["Driver"]


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


class Driver(Writing):
    """Base of fastroute.sync.SharedCache; arguments as its."""

    def __init__(self, *, placement: Placement, **options: Any) -> None:
        super().__init__(**options)
        self._placement = placement
        self._start()
        self._born = forks.count

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._flights: dict[str | bytes, _Flight] = {}
        self._away = threading.BoundedSemaphore(self._away_max)
        self._renewer = _Renewer(self.lease_s)

    def _begin(self) -> None:
        self._start()
        self._born = forks.count  # last: another thread may look while this is made

    def _check_open(self) -> None:
        if self._closed:
            super()._check_open()
        if self._born != forks.count:
            begin_anew(self, self._begin)  # forked: threads of the parent may hold these locks for ever

    # ------------------------------------------------------------------ single flight

    def _forget(self, near_key: str | bytes) -> None:
        self._flights.pop(near_key, None)
        self._near.invalidate(near_key)

    def _forget_all(self) -> None:
        self._flights.clear()
        super()._forget_all()

    def _fetch(self, key: Key, fill: Fill) -> Any:
        """What is under way for this key, or a flight of our own."""
        name = fill.name
        near_key = name.near
        while True:
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
                    flight.done = flight.done or threading.Event()
            if mine:
                return self._fly(flight, fill)
            try:
                return flight.result()
            except _Again:
                self._check_open()

    def _fly(self, flight: _Flight, fill: Fill) -> Any:
        """Ask the store once: mostly that is all; else the steps go on from its answer."""
        name, lock = fill.name, self._lock
        try:
            home = self._placement.only or self._home(name.store)
            with lock:
                held = self._held(home)
                self._take_ticket(fill)
            if held is None:  # the namespace's generation has to be asked for too
                steps = self._steps_fill(fill)
            else:
                started_s = time.perf_counter()
                reply = home.get_or_lease(name.store, self.lease_s)
                with lock:
                    self._counters.read_time_s += time.perf_counter() - started_s
                    value = self._glance(name, reply, fill.ticket, held)
                    if value is not MISS:
                        flight.value = value
                        self._land(flight, name.near)
                        return value
                steps = self._steps_fill(fill, home, reply)
            flight.value = self._run(steps)
        except BaseException as error:
            flight.error = error if isinstance(error, Exception) else _Again()
            with lock:
                self._land(flight, name.near)
            raise
        with lock:
            self._land(flight, name.near)
        return flight.value

    def _land(self, flight: _Flight, near_key: str | bytes) -> None:
        """It came to something; under the lock."""
        if self._flights.get(near_key) is flight:
            del self._flights[near_key]
        if flight.done is not None:
            flight.done.set()

    # ------------------------------------------------------------------ steps

    def _any_name(self, key: Key) -> Name:
        if self._closed or self._born != forks.count:
            self._check_open()
        near_key = key if type(key) is str else encode_key(key)
        return self._names.get(near_key) or self._name(near_key, key)

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
