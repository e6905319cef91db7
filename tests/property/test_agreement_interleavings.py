"""Replicas whose steps interleave at will, with forgetting, restarts and lost replies: one answer per decision."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute.affinity.agreement import Answer, Heard, Kind, claim, move
from fastroute.affinity.record import Record
from tests.support.register import Register


def run(replicas, schedule, register, lost=frozenset()):
    """Advance replica schedule[i] by one round trip at step i; the rest runs to its end afterwards."""
    pending = {number: (steps, next(steps)) for number, steps in enumerate(replicas)}
    decisions = {}
    order = list(schedule) + [n for n in range(len(replicas)) for _ in range(8)]
    for step, number in enumerate(order):
        if number not in pending:
            continue
        steps, command = pending[number]
        answer = register.ask(command)
        if step in lost:
            answer = Answer(Heard.UNKNOWN)
        try:
            pending[number] = (steps, steps.send(answer))
        except StopIteration as end:
            decisions[number] = end.value
            del pending[number]
    assert not pending
    return decisions


@given(st.integers(2, 6), st.lists(st.integers(0, 5), max_size=24), st.frozensets(st.integers(0, 10), max_size=4))
@settings(max_examples=300, deadline=None)
def test_concurrent_claims_end_with_one_record_whatever_the_order_and_whatever_replies_are_lost(count, schedule, lost):
    register = Register()
    replicas = [claim(Record(term=100 + n, generation=1, server=n + 1), 60) for n in range(count)]
    decisions = run(replicas, [n for n in schedule if n < count], register, lost)
    known = {d.record for d in decisions.values() if d.record is not None}
    assert len(known) <= 1
    assert sum(d.kind is Kind.WON for d in decisions.values()) <= 1
    assert register.writes == 1


@given(st.integers(2, 6), st.lists(st.integers(0, 5), max_size=24), st.frozensets(st.integers(0, 10), max_size=3))
@settings(max_examples=300, deadline=None)
def test_concurrent_moves_make_exactly_one_transition(count, schedule, lost):
    register = Register()
    dead = Record(7, 1, 1000)
    register.ask(next(claim(dead, 60)))
    replicas = [
        move(
            dead,
            None,
            lambda record, n=n: record.moved_to(n + 1, writer=n, minute=0),
            lambda record: record.server != 1000,
            lambda: Record(5, 1, 1),
            60,
        )
        for n in range(count)
    ]
    decisions = run(replicas, [n for n in schedule if n < count], register, lost)
    assert register.writes == 2, "the claim and one move"
    assert len({d.record.server for d in decisions.values() if d.record is not None}) <= 1
    assert {d.record.generation for d in decisions.values() if d.record is not None} <= {2}
