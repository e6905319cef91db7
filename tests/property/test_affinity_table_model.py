"""The affinity table against a dict: whatever the order of operations and the clock, both answer alike.

Below capacity nothing is ever evicted, so the dict is exact. Fingerprints are drawn so that many share a bucket.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastroute._core.affinity_table import ABSENT, FOUND, OTHER, WROTE, AffinityTable, Record
from fastroute._core.zone import Zone

# Few high bits: few stripes and buckets, so that homes fill up and spill; few low bits: the same tags and wanted cells.
keys = st.builds(
    lambda lo, hi, low, wanted: ((lo << 62) | low).to_bytes(8, "little") + ((hi << 63) | wanted).to_bytes(8, "little"),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 6),
    st.sampled_from([0, 0xFFFF]),
)
ticks = st.integers(0, 40)
terms = st.integers(0, 2)
generations = st.integers(0, 2)
flags = st.integers(0, 3)


class TableMachine(RuleBasedStateMachine):
    """Every rule does one operation on both and compares the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.zone = Zone(None, "256KiB")
        self.table = AffinityTable(self.zone)
        self.model: dict[bytes, Record] = {}
        self.now = 100

    def teardown(self) -> None:
        self.zone.close()

    def live(self, key: bytes) -> Record | None:
        found = self.model.get(key)
        return found if found is not None and found.expires_tick > self.now else None

    def made(self, term: int, generation: int, ttl: int, slot: int, flag: int) -> Record:
        return Record(term, generation, self.now + ttl, self.now, slot, flag)

    @initialize(count=st.integers(0, 28))
    def crowd(self, count: int) -> None:
        """Records that expire at various times in the same few buckets."""
        for i in range(count):
            key = i.to_bytes(8, "little") + (i * 1000).to_bytes(8, "little")
            record = self.made(1, 1, 1 + i % 30, 9, 0)
            if self.table.claim_record(key, self.now, record)[0] == WROTE:
                self.model[key] = record

    @rule(step=st.integers(0, 25))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(key=keys)
    def lookup(self, key: bytes) -> None:
        stands = self.live(key)
        assert self.table.lookup_record(key, self.now) == ((FOUND, stands) if stands else (ABSENT, None))

    @rule(key=keys, term=terms, generation=generations, ttl=ticks, slot=st.integers(0, 3), flag=flags)
    def claim(self, key: bytes, term: int, generation: int, ttl: int, slot: int, flag: int) -> None:
        wanted, stands = self.made(term, generation, ttl, slot, flag), self.live(key)
        assert self.table.claim_record(key, self.now, wanted) == ((OTHER, stands) if stands else (WROTE, wanted))
        self.model[key] = stands or wanted

    @rule(key=keys, term=terms, generation=generations, ttl=ticks, slot=st.integers(0, 3), flag=flags)
    def learn(self, key: bytes, term: int, generation: int, ttl: int, slot: int, flag: int) -> None:
        truth, stands = self.made(term, generation, ttl, slot, flag), self.live(key)
        later = stands is not None and stands.term == term and stands.generation > generation
        assert self.table.learn_record(key, self.now, truth) == ((OTHER, stands) if later else (WROTE, truth))
        if not later:
            self.model[key] = truth

    @rule(key=keys, term=terms, generation=generations, ttl=ticks, slot=st.integers(0, 3))
    def replace(self, key: bytes, term: int, generation: int, ttl: int, slot: int) -> None:
        wanted, stands = self.made(term, generation + 1, ttl, slot, 0), self.live(key)
        answer = self.table.replace_record(key, self.now, term, generation, wanted)
        if stands is None:
            assert answer == (ABSENT, None)
        elif (stands.term, stands.generation) == (term, generation):
            assert answer == (WROTE, wanted)
            self.model[key] = wanted
        else:
            assert answer == (OTHER, stands)

    @rule(key=keys, term=terms, generation=generations, ttl=ticks, verified=st.integers(0, 500), clear=flags)
    def touch(self, key: bytes, term: int, generation: int, ttl: int, verified: int, clear: int) -> None:
        stands = self.live(key)
        answer = self.table.touch_record(key, self.now, term, generation, self.now + ttl, verified, clear)
        if stands is None:
            assert answer == ABSENT
        elif (stands.term, stands.generation) == (term, generation):
            assert answer == WROTE
            self.model[key] = stands._replace(
                expires_tick=max(stands.expires_tick, self.now + ttl),
                verified_tick=verified or stands.verified_tick,
                flags=stands.flags & ~clear,
            )
        else:
            assert answer == OTHER

    @rule(key=keys, term=terms, generation=generations)
    def remove(self, key: bytes, term: int, generation: int) -> None:
        stands = self.live(key)
        answer = self.table.remove_record(key, self.now, term, generation)
        if stands is None:
            assert answer == ABSENT
        elif term == 0 or (stands.term, stands.generation) == (term, generation):
            assert answer == WROTE
            del self.model[key]
        else:
            assert answer == OTHER

    @invariant()
    def rules_hold_and_both_list_the_same(self) -> None:
        assert self.table.check() == 0
        assert self.zone.statistics(self.now).evictions == 0
        records, end = self.table.scan(0, 1_000_000, self.now)
        assert end is None
        assert dict(records) == {key: found for key, found in self.model.items() if self.live(key)}


TableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAffinityTableAgainstADict = TableMachine.TestCase
