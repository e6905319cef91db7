"""Claim, renew and move, step by step against a model of one memcached key."""

from __future__ import annotations

from fastroute.affinity.agreement import (
    TRIES_MAX,
    AddThenGet,
    Answer,
    CasThenGet,
    Decision,
    Heard,
    Kind,
    Lookup,
    claim,
    move,
    renew,
)
from fastroute.affinity.record import RECORD_BYTES, Record, server_id
from tests.support.register import Register

S1, S2, S3 = (server_id(f"web-{n}") for n in (1, 2, 3))
MINE = Record(term=7, generation=1, server=S1, writer=1, minute=5)
THEIRS = Record(term=8, generation=1, server=S2, writer=2, minute=5)


def drive(steps, register: Register) -> tuple[Decision, list]:
    asked, answer = [], None
    while True:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            return end.value, asked
        asked.append(command)
        answer = register.ask(command)


def moving(register: Register, known, *, token=None, dead=(S1,), to=S2):
    return move(
        known,
        token,
        lambda record: record.moved_to(to, writer=9, minute=6),
        lambda record: record.server not in dead,
        lambda: Record(99, 1, to),
        60,
    )


def test_record_is_32_bytes_and_reads_back():
    assert len(MINE.pack()) == RECORD_BYTES == 32
    assert Record.unpack(MINE.pack()) == MINE


def test_what_is_no_record_is_none():
    packed = MINE.pack()
    for data in (None, b"", packed[:-1], packed + b"x", b"\x09" + packed[1:], bytes(32)):
        assert Record.unpack(data) is None


def test_new_key_is_claimed_in_one_round_trip():
    decision, asked = drive(claim(MINE, 60), Register())
    assert (decision.kind, decision.record) == (Kind.WON, MINE)
    assert asked == [AddThenGet(MINE.pack(), 60, slide=True)]


def test_loser_of_a_claim_adopts_the_winner_in_one_round_trip():
    register = Register()
    drive(claim(THEIRS, 60), register)
    decision, asked = drive(claim(MINE, 60), register)
    assert (decision.kind, decision.record) == (Kind.ADOPTED, THEIRS)
    assert len(asked) == 1


def test_claim_repeats_the_same_pair_when_no_answer_came():
    steps = claim(MINE, 60)
    first = next(steps)
    assert steps.send(Answer(Heard.UNKNOWN)) == first


def test_claim_that_never_hears_anything_ends_unknown_within_its_bound():
    steps, count, answer, ended = claim(MINE, 60), 0, None, None
    while ended is None:
        try:
            steps.send(answer)
            answer, count = Answer(Heard.UNKNOWN), count + 1
        except StopIteration as end:
            ended = end.value
    assert ended == Decision(Kind.UNKNOWN)
    assert count == TRIES_MAX


def test_claim_while_the_store_is_away_says_down_and_nothing_else():
    assert drive(claim(MINE, 60), Register(up=False))[0] == Decision(Kind.DOWN)


def test_hint_of_a_later_generation_is_written_up():
    register = Register()
    drive(claim(MINE, 60), register)
    later = MINE.moved_to(S3, writer=3, minute=6)
    decision, _ = drive(claim(later, 60), register)
    assert (decision.kind, decision.record) == (Kind.WON, later)
    assert Record.unpack(register.data) == later


def test_hint_of_another_term_or_an_older_generation_yields_to_the_store():
    register = Register()
    stands = Record(7, 5, S2)
    drive(claim(stands, 60), register)
    for hint in (Record(7, 4, S1), Record(7, 5, S1), Record(123, 9, S1)):
        decision, _ = drive(claim(hint, 60), register)
        assert (decision.kind, decision.record) == (Kind.ADOPTED, stands)


def test_garbage_in_the_store_is_replaced_by_compare_and_set():
    register = Register(data=b"not a record", cas=3, counter=3)
    decision, asked = drive(claim(MINE, 60), register)
    assert (decision.kind, Record.unpack(register.data)) == (Kind.WON, MINE)
    assert isinstance(asked[1], CasThenGet)


def test_renew_of_what_stands_only_reads():
    register = Register()
    drive(claim(MINE, 60), register)
    decision, asked = drive(renew(MINE, 60), register)
    assert (decision.kind, asked, register.writes) == (Kind.WON, [Lookup(60)], 1)


def test_renew_restores_what_the_store_lost():
    register = Register()
    decision, _ = drive(renew(MINE, 60), register)
    assert decision.kind is Kind.WON
    assert Record.unpack(register.data) == MINE


def test_renew_adopts_a_move_made_elsewhere():
    register = Register()
    moved = MINE.moved_to(S2, writer=2, minute=6)
    drive(claim(moved, 60), register)
    decision, _ = drive(renew(MINE, 60), register)
    assert (decision.kind, decision.record) == (Kind.ADOPTED, moved)


def test_move_keeps_the_term_and_raises_the_generation():
    register = Register()
    drive(claim(MINE, 60), register)
    decision, asked = drive(moving(register, MINE), register)
    assert decision.kind is Kind.MOVED
    assert (decision.record.term, decision.record.generation, decision.record.server) == (7, 2, S2)
    assert [type(command) for command in asked] == [Lookup, CasThenGet]


def test_move_with_a_token_of_this_connection_takes_one_round_trip():
    register = Register()
    token = drive(claim(MINE, 60), register)[0].token
    decision, asked = drive(moving(register, MINE, token=token), register)
    assert (decision.kind, len(asked)) == (Kind.MOVED, 1)


def test_second_mover_adopts_the_first_movers_server():
    register = Register()
    drive(claim(MINE, 60), register)
    first, _ = drive(moving(register, MINE, to=S2), register)
    second, _ = drive(moving(register, MINE, to=S3), register)
    assert (second.kind, second.record) == (Kind.ADOPTED, first.record)


def test_move_goes_on_when_the_first_movers_server_is_dead_too():
    register = Register()
    drive(claim(MINE, 60), register)
    drive(moving(register, MINE, to=S2), register)
    decision, _ = drive(moving(register, MINE, dead=(S1, S2), to=S3), register)
    assert (decision.kind, decision.record.generation, decision.record.server) == (Kind.MOVED, 3, S3)


def test_token_of_before_a_restart_moves_nothing():
    register = Register()
    token = drive(claim(MINE, 60), register)[0].token
    register.restart()
    drive(claim(THEIRS, 60), register)
    assert register.cas == token[1], "the number repeats: only the connection tells the two apart"
    decision, _ = drive(moving(register, MINE, token=token), register)
    assert (decision.kind, decision.record) == (Kind.ADOPTED, THEIRS)


def test_move_of_a_key_the_store_lost_claims_the_next_generation():
    register = Register()
    decision, _ = drive(moving(register, MINE), register)
    assert (decision.kind, decision.record.generation, decision.record.server) == (Kind.WON, 2, S2)


def test_a_token_changed_by_the_store_itself_is_retried_with_the_new_one():
    register = Register()
    token = drive(claim(MINE, 60), register)[0].token
    register.counter += 1
    register.cas = register.counter
    decision, _ = drive(moving(register, MINE, token=token), register)
    assert decision.kind is Kind.MOVED
