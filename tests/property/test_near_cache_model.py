"""The near cache beside a dict that follows the same rules in a few lines each."""

import sys
import threading

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from fastroute._core.near_cache import ENTRY_OVERHEAD_BYTES, MISS, NearCache

KEYS = st.one_of(st.text(max_size=3), st.binary(max_size=3), st.integers(0, 3000).map(lambda n: f"key-{n}"))
LIFETIMES_MS = st.integers(0, 500)


class NearCacheModel(RuleBasedStateMachine):
    """What is there must be what the dict has; without pressure nothing else may be missing."""

    tickets: Bundle[tuple[str | bytes, int, int]] = Bundle("tickets")

    @initialize(bytes_max=st.sampled_from([0, 600, 3000, 1 << 22]))
    def start(self, bytes_max: int) -> None:
        self.now_ms = 1000
        self.cache = NearCache(bytes_max, clock_ms=self.now_ms)
        self.bytes_max = bytes_max
        self.model: dict[str | bytes, tuple[int, int, int]] = {}
        self.changes: dict[str | bytes, int] = {}
        self.change = 0
        self.counter = 0

    def fits(self, key: str | bytes, size_bytes: int) -> bool:
        head = sys.getsizeof("") if isinstance(key, str) else sys.getsizeof(b"")
        size = len(key.encode()) if isinstance(key, str) else len(key)
        return ENTRY_OVERHEAD_BYTES + head + size + size_bytes <= self.bytes_max

    def keep(self, key: str | bytes, size_bytes: int, fresh_ms: int, keep_ms: int) -> None:
        if self.fits(key, size_bytes):
            self.model[key] = (self.counter, self.now_ms + fresh_ms, self.now_ms + max(fresh_ms, keep_ms))
        else:
            self.model.pop(key, None)

    def disturb(self, key: str | bytes) -> None:
        self.change += 1
        self.changes[key] = self.change

    @rule(key=KEYS, size_bytes=st.integers(0, 700), fresh_ms=LIFETIMES_MS, keep_ms=LIFETIMES_MS)
    def put(self, key: str | bytes, size_bytes: int, fresh_ms: int, keep_ms: int) -> None:
        self.counter += 1
        fits = self.fits(key, size_bytes)
        assert self.cache.put(key, self.counter, size_bytes, fresh_ms, keep_ms) is fits
        self.keep(key, size_bytes, fresh_ms, keep_ms)
        self.disturb(key)
        if fits and fresh_ms:
            assert self.cache.get(key) == self.counter

    @rule(first=st.integers(0, 2000), count=st.integers(1, 1500))
    def put_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.counter += 1
            self.cache.put(f"key-{number}", self.counter, 10, 300, 400)
            self.keep(f"key-{number}", 10, 300, 400)
            self.disturb(f"key-{number}")

    @rule(key=KEYS)
    def get(self, key: str | bytes) -> None:
        found, known = self.cache.get(key), self.model.get(key)
        if found is not MISS:
            assert known is not None
            assert found == known[0]
            assert self.now_ms < known[1]

    @rule(key=KEYS)
    def lookup(self, key: str | bytes) -> None:
        found, known = self.cache.lookup(key), self.model.get(key)
        if isinstance(found, tuple):
            assert known is not None
            assert found == (known[0], self.now_ms < known[1])
            assert self.now_ms < known[2]

    @rule(key=KEYS)
    def invalidate(self, key: str | bytes) -> None:
        self.cache.invalidate(key)
        self.model.pop(key, None)
        self.disturb(key)
        assert key not in self.cache

    @rule(target=tickets, key=KEYS)
    def begin_fill(self, key: str | bytes) -> tuple[str | bytes, int, int]:
        return key, self.cache.begin_fill(key), self.change

    @rule(ticket=tickets, size_bytes=st.integers(0, 300))
    def finish_fill(self, ticket: tuple[str | bytes, int, int], size_bytes: int) -> None:
        key, drawn, change = ticket
        self.counter += 1
        before = self.cache.statistics().refused_fills
        self.cache.finish_fill(key, drawn, self.counter, size_bytes, 300)
        refused = self.cache.statistics().refused_fills > before
        assert refused or self.changes.get(key, 0) <= change
        if not refused:
            self.keep(key, size_bytes, 300, 0)

    @rule(step_ms=st.integers(1, 400))
    def wait(self, step_ms: int) -> None:
        self.now_ms += step_ms
        self.cache.set_clock_ms(self.now_ms)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        for key in {*self.model, *self.changes}:
            self.disturb(key)
        self.model.clear()
        assert len(self.cache) == 0

    @invariant()
    def the_budget_holds_and_nothing_is_lost_without_pressure(self) -> None:
        if not hasattr(self, "cache"):
            return
        seen = self.cache.statistics()
        assert seen.bytes <= self.bytes_max
        assert (seen.bytes == 0) == (seen.entries == 0)
        if seen.evictions == 0:
            live = [key for key, known in self.model.items() if self.now_ms < known[2]]
            assert all(key in self.cache for key in live)


TestNearCacheModel = NearCacheModel.TestCase
TestNearCacheModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_threads_share_one_cache_without_harm() -> None:
    cache = NearCache(50_000)
    failures: list[object] = []
    interval_s = sys.getswitchinterval()

    def work(seed: int) -> None:
        state = seed
        for _ in range(4000):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            key = f"k{state >> 55}"
            found = cache.get(key)
            if found is not MISS and found != (key,):
                failures.append((key, found))
            if state & 4096:
                cache.put(key, (key,), (state >> 40) % 300, 1000)
            elif state & 8192:
                cache.invalidate(key)

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert failures == []
    assert cache.statistics().bytes <= 50_000
