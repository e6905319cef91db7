"""Servers in virtual time, and the queue of events.

A server shares `cores` processors among its requests (processor sharing, as a machine with many threads does): with n
requests each runs at speed x min(1, cores / n). Work is in milliseconds of one processor at speed 1. Rules: time is a
float in ms and never goes back; equal times in the order in which they were asked for.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import statistics
from collections.abc import Callable


class Events:
    """What happens when."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time_ms: float, action: Callable[[], None]) -> None:
        """Do `action` at a time, now if that is past."""
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), next(self._order), action))

    def run(self, until_ms: float) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = until_ms


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """One request on a server."""

    work_ms: float
    done: Callable[[bool], None]
    begun_ms: float = 0.0
    rif: int = 0
    ends_at_attained: float = 0.0
    over: bool = False


class SimulatedServer:
    """One server; `speed` may change while it works."""

    def __init__(self, events: Events, name: str, *, cores: float = 1.0, speed: float = 1.0) -> None:
        self.events, self.name, self.cores, self.speed = events, name, cores, speed
        self.in_flight = 0
        self.recent: collections.deque[tuple[int, float]] = collections.deque(
            maxlen=32
        )  # in flight at arrival, latency
        self._attained = 0.0  # work that a request has got that was here from the beginning
        self._at_ms = 0.0
        self._jobs: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._plan = 0

    def _rate(self) -> float:
        return self.speed * min(1.0, self.cores / self.in_flight) if self.in_flight else 0.0

    def _catch_up(self) -> None:
        now = self.events.now_ms
        self._attained += (now - self._at_ms) * self._rate()
        self._at_ms = now

    def _replan(self) -> None:
        while self._jobs and self._jobs[0][2].over:
            heapq.heappop(self._jobs)
        self._plan += 1
        if self._jobs:
            plan, rate = self._plan, self._rate()
            wait_ms = max(0.0, self._jobs[0][0] - self._attained) / rate if rate else 1e15
            self.events.at(self.events.now_ms + wait_ms, lambda: self._complete(plan))

    def _complete(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._catch_up()
        _, _, job = heapq.heappop(self._jobs)
        self._attained = max(self._attained, job.ends_at_attained)
        job.over = True
        self.in_flight -= 1
        self.recent.append((job.rif, self.events.now_ms - job.begun_ms))
        self._replan()
        job.done(True)

    def begin(self, job: Job) -> None:
        """Take a request; `job.done(True)` comes when it is served."""
        self._catch_up()
        job.begun_ms, job.rif = self.events.now_ms, self.in_flight
        self.in_flight += 1
        job.ends_at_attained = self._attained + job.work_ms
        heapq.heappush(self._jobs, (job.ends_at_attained, next(self._order), job))
        self._replan()

    def give_up(self, job: Job) -> None:
        """The client's time is over."""
        if job.over:
            return
        self._catch_up()
        job.over = True
        self.in_flight -= 1
        self._replan()
        job.done(False)

    def set_speed(self, speed: float) -> None:
        """From now on."""
        self._catch_up()
        self.speed = speed
        self._replan()

    def probe(self) -> tuple[int, float]:
        """What a Prequal probe answers: requests in flight, and the median latency (ms) at such a number, lately."""
        if not self.recent:
            return self.in_flight, 1.0
        near = sorted(self.recent, key=lambda sample: abs(sample[0] - self.in_flight))[:8]
        return self.in_flight, statistics.median(latency for _, latency in near)
