"""Claim, renew, move, touch and release of a key that two or three nodes hold, step by step against models of them."""

from __future__ import annotations

import pytest

from fastroute.affinity.agreement import AddThenGet, Answer, CasThenGet, Command, Decision, Heard, Kind, Lookup
from fastroute.affinity.copies import claim, move, release, renew, settle, touch
from fastroute.affinity.record import NOBODY, Record, server_id
from tests.support.register import Register

S1, S2, S3 = (server_id(f"web-{n}") for n in (1, 2, 3))
MINE = Record(term=7, generation=1, server=S1, writer=1, minute=5)
THEIRS = Record(term=8, generation=1, server=S2, writer=2, minute=5)
LATER = MINE.moved_to(S2, writer=2, minute=6)


def nodes(*held: Record | None) -> list[Register]:
    """One node per argument, with this record (as claimed) or nothing."""
    made = [Register() for _ in held]
    for node, record in zip(made, held, strict=True):
        if record is not None:
            node.ask(AddThenGet(record.pack(), 60))
    return made


def drive(steps, homes: list[Register], *, lost: frozenset[int] = frozenset()) -> tuple[Decision, list[Command]]:
    asked, answer = [], None
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            return end.value, asked
        answer = homes[command.home].ask(command)
        if len(asked) in lost:
            answer = Answer(Heard.UNKNOWN)
        asked.append(command)


def held(homes: list[Register]) -> list[Record | None]:
    return [Record.unpack(home.data) for home in homes]


def moving(known, *, dead=(S1,), to=S2, homes=2):
    return move(
        known,
        None,
        lambda record: record.moved_to(to, writer=9, minute=6),
        lambda record: record.server not in dead,
        lambda: Record(99, 1, to),
        60,
        homes=homes,
    )


def releasing(*, known=None, homes=1):
    return release(lambda record: record.moved_to(NOBODY, writer=9, minute=6), 90, known=known, homes=homes)


def released(home: Register) -> tuple[int, int] | None:
    """Which (term, generation) says that the key is nobody's."""
    record = Record.unpack(home.data)
    return (record.term, record.generation) if record is not None and record.released else None


# ---- claim


def test_claim_with_one_home_costs_one_round_trip():
    decision, asked = drive(claim(MINE, 60, full_ttl_s=600, homes=1), nodes(None))
    assert (decision.kind, len(asked)) == (Kind.WON, 1)


def test_claim_of_a_new_key_is_on_every_copy_before_it_is_believed():
    for count in (2, 3):
        homes = nodes(*[None] * count)
        decision, asked = drive(claim(MINE, 60, full_ttl_s=600, homes=count), homes)
        assert (decision.kind, decision.record, held(homes)) == (Kind.WON, MINE, [MINE] * count)
        assert len(asked) == 2 * count, "a look at each home, then a claim at each"


def test_key_that_stands_at_home_costs_one_round_trip():
    homes = nodes(THEIRS, THEIRS)
    decision, asked = drive(claim(MINE, 60, full_ttl_s=600, homes=2), homes)
    assert (decision.kind, decision.record, asked) == (Kind.ADOPTED, THEIRS, [Lookup(600, 0)])


def test_incumbent_at_home_wins_ties():
    homes = nodes(THEIRS, MINE)
    decision, _ = drive(claim(MINE, 60, homes=2), homes)
    assert (decision.kind, decision.record) == (Kind.ADOPTED, THEIRS)
    drive(touch(60, homes=2), homes)
    assert held(homes) == [THEIRS, THEIRS]


def test_home_that_came_back_empty_does_not_outvote_its_follower():
    homes = nodes(None, THEIRS)
    decision, _ = drive(claim(MINE, 60, full_ttl_s=600, homes=2), homes)
    assert (decision.kind, decision.record, held(homes)) == (Kind.ADOPTED, THEIRS, [THEIRS, THEIRS])


