"""Ways back to an older decision, or to a server that is away, which the simulator of the agreement has found."""

from __future__ import annotations

import pytest

from fastroute._core.affinity_table import Record as Entry
from fastroute.affinity import agreement, republish
from fastroute.affinity.agreement import Answer, CasThenGet, Heard, Kind, Lookup
from fastroute.affinity.binding import MOVES_MAX
from fastroute.affinity.record import Record, server_id
from tests.unit.test_affinity_rules import NOW_S, S1, S2, S3, pool_of, replica, written

__all__ = ["replica"]


def drive(one, steps, lose):
    """To the end of the steps; the server that they first write is lost, lose(its name), before they hear of it."""
    answer, lost = None, False
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            assert lost
            return end.value
        answer = one.homes[0].ask(command)
        if isinstance(command, CasThenGet) and not lost:
            lost = True
            chosen = Record.unpack(command.record).server
            lose(next(server.name for server in one.pool.servers if server_id(server.name) == chosen))


def test_later_decision_is_written_up_although_another_replica_moves_meanwhile():
    steps = agreement.renew(Record(7, 12, S1), 60)
    assert isinstance(next(steps), Lookup)
    assert isinstance(steps.send(Answer(Heard.RECORD, Record(7, 8, S2).pack(), "one")), CasThenGet)
    command = steps.send(Answer(Heard.RECORD, Record(7, 9, S3).pack(), "two"))  # moved under us, and not as far
    command = steps.send(Answer(Heard.RECORD, Record(7, 9, S3).pack(), "two"))
    assert isinstance(command, CasThenGet)
    assert Record.unpack(command.record).generation == 12
    with pytest.raises(StopIteration) as end:
        steps.send(Answer(Heard.RECORD, command.record, "three"))
    assert (end.value.value.kind, end.value.value.record.generation) == (Kind.WON, 12)


def test_zone_entry_of_a_server_that_left_the_pool_outranks_an_older_cookie(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S3, generation=5, age_s=60))
    assert one.bind().generation == 5
    one.homes[0].forget()
    one.pool.update(pool_of(1, 2).servers)
    bound = one.bind(("S1", 7, 4))
    assert (bound.term, bound.generation) == (7, 6)


def test_zone_entry_of_a_server_that_left_the_pool_is_moved_while_the_store_is_away(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S3, generation=5, age_s=60))
    one.bind()
    one.homes[0].up = False
    one.pool.update(pool_of(1, 2).servers)
    bound = one.bind(("S1", 7, 4))
    assert (bound.term, bound.generation, bound.reason) == (7, 6, "moved")


def test_server_that_goes_down_while_the_store_is_asked_is_not_returned(replica):
    one = replica(pool_of(1, 2, 3))
    first = one.bind()
    minute, second = divmod(NOW_S, 60)
    steps = one.binder.rebind(one.fingerprint, b"u", first.slot, first.term, 1, minute, second=second)
    bound = drive(one, steps, lambda name: one.pool.set_state(name, "down"))
    assert one.pool.may_take_bound(bound.slot)
    assert bound.slot != first.slot
    assert bound.generation == 3


def test_server_of_a_key_bound_afresh_that_leaves_while_the_store_is_asked_is_not_returned(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(0, generation=4, age_s=60))  # released
    minute, second = divmod(NOW_S, 60)
    steps = one.binder.bind(one.fingerprint, b"u", None, minute, second=second)
    bound = drive(one, steps, lambda name: one.pool.update([s for s in pool_of(1, 2, 3).servers if s.name != name]))
    assert one.pool.may_take_bound(bound.slot)
    assert (bound.generation, bound.term != 7) == (2, True)


def test_cookie_that_knows_more_is_written_over_what_another_process_moved_to_while_the_store_was_asked(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S1, generation=1, age_s=60))
    one.bind()
    slots = [one.pool.slot_of(name) for name in ("S2", "S3")]
    minute, second = divmod(NOW_S, 60)
    steps = one.binder.bind(one.fingerprint, b"u", ("S3", 7, 3), minute, second=second)
    next(steps)
    one.view.replace(one.fingerprint, 7, 1, slots[0], 7, 2, provisional=True)
    one.pool.set_state("S2", "down")
    with pytest.raises(StopIteration) as end:
        steps.send(Answer(Heard.DOWN))
    assert (end.value.value.slot, end.value.value.generation) == (slots[1], 3)
    assert one.view.lookup(one.fingerprint).generation == 3


def test_move_goes_on_from_what_another_process_of_the_machine_has_moved_to_without_the_store(replica):
    one = replica(pool_of(1, 2, 3))
    one.holds(written(S1, generation=1, age_s=60))
    assert one.bind().generation == 1
    two, three = (one.pool.slot_of(name) for name in ("S2", "S3"))
    one.view.replace(one.fingerprint, 7, 1, two, 7, 2, provisional=True)
    one.view.replace(one.fingerprint, 7, 2, three, 7, 3, provisional=True)
    bound = one.rebind("S1", 7, 1)
    assert (one.name(bound), bound.generation) == ("S3", 3)
    assert one.held()[0].generation == 3
    one.pool.set_state("S3", "down")
    assert one.rebind("S1", 7, 1).generation == 4


@pytest.mark.parametrize("homes", [1, 2])
def test_republishing_does_not_shorten_the_lifetime_of_what_stands(replica, homes):
    one = replica(pool_of(1, 2), homes=homes)
    entry = Entry(7, 2, 1 << 20, 1, 0)
    steps = republish._steps(one.binder, one.fingerprint, Record(7, 2, S1), entry, 5, homes)
    command = next(steps)
    if homes == 1:
        assert (command.ttl_s, command.slide) == (5, False)
    else:
        assert command.ttl_s == one.binder.ttl_s


def test_restored_record_does_not_look_like_a_fresh_move(replica):
    one, two = replica(pool_of(1, 2, 3)), replica(pool_of(1, 2, 3))
    two.homes = one.homes
    one.holds(written(S3, age_s=600))
    one.bind()
    one.homes[0].forget()
    one.bind()
    assert one.held()[0].server == S3
    two.pool.set_state("S3", "down")
    assert two.name(two.bind()) != "S3"


def test_servers_that_go_down_each_time_the_store_answers_end_in_an_answer_without_a_binding(replica):
    """However often the key is moved to a server that is gone when the move is written: so many times, and no more."""
    one = replica(pool_of(*range(1, 10)))
    first = one.bind()
    minute, second = divmod(NOW_S, 60)
    steps = one.binder.rebind(one.fingerprint, b"u", first.slot, first.term, 1, minute, second=second)
    names = {server_id(server.name): server.name for server in one.pool.servers}
    answer, moves = None, 0
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            bound = end.value
            break
        answer = one.homes[0].ask(command)
        if isinstance(command, CasThenGet):
            moves += 1
            one.pool.set_state(names[Record.unpack(command.record).server], "down")
    assert moves == MOVES_MAX
    assert (bound.reason, bound.term) == ("fallback-hash", 0)
    assert one.pool.may_take_bound(bound.slot)
