"""The store killed and started again under load: no request fails, and what is behind the cache meets only the cap."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from fastroute.cache.shared import SharedCache
from fastroute.cache.sync import SharedCache as BlockingSharedCache
from fastroute.memcache.cluster import Memcached
from fastroute.memcache.sync import Memcached as BlockingMemcached
from tests.support.memcached import Memcached as Process

CAP, CALLERS, KEYS, PHASE_S = 4, 24, 400, 0.5


class Origin:
    """Takes two milliseconds; knows how many computed at once without a store."""

    def __init__(self) -> None:
        self.running = self.running_max = self.calls = 0
        self.lock = threading.Lock()

    def begin(self) -> None:
        with self.lock:
            self.running += 1
            self.calls += 1
            self.running_max = max(self.running_max, self.running)

    def end(self) -> None:
        with self.lock:
            self.running -= 1


async def test_a_killed_store_costs_tasks_no_request_and_the_origin_no_stampede() -> None:
    origin, stop, answered = Origin(), asyncio.Event(), 0
    with Process() as process:
        async with (
            Memcached([process.address], timeout="100ms") as store,
            SharedCache(store, namespace="load", near_ttl=0.05, away_computations_max=CAP) as cache,
        ):

            async def compute(number: int) -> int:
                origin.begin()
                await asyncio.sleep(0.002)
                origin.end()
                return number

            async def caller(first: int) -> None:
                nonlocal answered
                number = first
                while not stop.is_set():
                    number = (number * 17 + 5) % KEYS
                    found = await cache.get_or_compute(("k", number), lambda: compute(number), ttl=30)  # noqa: B023
                    assert found == number
                    answered += 1
                    await asyncio.sleep(0)

            callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
            await asyncio.sleep(PHASE_S)
            process.kill()
            await asyncio.sleep(2 * 0.1)  # requests that were under way have missed their time limit
            origin.running_max = origin.running
            before = answered
            await asyncio.sleep(PHASE_S)
            running_max_away = origin.running_max
            process.start()
            async with asyncio.timeout(40):
                while not (await cache.get_version("probe")).version:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(PHASE_S)
            stop.set()
            await asyncio.gather(*callers)
            assert answered > before > 0
            assert running_max_away <= CAP
            assert cache.statistics().compute_errors == 0


def test_a_killed_store_costs_threads_no_request_and_the_origin_no_stampede() -> None:
    origin, stop = Origin(), threading.Event()
    with (
        Process() as process,
        BlockingMemcached([process.address], timeout="100ms") as store,
        BlockingSharedCache(store, namespace="load", near_ttl=0.05, away_computations_max=CAP) as cache,
        ThreadPoolExecutor(8) as threads,
    ):

        def caller(first: int) -> int:
            number, answered = first, 0
            while not stop.is_set():
                number = (number * 17 + 5) % KEYS

                def compute(number: int = number) -> int:
                    origin.begin()
                    time.sleep(0.002)
                    origin.end()
                    return number

                assert cache.get_or_compute(("k", number), compute, ttl=30) == number
                answered += 1
            return answered

        running = [threads.submit(caller, number) for number in range(8)]
        try:
            time.sleep(PHASE_S)
            process.kill()
            time.sleep(0.2)
            origin.running_max = origin.running
            time.sleep(PHASE_S)
            running_max_away = origin.running_max
            process.start()
            time.sleep(PHASE_S)
        finally:
            stop.set()
        assert all(one.result() > 0 for one in running)
        assert running_max_away <= CAP
