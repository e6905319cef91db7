"""Binding and its drivers when something happens in the middle: a caller gives up, the pool changes, the store goes."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from fastroute import Affinity, Pool, Router, Server
from fastroute._core.mc_reply import make_reply
from fastroute.affinity.agreement import AddThenGet, Answer, Heard, Kind, Lookup, move
from fastroute.affinity.base import AffinityBase
from fastroute.affinity.record import Record, server_id
from fastroute.clock import SYSTEM
from fastroute.errors import ConnectError
from fastroute.memcache.client import DOWN, HIT, MISS, NOT_STORED, STORED, UNKNOWN
from tests.support.register import Register

S1, S2, S3 = (server_id(f"S{n}") for n in (1, 2, 3))
MINUTE = 5


def servers(*numbers: int) -> list[Server]:
    return [Server(f"10.0.0.{n}:80", name=f"S{n}") for n in numbers]


class Store:
    """The part of fastroute.Memcached that the affinity uses, over one dict; answers come when the gate is open."""

    timeout_s = 0.05

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, int]] = {}
        self.counter = 0
        self.up = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, bytes]] = []

    @property
    def up_nodes(self) -> tuple[str, ...]:
        return ("node",) if self.up else ()

    async def _answer(self, verb: str, name: bytes):
        self.asked.append((verb, name))
        await self.gate.wait()
        if not self.up:
            return make_reply(DOWN)
        if name not in self.values:
            return make_reply(MISS)
        value, cas = self.values[name]
        return make_reply(HIT, value, cas, 1)

    def put(self, name: bytes, value: bytes) -> None:
        self.counter += 1
        self.values[name] = value, self.counter

    def homes_of(self, name):
        return (self,)

    async def get(self, name, touch_s=None):
        return await self._answer("get", name)

    async def add_then_get(self, name, value, ttl_s, touch_s=None):
        await self.gate.wait()
        added = self.up and name not in self.values
        if added:
            self.put(name, value)
        return make_reply(STORED if added else NOT_STORED), await self._answer("add", name)

    async def cas_then_get(self, name, value, token, ttl_s):
        await self.gate.wait()
        if self.up and name in self.values and self.values[name][1] == token.cas:
            self.put(name, value)
        return make_reply(UNKNOWN), await self._answer("cas", name)

    async def expire_key(self, name, token):
        await self.gate.wait()
        self.values.pop(name, None)
        return make_reply(STORED)


@pytest.fixture
async def stored():
    """An affinity over a Store, its router and its view."""
    store = Store()
    affinity = Affinity(store)
    pool = Pool("app", servers(1, 2, 3))
    router = Router(pool, affinity=affinity)
    yield store, affinity, router, next(iter(affinity._binders))
    store.gate.set()
    await affinity.aclose()


def zone_only(pool: Pool):
    affinity = Affinity()
    view = affinity.attach(pool)
    return affinity, view, affinity._binders[view]


class Steps(AffinityBase):
    """Gives the steps of a stored affinity to the test."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(
            stored=True,
            ttl="30m",
            identity_secret=None,
            cookie_secrets=(),
            fleet="fr",
            zone=None,
            near_ttl="2s",
            clock=SYSTEM,
        )
        self.view = self.attach(pool)
        self.binder = self._binders[self.view]
        self.fingerprint = self.view.fingerprint(b"u")

    def bind(self, hint=None):
        return self.binder.bind(self.fingerprint, b"u", hint, MINUTE)

    def rebind(self, slot, term, generation):
        return self.binder.rebind(self.fingerprint, b"u", slot, term, generation, MINUTE)


def outcome_of(steps, answer=None):
    try:
        command = steps.send(answer)
    except StopIteration as end:
        return end.value
    raise AssertionError(f"one more question: {command}")


def drive(steps, register: Register):
    answer = None
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = register.ask(command)


# ---- truth in a move


@pytest.mark.parametrize("dead", [{S2}, {S1, S2}])
def test_move_of_a_decision_that_the_store_has_not_seen_goes_on_from_it(dead):
    known, older = Record(7, 3, S2), Record(7, 1, S1)
    register = Register(data=older.pack(), cas=1, counter=1)
    steps = move(
        known,
        None,
        lambda record: record.moved_to(S3, writer=9, minute=6),
        lambda record: record.server not in dead,
        lambda: Record(99, 1, S3),
        60,
    )
    decision = drive(steps, register)
    assert (decision.kind, decision.record.term, decision.record.generation) == (Kind.MOVED, 7, 4)
    assert Record.unpack(register.data) == decision.record


