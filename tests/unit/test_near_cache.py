"""The near cache: keys, limits of time and of bytes, S3-FIFO's choice, the fill guard, references."""

import copy
import gc
import pickle
import random
import sys
import weakref

import pytest

from fastroute._core.near_cache import (
    ENTRY_OVERHEAD_BYTES,
    KEY_BYTES_MAX,
    LIFETIME_MS_MAX,
    MISS,
    NearCache,
    approximate_size_bytes,
)
from fastroute.errors import UsageError

NOW_MS = 1_000_000


def entry_bytes(key: str, size_bytes: int) -> int:
    return ENTRY_OVERHEAD_BYTES + sys.getsizeof(key) + size_bytes


def cache_for(entries: int, *, key: str = "k0", size_bytes: int = 10) -> NearCache:
    return NearCache(entries * entry_bytes(key, size_bytes), clock_ms=NOW_MS)


def test_a_miss_is_the_constant_and_false() -> None:
    cache = NearCache(1 << 20)
    assert cache.get("absent") is MISS
    assert cache.lookup("absent") is MISS
    assert not MISS
    assert repr(MISS) == "MISS"
    assert copy.deepcopy(MISS) is MISS
    assert pickle.loads(pickle.dumps(MISS)) is MISS


def test_a_put_value_comes_back_as_the_same_object() -> None:
    cache = NearCache(1 << 20)
    value = {"a": [1]}
    assert cache.put("k", value, 100, 1000) is True
    assert cache.get("k") is value
    assert cache.lookup("k") == (value, True)
    assert "k" in cache
    assert len(cache) == 1


def test_none_and_false_values_are_not_misses() -> None:
    cache = NearCache(1 << 20)
    for value in (None, False, 0, ""):
        cache.put("k", value, 0, 1000)
        assert cache.get("k") is value


def test_text_and_bytes_with_the_same_content_are_two_keys() -> None:
    cache = NearCache(1 << 20)
    cache.put("a", 1, 10, 1000)
    cache.put(b"a", 2, 10, 1000)
    assert (cache.get("a"), cache.get(b"a")) == (1, 2)


@pytest.mark.parametrize("key", ["", "x" * 40, "ключ", "\U0001f600", b"", b"\x00\xff", b"y" * 1000])
def test_a_key_is_found_through_an_equal_object(key: str | bytes) -> None:
    cache = NearCache(1 << 20)
    cache.put(key, "value", 10, 1000)
    other = key.encode().decode() if isinstance(key, str) else bytes(bytearray(key))
    assert cache.get(other) == "value"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("key", [None, 1, ("a",), bytearray(b"a"), Text("a"), "\ud800"])
def test_another_type_of_key_is_refused(key: object) -> None:
    cache = NearCache(1 << 20)
    for call in (cache.get, cache.lookup, cache.invalidate, cache.begin_fill, cache.__contains__):
        with pytest.raises(UsageError, match="cache key"):
            call(key)  # type: ignore[arg-type, operator]
    with pytest.raises(UsageError, match="cache key"):
        cache.put(key, 1, 1, 1)  # type: ignore[arg-type]


def test_a_key_over_the_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="accepted are up to"):
        NearCache(1 << 20).get("x" * (KEY_BYTES_MAX + 1))


@pytest.mark.parametrize(("size_bytes", "fresh_ms", "keep_ms"), [(-1, 1, 1), (1, -1, 1), (1, 1, LIFETIME_MS_MAX + 1)])
def test_a_size_or_lifetime_out_of_range_is_refused(size_bytes: int, fresh_ms: int, keep_ms: int) -> None:
    cache = NearCache(1 << 20)
    with pytest.raises(UsageError, match="accepted are"):
        cache.put("k", 1, size_bytes, fresh_ms, keep_ms)
    assert len(cache) == 0


