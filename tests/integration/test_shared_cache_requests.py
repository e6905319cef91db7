"""Every request of the shared cache, of both kinds, over real memcached: the asyncio cache and the one for threads.

`Both` gives the blocking cache the awaitable methods of the other, so that one test says what is true of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fastroute.cache import Extension
from fastroute.cache.codec import ITEM_BYTES_MAX, PART_BYTES
from fastroute.cache.shared import SharedCache as AsyncCache
from fastroute.cache.sync import SharedCache as ThreadCache
from fastroute.clock import ManualClock
from fastroute.errors import CacheError, UsageError
from fastroute.memcache.cluster import Memcached
from fastroute.memcache.sync import Memcached as BlockingMemcached
from tests.support.memcached import Memcached as Process


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Process]]:
    with Process() as one, Process() as two:
        yield [one, two]


@pytest.fixture
def addresses(processes: list[Process]) -> list[str]:
    for process in processes:
        process.command("flush_all")
    return [process.address for process in processes]


class Both:
    """A cache of either kind, awaited."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.cache, name)
        if not inspect.ismethod(found) or name in ("statistics", "memoize"):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            answer = found(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return call


Opened = Callable[..., contextlib.AbstractAsyncContextManager[Both]]


@pytest.fixture(params=["asyncio", "threads"])
def opened(request: pytest.FixtureRequest, addresses: list[str]) -> Opened:
    """Opens a cache with a store of its own."""

    @contextlib.asynccontextmanager
    async def open_one(nodes: list[str] | None = None, **options: Any) -> AsyncIterator[Both]:
        nodes = addresses[:1] if nodes is None else nodes
        options = {"namespace": "test", **options}
        timeout = options.pop("timeout", "2s")
        if request.param == "asyncio":
            async with Memcached(nodes, timeout=timeout) as store, AsyncCache(store, **options) as cache:
                yield Both(cache)
        else:
            with BlockingMemcached(nodes, timeout=timeout) as client, ThreadCache(client, **options) as cache:
                yield Both(cache)

    return open_one


class Count:
    """Something to compute: counts its calls."""

    def __init__(self, value: Any = "value") -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> Any:
        self.calls += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


# ---------------------------------------------------------------- requests


async def test_many_keys_are_read_at_once(opened: Opened, addresses: list[str]) -> None:
    async with opened(addresses) as one, opened(addresses) as two:
        for n in range(20):
            await one.set(("n", n), n, ttl=60)
        assert await two.get_many([("n", n) for n in range(0, 25, 3)]) == {("n", n): n for n in range(0, 20, 3)}
        assert await one.get_many([]) == {}
        seen = two.statistics()
        assert (seen.hits_far, seen.misses) == (7, 2)
        assert await two.get_many([("n", 0), ("n", 1)]) == {("n", 0): 0, ("n", 1): 1}
        assert two.statistics().hits_near == 1


async def test_add_stores_only_where_there_is_nothing(opened: Opened) -> None:
    clock = ManualClock()
    async with opened(clock=clock) as one, opened(clock=clock) as two:
        assert await one.add("k", 1, ttl=60) is True
        assert await two.add("k", 2, ttl=60) is False
        assert await two.get("k") == 1
        clock.advance(61)
        assert await two.add("k", 2, ttl=60) is True
        assert await one.get("k") == 2


async def test_cas_stores_only_over_what_was_seen(opened: Opened) -> None:
    async with opened() as one, opened() as two:
        nothing = await one.get_version("k", "default")
        assert nothing.value == "default"
        assert await one.cas("k", 1, nothing.version, ttl=60) is True
        assert await one.cas("k", 2, nothing.version, ttl=60) is False
        first, second = await one.get_version("k"), await two.get_version("k")
        assert (first.value, second.value) == (1, 1)
        assert await two.cas("k", 2, second.version, ttl=60) is True
        assert await one.cas("k", 3, first.version, ttl=60) is False
        assert await one.get("k") == 2
        assert await one.cas("k", 3, None, ttl=60) is False
        with pytest.raises(UsageError, match="another key"):
            await one.cas("other", 3, first.version, ttl=60)


async def test_a_version_of_another_connection_is_not_believed(opened: Opened) -> None:
    async with opened() as one, opened() as two:
        await one.set("k", 1, ttl=60)
        version = (await one.get_version("k")).version
        async with opened() as other:
            foreign = (await other.get_version("k")).version
        assert foreign.token.cas == version.token.cas
        if isinstance(two.cache, AsyncCache):  # threads: bound to the run of the server, whatever connection
            assert await two.cas("k", 2, foreign._replace(home=two.cache._placement.nodes[0]), ttl=60) is False
        assert await one.cas("k", 2, version, ttl=60) is True


async def test_touch_begins_a_values_life_again(opened: Opened) -> None:
    clock = ManualClock()
    async with opened(clock=clock) as cache:
        assert await cache.touch("k", ttl=60) is False
        await cache.set("k", "v", ttl=60)
        clock.advance(50)
        assert await cache.touch("k", ttl=60) is True
        clock.advance(50)
        assert await cache.get("k") == "v"
        clock.advance(11)
        assert await cache.get("k") is None


async def test_a_counter_counts_for_all(opened: Opened) -> None:
    async with opened() as one, opened() as two:
        assert await one.increment("n") is None
        assert await one.increment("n", initial=5, ttl=60) == 5
        assert await two.increment("n", 3, initial=100) == 8
        assert await one.increment("n", -20) == 0
        assert await one.increment("n", 0) == 0
        assert await one.get("n") is None
        await two.delete("n")
        assert await one.increment("n", 0) is None


async def test_types_of_the_applications_own_are_kept(opened: Opened) -> None:
    class Point:
        def __init__(self, x: int, y: int) -> None:
            self.x, self.y = x, y

    point = Extension(16, Point, lambda p: json.dumps([p.x, p.y]).encode(), lambda data: Point(*json.loads(data)))
    async with opened(extensions=[point]) as one, opened(extensions=[point]) as two, opened() as stranger:
        await one.set("k", [Point(1, 2)], ttl=60)
        found = (await two.get("k"))[0]
        assert (type(found), found.x, found.y) == (Point, 1, 2)
        assert await stranger.get("k") is None
        assert stranger.statistics().rejected == {"corrupt": 1}


# ---------------------------------------------------------------- large values


async def test_a_value_over_the_item_limit_is_stored_in_parts(opened: Opened, addresses: list[str]) -> None:
    large = os.urandom(ITEM_BYTES_MAX + PART_BYTES)
    async with opened(addresses) as one, opened(addresses) as two:
        assert await one.set("k", large, ttl=60) is True
        assert await two.get("k") == large
        assert (one.statistics().split, two.statistics().hits_far) == (1, 1)
        assert await two.touch("k", ttl=90) is True
        assert await two.get("k") == large


async def test_a_missing_part_is_a_miss(opened: Opened, addresses: list[str], processes: list[Process]) -> None:
    large = os.urandom(ITEM_BYTES_MAX + PART_BYTES)
    compute = Count(large)
    async with opened(addresses, secret=b"s" * 32) as one, opened(addresses, secret=b"s" * 32) as two:
        assert await one.get_or_compute("k", compute, ttl=60) == large
        raw, name = None, one.cache._any_name("k")
        with BlockingMemcached(addresses, timeout="2s") as client:
            raw = client.get(name.store).value
            manifest = one.cache._codec.open(name.digest, raw).value
            part = one.cache._part_keys(name, manifest)[1]
            data = client.get(part).value
            client.set(part, data[:-1] + bytes([data[-1] ^ 1]), 60)
            assert await two.get("k") is None
            client.delete(part)
            assert await two.get("k") is None
        assert two.statistics().rejected == {"corrupt": 1, "part": 1}
        assert await two.get_or_compute("k", compute, ttl=60) == large
        assert compute.calls == 2


async def test_long_values_are_compressed_where_it_helps(opened: Opened) -> None:
    pytest.importorskip("zstandard")
    async with opened() as one, opened() as two, opened(compress_bytes=0) as plain:
        text = "the same words again and again " * 2000
        await one.set("text", text, ttl=60)
        await one.set("noise", os.urandom(10_000), ttl=60)
        seen = one.statistics()
        assert seen.bytes_packed > 70_000
        assert seen.bytes_written < 12_000
        assert await two.get("text") == text
        assert await plain.get("text") == text
        await plain.set("text", text, ttl=60)
        assert plain.statistics().bytes_written > 60_000


# ---------------------------------------------------------------- tags and namespaces


async def test_a_purged_tag_takes_every_value_that_has_it(opened: Opened, addresses: list[str]) -> None:
    clock = ManualClock()
    async with opened(addresses, clock=clock) as one, opened(addresses, clock=clock) as two:
        await one.set("a", 1, ttl=60, tags=["x", "y"])
        await one.set("b", 2, ttl=60, tags=["y"])
        await one.set("c", 3, ttl=60, tags=["z"])
        assert await two.get_many(["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}
        assert await one.purge_tags("x") is True
        assert await one.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}
        assert await two.get("a") in (1, None)
        clock.advance(2.0)
        assert await two.get_many(["a", "b", "c"]) == {"b": 2, "c": 3}
        assert await two.purge_tags("y", "z") is True
        assert await two.get_many(["a", "b", "c"]) == {}
        assert one.statistics().purges == 1


async def test_a_purge_during_a_computation_makes_its_value_a_miss(opened: Opened) -> None:
    async with opened() as one, opened() as two:

        def compute() -> str:
            purge = two.cache.purge_tags("x")
            if inspect.isawaitable(purge):
                tasks.append(asyncio.ensure_future(purge))
            return "old"

        async def compute_async() -> str:
            compute()
            await tasks[0]
            return "old"

        tasks: list[Any] = []
        asynchronous = isinstance(one.cache, AsyncCache)
        found = await one.get_or_compute("k", compute_async if asynchronous else compute, ttl=60, tags=["x"])
        assert found == "old"
        assert await two.get("k") is None
        assert await two.get_or_compute("k", lambda: "new", ttl=60, tags=["x"]) == "new"


async def test_a_lost_generation_makes_misses_and_revives_nothing(opened: Opened) -> None:
    async with opened() as one, opened() as two:
        await one.set("k", "v", ttl=60, tags=["x"])
        generations = two.cache._generations
        store = one.cache._placement.nodes[0]
        gone = store.expire_key(generations.key(generations.digest("x")))
        if inspect.isawaitable(gone):
            await gone
        assert await two.get("k") is None
        assert two.statistics().rejected == {"purged": 1}
        assert await two.get_or_compute("k", lambda: "new", ttl=60, tags=["x"]) == "new"


async def test_a_purged_namespace_is_empty_and_the_others_are_not(opened: Opened, addresses: list[str]) -> None:
    clock = ManualClock()
    async with (
        opened(addresses, clock=clock) as one,
        opened(addresses, clock=clock) as two,
        opened(addresses, namespace="other", clock=clock) as other,
    ):
        keys = [f"k{n}" for n in range(10)]
        for key in keys:
            await one.set(key, 1, ttl=60)
            await other.set(key, 1, ttl=60)
        assert len(await two.get_many(keys)) == 10
        assert await one.purge_namespace() is True
        assert await one.get_many(keys) == {}
        clock.advance(2.0)
        assert await two.get_many(keys) == {}
        assert len(await other.get_many(keys)) == 10


async def test_a_near_value_is_kept_no_longer_than_its_generations_are_believed(opened: Opened) -> None:
    clock = ManualClock()
    async with opened(clock=clock) as one, opened(clock=clock) as two:
        await one.set("first", 1, ttl=60, tags=["x"])
        await one.set("second", 2, ttl=60, tags=["x"])
        assert await two.get("first") == 1
        clock.advance(0.9)
        assert await two.get("second") == 2  # compared with numbers that are 0.9 s old
        await one.purge_namespace()
        await one.purge_tags("x")
        clock.advance(1.2)
        assert await two.get("second") is None


# ---------------------------------------------------------------- early, stale, failing


async def test_a_failing_computation_is_covered_by_the_old_value(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    failing = Count(OSError("origin away"))
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 600}
    async with opened(clock=clock) as one, opened(clock=clock) as two:
        await one.get_or_compute("k", Count("old"), **options)
        clock.advance(100)
        assert await one.get_or_compute("k", failing, **options) == "old"
        assert await two.get_or_compute("k", failing, **options) == "old"
        assert "origin away" in caplog.text
        assert failing.calls == 1
        assert one.statistics().stale_on_error == 1
        clock.advance(600)
        with pytest.raises(OSError, match="origin away"):
            await two.get_or_compute("k", failing, **options)


async def test_after_an_error_the_next_success_is_stored(opened: Opened) -> None:
    clock = ManualClock()
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 600}
    async with opened(clock=clock) as one, opened(clock=clock) as two:
        await one.get_or_compute("k", Count("old"), **options)
        clock.advance(100)
        assert await one.get_or_compute("k", Count("new"), **options) == "new"
        assert await two.get("k") == "new"


async def test_a_hot_value_is_refreshed_before_it_expires(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastroute.cache.core.soon_due", lambda entry, now_ms: True)
    clock = ManualClock()
    async with opened(clock=clock) as one, opened(clock=clock) as two:
        slow = Count("old")
        await one.get_or_compute("k", slow, ttl=60)
        clock.advance(58)
        monkeypatch.setattr("fastroute.cache.codec.Entry.compute_ms", property(lambda self: 1000), raising=False)
        await two.get_or_compute("k", Count("new"), ttl=60)
        if isinstance(two.cache, AsyncCache):
            await asyncio.gather(*two.cache._refreshes.values())
        clock.advance(2.5)
        assert await one.get("k") == "new"
        assert two.statistics().refreshes_early == 1


# ---------------------------------------------------------------- memoize


async def test_memoized_results_are_found_by_their_arguments(opened: Opened) -> None:
    async with opened() as one, opened() as two:
        calls: list[Any] = []

        def made(cache: Both) -> Any:
            @cache.memoize(ttl=60, tags=lambda a, *rest, **more: [f"a{a}"], name="sum")
            def total(a: int, b: int = 2, *rest: int, **more: int) -> int:
                calls.append((a, b))
                return a + b + sum(rest) + sum(more.values())

            return total

        async def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        first, second = made(one), made(two)
        assert await call(first, 1) == await call(second, a=1, b=2) == 3
        assert await call(first, 1, 2, 3, z=1, y=2) == await call(second, 1, 2, 3, y=2, z=1) == 9
        assert len(calls) == 2
        await call(first.delete, 1)
        assert await call(first, 1) == 3
        assert len(calls) == 3
        await one.purge_tags("a1")
        await call(first, 1)
        assert len(calls) == 4
        assert first.__name__ == "total"
        with pytest.raises(UsageError, match="cache key part"):
            await call(first, object())


# ---------------------------------------------------------------- nodes


async def test_keys_are_spread_over_the_nodes_and_one_that_is_away_is_unknown(opened: Opened) -> None:
    keys = [f"k{n}" for n in range(40)]
    with Process() as first, Process() as second:
        nodes = [first.address, second.address]
        async with opened(nodes, timeout="200ms", near_bytes=0) as cache:
            for key in keys:
                assert await cache.set(key, key, ttl=60)
            assert len(await cache.get_many(keys)) == 40
            second.kill()
            assert 5 <= len(await cache.get_many(keys)) <= 35
            seen = cache.statistics()
            assert (seen.misses, seen.unknown > 0) == (0, True)
            assert await cache.purge_namespace() is False


async def test_with_copies_the_loss_of_a_node_costs_no_value(opened: Opened) -> None:
    keys = [f"k{n}" for n in range(30)]
    with Process() as first, Process() as second:
        nodes = [first.address, second.address]
        async with opened(nodes, timeout="200ms", near_bytes=0, copies=2) as cache:
            for key in keys:
                assert await cache.set(key, key, ttl=60)
            second.kill()
            for _ in range(3):  # the first questions find out
                await cache.get_many(keys)
            assert len(await cache.get_many(keys)) == 30
            second.start()
            compute = Count("computed")
            for _ in range(200):
                await cache.get_or_compute("probe", lambda: "probe", ttl=1)
                if all(node.up for node in cache.cache._placement.nodes):
                    break
                await asyncio.sleep(0.02)
            for key in keys:
                assert await cache.get_or_compute(key, compute, ttl=60) == key
            assert compute.calls == 0
            assert await cache.delete("k1") is True
            assert await cache.get("k1") is None


async def test_copies_that_the_nodes_cannot_hold_are_refused(opened: Opened) -> None:
    for copies in (0, 2, True, "2"):
        with pytest.raises(UsageError, match="copies"):
            async with opened(copies=copies):
                pass


async def test_who_asks_to_be_told_is_told(opened: Opened) -> None:
    with Process() as process:
        async with opened([process.address], timeout="200ms", strict=True) as cache:
            await cache.set("k", 1, ttl=60)
            process.kill()
            for _ in range(2):
                for request in (
                    cache.get("other"),
                    cache.get_many(["other"]),
                    cache.get_or_compute("other", lambda: 1, ttl=60),
                    cache.set("other", 1, ttl=60),
                    cache.add("other", 1, ttl=60),
                    cache.touch("other", ttl=60),
                    cache.increment("other"),
                    cache.delete("other"),
                    cache.purge_tags("x"),
                    cache.purge_namespace(),
                    cache.get_version("other"),
                ):
                    with pytest.raises(CacheError, match="did not answer"):
                        await request


async def test_without_a_store_nobody_sees_an_exception(opened: Opened) -> None:
    with Process() as process:
        async with opened([process.address], timeout="200ms") as cache:
            process.kill()
            assert await cache.get("k", 1) == 1
            assert await cache.get_many(["k"]) == {}
            assert await cache.get_or_compute("k", lambda: 2, ttl=60, tags=["x"]) == 2
            assert await cache.set("k", 1, ttl=60, tags=["x"]) is False
            assert await cache.add("k", 1, ttl=60, tags=["x"]) is False
            assert (await cache.get_version("k", 3)) == (3, None)
            assert await cache.touch("k", ttl=60) is False
            assert await cache.increment("k", initial=1) is None
            assert await cache.delete("k") is False
            assert await cache.purge_tags("x") is False
            assert await cache.purge_namespace() is False
            assert cache.statistics().misses == 0


# ---------------------------------------------------------------- leases and cancelled callers


async def test_a_caller_that_leaves_during_the_read_leaves_no_lease_behind(addresses: list[str]) -> None:
    async with Memcached(addresses[:1], timeout="2s") as store, AsyncCache(store, namespace="test") as cache:
        await cache.get("warm")
        leaving = asyncio.create_task(cache.get_or_compute("k", lambda: 1, ttl=60))
        await asyncio.sleep(0)  # it has asked, and no answer can have come
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        for _ in range(1000):
            reply = await store.get(cache._any_name("k").store)
            if not reply.hit:
                break
            await asyncio.sleep(0.001)
        assert not reply.hit
        assert not cache._flights