def test_follower_decides_while_home_is_down():
    homes = nodes(None, THEIRS)
    homes[0].up = False
    decision, _ = drive(claim(MINE, 60, homes=2), homes)
    assert (decision.kind, decision.record) == (Kind.ADOPTED, THEIRS)
    homes = nodes(None, None)
    homes[0].up = False
    decision, _ = drive(claim(MINE, 60, homes=2), homes)
    assert (decision.kind, held(homes)) == (Kind.WON, [None, MINE])


def test_follower_that_is_down_holds_nothing_up():
    homes = nodes(None, None)
    homes[1].up = False
    decision, _ = drive(claim(MINE, 60, homes=2), homes)
    assert (decision.kind, held(homes)) == (Kind.WON, [MINE, None])


def test_all_homes_down_is_down_and_one_that_does_not_answer_is_unknown():
    homes = nodes(None, None)
    homes[0].up = homes[1].up = False
    assert drive(claim(MINE, 60, homes=2), homes)[0] == Decision(Kind.DOWN)
    silent = nodes(None, None)
    silent[1].up = False
    decision, asked = drive(claim(MINE, 60, homes=2), silent, lost=frozenset(range(9)))
    assert (decision.kind, decision.record) == (Kind.UNKNOWN, None)
    assert len(asked) <= 4


def test_follower_whose_first_answer_is_lost_is_settled_all_the_same():
    homes = nodes(None, None)
    decision, asked = drive(claim(MINE, 60, homes=2), homes, lost=frozenset({3}))
    assert isinstance(asked[3], AddThenGet)
    assert (asked[3].home, decision.kind, held(homes)) == (1, Kind.WON, [MINE, MINE])


def test_garbage_at_home_is_replaced_by_what_the_follower_knows():
    homes = nodes(None, THEIRS)
    homes[0].data, homes[0].cas, homes[0].counter = b"garbage", 3, 3
    decision, _ = drive(claim(MINE, 60, homes=2), homes)
    assert (decision.record, held(homes)) == (THEIRS, [THEIRS, THEIRS])


def test_hint_of_a_later_decision_is_written_up_on_every_copy():
    homes = nodes(MINE, MINE)
    decision, _ = drive(claim(LATER, 60, homes=2), homes)
    assert (decision.kind, decision.record, held(homes)) == (Kind.WON, LATER, [LATER, LATER])


# ---- renew, touch


def test_renew_of_what_stands_reads_home_alone():
    decision, asked = drive(renew(MINE, 60, homes=2), nodes(MINE, MINE))
    assert (decision.kind, asked) == (Kind.WON, [Lookup(60, 0)])


def test_renew_restores_a_home_that_lost_it_from_its_follower():
    homes = nodes(None, LATER)
    decision, _ = drive(renew(MINE, 60, homes=2), homes)
    assert (decision.kind, decision.record, held(homes)) == (Kind.ADOPTED, LATER, [LATER, LATER])


def test_renew_restores_what_all_homes_lost():
    homes = nodes(None, None)
    decision, _ = drive(renew(MINE, 60, homes=2), homes)
    assert (decision.kind, held(homes)) == (Kind.WON, [MINE, MINE])


def test_touch_reaches_every_copy_and_binds_nothing():
    decision, asked = drive(touch(60, homes=3), nodes(MINE, MINE, MINE))
    assert (decision.kind, decision.record) == (Kind.WON, MINE)
    assert asked == [Lookup(60, rank) for rank in range(3)]
    homes = nodes(None, None)
    assert drive(touch(60, homes=2), homes)[0].kind is Kind.ABSENT
    assert held(homes) == [None, None]


@pytest.mark.parametrize("follower", [None, MINE, Record(8, 2, S3), THEIRS])
def test_touch_settles_a_follower_that_is_empty_older_or_different(follower):
    home = Record(8, 2, S2)
    homes = nodes(home, follower)
    decision, _ = drive(touch(60, homes=2), homes)
    assert (decision.record, held(homes)) == (home, [home, home])


