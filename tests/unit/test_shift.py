"""One idle binding moves, and nothing else: the steps against nodes, and the zone alone."""

from __future__ import annotations

import asyncio

import pytest

from fastroute import Affinity, Pool, Server
from fastroute._core.affinity_table import FOUND, ONCE, PROVISIONAL
from fastroute._core.affinity_table import Record as Entry
from fastroute.affinity.agreement import Answer, CasThenGet, Heard, Lookup
from fastroute.affinity.record import Record, server_id
from fastroute.affinity.shift import TICK_MS, _steps, is_idle, shift

A, B = server_id("a"), server_id("b")
KNOWN, WANTED = Record(5, 1, A), Record(5, 2, B)
TTL_S, IDLE_S = 100, 60


class Binder:
    """What the steps need of a binder: the lifetime, and what is taken over."""

    ttl_s = TTL_S

    def __init__(self) -> None:
        self.learned: list[tuple[Record, int]] = []

    def confirm(self, fingerprint: bytes, record: Record, *, expires_tick: int = 0) -> None:
        self.learned.append((record, expires_tick))


def record(found: Record, left_s: int, token: object = "t") -> Answer:
    return Answer(Heard.RECORD, found.pack(), token, 0, left_s)


def play(*answers: Answer, homes: int = 1, only_ask: bool = False):
    """(outcome, commands, what was taken over) of the steps, with these answers."""
    binder = Binder()
    steps = _steps(binder, b"f", KNOWN, WANTED, IDLE_S, 1000, homes, only_ask)  # type: ignore[arg-type]
    commands, waiting = [next(steps)], list(answers)
    try:
        while True:
            commands.append(steps.send(waiting.pop(0)))
    except StopIteration as end:
        assert not waiting
        return end.value, commands, binder.learned


def ticks(seconds: int) -> int:
    return 1000 + seconds * 1000 // TICK_MS


def test_an_idle_binding_moves_by_the_token_it_was_read_with_and_keeps_the_rest_of_its_life():
    outcome, commands, learned = play(record(KNOWN, 30, "token"), record(WANTED, 30))
    assert outcome == "moved"
    assert commands == [Lookup(None), CasThenGet(WANTED.pack(), "token", 30)]
    assert learned == [(WANTED, ticks(30))]


@pytest.mark.parametrize(
    ("left_s", "outcome"), [(41, "active"), (100, "active"), (40, "idle"), (2, "idle"), (1, "other")]
)
def test_what_the_record_has_left_says_whether_anybody_came(left_s, outcome):
    found, commands, learned = play(record(KNOWN, left_s), only_ask=True)
    assert found == outcome
    assert commands == [Lookup(None)]
    assert learned == ([(KNOWN, ticks(left_s))] if outcome == "active" else [])


def test_a_record_without_an_end_or_that_is_none_is_left_alone():
    assert play(record(KNOWN, -1))[0] == "other"
    assert play(Answer(Heard.RECORD, b"?", "t", 0, 30))[0] == "other"


@pytest.mark.parametrize(
    "stands", [Record(5, 2, B), Record(5, 3, A), Record(9, 1, A), Record(5, 1, B), Record(5, 2, 0)]
)
def test_a_binding_that_is_another_one_by_now_is_taken_over_and_not_moved(stands):
    outcome, commands, learned = play(record(stands, 30))
    assert (outcome, commands, learned) == ("other", [Lookup(None)], [(stands, ticks(30))])


def test_an_earlier_decision_in_the_store_is_left_to_who_asks_for_the_key():
    binder = Binder()
    steps = _steps(binder, b"f", Record(5, 4, A), Record(5, 5, B), IDLE_S, 1000, 1, False)  # type: ignore[arg-type]
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(record(KNOWN, 30))
    assert (end.value.value, binder.learned) == ("other", [])


