"""The shared cache over real memcached and real processes. Nothing sleeps to hope: processes say where they are.

Two SharedCache objects with near caches of their own on one store stand for two replicas where one process is enough.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fastroute.cache.codec import Codec
from fastroute.cache.keys import KeySpace
from fastroute.cache.lease import LEASE_S
from fastroute.cache.shared import SharedCache
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX
from fastroute.cache.values import pack
from fastroute.clock import ManualClock
from fastroute.errors import CacheError, UsageError
from fastroute.memcache.cluster import Memcached
from tests.support.memcached import Memcached as Process

ANSWER_S = 40.0
"""Longest wait for anything that must happen; it happens within milliseconds unless the machine is starved."""

NAMESPACE = "test"

GENERATION = 7
"""Of the namespace, where a test writes envelopes itself."""


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with Process() as running:
        yield running


@pytest.fixture
async def store(process: Process) -> AsyncIterator[Memcached]:
    async with Memcached([process.address], timeout="2s") as client:
        process.command("flush_all")
        yield client


async def until(claim: Callable[[], bool]) -> None:
    """Until a claim about this process holds."""
    async with asyncio.timeout(ANSWER_S):
        while not claim():
            await asyncio.sleep(0.002)


class Origin:
    """Something to compute: counts its calls, can be held and made to fail."""

    def __init__(self, value: Any = "value", *, held: bool = False) -> None:
        self.value, self.calls, self.running, self.running_max = value, 0, 0, 0
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self) -> Any:
        self.calls += 1
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        self.started.set()
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def replica(store: Memcached, **options: Any) -> SharedCache:
    return SharedCache(store, **{"namespace": NAMESPACE, **options})


# ---------------------------------------------------------------- get, set, delete


async def test_what_one_replica_sets_another_gets(store: Memcached) -> None:
    async with replica(store) as one, replica(store) as two:
        value = {"a": (1, [2]), "b": {3}}
        assert await one.set(("user", 7), value, ttl="1m") is True
        assert await two.get(("user", 7)) == value
        assert await two.get(("user", 8), "default") == "default"
        assert await two.get("user") is None
        assert (two.statistics().hits_far, two.statistics().misses) == (1, 2)


async def test_a_second_read_is_answered_near(store: Memcached) -> None:
    async with replica(store) as cache:
        await cache.set("k", "v", ttl=60)
        assert await cache.get("k") == "v"
        seen = cache.statistics()
        assert (seen.hits_near, seen.hits_far) == (1, 0)


async def test_a_write_is_seen_elsewhere_within_near_ttl(store: Memcached) -> None:
    clock = ManualClock()
    async with replica(store, clock=clock, near_ttl="2s") as one, replica(store, clock=clock, near_ttl="2s") as two:
        await one.set("k", "old", ttl=60)
        assert await two.get("k") == "old"
        await one.set("k", "new", ttl=60)
        assert await one.get("k") == "new"
        clock.advance(2.0)
        assert await two.get("k") == "new"
        await one.delete("k")
        assert await one.get("k") is None
        clock.advance(2.0)
        assert await two.get("k") is None


async def test_a_deleted_key_is_gone(store: Memcached) -> None:
    async with replica(store) as one, replica(store) as two:
        await one.set("k", "v", ttl=60)
        assert await one.delete("k") is True
        assert await one.get("k") is None
        assert await two.get("k") is None


async def test_namespaces_and_fleets_are_apart(store: Memcached) -> None:
    async with (
        replica(store) as one,
        replica(store, namespace="other") as two,
        replica(store, fleet="other") as three,
    ):
        await one.set("k", "v", ttl=60)
        assert await two.get("k") is None
        assert await three.get("k") is None


# ---------------------------------------------------------------- get_or_compute


async def test_many_callers_on_two_replicas_cost_one_computation(store: Memcached) -> None:
    origin = Origin(held=True)
    async with replica(store) as one, replica(store) as two:
        callers = [asyncio.create_task(cache.get_or_compute("k", origin, ttl=60)) for cache in (one, two) * 25]
        await until(lambda: one.statistics().waits + two.statistics().waits == 1)
        origin.go.set()
        assert await asyncio.gather(*callers) == ["value"] * 50
        assert origin.calls == 1
        assert one.statistics().joined + two.statistics().joined == 48
        assert one.statistics().hits_far + two.statistics().hits_far == 1


async def test_a_plain_function_computes_too(store: Memcached) -> None:
    async with replica(store) as cache:
        assert await cache.get_or_compute("k", lambda: 5, ttl=60) == 5


async def test_the_computing_replica_sees_the_value_as_all_others_do(store: Memcached) -> None:
    mine = {"list": [1]}
    async with replica(store) as one, replica(store) as two:
        first = await one.get_or_compute("k", lambda: mine, ttl=60)
        assert first == mine
        assert first is not mine
        mine["list"].append(2)
        assert await one.get("k") == await two.get("k") == {"list": [1]}


async def test_an_expired_value_is_computed_again(store: Memcached) -> None:
    clock = ManualClock()
    origin = Origin()
    async with replica(store, clock=clock) as cache:
        for calls in (1, 1, 2):
            if calls == 2:
                clock.advance(61)
            await cache.get_or_compute("k", origin, ttl=60)
            assert origin.calls == calls


async def test_an_error_reaches_every_waiter_and_gives_the_lease_back(store: Memcached) -> None:
    origin = Origin(LookupError("no such user"), held=True)
    async with replica(store) as one, replica(store) as two:
        callers = [asyncio.create_task(one.get_or_compute("k", origin, ttl=60)) for _ in range(5)]
        await origin.started.wait()
        origin.go.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(result) for result in results] == [LookupError] * 5
        assert origin.calls == 1
        started_s = time.monotonic()
        assert await two.get_or_compute("k", lambda: "works", ttl=60) == "works"
        assert time.monotonic() - started_s < LEASE_S - 1, "nobody had to wait for the lease to run out"
        assert one.statistics().compute_errors == 1


async def test_a_value_that_cannot_be_cached_is_the_callers_error(store: Memcached) -> None:
    async with replica(store) as cache:
        with pytest.raises(UsageError, match=r"builtins\.object cannot be cached"):
            await cache.get_or_compute("k", object, ttl=60)
        assert await cache.get_or_compute("k", lambda: 1, ttl=60) == 1


async def test_none_is_kept_only_with_a_negative_ttl(store: Memcached) -> None:
    clock = ManualClock()
    nothing = Origin(None)
    async with replica(store, clock=clock) as cache:
        for _ in range(2):
            assert await cache.get_or_compute("k", nothing, ttl=60) is None
        assert nothing.calls == 2
        for _ in range(2):
            assert await cache.get_or_compute("k", nothing, ttl=60, negative_ttl=5) is None
        assert nothing.calls == 3
        assert await cache.get("k", "default") is None
        clock.advance(5)
        assert await cache.get("k", "default") == "default"


async def test_one_caller_that_leaves_does_not_end_the_computation(store: Memcached) -> None:
    origin = Origin(held=True)
    async with replica(store) as cache:
        leaving = asyncio.create_task(cache.get_or_compute("k", origin, ttl=60))
        staying = asyncio.create_task(cache.get_or_compute("k", origin, ttl=60))
        await origin.started.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        origin.go.set()
        assert await staying == "value"
        assert origin.calls == 1


async def test_when_all_callers_leave_the_computation_ends_and_the_lease_is_free(store: Memcached) -> None:
    origin = Origin(held=True)
    async with replica(store) as one, replica(store) as two:
        leaving = asyncio.create_task(one.get_or_compute("k", origin, ttl=60))
        await origin.started.wait()
        leaving.cancel()
        await until(lambda: origin.running == 0)
        started_s = time.monotonic()
        assert await two.get_or_compute("k", lambda: "works", ttl=60) == "works"
        assert time.monotonic() - started_s < LEASE_S - 1


async def test_a_computation_that_asks_for_its_own_key_is_refused(store: Memcached) -> None:
    async with replica(store) as cache:

        async def again() -> Any:
            return await cache.get_or_compute("k", again, ttl=60)

        with pytest.raises(UsageError, match="wait for itself"):
            await cache.get_or_compute("k", again, ttl=60)


async def test_a_computation_may_ask_for_other_keys(store: Memcached) -> None:
    async with replica(store) as cache:

        async def outer() -> Any:
            return [await cache.get_or_compute("inner", lambda: 1, ttl=60)]

        assert await cache.get_or_compute("outer", outer, ttl=60) == [1]


@pytest.mark.parametrize("change", ["delete", "set"])
async def test_a_late_result_does_not_overwrite_a_newer_change(store: Memcached, change: str) -> None:
    origin = Origin("late", held=True)
    async with replica(store) as one, replica(store) as two:
        asking = asyncio.create_task(one.get_or_compute("k", origin, ttl=60))
        await origin.started.wait()
        await (two.delete("k") if change == "delete" else two.set("k", "newer", ttl=60))
        origin.go.set()
        assert await asking == "late"
        assert one.statistics().overtaken == 1
        expected = None if change == "delete" else "newer"
        assert await one.get("k") == expected
        assert await two.get("k") == expected


async def test_who_asks_after_an_own_delete_gets_a_new_computation(store: Memcached) -> None:
    old = Origin("old", held=True)
    async with replica(store) as cache:
        asking = asyncio.create_task(cache.get_or_compute("k", old, ttl=60))
        await old.started.wait()
        await cache.delete("k")
        assert await cache.get_or_compute("k", lambda: "new", ttl=60) == "new"
        old.go.set()
        assert await asking == "old"
        assert await cache.get("k") == "new"


async def test_a_long_computation_keeps_its_lease(store: Memcached) -> None:
    origin = Origin(held=True)
    async with replica(store, lease=2) as one, replica(store, lease=2) as two:
        first = asyncio.create_task(one.get_or_compute("k", origin, ttl=60))
        await origin.started.wait()
        second = asyncio.create_task(two.get_or_compute("k", origin, ttl=60))
        await until(lambda: sum(node.requests for node in store.statistics()) > 0 and two.statistics().waits == 1)
        await asyncio.sleep(2.2)  # the measurement: without renewals the lease of 2 s would be over
        assert origin.calls == 1
        origin.go.set()
        assert await asyncio.gather(first, second) == ["value"] * 2
        assert (origin.calls, one.statistics().stored, one.statistics().overtaken) == (1, 1, 0)


async def test_a_computation_runs_in_the_context_of_its_caller(store: Memcached) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")
    async with SharedCache(store, namespace=NAMESPACE, near_bytes=0) as cache:

        async def ask(name: str) -> str:
            request.set(name)
            return await cache.get_or_compute(name, request.get, ttl="1m")

        assert await asyncio.gather(*(ask(f"context {number}") for number in range(4))) == [
            f"context {number}" for number in range(4)
        ]


# ---------------------------------------------------------------- stale values


async def test_a_stale_value_is_served_at_once_and_refreshed_once(store: Memcached) -> None:
    clock = ManualClock()
    origin = Origin("new", held=True)
    async with replica(store, clock=clock) as one, replica(store, clock=clock) as two:
        await one.set("k", "old", ttl=60, stale=30)
        clock.advance(61)
        for _ in range(3):
            for cache in (one, two):
                assert await cache.get_or_compute("k", origin, ttl=60, stale=30) == "old"
            clock.advance(0.5)
        await origin.started.wait()
        await until(lambda: len(one._refreshes) + len(two._refreshes) == 1)
        origin.go.set()
        await until(lambda: len(one._refreshes) + len(two._refreshes) == 0)
        clock.advance(0.5)
        assert await one.get("k") == await two.get("k") == "new"
        assert origin.calls == 1
        assert one.statistics().refreshes + two.statistics().refreshes == 1
        assert one.statistics().stale_served + two.statistics().stale_served == 6


async def test_a_failed_refresh_leaves_the_stale_value_and_is_not_tried_at_once(
    store: Memcached, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    origin = Origin(OSError("origin away"))
    async with replica(store, clock=clock) as cache:
        await cache.set("k", "old", ttl=60, stale=30)
        clock.advance(61)
        for _ in range(3):
            assert await cache.get_or_compute("k", origin, ttl=60, stale=30) == "old"
            await until(lambda: not cache._refreshes)
            clock.advance(1)
        assert origin.calls == 1
        assert "origin away" in caplog.text


async def test_a_value_past_its_stale_limit_is_not_served(store: Memcached) -> None:
    clock = ManualClock()
    async with replica(store, clock=clock) as cache:
        await cache.set("k", "old", ttl=60, stale=30)
        clock.advance(90)
        assert await cache.get("k") is None
        assert await cache.get_or_compute("k", lambda: "new", ttl=60) == "new"


# ---------------------------------------------------------------- poison


def store_key_of(key: str) -> str:
    space = KeySpace("fr", NAMESPACE)
    return space.store_key(space.digest(key))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def poison(name: str) -> bytes:
    space = KeySpace("fr", NAMESPACE)

    def sealed(key: str, payload: bytes) -> bytes:
        found = Codec(compress_bytes=0).seal(
            space.digest(key), payload, made_ms=int(time.time() * 1000), ttl_ms=60_000, generation=GENERATION
        )
        assert found is not None
        return found.envelope

    right = sealed("k", pack("poison"))
    return {
        "pickle": pickle.dumps(Bomb()),
        "pickle in an envelope": sealed("k", pickle.dumps(Bomb())),
        "msgpack bomb": sealed("k", b"\xdd\xff\xff\xff\xff" * 1000),
        "another key's value": sealed("other", pack("poison")),
        "newer format": b"\x03" + right[1:],
        "cut off": right[:-1],
        "one byte": b"\x01",
    }[name]


@pytest.mark.parametrize(
    "name",
    ["pickle", "pickle in an envelope", "msgpack bomb", "another key's value", "newer format", "cut off", "one byte"],
)
async def test_a_poisoned_value_is_a_miss_and_is_replaced(store: Memcached, name: str) -> None:
    await store.set(store_key_of("k"), poison(name), 60)
    await store.set(f"fr:t:{NAMESPACE}", GENERATION.to_bytes(8, "little"))
    async with replica(store) as one, replica(store) as two:
        assert await one.get("k") is None
        assert await one.get_or_compute("k", lambda: "right", ttl=60) == "right"
        assert await two.get("k") == "right"
        assert sum(one.statistics().rejected.values()) == 2


async def test_values_of_another_secret_are_misses(store: Memcached) -> None:
    async with replica(store, secret=b"a" * 32) as one, replica(store, secret=b"b" * 32) as two:
        await one.set("k", "v", ttl=60)
        assert await one.get("k") == "v"
        assert await two.get("k") is None
        assert two.statistics().rejected == {"mac": 1}
        assert await two.get_or_compute("k", lambda: "own", ttl=60) == "own"


async def test_a_value_over_the_object_limit_is_not_stored_and_counted(store: Memcached) -> None:
    large = os.urandom(5000)
    async with replica(store, object_bytes_max=4096) as one, replica(store) as two:
        assert await one.get_or_compute("k", lambda: large, ttl=60) == large
        assert await one.get("k") == large
        assert one.statistics().too_large == 1
        assert await two.get("k") is None
        await two.set("k", "small", ttl=60)
        assert await one.set("k", large, ttl=60) is False
        assert await one.get("k") is None


# ---------------------------------------------------------------- arguments and closing


async def test_arguments_out_of_the_rules_are_refused(store: Memcached) -> None:
    for options in ({"namespace": "a b"}, {"near_bytes": "x"}, {"secret": "short"}, {"lease": 1}, {"fleet": ""}):
        with pytest.raises(UsageError):
            replica(store, **options)
    async with replica(store) as cache:
        with pytest.raises(UsageError, match="tags"):
            await cache.get_or_compute("k", lambda: 1, ttl=60, tags="t")
        with pytest.raises(UsageError, match="ttl"):
            await cache.get_or_compute("k", lambda: 1, ttl=0)
        with pytest.raises(UsageError, match="cache key"):
            await cache.get(5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="cannot be cached"):
            await cache.set("k", object(), ttl=60)


async def test_closing_ends_what_is_under_way(store: Memcached) -> None:
    origin = Origin(held=True)
    cache = replica(store)
    asking = asyncio.create_task(cache.get_or_compute("k", origin, ttl=60))
    await origin.started.wait()
    await cache.aclose()
    with pytest.raises(CacheError, match="closed"):
        await asking
    with pytest.raises(CacheError, match="closed"):
        await cache.get_or_compute("k", origin, ttl=60)
    assert origin.running == 0


# ---------------------------------------------------------------- the store away


async def test_without_a_store_values_are_computed_once_per_process() -> None:
    with Process() as process:
        async with Memcached([process.address], timeout="200ms") as store, replica(store) as cache:
            process.kill()
            origin = Origin(held=True)
            callers = [asyncio.create_task(cache.get_or_compute("k", origin, ttl=60)) for _ in range(20)]
            await origin.started.wait()
            origin.go.set()
            assert await asyncio.gather(*callers) == ["value"] * 20
            assert origin.calls == 1
            assert await cache.get_or_compute("k", origin, ttl=60) == "value"
            assert origin.calls == 1
            assert await cache.set("other", 1, ttl=60) is False
            assert await cache.delete("other") is False
            assert await cache.get("other", "default") == "default"
            seen = cache.statistics()
            assert seen.computations_away == 1
            assert seen.unknown >= 3


async def test_near_values_serve_until_their_stale_limit_while_the_store_is_away() -> None:
    clock = ManualClock()
    origin = Origin("new")
    with Process() as process:
        async with Memcached([process.address], timeout="500ms") as store, replica(store, clock=clock) as cache:
            await cache.set("k", "old", ttl=60, stale=30)
            process.kill()
            for seconds in (1, 30, 50):
                clock.advance(seconds)
                assert await cache.get_or_compute("k", origin, ttl=60) == "old"
            assert origin.calls == 0
            assert cache.statistics().near_while_away == 2
            clock.advance(10)
            assert await cache.get_or_compute("k", origin, ttl=60) == "new"


async def test_computations_without_a_store_are_capped() -> None:
    origin = Origin(held=True)
    with Process() as process:
        async with Memcached([process.address], timeout="200ms") as store, replica(store) as cache:
            process.kill()
            callers = [asyncio.create_task(cache.get_or_compute(f"k{n}", origin, ttl=60)) for n in range(100)]
            await until(lambda: origin.running == AWAY_COMPUTATIONS_MAX)
            origin.go.set()
            await asyncio.gather(*callers)
            assert (origin.calls, origin.running_max) == (100, AWAY_COMPUTATIONS_MAX)


async def test_a_store_that_does_not_answer_is_unknown_not_a_miss() -> None:
    with Process() as process:
        async with Memcached([process.address], timeout="50ms") as store, replica(store) as cache:
            process.suspend()
            try:
                assert await cache.get_or_compute("k", lambda: "v", ttl=60) == "v"
            finally:
                process.resume()
            assert (cache.statistics().unknown, cache.statistics().misses) == (1, 0)


async def test_a_returned_store_is_used_again() -> None:
    with Process() as process:
        async with Memcached([process.address], timeout="200ms") as store, replica(store) as one, replica(store) as two:
            process.restart()

            async with asyncio.timeout(ANSWER_S):
                while not await one.set("k", "v", ttl=60):
                    await asyncio.sleep(0.01)
            assert await two.get("k") == "v"