def test_an_entry_is_fresh_then_stale_then_absent() -> None:
    cache = NearCache(1 << 20, clock_ms=NOW_MS)
    cache.put("k", "v", 10, 1000, 3000)
    cache.set_clock_ms(NOW_MS + 999)
    assert cache.get("k") == "v"
    cache.set_clock_ms(NOW_MS + 1000)
    assert cache.get("k") is MISS
    assert cache.lookup("k") == ("v", False)
    cache.set_clock_ms(NOW_MS + 2999)
    assert cache.lookup("k") == ("v", False)
    assert "k" in cache
    cache.set_clock_ms(NOW_MS + 3000)
    assert "k" not in cache
    assert cache.lookup("k") is MISS
    assert len(cache) == 0


def test_a_kept_time_below_the_fresh_time_means_the_fresh_time() -> None:
    cache = NearCache(1 << 20, clock_ms=NOW_MS)
    cache.put("k", "v", 10, 1000, 10)
    cache.set_clock_ms(NOW_MS + 999)
    assert cache.get("k") == "v"
    cache.set_clock_ms(NOW_MS + 1000)
    assert cache.lookup("k") is MISS


def test_the_machine_clock_is_used_without_a_manual_one() -> None:
    cache = NearCache(1 << 20)
    cache.put("k", "v", 10, 0)
    assert cache.get("k") is MISS
    cache.put("k", "v", 10, 60_000)
    assert cache.get("k") == "v"


def test_a_second_put_replaces_value_cost_and_limits() -> None:
    cache = NearCache(1 << 20, clock_ms=NOW_MS)
    cache.put("k0", 1, 10, 1000)
    cache.put("k0", 2, 500, 9000)
    cache.set_clock_ms(NOW_MS + 8999)
    assert cache.get("k0") == 2
    assert cache.statistics().bytes == entry_bytes("k0", 500)
    assert len(cache) == 1


def test_bytes_never_exceed_the_budget() -> None:
    cache = NearCache(10_000, clock_ms=NOW_MS)
    for number in range(2000):
        cache.put(f"k{number}", number, number % 700, 1000)
        assert cache.statistics().bytes <= 10_000
    assert cache.statistics().entries == len(cache)
    assert cache.statistics().evictions > 1000


def test_a_value_over_the_whole_budget_is_not_kept_and_the_old_one_is_gone() -> None:
    cache = NearCache(1000)
    cache.put("k", "old", 10, 1000)
    cache.put("other", 1, 10, 1000)
    assert cache.put("k", "huge", 5000, 1000) is False
    assert cache.get("k") is MISS
    assert cache.get("other") == 1


def test_a_grown_value_evicts_others_but_not_itself() -> None:
    cache = cache_for(4)
    for number in range(4):
        cache.put(f"k{number}", number, 10, 1000)
        cache.get(f"k{number}")
    cache.put("k0", "grown", 10 + 2 * entry_bytes("k0", 10), 1000)
    assert cache.get("k0") == "grown"
    assert len(cache) == 2


def test_a_budget_of_zero_keeps_nothing() -> None:
    cache = NearCache(0)
    assert cache.put("k", 1, 0, 1000) is False
    assert cache.get("k") is MISS


def test_what_was_hit_twice_stays_and_what_was_not_goes() -> None:
    cache = cache_for(4)
    for number in range(4):
        cache.put(f"k{number}", number, 10, 1000)
    for key in ("k0", "k1", "k0", "k1", "k2"):
        cache.get(key)
    cache.put("k4", 4, 10, 1000)
    cache.put("k5", 5, 10, 1000)
    assert [key for key in ("k0", "k1", "k2", "k3", "k4", "k5") if key in cache] == ["k0", "k1", "k4", "k5"]


def test_a_scan_does_not_evict_what_is_in_use() -> None:
    cache = cache_for(100)
    for number in range(90):
        cache.put(f"used{number}", number, 10, 1000)
        cache.get(f"used{number}")
        cache.get(f"used{number}")
    for number in range(1000):
        cache.put(f"scan{number}", number, 10, 1000)
    assert sum(f"used{number}" in cache for number in range(90)) >= 85