def test_later_decision_of_a_follower_is_written_up_at_home_and_adopted():
    homes = nodes(MINE, LATER)
    decision, _ = drive(touch(60, homes=2), homes)
    assert (decision.kind, decision.record, held(homes)) == (Kind.ADOPTED, LATER, [LATER, LATER])
    homes = nodes(MINE, MINE, LATER)
    decision, _ = drive(touch(60, homes=3), homes)
    assert (decision.record, held(homes)) == (LATER, [LATER] * 3)


def test_touch_restores_a_home_that_lost_it():
    homes = nodes(None, MINE)
    decision, _ = drive(touch(60, homes=2), homes)
    assert (decision.record, held(homes)) == (MINE, [MINE, MINE])


# ---- move


def test_move_is_on_every_copy_before_it_is_believed():
    homes = nodes(MINE, MINE)
    decision, _ = drive(moving(MINE), homes)
    assert (decision.kind, decision.record.generation, decision.record.server) == (Kind.MOVED, 2, S2)
    assert held(homes) == [decision.record] * 2


def test_move_does_not_pass_a_later_decision_of_a_follower():
    homes = nodes(MINE, LATER)
    decision, _ = drive(moving(MINE, to=S3), homes)
    assert (decision.kind, decision.record, held(homes)) == (Kind.ADOPTED, LATER, [LATER, LATER])


def test_move_restores_home_from_its_follower_first():
    homes = nodes(None, MINE)
    decision, _ = drive(moving(MINE), homes)
    assert (decision.kind, decision.record.generation) == (Kind.MOVED, 2)
    assert held(homes) == [decision.record] * 2


def test_move_at_the_acting_home_is_known_to_home_when_it_is_back():
    homes = nodes(MINE, MINE)
    homes[0].up = False
    moved = drive(moving(MINE), homes)[0].record
    assert held(homes) == [MINE, moved]
    homes[0].up = True
    decision, _ = drive(moving(MINE, to=S3), homes)
    assert (decision.record, held(homes)) == (moved, [moved, moved])


def test_move_with_a_follower_away_is_believed_and_settled_by_a_touch():
    homes = nodes(MINE, MINE)
    homes[1].up = False
    moved = drive(moving(MINE), homes)[0].record
    assert held(homes) == [moved, MINE]
    homes[1].up = True
    drive(touch(60, homes=2), homes)
    assert held(homes) == [moved, moved]


def test_move_without_any_home_is_down():
    homes = nodes(MINE, MINE)
    homes[0].up = homes[1].up = False
    assert drive(moving(MINE), homes)[0] == Decision(Kind.DOWN)


def test_second_mover_adopts_the_first_movers_server_on_either_node():
    homes = nodes(MINE, MINE)
    first = drive(moving(MINE, to=S2), homes)[0].record
    homes[0].up = False
    decision, _ = drive(moving(MINE, to=S3), homes)
    assert (decision.kind, decision.record) == (Kind.ADOPTED, first)


# ---- settle


def test_settling_writes_what_a_follower_lost_and_slides_nothing():
    homes = nodes(MINE, None, MINE)
    decision, asked = drive(settle(Decision(Kind.WON, MINE), 60, homes=3), homes)
    assert (decision.settled, held(homes)) == (True, [MINE] * 3)
    assert [command for command in asked if isinstance(command, Lookup)] == [Lookup(None, 1), Lookup(None, 2)]


# ---- release


def test_release_is_the_next_generation_of_nobody_on_every_copy():
    homes = nodes(MINE, MINE)
    decision, _ = drive(releasing(homes=2), homes)
    assert (decision.kind, [released(home) for home in homes]) == (Kind.RELEASED, [(7, 2), (7, 2)])


def test_release_of_what_is_not_bound_is_absent():
    for count in (1, 2):
        homes = nodes(*[None] * count)
        assert drive(releasing(homes=count), homes)[0].kind is Kind.ABSENT
        assert held(homes) == [None] * count
    for count in (1, 2):
        homes = nodes(*[MINE] * count)
        drive(releasing(homes=count), homes)
        before = held(homes)
        assert drive(releasing(homes=count), homes)[0].kind is Kind.ABSENT
        assert held(homes) == before