def test_whoever_moved_it_in_between_wins():
    other = Record(5, 2, server_id("c"))
    outcome, _, learned = play(record(KNOWN, 30), record(other, 100))
    assert (outcome, learned) == ("other", [(other, ticks(100))])
    assert play(record(KNOWN, 30), Answer(Heard.NOTHING))[0] == "other"


@pytest.mark.parametrize("heard", [Heard.DOWN, Heard.UNKNOWN])
def test_a_store_that_does_not_answer_moves_nothing(heard):
    assert play(Answer(heard))[0] == "unknown"
    assert play(record(KNOWN, 30), Answer(heard))[0] == "unknown"
    assert play(Answer(Heard.NOTHING))[0] == "other"


def test_every_node_that_holds_the_key_must_say_the_same_and_gets_the_move():
    outcome, commands, _ = play(
        record(KNOWN, 30, "t0"),
        record(KNOWN, 20, "t1"),
        record(WANTED, 30),
        record(KNOWN, 20),
        record(WANTED, 30),
        homes=2,
    )
    assert outcome == "moved"
    assert commands[2] == CasThenGet(WANTED.pack(), "t0", 30)
    assert [type(one) for one in commands[3:]] == [Lookup, CasThenGet]
    assert play(record(KNOWN, 30), record(KNOWN, 90), homes=2)[0] == "active"
    assert play(record(KNOWN, 30), Answer(Heard.DOWN), homes=2)[0] == "unknown"
    assert play(record(KNOWN, 30), Answer(Heard.NOTHING), homes=2)[0] == "other"
    assert play(record(KNOWN, 30), record(Record(5, 2, A), 30), homes=2)[0] == "other"


def test_a_new_binding_and_one_that_the_store_lacks_are_never_idle():
    left = 1000 + 10 * 1000 // TICK_MS
    assert is_idle(Entry(5, 1, left, 0, 0), 1000, TTL_S, IDLE_S)
    assert not is_idle(Entry(5, 1, left, 0, 0, ONCE), 1000, TTL_S, IDLE_S)
    assert not is_idle(Entry(5, 1, left, 0, 0, PROVISIONAL), 1000, TTL_S, IDLE_S)
    assert not is_idle(Entry(5, 1, 1000 + 41_000 // TICK_MS, 0, 0), 1000, TTL_S, IDLE_S)


async def test_the_zone_alone_moves_what_nobody_used_and_keeps_the_rest_of_its_life():
    pool = Pool("p", [Server("10.0.0.1:1", name="a"), Server("10.0.0.2:1", name="b")])
    async with Affinity(None, ttl=TTL_S) as affinity:
        view = affinity.attach(pool)
        for _ in range(2):  # seen twice: bound for the whole ttl
            bound = await affinity.bind(view, b"key")
        at, to = pool.server_at(bound.slot).name, pool.server_at(1 - bound.slot).name
        fingerprint = view.fingerprint(b"key")
        _, entry = affinity.table.lookup_record(fingerprint, 1)
        assert entry is not None
        began = entry.expires_tick - TTL_S * 1000 // TICK_MS

        async def at_s(seconds: int, server: str = to, **more: bool) -> str:
            tick = began + seconds * 1000 // TICK_MS
            return await shift(affinity, view, fingerprint, server, idle_s=IDLE_S, now_tick=tick, **more)

        assert await at_s(IDLE_S - 1) == "active"
        assert await at_s(IDLE_S + 1, only_ask=True) == "idle"
        assert await at_s(IDLE_S + 1, at) == "other"
        assert await at_s(IDLE_S + 1, "nobody") == "other"
        assert await at_s(IDLE_S + 1) == "moved"
        status, moved = affinity.table.lookup_record(fingerprint, 1)
        assert (status, moved.term, moved.generation) == (FOUND, entry.term, entry.generation + 1)
        assert moved.expires_tick == entry.expires_tick
        assert view.lookup(fingerprint).slot == pool.slot_of(to)
        assert await at_s(TTL_S + 1) == "other"
    await asyncio.sleep(0)