def test_what_comes_back_soon_after_it_left_stays() -> None:
    cache = cache_for(20)
    for number in range(20):
        cache.put(f"k{number}", number, 10, 1000)
    cache.put("k20", 20, 10, 1000)
    assert "k0" not in cache
    cache.put("k0", 0, 10, 1000)
    for number in range(30):
        cache.put(f"scan{number}", number, 10, 1000)
    assert "k0" in cache


def test_hits_are_those_of_the_reference() -> None:
    from benchmarks.study_near import s3_fifo, shipped

    rng = random.Random(5)
    trace = [int(1000 * rng.random() ** 3) + (10_000 + n if n % 5 == 0 else 0) for n in range(30_000)]
    ours, reference = shipped(trace, 100), s3_fifo(trace, 100)
    assert abs(ours - reference) <= 0.01 * len(trace), "ghosts share places, nothing else differs"


def test_a_scan_of_new_keys_does_not_flush_the_hot_ones() -> None:
    cache = cache_for(100, key="k000")
    hot = [f"h{number:03}" for number in range(50)]
    for key in hot:
        cache.put(key, 1, 10, 1000)
        cache.get(key)
    for number in range(999):
        cache.put(f"k{number:03}", 1, 10, 1000)
        if number % 10 == 0:
            for key in hot:
                cache.get(key)
    assert all(key in cache for key in hot)


def test_an_expired_entry_goes_however_often_it_was_hit() -> None:
    cache = cache_for(3)
    cache.put("k0", 0, 10, 100)
    cache.put("k1", 1, 10, 5000)
    cache.put("k2", 2, 10, 5000)
    for _ in range(3):
        cache.get("k0")
    cache.set_clock_ms(NOW_MS + 200)
    cache.put("k3", 3, 10, 5000)
    assert [key for key in ("k0", "k1", "k2", "k3") if key in cache] == ["k1", "k2", "k3"]
    assert (cache.statistics().evictions, cache.statistics().expirations) == (0, 1)


def test_invalidate_forgets_a_key_and_says_whether_it_was_there() -> None:
    cache = NearCache(1 << 20)
    cache.put("k", 1, 10, 1000)
    assert cache.invalidate("k") is True
    assert cache.invalidate("k") is False
    assert cache.get("k") is MISS
    assert cache.statistics().bytes == 0


def test_a_fill_is_kept_when_nothing_came_between() -> None:
    cache = NearCache(1 << 20)
    ticket = cache.begin_fill("k")
    assert cache.undisturbed("k", ticket) is True
    assert cache.finish_fill("k", ticket, "v", 10, 1000) is True
    assert cache.get("k") == "v"


@pytest.mark.parametrize("between", ["invalidate", "put", "clear"])
def test_a_fill_is_refused_when_the_key_changed_meanwhile(between: str) -> None:
    cache = NearCache(1 << 20)
    ticket = cache.begin_fill("k")
    if between == "invalidate":
        cache.invalidate("k")
    elif between == "put":
        cache.put("k", "newer", 10, 1000)
    else:
        cache.clear()
    assert cache.undisturbed("k", ticket) is False
    assert cache.finish_fill("k", ticket, "old", 10, 1000) is False
    assert cache.get("k") == ("newer" if between == "put" else MISS)
    assert cache.statistics().refused_fills == 1
    assert cache.finish_fill("k", cache.begin_fill("k"), "again", 10, 1000) is True


def test_a_fill_survives_the_invalidation_of_most_other_keys() -> None:
    cache = NearCache(1 << 20)
    kept = 0
    for number in range(200):
        ticket = cache.begin_fill("k")
        cache.invalidate(f"other{number}")
        kept += cache.finish_fill("k", ticket, 1, 10, 1000)
    assert kept >= 190