def test_what_the_store_lost_and_the_zone_knows_is_released():
    for count in (1, 2):
        homes = nodes(*[None] * count)
        assert drive(releasing(known=MINE, homes=count), homes)[0].kind is Kind.RELEASED
        assert [released(home) for home in homes] == [(7, 2)] * count


def test_later_decision_that_the_zone_knows_is_released():
    homes = nodes(MINE)
    assert drive(releasing(known=LATER), homes)[0].kind is Kind.RELEASED
    assert released(homes[0]) == (7, 3)


def test_copy_that_a_follower_alone_has_is_released():
    homes = nodes(None, LATER)
    assert drive(releasing(homes=2), homes)[0].kind is Kind.RELEASED
    assert [released(home) for home in homes] == [(7, 3), (7, 3)]


def test_released_binding_is_not_restored_by_who_still_knows_it():
    for steps in (claim(MINE, 60, full_ttl_s=600), renew(MINE, 60), claim(MINE, 60, homes=2), renew(MINE, 60, homes=2)):
        homes = nodes(MINE, MINE)
        drive(releasing(homes=2), homes)
        decision, _ = drive(steps, homes)
        assert (decision.kind, decision.record.released) == (Kind.ADOPTED, True)


def test_released_binding_that_home_lost_is_released_by_its_followers():
    homes = nodes(MINE, MINE)
    drive(releasing(homes=2), homes)
    homes[0].forget()
    decision, _ = drive(renew(MINE, 60, homes=2), homes)
    assert decision.record.released
    assert released(homes[0]) == (7, 2)


def test_touch_of_a_released_key_says_that_it_is_not_bound():
    for count in (1, 2):
        homes = nodes(*[MINE] * count)
        drive(releasing(homes=count), homes)
        assert drive(touch(60, homes=count), homes)[0].kind is Kind.ABSENT


def test_touch_brings_a_release_home_that_home_has_missed():
    homes = nodes(MINE, MINE)
    homes[0].up = False
    assert drive(releasing(homes=2), homes)[0].kind is Kind.DOWN
    homes[0].up = True
    assert drive(touch(60, homes=2), homes)[0].kind is Kind.ABSENT
    assert [released(home) for home in homes] == [(7, 2), (7, 2)]


def test_move_of_a_released_key_is_its_next_generation():
    homes = nodes(MINE)
    drive(releasing(), homes)
    decision, _ = drive(moving(MINE, dead=(S1, NOBODY), homes=1), homes)
    assert (decision.kind, decision.record.generation, decision.record.server) == (Kind.MOVED, 3, S2)


def test_release_leaves_what_was_moved_meanwhile():
    register = nodes(MINE)[0]
    steps = releasing()
    answer = register.ask(next(steps))
    register.ask(CasThenGet(LATER.pack(), answer.token, 60))
    command = steps.send(answer)
    with pytest.raises(StopIteration) as end:
        steps.send(register.ask(command))
    assert (end.value.value.kind, end.value.value.record, held([register])) == (Kind.MOVED, LATER, [LATER])


def test_release_retries_when_the_store_itself_changed_the_token():
    register = nodes(MINE)[0]
    steps = releasing()
    answer = register.ask(next(steps))
    register.counter += 1
    register.cas = register.counter
    answer = register.ask(steps.send(answer))
    command = steps.send(answer)
    with pytest.raises(StopIteration) as end:
        steps.send(register.ask(command))
    assert (end.value.value.kind, released(register)) == (Kind.RELEASED, (7, 2))


def test_release_without_an_answer_reads_again():
    register = nodes(MINE)[0]
    steps = releasing()
    command = steps.send(register.ask(next(steps)))
    register.ask(command)  # it happened, and nobody was told
    command = steps.send(Answer(Heard.UNKNOWN))
    assert isinstance(command, Lookup)
    with pytest.raises(StopIteration) as end:
        steps.send(register.ask(command))
    assert end.value.value.kind is Kind.RELEASED


def test_release_replaces_what_is_no_record():
    register = nodes(MINE)[0]
    register.data = b"something else"
    assert drive(releasing(), [register])[0].kind is Kind.RELEASED
    assert register.data is None


