"""Maximum connections, the waiting line of acquire(), and the panic threshold."""

import asyncio

import pytest

from fastroute import Server
from fastroute.errors import NoServerAvailable, UsageError
from fastroute.routing.policies import POLICIES
from fastroute.routing.pool import Pool


def pool_of(*limits: int, policy: str = "round-robin", **options) -> Pool:
    servers = [Server(f"10.0.0.{i + 1}:80", name=f"s{i}", max_connections=limit) for i, limit in enumerate(limits)]
    return Pool("app", servers, policy=policy, **{"slots": 1024, "seed": 1, **options})


def in_flight(pool: Pool) -> list[int]:
    return [row.in_flight for row in pool.statistics().servers]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_server_gets_more_than_its_maximum(policy):
    pool = pool_of(3, 5, 2, policy=policy)
    held = [pool.request(f"k{i}").__enter__() for i in range(10)]
    assert in_flight(pool) == [3, 5, 2]
    with pytest.raises(NoServerAvailable) as caught:
        pool.request("k")
    assert caught.value.reasons["s0"] == "full (max_connections 3)"
    held.pop().__exit__(None, None, None)
    with pool.request("k"):
        assert sum(in_flight(pool)) == 10
    for request in held:
        request.__exit__(None, None, None)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_without_maximum_takes_what_others_cannot(policy):
    pool = pool_of(1, 0, policy=policy)
    held = [pool.request(f"k{i}").__enter__() for i in range(20)]
    assert in_flight(pool)[0] <= 1
    for request in held:
        request.__exit__(None, None, None)


def test_room_is_told_for_draining_servers_too():
    pool = pool_of(1, 0)
    pool.set_state("s0", "draining")
    slot = pool.slot_of("s0")
    assert pool.room_in(slot)
    with pool.request_to("s0"):
        assert not pool.room_in(slot)
        with pytest.raises(NoServerAvailable):
            pool.request_to("s0")
    assert pool.room_in(slot)
    assert not pool.room_in(999)


async def test_acquire_waits_its_turn_first_come_first_served():
    pool = pool_of(1)
    order = []

    async def one(number: int) -> None:
        async with pool.acquire():
            order.append(number)
            assert in_flight(pool) == [1]
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(20)))
    assert order == list(range(20))
    assert (in_flight(pool), pool.waiting_count) == ([0], 0)


async def test_acquire_gives_up_in_time():
    pool = pool_of(1)
    async with pool.acquire():
        with pytest.raises(NoServerAvailable, match="no room within"):
            async with pool.acquire(timeout="10ms"):
                pass
        assert pool.waiting_count == 0
    assert in_flight(pool) == [0]


async def test_acquire_lets_no_more_wait_than_pending():
    pool = pool_of(1, pending=2)
    async with pool.acquire():
        waiting = [asyncio.ensure_future(pool.acquire().__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NoServerAvailable, match="2 requests wait already"):
            await pool.acquire().__aenter__()
        assert pool.waiting_count == 2
    first = await waiting[0]
    first.__exit__(None, None, None)
    (await waiting[1]).__exit__(None, None, None)
    assert in_flight(pool) == [0]


async def test_a_cancelled_waiter_leaves_the_line_and_holds_nothing():
    pool = pool_of(1)
    async with pool.acquire():
        waiters = [asyncio.ensure_future(pool.acquire().__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await asyncio.sleep(0)
        assert pool.waiting_count == 2
    waiters[1].cancel()  # perhaps after it was served
    (await waiters[2]).__exit__(None, None, None)
    await asyncio.gather(*waiters, return_exceptions=True)
    assert (in_flight(pool), pool.waiting_count) == ([0], 0)


async def test_acquire_for_one_server_waits_for_that_server():
    pool = pool_of(1, 0)
    async with pool.acquire(server="s0"):
        late = asyncio.ensure_future(pool.acquire(server="s0").__aenter__())
        await asyncio.sleep(0)
        assert pool.waiting_count == 1
    request = await late
    assert request.server.name == "s0"
    request.__exit__(None, None, None)


async def test_a_server_that_becomes_ready_serves_the_line():
    pool = pool_of(1, 1)
    pool.set_state("s1", "down")
    async with pool.acquire():
        late = asyncio.ensure_future(pool.acquire().__aenter__())
        await asyncio.sleep(0)
        pool.set_state("s1", "ready")
        request = await late
        assert request.server.name == "s1"
        request.__exit__(None, None, None)


async def test_acquire_does_not_wait_where_no_server_is_ready():
    pool = pool_of(1)
    pool.set_state("s0", "down")
    with pytest.raises(NoServerAvailable):
        await pool.acquire(timeout=60).__aenter__()
    with pytest.raises(UsageError):
        await pool.acquire(1.5).__aenter__()


@pytest.mark.parametrize("policy", POLICIES)
def test_panic_uses_servers_that_are_down_and_says_so(policy):
    pool = pool_of(0, 0, 0, 0, policy=policy, panic=0.5)
    for name in ("s0", "s1"):
        pool.set_state(name, "down")
    assert not pool.panicking
    assert {pool.select(f"k{i}").name for i in range(200)} == {"s2", "s3"}
    pool.set_state("s2", "ejected")
    assert pool.panicking
    assert {pool.select(f"k{i}").name for i in range(400)} == {"s0", "s1", "s2", "s3"}
    assert pool.request("k").reason == "panic"
    assert pool.statistics().panicking
    assert pool.statistics().panic_picks_total >= 400
    assert pool.may_take_bound(pool.slot_of("s0"))
    pool.set_state("s1", "ready")
    assert not pool.panicking
    assert pool.request("k").reason == "policy"
    assert not pool.may_take_bound(pool.slot_of("s0"))


def test_panic_leaves_out_what_an_operator_took_out():
    pool = pool_of(0, 0, 0, 0, panic=0.9)
    pool.set_state("s0", "down")
    pool.set_state("s1", "maintenance")
    pool.set_state("s2", "draining")
    assert {pool.select().name for _ in range(20)} == {"s0", "s3"}


def test_backups_come_before_panic():
    servers = [
        Server("10.0.0.1:80", name="a"),
        Server("10.0.0.2:80", name="b"),
        Server("10.0.0.3:80", name="x", backup=True),
    ]
    pool = Pool("app", servers, panic=0.9)
    pool.set_state("a", "down")
    pool.set_state("b", "down")
    assert (pool.panicking, {pool.select().name for _ in range(9)}) == (False, {"x"})
    pool.set_state("x", "down")
    assert (pool.panicking, {pool.select().name for _ in range(9)}) == (True, {"a", "b"})


def test_there_is_no_panic_by_default():
    pool = pool_of(0, 0, 0)
    pool.set_state("s0", "down")
    pool.set_state("s1", "down")
    assert {pool.select().name for _ in range(9)} == {"s2"}
    assert not pool.panicking