def test_clear_forgets_everything_and_the_cache_goes_on() -> None:
    cache = NearCache(1 << 20)
    for number in range(3000):
        cache.put(f"k{number}", number, 10, 1000)
    cache.clear()
    assert len(cache) == 0
    assert cache.statistics().bytes == 0
    cache.put("k1", 1, 10, 1000)
    assert cache.get("k1") == 1


def test_statistics_count_hits_stale_hits_and_misses() -> None:
    cache = NearCache(1 << 20, clock_ms=NOW_MS)
    cache.put("k", 1, 10, 100, 200)
    cache.get("k")
    cache.get("absent")
    cache.set_clock_ms(NOW_MS + 150)
    cache.get("k")
    cache.lookup("k")
    seen = cache.statistics()
    assert (seen.hits, seen.stale_hits, seen.misses, seen.entries) == (1, 1, 2, 1)


class Held:
    """A value that can be watched."""


@pytest.mark.parametrize("way", ["invalidate", "replace", "evict", "expire", "clear", "drop", "too large"])
def test_every_way_out_gives_the_value_up(way: str) -> None:
    cache = cache_for(2)
    value = Held()
    seen = weakref.ref(value)
    cache.put("k0", value, 10, 100)
    del value
    assert seen() is not None
    if way == "invalidate":
        cache.invalidate("k0")
    elif way == "replace":
        cache.put("k0", 1, 10, 100)
    elif way == "evict":
        for number in range(1, 4):
            cache.put(f"k{number}", 1, 10, 100)
    elif way == "expire":
        cache.set_clock_ms(NOW_MS + 100)
        cache.get("k0")
    elif way == "clear":
        cache.clear()
    elif way == "drop":
        del cache
    else:
        cache.put("k0", 1, 10_000, 100)
    assert seen() is None


def test_no_reference_leaks_over_many_operations() -> None:
    key, value = "key-" + "x" * 20, Held()
    before = (sys.getrefcount(key), sys.getrefcount(value))
    for _ in range(50):
        cache = NearCache(5000)
        for number in range(100):
            cache.put(key, value, 10, 1000)
            cache.get(key)
            cache.lookup(key)
            cache.finish_fill(key, cache.begin_fill(key), value, 10, 1000)
            cache.put(f"k{number}", value, 100, 1000)
            if number % 7 == 0:
                cache.invalidate(key)
        del cache
    assert (sys.getrefcount(key), sys.getrefcount(value)) == before


def test_a_cycle_through_a_value_is_collected() -> None:
    cache = NearCache(1 << 20)
    value = Held()
    value.cache = cache  # type: ignore[attr-defined]
    seen = weakref.ref(value)
    cache.put("k", value, 10, 1000)
    del cache, value
    gc.collect()
    assert seen() is None


def test_a_value_that_uses_the_cache_when_it_dies_does_no_harm() -> None:
    cache = cache_for(8, key="k000")

    class Meddler:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            cache.put(f"m{self.number:03}", 0, 10, 1000)
            cache.invalidate(f"k{self.number + 1:03}")
            cache.get("k000")

    for number in range(500):
        cache.put(f"k{number % 40:03}", Meddler(number % 40), 10, 1000)
        assert cache.statistics().bytes <= cache.statistics().bytes_max
    cache.clear()
    cache.clear()
    assert cache.statistics().bytes == len(cache) * entry_bytes("k000", 10)


def test_plain_values_are_sized_with_what_they_contain() -> None:
    assert approximate_size_bytes(None) == 0
    assert approximate_size_bytes("abc") == sys.getsizeof("abc")
    value = {"a": [1, "text", (b"bytes",)], "b": {3.5}}
    parts = [value, "a", value["a"], "text", (b"bytes",), b"bytes", "b", value["b"], 3.5]
    assert approximate_size_bytes(value) == sum(map(sys.getsizeof, parts))
