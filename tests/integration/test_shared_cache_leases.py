"""What becomes of a lease, and of who waits, when callers go, writes come and the cache is closed at the worst moment.

The store is scripted: it answers what a test lets it answer, and a test may answer in its place within one turn of the
event loop, which no real one can be made to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fastroute.cache.shared import SharedCache
from fastroute.errors import CacheError
from fastroute.memcache.cluster import Memcached
from tests.support.fake_memcached import FakeMemcached, opaque_of

ANSWER_S = 20.0
"""Longest wait for anything that must happen; it happens within milliseconds unless the machine is starved."""

GENERATION = (8).to_bytes(8, "little")


class Store:
    """Answers questions for generations, and what `answers` says: kind of question -> answer; None: silence."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | None] = {"value": b"VA 0 c1 W", "tag": b"VA 8 c1", "expired": b"HD"}

    def __call__(self, line: bytes) -> bytes | None:
        words, mark = line.split(), opaque_of(line)
        verb, key = words[0], words[1]
        if key.startswith(b"fr:t:test"):
            if key != b"fr:t:test" and self.answers["tag"] is None:
                return None
            return b"NS\r\n" if verb == b"ms" else b"VA 8 c1%b\r\n%b\r\n" % (mark, GENERATION)
        if b"T-1" in words:
            return None if self.answers["expired"] is None else b"HD%b c2\r\n" % mark
        if verb != b"mg":
            return b"HD%b c2\r\n" % mark
        answer = self.answers["value"]
        return None if answer is None else b"%b%b\r\n\r\n" % (answer, mark)


@pytest.fixture
def script() -> Store:
    return Store()


@pytest.fixture
async def fake(script: Store) -> AsyncIterator[FakeMemcached]:
    async with FakeMemcached(script) as running:
        yield running


@pytest.fixture
async def cache(fake: FakeMemcached) -> AsyncIterator[SharedCache]:
    async with (
        Memcached([fake.address], timeout="2s") as store,
        SharedCache(store, namespace="test", watch=False) as made,
    ):
        assert await made.get("warm") is None
        yield made


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(ANSWER_S):
        while not claim():
            await asyncio.sleep(0.001)


def asked(fake: FakeMemcached, begin: bytes, part: bytes = b"") -> list[bytes]:
    return [line for line in fake.lines if line.startswith(begin) and part in line]


async def never() -> None:
    await asyncio.Event().wait()


async def in_flight(fake: FakeMemcached, cache: SharedCache, script: Store) -> tuple[asyncio.Task[None], bytes]:
    """A caller whose question has been sent and is not answered; the mark of its answer."""
    script.answers["value"] = None
    before = len(asked(fake, b"mg fr:c:"))
    task = asyncio.create_task(cache.get_or_compute("k", never, ttl=60))
    await until(lambda: len(asked(fake, b"mg fr:c:")) > before)
    return task, opaque_of(asked(fake, b"mg fr:c:")[-1])


def answer(cache: SharedCache, data: bytes) -> None:
    """As the connection does when these bytes have come."""
    cache.store.nodes[0].codec.feed(data)


async def gone(task: asyncio.Task[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_lease_won_in_the_turn_in_which_its_last_caller_goes_is_given_back(
    fake: FakeMemcached, cache: SharedCache, script: Store
) -> None:
    task, mark = await in_flight(fake, cache, script)
    task.cancel()
    answer(cache, b"VA 0 c77 W%b\r\n\r\n" % mark)
    await gone(task)
    await until(lambda: bool(asked(fake, b"md fr:c:", b" C77 ")))


async def test_a_lease_is_given_back_while_the_tags_are_asked_for(
    fake: FakeMemcached, cache: SharedCache, script: Store
) -> None:
    script.answers["tag"] = None
    task = asyncio.create_task(cache.get_or_compute("k", never, ttl=60, tags=("t",)))
    await until(lambda: bool(asked(fake, b"mg fr:t:test:")))
    task.cancel()
    await gone(task)
    await until(lambda: bool(asked(fake, b"md fr:c:", b" C1 ")))


async def test_a_stub_put_over_what_cannot_be_used_is_given_back(
    fake: FakeMemcached, cache: SharedCache, script: Store
) -> None:
    task, mark = await in_flight(fake, cache, script)
    codec = cache.store.nodes[0].codec
    answer(cache, b"VA 3 c5%b\r\nbad\r\n" % mark)
    async with asyncio.timeout(ANSWER_S):
        while codec.in_flight == 0:  # the step after: what is there is replaced by a stub
            await asyncio.sleep(0)
    task.cancel()
    await gone(task)
    await until(lambda: bool(asked(fake, b"ms fr:c:", b" C5 ")))
    await until(lambda: bool(asked(fake, b"md fr:c:", b" C2 ")))


async def test_a_lease_won_is_not_asked_for_twice_when_generations_were_forgotten(
    fake: FakeMemcached, cache: SharedCache, script: Store
) -> None:
    task, mark = await in_flight(fake, cache, script)
    questions = len(asked(fake, b"mg fr:c:"))
    generations = len(asked(fake, b"mg fr:t:test"))
    cache._doubt_all()  # as when the push channel was lost
    answer(cache, b"VA 0 c77 W%b\r\n\r\n" % mark)
    await until(lambda: cache.statistics().computations == 1)
    assert len(asked(fake, b"mg fr:c:")) == questions
    assert len(asked(fake, b"mg fr:t:test")) == generations + 1
    task.cancel()
    await gone(task)


async def test_a_caller_whose_flight_a_write_made_forgotten_hears_that_the_cache_was_closed(
    fake: FakeMemcached, cache: SharedCache, script: Store
) -> None:
    task, mark = await in_flight(fake, cache, script)
    script.answers["expired"] = None
    deleted = asyncio.create_task(cache.delete("k"))
    await until(lambda: bool(asked(fake, b"ms fr:c:", b" T-1")))
    await cache.aclose()
    answer(cache, b"VA 0 c77 W%b\r\n\r\n" % mark)
    async with asyncio.timeout(ANSWER_S):
        with pytest.raises(CacheError):
            await task
    deleted.cancel()
    await gone(deleted)
    await until(lambda: bool(asked(fake, b"md fr:c:", b" C77 ")))


async def test_a_lease_won_in_the_turn_of_the_close_is_given_back(
    fake: FakeMemcached, cache: SharedCache, script: Store
) -> None:
    task, mark = await in_flight(fake, cache, script)
    answer(cache, b"VA 0 c77 W%b\r\n\r\n" % mark)
    await cache.aclose()
    with pytest.raises(CacheError):
        await task
    await until(lambda: bool(asked(fake, b"md fr:c:", b" C77 ")))
