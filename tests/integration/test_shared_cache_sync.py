"""The blocking shared cache: threads, processes, and both kinds of cache on one store."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fastroute._core.mc_reply import DOWN, EXISTS, HIT, STORED
from fastroute.cache.codec import Codec
from fastroute.cache.lease import LEASE_S
from fastroute.cache.shared import SharedCache as AsyncSharedCache
from fastroute.cache.sync import SharedCache
from fastroute.cache.sync_store import BlockingNode, read_meta
from fastroute.cache.tiers import AWAY_COMPUTATIONS_MAX
from fastroute.cache.values import pack
from fastroute.clock import ManualClock
from fastroute.errors import CacheError, MemcacheProtocolError, UsageError
from fastroute.memcache.cluster import Memcached
from fastroute.memcache.sync import Memcached as BlockingMemcached
from tests.support.memcached import Memcached as Process

ANSWER_S = 40.0
NAMESPACE = "test"


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with Process() as running:
        yield running


@pytest.fixture
def address(process: Process) -> str:
    process.command("flush_all")
    return process.address


class Replica(SharedCache):
    """A cache with a store of its own, closed together."""

    def close(self) -> None:
        super().close()
        self.store.close()


def replica(address: str, *, timeout: str = "2s", **options: Any) -> SharedCache:
    return Replica(BlockingMemcached([address], timeout=timeout), **{"namespace": NAMESPACE, **options})


def until(claim: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + ANSWER_S
    while not claim():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


class Origin:
    """Something to compute: counts its calls, can be held and made to fail."""

    def __init__(self, value: Any = "value", *, held: bool = False) -> None:
        self.value, self.calls, self.running, self.running_max = value, 0, 0, 0
        self.lock = threading.Lock()
        self.go = threading.Event()
        self.started = threading.Event()
        if not held:
            self.go.set()

    def __call__(self) -> Any:
        with self.lock:
            self.calls += 1
            self.running += 1
            self.running_max = max(self.running_max, self.running)
        self.started.set()
        assert self.go.wait(ANSWER_S)
        with self.lock:
            self.running -= 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_set_get_and_delete(address: str) -> None:
    with replica(address) as one, replica(address) as two:
        value = {"a": (1, [2])}
        assert one.set(("user", 7), value, ttl="1m") is True
        assert two.get(("user", 7)) == value
        assert two.delete(("user", 7)) is True
        assert two.get(("user", 7), "gone") == "gone"
        assert one.statistics().stored == 1


def test_threads_of_two_caches_compute_a_key_once(address: str) -> None:
    origin = Origin(held=True)
    with replica(address) as one, replica(address) as two, ThreadPoolExecutor(20) as threads:
        asked = [threads.submit(cache.get_or_compute, "k", origin, ttl=60) for cache in (one, two) * 10]
        assert origin.started.wait(ANSWER_S)
        # One computes, the others join a flight of their process or wait for its lease. Mostly 18 and 1: the
        # announcement of the lease may end the other flight for those who come later: they ask for themselves.
        until(lambda: sum(cache.statistics().joined + cache.statistics().waits for cache in (one, two)) == 19)
        origin.go.set()
        assert [one_asked.result() for one_asked in asked] == ["value"] * 20
        assert origin.calls == 1


async def test_a_thread_waits_for_a_task_and_a_task_for_a_thread(address: str) -> None:
    async with Memcached([address], timeout="2s") as store, AsyncSharedCache(store, namespace=NAMESPACE) as tasks:
        with replica(address) as threads:
            go = asyncio.Event()
            started = asyncio.Event()

            async def slow() -> str:
                started.set()
                await go.wait()
                return "by a task"

            asked = asyncio.create_task(tasks.get_or_compute("one", slow, ttl=60))
            await started.wait()
            waiting = asyncio.create_task(asyncio.to_thread(threads.get_or_compute, "one", lambda: "never", ttl=60))
            await asyncio.to_thread(until, lambda: bool(threads._flights))
            go.set()
            assert await asked == await waiting == "by a task"

            origin = Origin("by a thread", held=True)
            waiting = asyncio.create_task(asyncio.to_thread(threads.get_or_compute, "two", origin, ttl=60))
            await asyncio.to_thread(origin.started.wait, ANSWER_S)
            asked = asyncio.create_task(tasks.get_or_compute("two", lambda: "never", ttl=60))
            await asyncio.to_thread(until, lambda: tasks.statistics().waits == 1)
            origin.go.set()
            assert await asked == await waiting == "by a thread"


def test_an_error_reaches_the_waiters_and_gives_the_lease_back(address: str) -> None:
    origin = Origin(LookupError("no such user"), held=True)
    with replica(address) as one, replica(address) as two, ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(one.get_or_compute, "k", origin, ttl=60) for _ in range(3)]
        until(lambda: one.statistics().joined == 2)
        origin.go.set()
        assert [type(one_asked.exception()) for one_asked in asked] == [LookupError] * 3
        assert origin.calls == 1
        started_s = time.monotonic()
        assert two.get_or_compute("k", lambda: "works", ttl=60) == "works"
        assert time.monotonic() - started_s < LEASE_S - 1


def test_a_computation_that_asks_for_its_own_key_is_refused(address: str) -> None:
    with replica(address) as cache:

        def again() -> Any:
            return cache.get_or_compute("k", again, ttl=60)

        with pytest.raises(UsageError, match="wait for itself"):
            cache.get_or_compute("k", again, ttl=60)


def test_a_late_result_does_not_overwrite_a_delete(address: str) -> None:
    origin = Origin("late", held=True)
    with replica(address) as one, replica(address) as two, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(one.get_or_compute, "k", origin, ttl=60)
        assert origin.started.wait(ANSWER_S)
        assert two.delete("k") is True
        origin.go.set()
        assert asked.result() == "late"
        assert one.statistics().overtaken == 1
        assert one.get("k") is None


def test_a_long_computation_keeps_its_lease(address: str) -> None:
    origin = Origin(held=True)
    with replica(address, lease=2) as one, replica(address, lease=2) as two, ThreadPoolExecutor(2) as threads:
        first = threads.submit(one.get_or_compute, "k", origin, ttl=60)
        assert origin.started.wait(ANSWER_S)
        second = threads.submit(two.get_or_compute, "k", origin, ttl=60)
        time.sleep(2.2)  # the measurement: without renewals the lease of 2 s would be over
        assert origin.calls == 1
        origin.go.set()
        assert first.result() == second.result() == "value"
        assert (origin.calls, one.statistics().stored) == (1, 1)


def test_of_many_who_find_a_value_stale_one_refreshes_it(address: str) -> None:
    clock = ManualClock()
    origin = Origin("new", held=True)
    with (
        replica(address, clock=clock) as one,
        replica(address, clock=clock) as two,
        ThreadPoolExecutor(2) as threads,
    ):
        one.set("k", "old", ttl=60, stale=30)
        clock.advance(61)
        refreshing = threads.submit(one.get_or_compute, "k", origin, ttl=60, stale=30)
        assert origin.started.wait(ANSWER_S)
        assert two.get_or_compute("k", origin, ttl=60, stale=30) == "old"
        origin.go.set()
        assert refreshing.result() == "new"
        clock.advance(0.5)
        assert two.get("k") == "new"
        assert origin.calls == 1


def test_a_failed_refresh_serves_the_stale_value(address: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    with replica(address, clock=clock) as cache:
        cache.set("k", "old", ttl=60, stale=30)
        clock.advance(61)
        assert cache.get_or_compute("k", Origin(OSError("origin away")), ttl=60, stale=30) == "old"
        assert "origin away" in caplog.text


def test_a_poisoned_value_is_a_miss_and_is_replaced(address: str) -> None:
    with replica(address) as cache:
        digest = cache.keys.digest("k")
        foreign = Codec().seal(b"x" * 32, pack("poison"), made_ms=1, ttl_ms=10**13)
        assert foreign is not None
        for data in (
            b"\x80\x04K\x01.",
            foreign.envelope,
            b"\x02" * 99,
        ):
            cache._near.clear()
            cache.store.set(cache.keys.store_key(digest), data, 60)
            assert cache.get("k") is None
            assert cache.get_or_compute("k", lambda: "right", ttl=60) == "right"
            cache._near.clear()
            assert cache.get("k") == "right"


def test_without_a_store_values_are_computed_with_a_cap_and_near_values_serve() -> None:
    with Process() as process, replica(process.address, timeout="200ms") as cache:
        cache.set("near", "kept", ttl=60)
        process.kill()
        origin = Origin(held=True)
        with ThreadPoolExecutor(AWAY_COMPUTATIONS_MAX + 8) as threads:
            asked = [threads.submit(cache.get_or_compute, n, origin, ttl=60) for n in map(str, range(50))]
            until(lambda: origin.running == AWAY_COMPUTATIONS_MAX)
            origin.go.set()
            assert [one.result() for one in asked] == ["value"] * 50
        assert origin.running_max == AWAY_COMPUTATIONS_MAX
        assert cache.get("near") == "kept"
        assert cache.set("k", 1, ttl=60) is False
        assert cache.delete("k") is False
        assert cache.statistics().unknown > 0
        process.start()
        until(lambda: cache.set("k", 1, ttl=60))


def test_a_closed_cache_says_so(address: str) -> None:
    cache = replica(address)
    cache.close()
    with pytest.raises(CacheError, match="closed"):
        cache.get_or_compute("k", lambda: 1, ttl=60)


def test_a_forked_child_uses_connections_of_its_own(address: str) -> None:
    with replica(address) as cache:
        cache.set("k", "parent", ttl=60)
        child = os.fork()
        if child == 0:
            ok = False
            try:
                cache._near.clear()
                ok = cache.get("k") == "parent" and cache.set("k", "child", ttl=60)
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        cache._near.clear()
        assert cache.get("k") == "child"


# ---------------------------------------------------------------- the blocking store


@pytest.fixture
def store(address: str) -> Iterator[BlockingNode]:
    with BlockingMemcached(address, timeout="2s") as client:
        yield BlockingNode(client)


def test_a_token_of_an_earlier_run_of_the_server_is_not_sent() -> None:
    with Process() as process, BlockingMemcached(process.address, timeout="2s") as client:
        store = BlockingNode(client)
        token = store.set("k", b"old", 60).token
        assert token is not None
        process.restart()
        until(lambda: store.set("k", b"other", 60).status == STORED)
        assert store.cas_set("k", b"new", token, 60).status == EXISTS
        assert store.delete("k", token).status == EXISTS
        assert store.get("k").value == b"other"


def test_values_of_every_length_come_back_whole(store: BlockingNode) -> None:
    for value in (*(os.urandom(size) for size in (0, 1, 2, 4095, 65536, 900_000)), b"END\r\nVA 3 c1\r\nabc\r\n"):
        assert store.set("k", value, 60).status == STORED
        assert store.get("k").value == value


def test_a_lease_is_won_once(store: BlockingNode) -> None:
    first, second = store.get_or_lease("k", 5), store.get_or_lease("k", 5)
    assert (first.status, first.value, first.won, second.value, second.won) == (HIT, b"", True, b"", False)
    assert first.token is not None
    assert store.cas_set("k", b"v", first.token, 60).status == STORED
    assert store.get_or_lease("k", 5).value == b"v"
    assert store.cas_set("k", b"w", first.token, 60).status == EXISTS


class Lines:
    """A connection that has these bytes to read."""

    value_bytes_max, incarnation = 100, 1

    def __init__(self, data: bytes) -> None:
        self.data = data

    def line(self) -> bytes:
        line, _, self.data = self.data.partition(b"\r\n")
        return line

    def block(self, size: int) -> bytes:
        return self.data[:size]

    def unexpected(self, line: bytes) -> Exception:
        return MemcacheProtocolError(str(line))


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request", b"VA", b"VA x", b"VA -1 c1", b"VA +1 c1", b"VA 101 c1", b"VA 1_0",
     b"CLIENT_ERROR bad", b"ERROR", b"", b"HDX", b"hd"],
)  # fmt: skip
def test_a_line_that_is_no_answer_is_a_protocol_error(answer: bytes) -> None:
    with pytest.raises(MemcacheProtocolError):
        read_meta(b"mg")(Lines(answer + b"\r\n"))


def test_a_node_that_is_away_is_down(address: str) -> None:
    with Process() as process, BlockingMemcached(process.address, timeout="200ms") as client:
        process.kill()
        assert BlockingNode(client).get("k").status == DOWN
