"""Push invalidation for threads: writes of others are seen by the announcement, also after a fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastroute.cache.push_thread import thread_of
from fastroute.cache.shared import SharedCache as AsyncSharedCache
from fastroute.memcache import Memcached as AsyncMemcached
from fastroute.sync import Memcached, SharedCache
from tests.support.memcached import Memcached as Process

ANSWER_S = 40.0


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with Process() as running:
        yield running


@pytest.fixture
def address(process: Process) -> str:
    process.command("flush_all")
    return process.address


def until(claim: Callable[[], bool]) -> None:
    end_s = time.monotonic() + ANSWER_S
    while not claim():
        assert time.monotonic() < end_s, "it never held"
        time.sleep(0.001)


@contextlib.contextmanager
def replica(address: str, **options: Any) -> Iterator[SharedCache]:
    """A replica with a store of its own; near values live long, so that only announcements can end them."""
    with (
        Memcached([address], timeout="2s") as store,
        SharedCache(store, **{"namespace": "test", "near_ttl": "10m", **options}) as cache,
    ):
        until(lambda: cache._push is None or thread_of(store, "fr").live)
        yield cache


def test_a_write_is_seen_elsewhere_by_its_announcement(address: str) -> None:
    with replica(address) as one, replica(address) as two:
        one.set("k", 0, ttl=3600)
        for number in range(1, 20):
            assert two.get("k") == number - 1
            one.set("k", number, ttl=3600)
            assert one.get("k") == number
            until(lambda number=number: two.get("k") == number)  # type: ignore[misc]
        assert two.statistics().pushed >= 19
        one.delete("k")
        until(lambda: two.get("k") is None)


def test_purges_are_seen_elsewhere_by_their_announcement(address: str) -> None:
    with replica(address) as one, replica(address) as two:
        one.set("a", 1, ttl=3600, tags=["x"])
        one.set("b", 2, ttl=3600)
        assert two.get_many(["a", "b"]) == {"a": 1, "b": 2}
        one.purge_tags("x")
        until(lambda: two.get("a") is None)
        assert two.get("b") == 2
        one.purge_namespace()
        until(lambda: two.get("b") is None)


def test_threads_see_what_asyncio_writes(address: str) -> None:
    async def write() -> None:
        async with (
            AsyncMemcached([address], timeout="2s") as store,
            AsyncSharedCache(store, namespace="test", watch=False) as cache,
        ):
            await cache.set("k", "new", ttl=3600)

    with replica(address) as two:
        two.set("k", "old", ttl=3600)
        asyncio.run(write())
        until(lambda: two.get("k") == "new")


def test_after_a_lost_channel_near_values_are_asked_for_again() -> None:
    with Process() as process, replica(process.address) as cache:
        cache.set("k", "v", ttl=3600)
        assert cache._near_value("k") == "v"
        process.restart()
        until(lambda: cache.statistics().push_losses > 0)
        assert not cache._near_value("k")
        assert cache._near_while_away("k") == "v"


def test_caches_of_one_store_share_a_thread_and_the_last_ends_it(address: str) -> None:
    with Memcached([address], timeout="2s") as store:
        first = SharedCache(store, namespace="a")
        with first, SharedCache(store, namespace="b") as second:
            thread = thread_of(store, "fr")
            until(lambda: thread.live)
            first.close()
            assert thread.running
            with replica(address, namespace="b") as other:
                other.set("k", 1, ttl=60)
                until(lambda: second.get("k") == 1)
        assert not thread.running


def test_nothing_is_watched_unless_asked_for(address: str) -> None:
    with Memcached([address], timeout="2s") as store:
        with SharedCache(store, namespace="a", watch=False) as cache:
            assert cache._push is None
        with SharedCache(store, namespace="a", near_bytes=0) as cache:
            assert cache._push is None
        cache = SharedCache(store, namespace="a")
        assert cache.get("k") is None
        assert cache._push is None
        cache.start()
        assert thread_of(store, "fr").running
        cache.close()
        assert not thread_of(store, "fr").running


def test_a_forked_process_watches_for_itself(address: str) -> None:
    with replica(address) as one, replica(address) as two:
        one.set("k", "before", ttl=3600)
        assert two.get("k") == "before"
        told, tell = os.pipe()
        ready, say = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                assert two.get("other") is None  # the store is asked: here the fork is noticed
                assert thread_of(two.store, "fr").pid == os.getpid()
                until(lambda: thread_of(two.store, "fr").live)
                assert two.get("k") == "before"
                os.write(say, b"r")
                os.read(told, 1)
                until(lambda: two.get("k") == "after")
                status = 0
            os._exit(status)
        assert os.read(ready, 1) == b"r"
        one.set("k", "after", ttl=3600)
        os.write(tell, b"w")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        until(lambda: two.get("k") == "after")
        for descriptor in (told, tell, ready, say):
            os.close(descriptor)


def test_where_the_node_refuses_to_be_watched_near_ttl_holds(process: Process) -> None:
    process.command("flush_all")
    watchers = [process.connect() for _ in range(20)]
    try:
        for watcher in watchers:
            watcher.sendall(b"watch mutations\r\n")
            assert watcher.recv(64) == b"OK\r\n"
        with (
            Memcached([process.address], timeout="2s") as store,
            SharedCache(store, namespace="test", near_ttl=0.2) as one,
            replica(process.address, watch=False) as two,
        ):
            one.set("k", 0, ttl=3600)
            two.set("k", 1, ttl=3600)
            started_s = time.monotonic()
            until(lambda: one.get("k") == 1)
            assert time.monotonic() - started_s < 2.0
            assert one.statistics().pushed == 0
    finally:
        for watcher in watchers:
            watcher.close()
