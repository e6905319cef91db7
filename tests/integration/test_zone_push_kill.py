"""A reader or an owner that is stopped or killed between any two stores leaves no entry that is believed and wrong.

The proof of ext/fr_push.h, tried at every kill point: a child learns an answer and stands still there; meanwhile the
record is written by somebody else, and the owner hears of it; then the child goes on, or dies.
"""

from __future__ import annotations

import os
import signal

import pytest

from fastroute._core import affinity_table as table_module
from fastroute._core import zone_push as push_module
from fastroute._core.affinity_table import FOUND, GUARDED, WROTE, AffinityTable, Record
from fastroute._core.zone_push import PushBoard
from tests.support.zone_crash import FAILED, exit_code, fork_to, key_at, shared_zone, wait_until_stopped

NOW_MS = 64_000
NOW = NOW_MS >> 6


def rec(term: int, generation: int = 1) -> Record:
    return Record(term, generation, NOW + 500, NOW, 1)


def prepared(*, standing: bool) -> tuple[AffinityTable, PushBoard, bytes]:
    table = AffinityTable(shared_zone())
    owner = PushBoard(table, 7, 1)
    owner.set_manual_ms(NOW_MS - 64)
    assert owner.lease()
    owner.serve()
    owner.set_manual_ms(NOW_MS)
    assert owner.extend(NOW_MS + 10_000)
    key = key_at(table, 5, 3, 9, 7, 4_000)
    if standing:
        assert table.learn_guarded_record(key, NOW, rec(77), owner.guard())[0] == WROTE
    return table, owner, key


def believed(table: AffinityTable, key: bytes) -> bool:
    status, found = table.lookup_record(key, NOW)
    return status == FOUND and found is not None and bool(found.flags & GUARDED) and found.verified_tick > 0


def points_of(*, standing: bool) -> int:
    table, owner, key = prepared(standing=standing)
    guard = owner.guard()
    table_module.arm_kill_point(0)
    try:
        assert table.learn_guarded_record(key, NOW, rec(77, 2), guard)[0] == WROTE
        return table_module.kill_points_passed()
    finally:
        table_module.arm_kill_point(0, "off")


def learner_at(table: AffinityTable, key: bytes, guard: tuple[int, int], point: int, action: str, own: int = 0) -> int:
    def work() -> int:
        table_module.arm_kill_point(point, "kill" if action == "kill" else "stop")
        return 0 if table.learn_guarded_record(key, NOW, rec(77, 2), guard, own)[0] == WROTE else FAILED

    return fork_to(work)


@pytest.mark.parametrize("standing", [False, True])
def test_line_heard_while_a_reader_stands_still_anywhere_is_not_lost_on_its_entry(standing: bool) -> None:
    for point in range(1, points_of(standing=standing) + 1):
        table, owner, key = prepared(standing=standing)
        pid = learner_at(table, key, owner.guard(), point, "stop")
        wait_until_stopped(pid)
        assert owner.invalidate(key) >= 0
        assert not believed(table, key), f"believed beside a reader stopped at {point}"
        os.kill(pid, signal.SIGCONT)
        assert exit_code(pid) == 0
        assert not believed(table, key), f"believed after a reader went on at {point}"


def test_own_echo_heard_while_a_reader_stands_still_is_counted_once() -> None:
    kept = 0
    points = points_of(standing=False)
    for point in range(1, points + 1):
        table, owner, key = prepared(standing=False)
        pid = learner_at(table, key, owner.guard(), point, "stop", own=1)
        wait_until_stopped(pid)
        owner.invalidate(key)
        os.kill(pid, signal.SIGCONT)
        assert exit_code(pid) == 0
        kept += believed(table, key)
        owner.invalidate(key)
        assert not believed(table, key), "a second line is somebody else's"
    assert kept == points, "the echo of an own write cost the guard"


@pytest.mark.parametrize("standing", [False, True])
def test_reader_killed_anywhere_leaves_no_entry_that_outlives_the_next_line(standing: bool) -> None:
    for point in range(1, points_of(standing=standing) + 1):
        table, owner, key = prepared(standing=standing)
        assert exit_code(learner_at(table, key, owner.guard(), point, "kill")) == -signal.SIGKILL
        owner.invalidate(key)
        assert not believed(table, key)
        probe = key_at(table, 5, 14, 20, 3)
        assert table.claim_record(probe, NOW, rec(1))[0] == WROTE, "the next writer was not served at once"
        assert not believed(table, key), "the repair brought a guard back"
        assert table.check() == 0
        assert table.learn_guarded_record(key, NOW, rec(77, 3), owner.guard())[0] == WROTE
        assert believed(table, key)


def test_loss_while_a_reader_stands_still_anywhere_keeps_its_entry_from_being_believed() -> None:
    for point in range(1, points_of(standing=False) + 1):
        table, owner, key = prepared(standing=False)
        pid = learner_at(table, key, owner.guard(), point, "stop")
        wait_until_stopped(pid)
        owner.lose()
        os.kill(pid, signal.SIGCONT)
        assert exit_code(pid) == 0
        owner.set_manual_ms(NOW_MS + 64)
        assert owner.extend(NOW_MS + 10_000)
        _, found = table.lookup_record(key, NOW)
        # What was guarded before the loss is older than `live`; what was not is no entry of the channel.
        assert found is not None
        assert not found.flags & GUARDED or found.verified_tick < NOW + 1


