"""The affinity table: what each operation answers, and that no live record is lost below the stated capacity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastroute._core.affinity_table import (
    ABSENT,
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
from fastroute.errors import UsageError

NOW = 1_000
KEY = fingerprint_for_test(12345)


@pytest.fixture
def table() -> Iterator[AffinityTable]:
    with Zone(None, "256KiB") as zone:
        yield AffinityTable(zone)


def record(term: int = 7, generation: int = 1, expires: int = NOW + 100, slot: int = 3, flags: int = 0) -> Record:
    return Record(term, generation, expires, NOW, slot, flags)


def test_the_first_claim_wins_and_the_second_is_told_who_stands(table: AffinityTable) -> None:
    assert table.lookup_record(KEY, NOW) == (ABSENT, None)
    assert table.claim_record(KEY, NOW, record()) == (WROTE, record())
    assert table.claim_record(KEY, NOW, record(term=8, slot=4)) == (OTHER, record())
    assert table.lookup_record(KEY, NOW) == (FOUND, record())


def test_every_field_survives_at_its_extremes(table: AffinityTable) -> None:
    extreme = Record(2**64 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**16 - 1, 255)
    for key in (b"\0" * 16, b"\xff" * 16, KEY):
        assert table.claim_record(key, NOW, extreme) == (WROTE, extreme)
        assert table.lookup_record(key, NOW) == (FOUND, extreme)
        assert table.remove_record(key, NOW) == WROTE
        assert table.lookup_record(key, NOW) == (ABSENT, None)


def test_a_record_is_absent_from_its_expiry_tick_on(table: AffinityTable) -> None:
    table.claim_record(KEY, NOW, record(expires=NOW + 5))
    assert table.lookup_record(KEY, NOW + 4)[0] == FOUND
    assert table.lookup_record(KEY, NOW + 5)[0] == ABSENT
    assert table.claim_record(KEY, NOW + 5, record(term=9)) == (WROTE, record(term=9))
    assert table.check() == 0


def test_the_stores_truth_wins_unless_the_zone_knows_a_later_generation_of_the_term(table: AffinityTable) -> None:
    assert table.learn_record(KEY, NOW, record(generation=2))[0] == WROTE
    assert table.learn_record(KEY, NOW, record(generation=1, slot=9)) == (OTHER, record(generation=2))
    assert table.learn_record(KEY, NOW, record(generation=2, slot=9)) == (WROTE, record(generation=2, slot=9))
    assert table.learn_record(KEY, NOW, record(term=1, generation=1, slot=5))[0] == WROTE
    assert table.lookup_record(KEY, NOW)[1] == record(term=1, generation=1, slot=5)


def test_replace_compares_term_and_generation(table: AffinityTable) -> None:
    moved = record(generation=2, slot=4)
    assert table.replace_record(KEY, NOW, 7, 1, moved) == (ABSENT, None)
    table.claim_record(KEY, NOW, record())
    assert table.replace_record(KEY, NOW, 7, 2, moved) == (OTHER, record())
    assert table.replace_record(KEY, NOW, 8, 1, moved) == (OTHER, record())
    assert table.replace_record(KEY, NOW, 7, 1, moved) == (WROTE, moved)
    assert table.replace_record(KEY, NOW + 100, 7, 2, moved) == (ABSENT, None)


def test_a_touch_extends_never_shortens_and_clears_flags(table: AffinityTable) -> None:
    table.claim_record(KEY, NOW, record(flags=ONCE | PROVISIONAL))
    assert table.touch_record(KEY, NOW, 7, 1, NOW + 500, NOW + 1, ONCE) == WROTE
    assert table.lookup_record(KEY, NOW)[1] == Record(7, 1, NOW + 500, NOW + 1, 3, PROVISIONAL)
    assert table.touch_record(KEY, NOW, 7, 1, NOW + 200) == WROTE
    assert table.lookup_record(KEY, NOW)[1] == Record(7, 1, NOW + 500, NOW + 1, 3, PROVISIONAL)


def test_a_touch_of_another_decision_changes_nothing(table: AffinityTable) -> None:
    assert table.touch_record(KEY, NOW, 7, 1, NOW + 500) == ABSENT
    table.claim_record(KEY, NOW, record())
    assert table.touch_record(KEY, NOW, 7, 2, NOW + 500) == OTHER
    assert table.touch_record(KEY, NOW, 8, 1, NOW + 500) == OTHER
    assert table.touch_record(KEY, NOW + 100, 7, 1, NOW + 500) == ABSENT
    assert table.lookup_record(KEY, NOW)[1] == record()


def test_remove_compares_unless_the_term_is_zero(table: AffinityTable) -> None:
    assert table.remove_record(KEY, NOW) == ABSENT
    table.claim_record(KEY, NOW, record())
    assert table.remove_record(KEY, NOW, 7, 2) == OTHER
    assert table.remove_record(KEY, NOW, 7, 1) == WROTE
    table.claim_record(KEY, NOW, record())
    assert table.remove_record(KEY, NOW) == WROTE
    assert table.lookup_record(KEY, NOW) == (ABSENT, None)


def test_a_million_live_records_in_64_mib_are_all_found() -> None:
    with Zone(None, "64MiB") as zone:
        table = AffinityTable(zone)
        assert table.fill_for_test(0, 1_000_000, NOW, NOW + 9) == (1_000_000, 0, 0)
        assert table.probe_for_test(0, 1_000_000, NOW) == 1_000_000
        assert table.check() == 0
        facts = zone.statistics(NOW)
        assert (facts.evictions, facts.lost) == (0, 0)
        assert abs(facts.live_records - 1_000_000) < 30_000


@pytest.mark.parametrize("size", ["256KiB", "1MiB", "3MiB", "8MiB"])
@pytest.mark.parametrize("seed", range(3))
def test_no_live_record_is_lost_below_the_stated_capacity(size: str, seed: int) -> None:
    with Zone(None, size) as zone:
        table = AffinityTable(zone)
        first = seed * 10_000_000
        assert table.fill_for_test(first, table.capacity, NOW, NOW + 9) == (table.capacity, 0, 0)
        assert table.probe_for_test(first, table.capacity, NOW) == table.capacity
        assert zone.statistics(NOW).evictions == 0
        assert table.check() == 0


def test_a_table_at_capacity_renews_itself_forever_without_losing_a_live_record() -> None:
    with Zone(None, "512KiB") as zone:
        table = AffinityTable(zone)
        for round_ in range(20):
            now = NOW + 10 * round_
            assert table.fill_for_test(round_ * table.capacity, table.capacity, now, now + 10)[0] == table.capacity
            assert table.probe_for_test(round_ * table.capacity, table.capacity, now) == table.capacity
        assert zone.statistics(now).evictions == 0
        assert table.check() == 0


def test_an_overfull_table_evicts_what_expires_first_and_counts_it(table: AffinityTable) -> None:
    cells = table.buckets * 24
    for part in range(4):
        table.fill_for_test(part * cells // 2, cells // 2, NOW, NOW + 10 + part)
    facts = table.zone.statistics(NOW)
    assert table.check() == 0
    assert facts.live_records == 2 * cells - facts.evictions
    assert facts.lost == facts.evictions > 0
    survivors = [table.probe_for_test(part * cells // 2, cells // 2, NOW) for part in range(4)]
    assert survivors == sorted(survivors)
    assert survivors[3] == cells // 2


def test_evicting_a_key_seen_once_is_not_counted_as_lost(table: AffinityTable) -> None:
    cells = table.buckets * 24
    for i in range(2 * cells):
        table.claim_record(fingerprint_for_test(i), NOW, Record(i + 1, 1, NOW + 5, NOW, 0, ONCE))
    facts = table.zone.statistics(NOW)
    assert facts.evictions > 0
    assert facts.lost == 0


def test_a_scan_visits_each_live_record_once(table: AffinityTable) -> None:
    table.fill_for_test(0, 1000, NOW, NOW + 5)
    table.fill_for_test(5000, 100, NOW - 50, NOW - 1)
    seen: dict[bytes, Record] = {}
    start: int | None = 0
    while start is not None:
        records, start = table.scan(start, 64, NOW)
        assert len(records) < 64 + 24
        for key, found in records:
            assert key not in seen
            seen[key] = found
    assert seen == {fingerprint_for_test(i): Record(i + 1, 1, NOW + 5, NOW, i & 255) for i in range(1000)}


def test_a_scan_filters_by_slot_flags_and_expiry(table: AffinityTable) -> None:
    for i in range(40):
        claimed = Record(1, 1, NOW + 1 + i, NOW, i % 4, PROVISIONAL if i % 5 == 0 else 0)
        table.claim_record(fingerprint_for_test(i), NOW, claimed)
    every = 1_000_000
    assert len(table.scan(0, every, NOW)[0]) == 40
    assert {found.slot for _, found in table.scan(0, every, NOW, slot=2)[0]} == {2}
    assert len(table.scan(0, every, NOW, any_flags=PROVISIONAL)[0]) == 8
    assert len(table.scan(0, every, NOW, expires_after=NOW + 30)[0]) == 10
    assert table.scan(table.buckets, every, NOW) == ([], None)


def test_a_fingerprint_is_sixteen_bytes(table: AffinityTable) -> None:
    with pytest.raises(UsageError, match="fingerprint of 5 bytes"):
        table.lookup_record(b"short", NOW)
