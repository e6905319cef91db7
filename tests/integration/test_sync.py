"""fastroute.sync: the same names and answers as fastroute, blocking, on a real memcached, beside asyncio replicas."""

from __future__ import annotations

import concurrent.futures
import time

import pytest

import fastroute
import fastroute.sync
from fastroute.errors import ConnectError, MemcacheError
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
        time.sleep(0.2)  # past near_ttl
        assert router.route_nowait("u0") is None
        memcached.kill()
        end_s = time.monotonic() + 10
        while not next(iter(affinity._binders)).trust_stale:  # the first request may find its connection cut
            router.route("u0")
            assert time.monotonic() < end_s
        assert {key: router.route_nowait(key).server.name for key in before} == before
        memcached.start()
        while next(iter(affinity._binders)).trust_stale:
            time.sleep(0.01)
            assert time.monotonic() < end_s
        time.sleep(0.2)
        assert router.route_nowait("u0") is None, "verified again"
        assert {key: router.route(key).server.name for key in before} == before
    with (
        fastroute.sync.Memcached([memcached.address], timeout="2s") as store,
        fastroute.sync.Affinity(store, identity_secret=SECRET) as affinity,
    ):
        router = fastroute.sync.Router(pool(), affinity=affinity)
        assert {key: router.route(key).server.name for key in before} == before, "the store has them again"


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
