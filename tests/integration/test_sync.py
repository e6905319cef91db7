"""fastroute.sync: the same names and answers as fastroute, blocking, on a real memcached, beside asyncio replicas."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import time

import pytest

import fastroute
import fastroute.sync
from fastroute.errors import ConnectError, MemcacheError
from tests.support.ages import grow_old
from tests.support.memcached import Memcached as MemcachedServer

SECRET = b"an identity secret of at least 32 bytes"


def pool():
    return fastroute.sync.Pool("app", [fastroute.Server(f"10.0.0.{n}:80", name=f"S{n}") for n in range(1, 6)])


@pytest.fixture
def memcached():
    with MemcachedServer() as server:
        yield server


def test_the_same_names_are_there():
    assert set(fastroute.__all__) == set(fastroute.sync.__all__)


def test_threads_that_ask_for_one_new_key_get_one_server(memcached):
    with fastroute.sync.Memcached([memcached.address], timeout="2s") as store:
        made = [fastroute.sync.Affinity(store, identity_secret=SECRET) for _ in range(4)]
        routers = [fastroute.sync.Router(pool(), affinity=affinity) for affinity in made]
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            for number in range(100):
                answers = list(threads.map(lambda router, n=number: router.route(f"u{n}").server.name, routers * 2))
                assert len(set(answers)) == 1
        for affinity in made:
            affinity.close()


async def test_blocking_and_asyncio_replicas_agree(memcached):
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        blocking = fastroute.sync.Router(pool(), affinity=affinity)
        async with (
            fastroute.Memcached([memcached.address], timeout="2s") as other_store,
            fastroute.Affinity(other_store, identity_secret=SECRET) as other,
        ):
            router = fastroute.Router(pool(), affinity=other)
            for number in range(50):
                if number % 2:
                    first = blocking.route(f"u{number}")
                    second = await router.route(f"u{number}")
                else:
                    second = await router.route(f"u{number}")
                    first = blocking.route(f"u{number}")
                assert first.server.name == second.server.name
                assert (first.term, first.generation) == (second.term, second.generation)


def test_move_and_release_work_blocking(memcached):
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        first = router.route("u")
        moved = router.move(first, ConnectError("refused", server=first.server.name))
        assert moved.server is not first.server
        assert (moved.term, moved.generation) == (first.term, 2)
        assert router.route("u").server is moved.server
        router.release("u")
        assert router.route_nowait("u") is None


def test_without_the_store_the_answer_is_the_one_every_replica_computes(memcached):
    with fastroute.sync.Memcached([memcached.address]) as store:
        memcached.kill()
        answers = []
        for _ in range(2):
            with fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity:
                router = fastroute.sync.Router(pool(), affinity=affinity)
                answers.append([router.route(f"u{n}").server.name for n in range(20)])
        assert answers[0] == answers[1]


def test_known_keys_keep_their_servers_without_asking_while_the_store_is_away_and_are_verified_when_it_is_back(
    memcached,
):
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET, near_ttl="1ms") as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        before = {f"u{n}": router.route(f"u{n}").server.name for n in range(20)}
        grow_old(affinity)
        assert router.route_nowait("u0") is None
        memcached.kill()
        end_s = time.monotonic() + 40
        while not next(iter(affinity._binders)).trust_stale:  # the first request may find its connection cut
            router.route("u0")
            assert time.monotonic() < end_s
        assert {key: router.route_nowait(key).server.name for key in before} == before
        memcached.start()
        while next(iter(affinity._binders)).trust_stale:
            time.sleep(0.01)
            assert time.monotonic() < end_s
        grow_old(affinity)
        assert router.route_nowait("u0") is None, "verified again"
        assert {key: router.route(key).server.name for key in before} == before
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        assert {key: router.route(key).server.name for key in before} == before, "the store has them again"


def counts_of(affinity) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(affinity.statistics) if field.name not in ("push", "mode_of")]
    return {name: copy.copy(getattr(affinity.statistics, name)) for name in [*names, "near_mode"]}


async def test_statistics_have_the_names_and_counts_of_the_asyncio_ones(memcached):
    counted = []
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        first = router.route("u")
        router.move(first, ConnectError("refused", server=first.server.name))
        router.learn("learned", 2)
        router.forget("learned")
        router.release("u")
        counted.append(counts_of(affinity))
    async with (
        fastroute.Memcached([memcached.address], timeout="2s", watch=False) as store,
        fastroute.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.Router(pool(), affinity=affinity)
        first = await router.route("v")
        await router.move(first, ConnectError("refused", server=first.server.name))
        router.learn("learned too", 2)
        await asyncio.gather(*affinity._learning)
        router.forget("learned too")
        await asyncio.gather(*affinity._learning)
        await router.release("v")
        counted.append(counts_of(affinity))
    assert counted[0] == counted[1]
    assert counted[0]["releases"] == {"released": 2}
    assert (counted[0]["learned"], counted[0]["forgotten"]) == (1, 1)


def test_learned_binding_is_where_the_answer_came_from_and_the_store_says_so(memcached):
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        for slot in (3, 1):  # the second one moves it
            router.learn("u", slot)
            assert router.route("u").server.name == router.pool.server_at(slot).name
        assert router.explain_stored("u").store.status == "hit"
        assert router.explain_stored("u").store.server == router.pool.server_at(1).name
        router.forget("u")
        assert router.explain_stored("u").store.status == "miss"
        assert router.explain("u").store is None
        memcached.kill()
        router.learn("v", 1)
        router.forget("v")
        assert router.explain_stored("v").store.status in ("down", "unknown")


def test_threads_ask_once_for_a_key_whose_time_is_up(memcached):
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        view = affinity.views[0]
        for _ in range(2):
            router.route("u")
            affinity.touch_soon(view, b"u")
        view.set_manual_ms(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000 + 3_000)
        before = memcached.statistics()["cmd_touch"]
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert len({one.server for one in threads.map(lambda _: router.route("u"), range(32))}) == 1
        assert int(memcached.statistics()["cmd_touch"]) - int(before) == 1


def test_release_blocking_says_what_came_of_it(memcached):
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        router.route("u")
        assert router.release("u") == "released"
        assert router.release("u") == "absent"
        memcached.kill()
        with pytest.raises(MemcacheError):
            router.release("u")
