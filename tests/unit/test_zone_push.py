"""The push channel's board: one owner, entries believed only while it lives, lines that are counted (ext/fr_push.h)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastroute._core.affinity_table import (
    ECHO,
    FOUND,
    GUARDED,
    ONCE,
    OTHER,
    WROTE,
    AffinityTable,
    Record,
    fingerprint_for_test,
)
from fastroute._core.zone import Zone
from fastroute._core.zone_push import LEASE_S, NODES_MAX, NodeLife, PushBoard, fingerprint_of
from fastroute.errors import UsageError

START_MS = 1_000_000
KEY, STORE = fingerprint_for_test(1), 77


class Board:
    """A table with an owner and the time in hand."""

    def __init__(self) -> None:
        self.zone = Zone(None, "256KiB")
        self.table = AffinityTable(self.zone)
        self.now_ms = START_MS
        self.owner = self.another(1)
        assert self.owner.lease()
        self.owner.serve()
        self.pass_ms(64)
        assert self.owner.extend(self.now_ms + 10_000)

    def another(self, token: int, store: int = STORE) -> PushBoard:
        board = PushBoard(self.table, store, token)
        board.set_manual_ms(self.now_ms)
        return board

    def pass_ms(self, ms: int, *boards: PushBoard) -> None:
        self.now_ms += ms
        for board in (self.owner, *boards):
            board.set_manual_ms(self.now_ms)

    @property
    def tick(self) -> int:
        return self.now_ms >> 6

    def record(self, term: int = 5, generation: int = 1) -> Record:
        return Record(term, generation, self.tick + 10_000, self.tick, 3)

    def learn(self, guard, own: int = 0, **of) -> Record:
        status, stands = self.table.learn_guarded_record(KEY, self.tick, self.record(**of), guard, own)
        assert status == WROTE
        return stands

    @property
    def entry(self) -> Record:
        status, found = self.table.lookup_record(KEY, self.tick)
        assert status == FOUND
        return found

    @property
    def believed(self) -> bool:
        return bool(self.entry.flags & GUARDED) and self.entry.verified_tick > 0


@pytest.fixture
def board():
    return Board()


# -- the owner ---------------------------------------------------------------------------------------------------------


def test_second_process_owns_the_channel_only_when_the_first_is_silent_for_the_lease(board):
    other = board.another(2)
    assert not other.lease()
    board.pass_ms(round(LEASE_S * 1000) - 64, other)
    assert not other.lease()
    board.pass_ms(256, other)
    assert other.lease()
    assert other.owns
    assert not board.owner.owns
    assert not board.owner.lease()


def test_owner_that_slept_through_its_lease_can_say_nothing_more(board):
    other = board.another(2)
    board.pass_ms(round(LEASE_S * 1000) + 128, other)
    assert other.lease()
    lines = other.sequence
    assert board.owner.invalidate(KEY) == -1
    assert not board.owner.extend(board.now_ms + 60_000)
    assert other.sequence == lines


def test_owner_that_gives_up_is_followed_at_once(board):
    other = board.another(2)
    board.owner.release()
    assert other.lease()


def test_one_that_is_not_the_owner_releases_nothing(board):
    board.another(2).release()
    assert board.owner.owns


def test_entries_of_another_store_are_not_believed(board):
    other = board.another(2, store=78)
    assert board.owner.live
    assert not other.live
    assert other.guard() is None
    board.learn(board.owner.guard())
    board.owner.release()
    assert other.lease()
    other.serve()
    assert other.extend(board.now_ms + 10_000)
    assert not board.owner.live


@pytest.mark.parametrize(("store", "token"), [(0, 1), (1, 0)])
def test_store_and_token_of_zero_are_refused(board, store, token):
    with pytest.raises(UsageError):
        PushBoard(board.table, store, token)


# -- the guard ---------------------------------------------------------------------------------------------------------


def test_answer_asked_for_under_the_channel_is_guarded(board):
    board.learn(board.owner.guard())
    assert board.believed


def test_without_a_channel_nothing_is_guarded(board):
    board.owner.suspend()
    assert board.owner.guard() is None
    assert not board.learn(None).flags & GUARDED
    assert board.entry.verified_tick == board.tick


def test_line_between_question_and_answer_leaves_the_answer_unbelieved(board):
    guard = board.owner.guard()
    board.owner.invalidate(KEY)
    board.learn(guard)
    assert not board.believed
    assert board.entry.verified_tick == 0


def test_line_of_another_key_does_not_matter(board):
    guard = board.owner.guard()
    board.owner.invalidate(fingerprint_for_test(2))
    board.learn(guard)
    assert board.believed


def test_line_after_the_answer_makes_the_entry_a_hint(board):
    board.learn(board.owner.guard())
    assert board.owner.invalidate(KEY) == 1
    assert not board.believed
    assert board.entry.term == 5, "a hint is kept"
    assert board.owner.invalidate(KEY) == 0


def test_loss_between_question_and_answer_leaves_the_answer_unguarded(board):
    guard = board.owner.guard()
    board.owner.lose()
    board.learn(guard)
    assert not board.entry.flags & GUARDED


def test_after_a_loss_what_was_guarded_before_is_older_than_the_channel(board):
    board.learn(board.owner.guard())
    before = board.entry.verified_tick
    board.owner.lose()
    assert not board.owner.live
    board.pass_ms(64)
    assert board.owner.extend(board.now_ms + 10_000)
    assert board.owner.live
    assert board.entry.verified_tick == before, "the entry is as it was; `live` has moved past it"
    board.learn(board.owner.guard())
    assert board.entry.verified_tick > before


def test_ring_that_was_overrun_guards_nothing(board):
    guard = board.owner.guard()
    for i in range(100, 165):
        board.owner.invalidate(fingerprint_for_test(i))
    board.learn(guard)
    assert not board.entry.flags & GUARDED
    assert board.entry.verified_tick == board.tick, "it is the store's word for near_ttl all the same"


def test_later_decision_that_stands_is_not_overwritten(board):
    board.learn(board.owner.guard(), generation=2)
    status, stands = board.table.learn_guarded_record(KEY, board.tick, board.record(), board.owner.guard(), 0)
    assert (status, stands.generation) == (OTHER, 2)


# -- own lines ---------------------------------------------------------------------------------------------------------


def test_echo_of_an_own_write_costs_nothing_whether_it_comes_before_or_after_the_answer(board):
    guard = board.owner.guard()
    board.learn(guard, own=1)
    assert board.entry.flags & ECHO
    assert board.owner.invalidate(KEY) == 0
    assert board.believed
    assert not board.entry.flags & ECHO
    guard = board.owner.guard()
    board.owner.invalidate(KEY)
    board.learn(guard, own=1)
    assert board.believed
    assert not board.entry.flags & ECHO


def test_eviction_is_nobodys_echo(board):
    board.learn(board.owner.guard(), own=1)
    assert board.owner.invalidate(KEY, all=True) == 1
    assert not board.believed
    assert not board.entry.flags & (ECHO * 3)


def test_echo_expected_before_a_loss_is_not_expected_after_it(board):
    board.learn(board.owner.guard(), own=1)
    board.owner.lose()
    board.pass_ms(64)
    board.owner.extend(board.now_ms + 10_000)
    board.learn(board.owner.guard())
    assert board.owner.invalidate(KEY) == 1


def test_own_line_without_a_guard_leaves_the_entry_its_near_ttl(board):
    board.learn(None, own=1)
    assert board.owner.invalidate(KEY) == 0
    assert board.entry.verified_tick == board.tick
    assert board.owner.invalidate(KEY) == 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_entry_that_stays_believed_when_all_lines_have_come_is_the_newest(data):
    """Own and foreign writes commit in one order; their lines come in any order; the answer is read at any point."""
    board = Board()
    writes = data.draw(st.lists(st.sampled_from(["own", "foreign"]), max_size=5), label="writes after the guard")
    late = data.draw(st.integers(0, 2), label="lines of foreign writes from before the guard")
    last_own = max((at for at, who in enumerate(writes) if who == "own"), default=-1)
    read_at = data.draw(st.integers(last_own + 1, len(writes)), label="writes committed when the answer is read")
    own = sum(who == "own" for who in writes)
    lines_before = data.draw(st.integers(0, read_at + late), label="lines that come before the answer is learned")
    guard = board.owner.guard()
    for _ in range(lines_before):
        board.owner.invalidate(KEY)
    board.learn(guard, own=own)
    for _ in range(len(writes) + late - lines_before):
        board.owner.invalidate(KEY)
    newest = read_at == len(writes)
    assert newest or not board.believed
    if newest and not late and own == len(writes) and own <= 3:
        assert board.believed, "own writes alone cost no question"


# -- touches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, ONCE])
def test_touch_is_taken_on_once(board, flags):
    table, tick = board.table, board.tick
    table.claim_record(KEY, tick, board.record()._replace(expires_tick=tick + 100, flags=flags))
    _, found = table.lookup_record(KEY, tick)
    assert table.take_touch_record(KEY, tick, found, tick + 500) == WROTE
    assert table.take_touch_record(KEY, tick, found, tick + 500) == OTHER
    assert board.entry.expires_tick == tick + 500
    assert not board.entry.flags & ONCE


def test_taking_a_touch_on_keeps_the_guard(board):
    board.learn(board.owner.guard(), own=1)
    board.table.take_touch_record(KEY, board.tick, board.entry, board.tick + 20_000)
    assert board.believed
    assert board.owner.invalidate(KEY) == 0
    assert board.owner.invalidate(KEY) == 1


# -- lives of nodes, names of keys -------------------------------------------------------------------------------------


def test_lives_of_nodes_are_remembered_for_the_next_owner(board):
    assert board.owner.life_of(9) is None
    assert board.owner.remember(9, NodeLife(1, 2, 3))
    assert board.another(2).life_of(9) == NodeLife(1, 2, 3)
    assert board.owner.remember(9, NodeLife(4, 5, 6))
    assert board.owner.life_of(9) == NodeLife(4, 5, 6)
    assert all(board.owner.remember(100 + i, NodeLife(1, 1, 1)) for i in range(NODES_MAX - 1))
    assert not board.owner.remember(999, NodeLife(1, 1, 1))


def test_fingerprint_of_a_stores_key():
    name = base64.urlsafe_b64encode(KEY).rstrip(b"=")
    assert fingerprint_of(b"fr:a:app:" + name) == KEY
    assert fingerprint_of(b"some.fleet:a:pool:with:colons:" + name) == KEY


@pytest.mark.parametrize(
    "key",
    [b"", b"fr:a:app:", b"fr:c:app:" + b"A" * 22, b"fr:a:app:" + b"A" * 21 + b"!", b"fr:a:app" + b"A" * 22, b"A" * 250],
)
def test_other_keys_have_no_fingerprint(key):
    assert fingerprint_of(key) is None


def test_capacity_of_64_mib_is_over_a_million():
    with Zone(None, "64MiB") as zone:
        assert zone.capacity >= 1_000_000
