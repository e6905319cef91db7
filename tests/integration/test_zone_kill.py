"""A process killed or stopped at any store of any write leaves a zone that the others go on using.

Every write path has numbered kill points (ext/fr_shm.h), one behind each store. For each operation and each point a
child is killed there, or stopped there, and the parent looks at what is left: the old state or the new one in whole,
everything else untouched, the next writer served at once. Nothing here waits for time to pass, except the hammer,
which is bounded.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fastroute._core import affinity_table as table_module
from fastroute._core import zone as zone_module
from fastroute._core.affinity_table import (
    ABSENT,
    BUSY,
    FOUND,
    ONCE,
    OTHER,
    PROVISIONAL,
    WROTE,
    AffinityTable,
    Record,
    fingerprint_for_test,
)
from fastroute._core.zone import Zone
from tests.support.zone_crash import FAILED, STRIPES, exit_code, fork_to, key_at, shared_zone, wait_until_stopped

NOW = 1_000
EVERY = 1_000_000
STRIPE, HOME, OTHER_BUCKET, THIRD, PROBE_BUCKET = 5, 3, 9, 14, 20

State = dict[bytes, Record]


def rec(term: int, *, expires: int = NOW + 500, slot: int = 1, generation: int = 1, flags: int = 0) -> Record:
    return Record(term, generation, expires, NOW, slot, flags)


def fill(table: AffinityTable, home: int, other: int, count: int, salt: int, expires: int = NOW + 500) -> list[bytes]:
    keys = [key_at(table, STRIPE, home, other, i, salt + i) for i in range(count)]
    for i, key in enumerate(keys):
        assert table.claim_record(key, NOW, rec(salt + i, expires=expires))[0] == WROTE
    return keys


@dataclass
class Scenario:
    """One write: what stands before, what is done, and what the written key's answer is afterwards."""

    prepare: Callable[[AffinityTable], None]
    operate: Callable[[AffinityTable], int]
    locked: bool = True
    evictions: int = 0


def target(table: AffinityTable) -> bytes:
    return key_at(table, STRIPE, HOME, OTHER_BUCKET, 7, 4_000)


def prepare_bound(table: AffinityTable) -> None:
    fill(table, HOME, OTHER_BUCKET, 5, 100)
    table.claim_record(target(table), NOW, rec(77, flags=ONCE | PROVISIONAL))


def prepare_spilled(table: AffinityTable) -> None:
    fill(table, HOME, OTHER_BUCKET, 20, 100)
    table.claim_record(target(table), NOW, rec(77))


def prepare_expired(table: AffinityTable) -> None:
    fill(table, HOME, OTHER_BUCKET, 20, 100)
    fill(table, HOME, OTHER_BUCKET, 6, 300, expires=NOW + 1)
    fill(table, OTHER_BUCKET, THIRD, 10, 500, expires=NOW + 1)
    fill(table, OTHER_BUCKET, THIRD, 8, 700)


def prepare_full(table: AffinityTable) -> None:
    """Home and other bucket full of live records; the one that expires first is a third bucket's, spilled there."""
    fill(table, THIRD, OTHER_BUCKET, 20, 100)
    fill(table, THIRD, OTHER_BUCKET, 1, 300, expires=NOW + 50)
    fill(table, HOME, OTHER_BUCKET, 47, 500)


def claim(table: AffinityTable, now: int = NOW) -> int:
    return table.claim_record(target(table), now, rec(88, slot=2))[0]


