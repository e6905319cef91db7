"""Replicas whose steps over two or three nodes interleave at will, while a node goes away, forgets or returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.affinity.agreement import AddThenGet, Answer, Heard
from fastroute.affinity.copies import claim, move, renew, touch
from fastroute.affinity.record import Record
from tests.support.register import Register

SCHEDULE = st.lists(st.integers(0, 4), max_size=40)
LOST = st.frozensets(st.integers(0, 16), max_size=4)


@dataclass
class Run:
    """Replicas in progress over common nodes; `events` happen before the step of their number."""

    homes: list[Register]
    lost: frozenset[int] = frozenset()
    events: dict[int, tuple[int, str]] = field(default_factory=dict)
    step: int = 0

    def all(self, replicas, schedule):
        """Advance replica schedule[i] by one round trip at step i, then the rest to their ends; the decisions."""
        pending = {number: (steps, next(steps)) for number, steps in enumerate(replicas)}
        decisions = {}
        for number in list(schedule) + [n for n in range(len(replicas)) for _ in range(80)]:
            if number not in pending:
                continue
            steps, command = pending[number]
            try:
                pending[number] = (steps, steps.send(self.ask(command)))
            except StopIteration as end:
                decisions[number] = end.value
                del pending[number]
        assert not pending, "a verb went on for longer than its bound"
        return decisions

    def ask(self, command) -> Answer:
        rank, what = self.events.get(self.step, (0, ""))
        if what == "down":
            self.homes[rank].up = False
        elif what == "restart":
            self.homes[rank].restart()
            self.homes[rank].up = True
        answer = self.homes[command.home].ask(command)
        self.step += 1
        return Answer(Heard.UNKNOWN) if self.step - 1 in self.lost else answer

    def held(self) -> list[Record | None]:
        return [Record.unpack(home.data) for home in self.homes]


def candidates(count: int, homes: int):
    return [claim(Record(100 + n, 1, n + 1), 60, full_ttl_s=600, homes=homes) for n in range(count)]


def movers(count: int, homes: int, dead: Record):
    return [
        move(
            dead,
            None,
            lambda record, n=n: record.moved_to(n + 1, writer=n, minute=0),
            lambda record: record.server != 1000,
            lambda: Record(5, 1, 1),
            60,
            homes=homes,
        )
        for n in range(count)
    ]


@given(st.integers(2, 5), st.integers(2, 3), SCHEDULE, LOST)
@settings(max_examples=200, deadline=None)
def test_concurrent_claims_end_with_one_record_on_every_node(count, homes, schedule, lost):
    run = Run([Register() for _ in range(homes)], lost)
    decisions = run.all(candidates(count, homes), schedule)
    told = {d.record for d in decisions.values() if d.record is not None}
    if all(d.record is not None for d in decisions.values()) and not lost:
        assert len(told) == 1
        assert run.held() == [*told] * homes
    run.lost = frozenset()
    run.all([touch(600, homes=homes)], [])
    assert len(set(run.held())) == 1


@given(st.integers(2, 5), st.integers(2, 3), SCHEDULE)
@settings(max_examples=200, deadline=None)
def test_concurrent_moves_make_one_transition(count, homes, schedule):
    dead = Record(7, 1, 1000)
    run = Run([Register() for _ in range(homes)])
    for home in run.homes:
        home.ask(AddThenGet(dead.pack(), 60))
    decisions = run.all(movers(count, homes, dead), schedule)
    told = {d.record for d in decisions.values()}
    assert len(told) == 1
    assert {record.generation for record in told} == {2}
    assert run.held() == [*told] * homes
    assert run.homes[0].writes == 2, "the claim and one move (I3)"


@given(st.integers(2, 4), SCHEDULE, st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_bound_key_keeps_its_server_while_its_home_goes_away_and_returns_empty(count, schedule, away, back):
    bound = Record(7, 3, 5)
    run = Run([Register(), Register()], events={away: (0, "down"), away + back + 1: (0, "restart")})
    for home in run.homes:
        home.ask(AddThenGet(bound.pack(), 60))
    strangers = candidates(count, 2)
    knowing = [renew(bound, 60, homes=2) for _ in range(count)]
    decisions = run.all([one for pair in zip(strangers, knowing, strict=True) for one in pair], schedule)
    assert {d.record for d in decisions.values()} == {bound}
    run.homes[0].up, run.events = True, {}
    run.all([touch(60, homes=2)], [])
    assert run.held() == [bound, bound]


@given(st.integers(2, 4), SCHEDULE, SCHEDULE, st.integers(0, 20), st.integers(0, 1), LOST)
@settings(max_examples=200, deadline=None)
def test_after_faults_one_touch_and_one_request_each_and_all_agree(count, first, second, when, rank, lost):
    run = Run([Register(), Register()], lost, events={when: (rank, "down"), when + 12: (rank, "restart")})
    decisions = run.all(candidates(count, 2), first)
    for home in run.homes:
        home.up = True
    run.lost, run.events = frozenset(), {}
    run.all([touch(60, homes=2)], [])
    known = [d.record for d in decisions.values() if d.record is not None]
    run.all([renew(record, 60, homes=2) for record in known], second)
    after = run.all(candidates(count, 2), [])
    assert len({d.record for d in after.values()}) == 1
    assert len(set(run.held())) == 1, "copies are equal (I10)"
