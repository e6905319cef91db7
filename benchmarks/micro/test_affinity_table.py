"""Cost of the affinity table: a lookup of warm keys and of keys in random order, a claim, a touch.

The loops run in C (probe_for_test, fill_for_test), so that no Python is timed; extra_info carries operations per
call. "chained" starts no lookup before the last one ended and so shows the latency of its cache misses; without it
the processor overlaps several.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from fastroute._core.affinity_table import FOUND, WROTE, AffinityTable, Record, fingerprint_for_test
from fastroute._core.zone import Zone

RECORDS = 1_000_000
WARM = 1_000
NOW = 1_000


@pytest.fixture(scope="module")
def table() -> Iterator[AffinityTable]:
    with Zone(None, "64MiB") as zone:
        full = AffinityTable(zone)
        assert full.fill_for_test(0, RECORDS, NOW, NOW + 10) == (RECORDS, 0, 0)
        yield full


@pytest.mark.benchmark(group="affinity table: lookup")
@pytest.mark.parametrize("chained", [False, True], ids=["overlapping", "chained"])
def test_lookup_of_warm_keys(benchmark: Any, table: AffinityTable, chained: bool) -> None:
    found = benchmark.pedantic(table.probe_for_test, (0, WARM, NOW, 100, chained), rounds=50, warmup_rounds=3)
    assert found == WARM * 100
    benchmark.extra_info["operations"] = WARM * 100


@pytest.mark.benchmark(group="affinity table: lookup")
@pytest.mark.parametrize("chained", [False, True], ids=["overlapping", "chained"])
def test_lookup_in_random_order(benchmark: Any, table: AffinityTable, chained: bool) -> None:
    found = benchmark.pedantic(table.probe_for_test, (0, RECORDS, NOW, 1, chained), rounds=7, warmup_rounds=1)
    assert found == RECORDS
    benchmark.extra_info["operations"] = RECORDS


@pytest.mark.benchmark(group="affinity table: lookup")
def test_lookup_of_absent_keys_in_random_order(benchmark: Any, table: AffinityTable) -> None:
    found = benchmark.pedantic(table.probe_for_test, (5 * RECORDS, RECORDS, NOW, 1, True), rounds=7, warmup_rounds=1)
    assert found == 0
    benchmark.extra_info["operations"] = RECORDS


@pytest.mark.benchmark(group="affinity table: lookup")
def test_lookup_from_python(benchmark: Any, table: AffinityTable) -> None:
    keys = itertools.cycle([fingerprint_for_test(i) for i in range(WARM)])
    lookup = table.lookup_record
    assert benchmark(lambda: lookup(next(keys), NOW))[0] == FOUND


@pytest.mark.benchmark(group="affinity table: write")
def test_claim_of_new_keys_in_random_order(benchmark: Any) -> None:
    def fresh() -> tuple[tuple[AffinityTable], dict[str, Any]]:
        table = AffinityTable(Zone(None, "64MiB"))
        table.fill_for_test(RECORDS, RECORDS, NOW, NOW + 1)  # expired when claims come: pages are there
        return (table,), {}

    def claim(table: AffinityTable) -> tuple[int, int, int]:
        return table.fill_for_test(0, RECORDS, NOW + 1, NOW + 10)

    assert benchmark.pedantic(claim, setup=fresh, rounds=3) == (RECORDS, 0, 0)
    benchmark.extra_info["operations"] = RECORDS


@pytest.mark.benchmark(group="affinity table: write")
def test_claim_of_bound_keys(benchmark: Any, table: AffinityTable) -> None:
    assert benchmark.pedantic(table.fill_for_test, (0, WARM, NOW, NOW + 10), rounds=50, warmup_rounds=3)[1] == WARM
    benchmark.extra_info["operations"] = WARM


@pytest.mark.benchmark(group="affinity table: write")
def test_replace_from_python(benchmark: Any, table: AffinityTable) -> None:
    key = fingerprint_for_test(0)
    record = Record(1, 1, NOW + 10, NOW, 0)
    assert benchmark(table.replace_record, key, NOW, 1, 1, record)[0] == WROTE


@pytest.mark.benchmark(group="affinity table: write")
def test_touch_from_python(benchmark: Any, table: AffinityTable) -> None:
    key, ticks = fingerprint_for_test(1), itertools.count(NOW + 100)
    assert benchmark(lambda: table.touch_record(key, NOW, 2, 1, next(ticks))) == WROTE