SCENARIOS = {
    "claim": Scenario(lambda table: fill(table, HOME, OTHER_BUCKET, 5, 100) and None, claim),
    "claim-that-spills": Scenario(lambda table: fill(table, HOME, OTHER_BUCKET, 20, 100) and None, claim),
    "claim-over-an-expired-record": Scenario(prepare_expired, lambda table: claim(table, NOW + 1)),
    "claim-with-eviction": Scenario(prepare_full, claim, evictions=1),
    "learn": Scenario(prepare_bound, lambda table: table.learn_record(target(table), NOW, rec(5, slot=2))[0]),
    "replace": Scenario(
        prepare_bound,
        lambda table: table.replace_record(target(table), NOW, 77, 1, rec(77, generation=2, slot=2))[0],
    ),
    "remove": Scenario(prepare_bound, lambda table: table.remove_record(target(table), NOW, 77, 1)),
    "remove-of-a-spilled-record": Scenario(prepare_spilled, lambda table: table.remove_record(target(table), NOW)),
    "touch": Scenario(
        prepare_bound,
        lambda table: table.touch_record(target(table), NOW, 77, 1, NOW + 900, NOW + 7, ONCE),
        locked=False,
    ),
}


def state(table: AffinityTable, now: int = NOW + 1) -> State:
    """All live records; fails when a bucket is busy (its records would be missing)."""
    return dict(table.scan(0, EVERY, now)[0])


def prepared(scenario: Scenario) -> tuple[AffinityTable, State]:
    table = AffinityTable(shared_zone())
    fill(table, 2, 6, 24, 9_000)  # bystanders in the same stripe
    for stripe in range(STRIPES):
        assert table.claim_record(key_at(table, stripe, 25, 26, 1), NOW, rec(1))[0] == WROTE
    scenario.prepare(table)
    return table, state(table)


def outcome(scenario: Scenario) -> tuple[int, State, State]:
    """How many kill points the write passes, the state before and the state after."""
    table, before = prepared(scenario)
    table_module.arm_kill_point(0)
    try:
        assert scenario.operate(table) == WROTE
        points = table_module.kill_points_passed()
    finally:
        table_module.arm_kill_point(0, "off")
    return points, before, state(table)


def write_at_point(scenario: Scenario, table: AffinityTable, point: int, action: str) -> int:
    def work() -> int:
        table_module.arm_kill_point(point, "kill" if action == "kill" else "stop")
        return 0 if scenario.operate(table) == WROTE else FAILED

    return fork_to(work)


def half_touched(scenario: Scenario, before: State, after: State, key: bytes) -> list[State]:
    """A touch is two exchanges: extended and not yet cleared is a state of its own (ext/fr_affinity.h)."""
    if scenario.locked:
        return []
    return [{**before, key: before[key]._replace(expires_tick=after[key].expires_tick)}]


def assert_usable(scenario: Scenario, table: AffinityTable, before: State, after: State, repairs: int) -> None:
    """What every process must find after one died inside."""
    probe = key_at(table, STRIPE, PROBE_BUCKET, 21, 3)
    early = table.lookup_record(target(table), NOW + 1)
    assert early[0] == BUSY or early[1] in (before.get(target(table)), after.get(target(table))) or not scenario.locked
    assert table.claim_record(probe, NOW, rec(1))[0] == WROTE, "the next writer was not served at once"
    facts = table.zone.statistics(NOW)
    assert facts.repairs == repairs
    assert facts.busy_writes == 0
    assert table.remove_record(probe, NOW) == WROTE
    assert table.check() == 0
    left = state(table)
    assert left in [before, after, *half_touched(scenario, before, after, target(table))], (
        "neither the old state nor the new"
    )
    if left != after:
        assert facts.evictions == 0
        assert scenario.operate(table) == WROTE
    assert state(table) == after
    assert table.zone.statistics(NOW).evictions == scenario.evictions
    table.remove_record(target(table), NOW)
    assert table.claim_record(target(table), NOW, rec(6))[0] == WROTE
    assert table.replace_record(target(table), NOW, 6, 1, rec(6, generation=2))[0] == WROTE
    assert table.touch_record(target(table), NOW, 6, 2, NOW + 800) == WROTE
    assert table.learn_record(target(table), NOW, rec(7))[0] == WROTE
    assert table.claim_record(target(table), NOW, rec(8))[0] == OTHER
    assert table.lookup_record(target(table), NOW)[0] == FOUND
    assert table.check() == 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_writer_killed_at_any_store_leaves_the_old_or_the_new_state(name: str) -> None:
    scenario = SCENARIOS[name]
    points, before, after = outcome(scenario)
    assert points == 2 if name == "touch" else points >= 20
    finished = 0
    for point in range(1, points + 1):
        table, _ = prepared(scenario)
        assert exit_code(write_at_point(scenario, table, point, "kill")) == -signal.SIGKILL
        assert_usable(scenario, table, before, after, repairs=int(scenario.locked))
        finished += 1
    assert finished == points