def test_move_in_the_zone_keeps_the_term_of_what_stands():
    affinity, view, binder = zone_only(Pool("app", servers(1, 2, 3)))
    fingerprint = view.fingerprint(b"u")
    view.claim(fingerprint, 0, 8, 1)  # somebody else's term, bound to the server that failed
    bound = outcome_of(binder.rebind(fingerprint, b"u", 0, 7, 1, MINUTE))
    assert bound.slot != 0
    assert (bound.term, bound.generation) == (8, 2)
    affinity._close_zone()


async def test_later_decision_in_a_cookie_wins_over_a_usable_entry_of_the_zone():
    async with Affinity() as affinity:
        router = Router(Pool("app", servers(1, 2, 3)), affinity=affinity)
        view = next(iter(affinity._binders))
        view.claim(view.fingerprint(b"u"), 0, 7, 1)  # moved since, on another machine
        first = await router.route("u", ("S2", 7, 2))
        assert (first.server.name, first.generation) == ("S2", 2)
        assert router.route_nowait("u").server.name == "S2"
        for older in (("S3", 7, 1), ("S3", 8, 9)):
            assert (await router.route("u", older)).server.name == "S2"


# ---- the pool changes while the store is asked


async def test_failure_of_a_server_that_left_the_pool_moves_its_binding():
    pool = Pool("app", servers(1, 2, 3))
    async with Affinity() as affinity:
        router = Router(pool, affinity=affinity)
        first = await router.route("u")
        pool.update([one for one in pool.servers if one.name != first.server.name])
        moved = await router.move(first, ConnectError("refused", server=first.server.name))
        assert moved.server.name != first.server.name
        assert (moved.term, moved.generation) == (first.term, 2)


def test_server_that_came_while_the_store_was_asked_can_be_the_answer():
    pool = Pool("app", servers(1))
    one = Steps(pool)
    steps = one.bind()
    assert isinstance(next(steps), AddThenGet)
    pool.update(servers(2))
    bound = outcome_of(steps, Answer(Heard.DOWN))
    assert pool.server_at(bound.slot).name == "S2"
    assert one.view.lookup(one.fingerprint).slot == bound.slot
    one._close_zone()


def test_slot_given_to_another_server_while_the_store_was_asked_is_not_taken_for_the_old_one():
    pool = Pool("app", servers(1, 2))
    one = Steps(pool)
    steps = one.bind(("S1", 7, 1))
    next(steps)
    slot = pool.slot_of("S1")
    pool.update(servers(2))
    pool.update(servers(2, 3))
    assert pool.slot_of("S3") == slot
    command = steps.send(Answer(Heard.RECORD, Record(7, 1, S1).pack(), "token"))  # S1 is gone: a move follows
    assert Record.unpack(command.record).generation == 2
    one._close_zone()


def test_successor_that_left_while_the_move_was_written_is_moved_on_from():
    pool = Pool("app", servers(1, 2))
    one = Steps(pool)
    slot, register = pool.slot_of("S1"), Register(data=Record(7, 1, S1).pack(), cas=1, counter=1)
    steps = one.rebind(slot, 7, 1)
    command = steps.send(register.ask(next(steps)))
    answer = register.ask(command)
    assert Record.unpack(register.data).server == S2
    pool.update(servers(1, 3))
    one.binder._refresh()  # as another key's request would

    def rest():
        command = steps.send(answer)
        while True:
            command = steps.send(register.ask(command))

    with pytest.raises(StopIteration) as end:
        rest()
    assert Record.unpack(register.data).generation == 3
    assert pool.server_at(end.value.value.slot).name in {"S1", "S3"}
    one._close_zone()


def test_record_that_somebody_wrote_over_garbage_first_is_looked_at_before_it_is_used():
    pool = Pool("app", servers(1, 2, 3))
    one = Steps(pool)
    steps = one.rebind(0, 7, 1)
    assert isinstance(next(steps), Lookup)
    steps.send(Answer(Heard.RECORD, b"garbage", "token 1"))
    stranger = Answer(Heard.RECORD, Record(9, 1, server_id("not ours")).pack(), "token 2")
    command = steps.send(stranger)
    written = Record.unpack(command.record)
    assert (written.term, written.generation) == (9, 2)
    bound = outcome_of(steps, Answer(Heard.RECORD, command.record, "token 3"))
    assert (bound.term, bound.generation) == (9, 2)
    one._close_zone()


