"""Writes of one replica at the others: by announcement within milliseconds, without it within near_ttl."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fastroute.cache.push import hub_of
from fastroute.cache.shared import SharedCache
from fastroute.memcache.cluster import Memcached
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


@contextlib.asynccontextmanager
async def replica(address: str, **options: Any) -> AsyncIterator[SharedCache]:
    """A replica with a store of its own; near values live long, so that only announcements can end them."""
    async with (
        Memcached([address], timeout="2s") as store,
        SharedCache(store, **{"namespace": "test", "near_ttl": "10m", **options}) as cache,
    ):
        await until(lambda: cache._push is None or hub_of(store, "fr").live)
        yield cache


async def until(claim: Callable[[], bool]) -> float:
    """Until a claim holds; how long it took."""
    started_s = time.monotonic()
    async with asyncio.timeout(ANSWER_S):
        while not claim():
            await asyncio.sleep(0.001)
    return time.monotonic() - started_s


async def seen(cache: SharedCache, key: str, value: object) -> float:
    """Until a replica has this value; how long it took."""
    started_s = time.monotonic()
    async with asyncio.timeout(ANSWER_S):
        while await cache.get(key) != value:
            await asyncio.sleep(0.001)
    return time.monotonic() - started_s


async def test_a_write_is_seen_elsewhere_by_its_announcement(address: str) -> None:
    async with replica(address) as one, replica(address) as two:
        await one.set("k", 0, ttl=3600)
        for number in range(1, 20):
            assert await two.get("k") == number - 1
            await one.set("k", number, ttl=3600)
            assert await one.get("k") == number
            await seen(two, "k", number)
        assert two.statistics().pushed >= 19
        await one.delete("k")
        await seen(two, "k", None)


async def test_purges_are_seen_elsewhere_by_their_announcement(address: str) -> None:
    async with replica(address) as one, replica(address) as two:
        await one.set("a", 1, ttl=3600, tags=["x"])
        await one.set("b", 2, ttl=3600)
        assert await two.get_many(["a", "b"]) == {"a": 1, "b": 2}
        await one.purge_tags("x")
        await seen(two, "a", None)
        assert await two.get("b") == 2
        await one.purge_namespace()
        await seen(two, "b", None)


async def test_own_announcements_do_not_end_own_near_values(address: str) -> None:
    async with replica(address) as one:
        hub = hub_of(one.store, "fr")
        lines = hub.lines
        await one.get("other")  # makes the namespace's generation, which is announced
        await until(lambda: hub.lines > lines)
        for number in range(5):
            before = hub.lines
            await one.set("k", number, ttl=3600)
            await until(lambda before=before: hub.lines > before)  # type: ignore[misc]
        hits = one.statistics().hits_near
        assert await one.get("k") == 4
        assert one.statistics().hits_near == hits + 1


async def test_a_fill_under_way_is_forbidden_by_an_announcement(address: str) -> None:
    async with replica(address) as one, replica(address) as two:
        await one.set("k", "old", ttl=3600)
        name = two._any_name("k")
        ticket = two._begin_fill(name)
        await one.set("k", "new", ttl=3600)
        await until(lambda: two.statistics().pushed > 0)
        assert two._near.finish_fill(name.near, ticket, "old", 10, 1000, 1000) is False


async def test_after_a_lost_channel_near_values_are_asked_for_again(address: str) -> None:
    with Process() as process:
        async with replica(process.address) as cache:
            await cache.set("k", "v", ttl=3600)
            assert cache._near_value("k") == "v"
            process.restart()
            await until(lambda: cache.statistics().push_losses > 0)
            assert not cache._near_value("k")
            assert cache._near_while_away("k") == "v"


async def test_caches_of_one_store_share_a_channel_and_the_last_ends_it(address: str) -> None:
    async with Memcached([address], timeout="2s") as store:
        first = SharedCache(store, namespace="a")
        async with first, SharedCache(store, namespace="b"):
            hub = hub_of(store, "fr")
            await until(lambda: hub.live)
            await first.aclose()
            assert hub._tasks
        assert not hub._tasks


async def test_what_is_known_of_keys_stays_bounded(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastroute.cache.push.KNOWN_SLACK", 50)
    async with replica(address, near_bytes=20_000) as one:
        for number in range(1000):
            one._begin_fill(one._any_name(f"k{number}"))
        assert one._push is not None
        assert len(one._push._near_keys) <= 300


async def test_without_announcements_a_write_is_seen_within_near_ttl(address: str) -> None:
    async with (
        replica(address, watch=False, near_ttl=0.3) as one,
        replica(address, watch=False, near_ttl=0.3) as two,
    ):
        for number in range(3):
            await one.set("k", number, ttl=3600)
            started_s = time.monotonic()
            took_s = await seen(two, "k", number)
            assert took_s <= 0.3 + 1.0, f"{started_s}: the bound is near_ttl; a second is left to a busy machine"