def test_a_touch_between_the_death_and_the_repair_is_not_undone() -> None:
    scenario = SCENARIOS["claim"]
    points, _, after = outcome(scenario)
    readable = 0
    for point in range(1, points + 1):
        table, _ = prepared(scenario)
        assert exit_code(write_at_point(scenario, table, point, "kill")) == -signal.SIGKILL
        if table.touch_record(target(table), NOW, 88, 1, NOW + 5_000) == WROTE:
            readable += 1
            assert table.claim_record(key_at(table, STRIPE, PROBE_BUCKET, 21, 3), NOW, rec(1))[0] == WROTE
            found = table.lookup_record(target(table), NOW + 4_999)
            assert found == (FOUND, after[target(table)]._replace(expires_tick=NOW + 5_000))
            assert table.check() == 0
    assert readable >= 2


@pytest.mark.parametrize("name", ["claim-with-eviction", "remove-of-a-spilled-record"])
def test_a_process_killed_at_any_store_of_a_repair_leaves_it_to_the_next(name: str) -> None:
    scenario = SCENARIOS[name]
    points, before, after = outcome(scenario)
    repairs_killed = 0
    for point in range(1, points + 1, 2):
        repair_point = 0
        while True:
            repair_point += 1
            table, _ = prepared(scenario)
            assert exit_code(write_at_point(scenario, table, point, "kill")) == -signal.SIGKILL
            probe = key_at(table, STRIPE, PROBE_BUCKET, 21, 3)

            def repair(table: AffinityTable = table, probe: bytes = probe, at: int = repair_point) -> int:
                before_write = table.zone.statistics(NOW).repairs
                table_module.arm_kill_point(at)
                # Refused by (term, generation): the lock is taken and repaired, and nothing of its own is written.
                table.replace_record(probe, NOW, 1, 1, rec(1))
                return int(table.zone.statistics(NOW).repairs - before_write)

            code = exit_code(fork_to(repair))
            if code == 1:
                break
            assert code == -signal.SIGKILL
            repairs_killed += 1
            # A repairer killed behind its last store has counted already; the next repair counts again.
            counted = table.zone.statistics(NOW).repairs
            assert_usable(scenario, table, before, after, repairs=counted + 1)
    assert repairs_killed > points


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_writer_stopped_at_any_store_holds_up_its_stripe_alone_and_then_finishes(name: str) -> None:
    scenario = SCENARIOS[name]
    points, before, after = outcome(scenario)
    for point in range(1, points + 1):
        table, _ = prepared(scenario)
        pid = write_at_point(scenario, table, point, "stop")
        wait_until_stopped(pid)
        try:
            probe = key_at(table, STRIPE, PROBE_BUCKET, 21, 3)
            answers = [table.claim_record(probe, NOW, rec(1))[0] for _ in range(10)]
            assert answers == [BUSY] * 10 if scenario.locked else [WROTE] + [OTHER] * 9
            assert table.zone.statistics(NOW).busy_writes == (10 if scenario.locked else 0)
            for stripe in (each for each in range(STRIPES) if each != STRIPE):
                assert table.claim_record(key_at(table, stripe, 7, 8, 2), NOW, rec(3))[0] == WROTE
                assert table.remove_record(key_at(table, stripe, 7, 8, 2), NOW) == WROTE
            bystander = key_at(table, STRIPE, 2, 6, 0, 9_000)
            assert table.lookup_record(bystander, NOW) == (FOUND, before[bystander])
            assert table.touch_record(bystander, NOW, 9_000, 1, NOW + 501) == WROTE
        finally:
            os.kill(pid, signal.SIGCONT)
            code = exit_code(pid)
        assert code == 0
        table.remove_record(probe, NOW)
        left = state(table)
        left[bystander] = left[bystander]._replace(expires_tick=NOW + 500)
        assert left == after
        assert table.check() == 0
        assert table.zone.statistics(NOW).repairs == 0
        assert table.claim_record(probe, NOW, rec(1))[0] == WROTE, "blocked although the stopped writer went on"