def test_other_threads_never_see_half_a_list_of_servers():
    pool = Pool("app", servers(*range(1, 60)))
    affinity, view, _ = zone_only(pool)
    fingerprint = view.fingerprint(b"u")
    view.claim(fingerprint, pool.slot_of("S59"), 7, 1)
    seen, done = set(), threading.Event()

    def look() -> None:
        seen.add(view.lookup(fingerprint).slot)
        while not done.is_set():
            seen.add(view.lookup(fingerprint).slot)

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(300):
        view.refresh()
    done.set()
    thread.join()
    assert seen == {pool.slot_of("S59")}
    affinity._close_zone()


# ---- while the store is away


def test_later_decision_of_a_cookie_is_kept_in_the_zone_while_the_store_is_away():
    pool = Pool("app", servers(1, 2, 3))
    one = Steps(pool)
    one.view.claim(one.fingerprint, pool.slot_of("S1"), 7, 1)
    steps = one.bind(("S2", 7, 2))
    next(steps)
    bound = outcome_of(steps, Answer(Heard.DOWN))
    near = one.view.lookup(one.fingerprint)
    assert (pool.server_at(bound.slot).name, bound.generation) == ("S2", 2)
    assert (near.slot, near.generation) == (bound.slot, 2)
    one._close_zone()


def test_cookie_yields_to_what_another_process_bound_while_the_store_was_asked():
    pool = Pool("app", servers(1, 2, 3))
    one = Steps(pool)
    steps = one.bind(("S2", 7, 1))
    next(steps)
    one.view.claim(one.fingerprint, pool.slot_of("S1"), 8, 1)
    bound = outcome_of(steps, Answer(Heard.DOWN))
    assert (pool.server_at(bound.slot).name, bound.term) == ("S1", 8)
    one._close_zone()


async def test_view_attached_while_the_store_is_away_trusts_its_zone_too_and_verifies_when_it_is_back(stored):
    store, affinity, router, view = stored
    store.up = False
    await router.route("u")
    assert view.trust_stale
    late = Router(Pool("late", servers(1, 2)), affinity=affinity)
    await late.route("u")
    assert all(one.trust_stale for one in affinity._binders)
    store.up = True
    await affinity._return_watch
    assert not any(one.trust_stale for one in affinity._binders)


# ---- callers that give up


async def test_binding_being_learned_that_is_cancelled_before_it_starts_leaves_nobody_waiting(stored):
    _, affinity, router, _ = stored
    router.learn("u", 0)
    (task,) = affinity._learning
    waiter = asyncio.get_running_loop().create_task(router.route("u"))
    task.cancel()
    assert (await asyncio.wait_for(waiter, 5)).server.name
    assert not affinity._flights


async def test_who_waited_for_a_caller_that_gave_up_does_not_use_a_stale_entry(stored):
    store, affinity, router, view = stored
    view.set_manual_ms(1_000_000)
    first = await router.route("u")
    await affinity._toucher if affinity._toucher else None
    view.set_manual_ms(1_030_000)
    (name,) = store.values
    elsewhere = Record.unpack(store.values[name][0]).moved_to(
        server_id("S2" if first.server.name != "S2" else "S3"), writer=1, minute=MINUTE
    )
    store.put(name, elsewhere.pack())
    store.gate.clear()
    loop = asyncio.get_running_loop()
    gives_up, waits = loop.create_task(router.route("u")), loop.create_task(router.route("u"))
    await asyncio.sleep(0)
    gives_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gives_up
    store.gate.set()
    second = await asyncio.wait_for(waits, 5)
    assert (second.server.name != first.server.name, second.generation) == (True, 2)


async def test_requests_that_wait_for_one_binding_use_its_outcome_and_ask_the_store_once(stored):
    store, _, router, _ = stored
    store.gate.clear()
    requests = [asyncio.get_running_loop().create_task(router.route("u")) for _ in range(20)]
    await asyncio.sleep(0)
    store.gate.set()
    assert len({one.server.name for one in await asyncio.gather(*requests)}) == 1
    assert [verb for verb, _ in store.asked].count("add") == 1


async def test_release_is_not_undone_by_a_request_that_read_the_store_in_between(stored):
    store, _, router, view = stored
    await router.route("u")
    (name,) = store.values
    store.gate.clear()
    release = asyncio.get_running_loop().create_task(router.release("u"))
    await asyncio.sleep(0)
    record = Record.unpack(store.values[name][0])
    view.learn(view.fingerprint(b"u"), 0, record.term, record.generation)  # another process of this machine
    store.gate.set()
    await release
    assert Record.unpack(store.values[name][0]).released
    assert view.lookup(view.fingerprint(b"u")) is None