def test_release_with_a_node_away_says_so():
    homes = nodes(MINE, MINE)
    homes[1].up = False
    decision, _ = drive(releasing(homes=2), homes)
    assert (decision.kind, released(homes[0]), held(homes)[1]) == (Kind.DOWN, (7, 2), MINE)


def test_release_is_not_undone_by_a_follower_written_in_between():
    homes = nodes(MINE, None)
    steps, answer = releasing(homes=2), None
    try:
        while True:
            command = steps.send(answer)
            if released(homes[0]) and homes[1].data is None:
                homes[1].ask(AddThenGet(MINE.pack(), 60))  # another replica's touch, which read home before
            answer = homes[command.home].ask(command)
    except StopIteration as end:
        decision = end.value
    assert (decision.kind, [released(home) for home in homes]) == (Kind.RELEASED, [(7, 2), (7, 2)])


def test_release_leaves_a_follower_alone_that_holds_what_was_bound_since():
    homes = nodes(MINE, MINE)
    steps, answer = releasing(homes=2), None
    try:
        while True:
            command = steps.send(answer)
            if released(homes[0]) and held(homes) == [held(homes)[0], MINE]:
                for home in homes:
                    home._store(THEIRS.pack())
            answer = homes[command.home].ask(command)
    except StopIteration:
        pass
    assert held(homes) == [THEIRS, THEIRS]


# ---- a home that does not answer, or is lost in the middle


def silent(homes: list[Register], steps):
    """Drive with home 0 executing everything and answering nothing."""
    answer, asked = None, []
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            return end.value, asked
        asked.append(command)
        answer = homes[command.home].ask(command)
        if command.home == 0:
            answer = Answer(Heard.UNKNOWN)


def rest_of(steps, answer: Answer, homes: list[Register]) -> Decision:
    try:
        while True:
            command = steps.send(answer)
            answer = homes[command.home].ask(command)
    except StopIteration as end:
        return end.value


def test_nobody_acts_for_a_home_that_merely_does_not_answer():
    homes = nodes(None, None)
    decision, asked = silent(homes, claim(MINE, 60, homes=2))
    assert decision == Decision(Kind.UNKNOWN)
    assert {type(command) for command in asked} == {Lookup}
    homes = nodes(LATER, MINE)
    decision, _ = silent(homes, moving(MINE, to=S3))
    assert (decision.record, held(homes)) == (None, [LATER, MINE])


def test_what_a_follower_holds_is_used_while_home_does_not_answer():
    homes = nodes(THEIRS, THEIRS)
    decision, _ = silent(homes, claim(MINE, 60, homes=2))
    assert (decision.kind, decision.record, held(homes)) == (Kind.ADOPTED, THEIRS, [THEIRS, THEIRS])
    decision, _ = silent(nodes(MINE, MINE), renew(LATER, 60, homes=2))
    assert decision == Decision(Kind.UNKNOWN), "a later decision is known here: not back to the follower's (I4)"


def test_home_that_goes_away_in_the_middle_leaves_the_decision_to_the_next():
    homes = nodes(None, None)
    steps = claim(MINE, 60, homes=2)
    command = next(steps)
    while not isinstance(command, AddThenGet):
        command = steps.send(homes[command.home].ask(command))
    homes[0].up = False
    answer = homes[0].ask(command)
    decision = rest_of(steps, answer, homes)
    assert (decision.kind, held(homes)) == (Kind.WON, [None, MINE])


def test_move_whose_home_lost_the_key_in_the_middle_looks_at_the_followers_again():
    homes = nodes(MINE, MINE)
    steps = moving(MINE, to=S3)
    command = next(steps)
    while not isinstance(command, CasThenGet):
        command = steps.send(homes[command.home].ask(command))
    homes[0].restart()
    homes[1].data = LATER.pack()  # another replica's move reached it before
    answer = homes[0].ask(command)
    decision = rest_of(steps, answer, homes)
    assert (decision.record, held(homes)) == (LATER, [LATER, LATER])