@pytest.mark.parametrize("kind", ["server", "pool"])
def test_a_process_killed_at_any_store_of_a_directory_entry_gives_the_name_one_slot(kind: str) -> None:
    def enter(zone: Zone) -> int:
        return zone.server_slot("fr", "app", "web-9") if kind == "server" else zone.cursor_address("fr", "app")

    zone = shared_zone()
    zone.server_slot("fr", "app", "web-1")
    zone_module.arm_kill_point(0)
    enter(zone)
    points = zone_module.kill_points_passed()
    zone_module.arm_kill_point(0, "off")
    assert points >= 10
    for point in range(1, points + 1):
        zone = shared_zone()
        assert zone.server_slot("fr", "app", "web-1") == 0

        def work(zone: Zone = zone, point: int = point) -> int:
            zone_module.arm_kill_point(point)
            enter(zone)
            return FAILED

        assert exit_code(fork_to(work)) == -signal.SIGKILL
        assert zone.server_slot("fr", "app", "web-2") in (1, 2)
        assert zone.statistics().repairs == 1
        first = enter(zone)
        assert enter(zone) == first
        if kind == "server":
            assert sorted([first, zone.server_slot("fr", "app", "web-2")]) == [1, 2]
            assert zone.server_slot("fr", "app", "web-3") == 3
        else:
            assert zone.statistics().pools == 1


def test_a_process_stopped_inside_the_directory_is_named_as_the_cause_and_known_names_go_on() -> None:
    zone = shared_zone()
    zone.server_slot("fr", "app", "web-1")

    def work() -> int:
        zone_module.arm_kill_point(5, "stop")
        return 0 if zone.server_slot("fr", "app", "web-2") == 1 else FAILED

    pid = fork_to(work)
    wait_until_stopped(pid)
    try:
        assert zone.server_slot("fr", "app", "web-1") == 0
        with pytest.raises(zone_module.UsageError, match="a stopped process holds its directory"):
            zone.server_slot("fr", "app", "web-3")
    finally:
        os.kill(pid, signal.SIGCONT)
        assert exit_code(pid) == 0
    assert zone.server_slot("fr", "app", "web-2") == 1
    assert zone.server_slot("fr", "app", "web-3") == 2


def test_of_concurrent_claims_by_several_processes_one_wins_and_all_are_told() -> None:
    table, keys = AffinityTable(shared_zone()), [fingerprint_for_test(i) for i in range(3_000)]
    readers = []
    for writer in range(4):
        read_end, write_end = os.pipe()

        def work(writer: int = writer, write_end: int = write_end) -> int:
            for key in keys:
                stands = table.claim_record(key, NOW, rec(writer + 1, slot=writer))[1]
                os.write(write_end, bytes([255 if stands is None else stands.slot]))
            return 0

        pid = fork_to(work)
        os.close(write_end)
        readers.append((pid, read_end))
    answers = []
    for pid, read_end in readers:
        with os.fdopen(read_end, "rb") as pipe:
            answers.append(pipe.read())
        assert exit_code(pid) == 0
    assert len(answers[0]) == len(keys)
    for told in zip(*answers, strict=True):
        assert len(set(told) - {255}) == 1, "two processes were told two servers"
    assert table.check() == 0