def test_owner_killed_at_any_store_of_a_line_leaves_the_board_to_the_next() -> None:
    table, owner, key = prepared(standing=True)
    push_module.arm_kill_point(0)
    owner.invalidate(key)
    points = push_module.kill_points_passed()
    push_module.arm_kill_point(0, "off")
    assert points == 3
    for point in range(1, points + 1):
        table, owner, key = prepared(standing=True)

        def work(owner: PushBoard = owner, key: bytes = key, point: int = point) -> int:
            push_module.arm_kill_point(point)
            owner.invalidate(key)
            return FAILED

        assert exit_code(fork_to(work)) == -signal.SIGKILL
        later = PushBoard(table, 7, 2)
        later.set_manual_ms(NOW_MS + 1_000)
        assert later.lease()
        later.lose()
        guard_before = later.guard()
        assert guard_before is None
        later.set_manual_ms(NOW_MS + 1_064)
        assert later.extend(NOW_MS + 10_000)
        guard = later.guard()
        assert later.invalidate(key) >= 0
        table.learn_guarded_record(key, NOW, rec(77, 2), guard)
        assert not believed(table, key)


def test_owner_stopped_at_any_store_of_a_line_does_not_spoil_the_ring_of_the_next() -> None:
    other_key = b"\x01" * 16
    for point in (1, 2, 3):
        table, owner, key = prepared(standing=True)

        def work(owner: PushBoard = owner, point: int = point) -> int:
            push_module.arm_kill_point(point, "stop")
            owner.invalidate(other_key)
            return 0

        pid = fork_to(work)
        wait_until_stopped(pid) if point < 3 else exit_code(pid)
        later = PushBoard(table, 7, 2)
        later.set_manual_ms(NOW_MS + 1_000)
        assert later.lease()
        later.lose()
        later.set_manual_ms(NOW_MS + 1_064)
        assert later.extend(NOW_MS + 10_000)
        guard = later.guard()
        assert later.invalidate(key) >= 0
        if point < 3:
            os.kill(pid, signal.SIGCONT)
            assert exit_code(pid) == 0
        table.learn_guarded_record(key, NOW, rec(77, 2), guard)
        assert not believed(table, key), "the line was lost to a process that is the owner no more"


def test_processes_that_find_a_touch_due_together_take_it_on_once() -> None:
    table = AffinityTable(shared_zone())
    keys = [key_at(table, i % 8, 1 + i // 64, 9, i % 24, i) for i in range(512)]
    for key in keys:
        assert table.claim_record(key, NOW, rec(5))[0] == WROTE
    found = [table.lookup_record(key, NOW)[1] for key in keys]
    ends = []
    for _ in range(3):
        read, write = os.pipe()

        def work(write: int = write) -> int:
            taken = bytes(
                table.take_touch_record(key, NOW, record, NOW + 900) == WROTE
                for key, record in zip(keys, found, strict=True)
            )
            os.write(write, taken)
            return 0

        pid = fork_to(work)
        os.close(write)
        ends.append((pid, read))
    rows = []
    for pid, read in ends:
        assert exit_code(pid) == 0
        rows.append(os.read(read, len(keys)))
        os.close(read)
    assert all(sum(column) == 1 for column in zip(*rows, strict=True))


def test_loss_that_a_stopped_process_finishes_late_takes_nothing_back_of_a_later_loss() -> None:
    for point in (1, 2, 3, 4):
        table, owner, _ = prepared(standing=False)

        def work(owner: PushBoard = owner, point: int = point) -> int:
            push_module.arm_kill_point(point, "stop")
            owner.lose()
            return 0

        pid = fork_to(work)
        wait_until_stopped(pid)
        later = PushBoard(table, 7, 2)
        later.set_manual_ms(NOW_MS + 6_400)
        assert later.lease()
        later.lose()
        lost_at = later.believed_from
        assert lost_at == later.now_tick + 1
        os.kill(pid, signal.SIGCONT)
        assert exit_code(pid) == 0
        assert later.believed_from == lost_at, f"what was lost is believed again after one stopped at {point} went on"
        later.set_manual_ms(NOW_MS + 6_464)
        assert later.extend(NOW_MS + 10_000)
        assert later.live
        assert later.believed_from == lost_at


def test_line_is_not_forgotten_while_the_ring_goes_round_beside_a_reader_that_counts() -> None:
    table, owner, key = prepared(standing=False)
    guard = owner.guard()
    assert guard is not None
    owner.invalidate(key)
    table_module.arm_kill_point(0)
    try:
        assert table.learn_guarded_record(key, NOW, rec(77, 2), guard)[0] == WROTE
        points = table_module.kill_points_passed()  # the last one: lines are being counted
    finally:
        table_module.arm_kill_point(0, "off")
    for point in (points - 1, points):
        table, owner, key = prepared(standing=False)
        guard = owner.guard()
        assert guard is not None
        owner.invalidate(key)
        pid = learner_at(table, key, guard, point, "stop")
        wait_until_stopped(pid)
        for i in range(1 << 16):  # 16 bits of sequence stand in an entry
            owner.invalidate(i.to_bytes(16, "little"))
        os.kill(pid, signal.SIGCONT)
        assert exit_code(pid) == 0
        assert not believed(table, key), f"a line was lost on a reader stopped at {point}"