def test_a_reader_never_sees_half_of_one_record_and_half_of_another() -> None:
    """One process rewrites a record as fast as it can, this one reads it: every field must be of one generation."""
    table = AffinityTable(shared_zone())
    # A cell that lies across two cache lines (cells 1 and 4 of each 8): one line is copied at once and would hide it.
    wanted = (int.from_bytes(fingerprint_for_test(i)[8:10], "little") * 24 >> 16 for i in range(1000))
    record = next(i for i, cell in enumerate(wanted) if cell % 8 in (1, 4))

    def work() -> int:
        table.rewrite_for_test(record, 2**32 - 1)
        return 0

    pid = fork_to(work)
    changed = 0
    try:
        for _ in range(200):
            torn, changes = table.reread_for_test(record, 100_000)
            assert torn == 0
            changed += changes
            if changed > 500_000:
                break
    finally:
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
    assert changed > 100, "the writer did not run beside the reader"


def hammer(table: AffinityTable, keys: list[bytes], seed: int) -> int:
    """Random operations until killed; 0 when all was well, FAILED when a record was not whole."""
    dice = random.Random(seed)
    table_module.arm_kill_point(dice.randrange(1, 20_000))
    for _ in range(200_000):
        i = dice.randrange(len(keys))
        key, now = keys[i], NOW + dice.randrange(3)
        status, found = table.lookup_record(key, now)
        if status == FOUND and (
            found is None or found.term != i + 1 or found.slot != (i * 31 + found.generation) % 60_000
        ):
            return FAILED
        roll = dice.random()
        if found is not None and roll < 0.3:
            step = rec(i + 1, generation=found.generation + 1, slot=(i * 31 + found.generation + 1) % 60_000)
            table.replace_record(key, now, found.term, found.generation, step)
        elif found is not None and roll < 0.6:
            table.touch_record(key, now, found.term, found.generation, now + dice.randrange(600), now, ONCE)
        elif found is not None and roll < 0.8:
            table.remove_record(key, now, found.term, found.generation)
        else:
            expires = NOW + dice.choice([1, 2, 500])
            table.claim_record(key, now, rec(i + 1, expires=expires, slot=(i * 31 + 1) % 60_000, flags=ONCE))
    return 0


def test_a_hammer_of_killed_writers_leaves_a_sound_table() -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    dice = random.Random(seed)
    table = AffinityTable(shared_zone())
    # Two stripes, four buckets each: more keys than cells, so that evictions and spills happen all the time.
    keys = [key_at(table, i % 2, i % 4, (i + 1 + i // 4 % 3) % 4, i % 24, i) for i in range(2 * 4 * 24 + 40)]
    children: list[int] = []
    kills, until = 0, time.monotonic() + 4.0
    try:
        while time.monotonic() < until:
            while len(children) < 3:
                child_seed = dice.randrange(1 << 30)
                children.append(fork_to(lambda child_seed=child_seed: hammer(table, keys, child_seed)))
            victim = children.pop(dice.randrange(len(children)))
            if dice.random() < 0.5:
                time.sleep(dice.random() * 0.02)
                os.kill(victim, signal.SIGKILL)
            code = exit_code(victim)
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            exit_code(child)
    for stripe in range(STRIPES):
        assert table.claim_record(key_at(table, stripe, 25, 26, 1), NOW, rec(1))[0] == WROTE
        assert table.remove_record(key_at(table, stripe, 25, 26, 1), NOW) == WROTE
    assert table.check() == 0
    assert kills > 10
    for i, key in enumerate(keys):
        status, found = table.lookup_record(key, NOW)
        assert status in (FOUND, ABSENT)
        assert found is None or (found.term, found.slot) == (i + 1, (i * 31 + found.generation) % 60_000)
