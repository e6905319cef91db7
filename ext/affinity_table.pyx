"""affinity_table: the zone's table fingerprint -> binding, to compiled callers (the pxd) and to tools and tests (here).

Not here: the table itself (ext/fr_bucket.h, ext/fr_affinity.h), fingerprints of keys, agreement between machines.
A record is the tuple Record; a fingerprint is 16 bytes, the two little-endian words of fr_fingerprint.
"""
from typing import NamedTuple

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from fastroute._core.hashes cimport fr_fingerprint
from fastroute._core.kill_points cimport kill_point_arm, kill_point_count
from fastroute._core.zone cimport Zone, fr_table, fr_zone_plan

from fastroute.errors import UsageError

cdef extern from "fr_bucket.h" nogil:
    uint64_t fr_table_capacity(const fr_zone_plan *plan) noexcept
    uint64_t fr_table_bucket_count(const fr_zone_plan *plan) noexcept
    int fr_aff_bucket_records(const fr_table *table, uint32_t index, uint32_t now_tick, fr_fingerprint *keys,
                              fr_binding *bindings) noexcept
    int64_t fr_aff_check(const fr_table *table) noexcept
    int fr_aff_lookup(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, fr_binding *out) noexcept

cdef extern from "fr_affinity.h" nogil:
    int fr_aff_claim(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *wanted,
                     fr_binding *out) noexcept
    int fr_aff_learn(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth,
                     fr_binding *out) noexcept
    int fr_aff_replace(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation,
                       const fr_binding *wanted, fr_binding *out) noexcept
    int fr_aff_remove(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, uint64_t term,
                      uint32_t generation) noexcept
    int fr_aff_learn_guarded(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth,
                             const fr_guard *guard, uint32_t own, int only_read, fr_binding *out) noexcept
    int fr_aff_take_question(fr_table *table, const fr_fingerprint *key, uint32_t now_tick) noexcept
    void fr_aff_end_question(fr_table *table, const fr_fingerprint *key, uint32_t now_tick) noexcept
    int fr_aff_take_touch(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *found,
                          uint32_t expires_tick) noexcept
    void fr_aff_want_touch(fr_table *table, const fr_fingerprint *key, uint32_t now_tick) noexcept
    int fr_aff_touch(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation,
                     uint32_t expires_tick, uint32_t verified_tick, uint8_t clear_flags) noexcept

cdef extern from *:
    """
    /* Made-up fingerprints for tests and benchmarks: SplitMix64 (Steele, Lea, Flood, 2014) of a counter. */
    static uint64_t fr_splitmix(uint64_t x)
    {
        x += 0x9E3779B97F4A7C15ull;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
        return x ^ (x >> 31);
    }
    static fr_fingerprint fr_test_key(uint64_t i)
    {
        fr_fingerprint key = {fr_splitmix(2 * i), fr_splitmix(2 * i + 1)};
        return key;
    }
    /* Record i carries term i + 1. Counts of what claims answered, by status. */
    static void fr_test_fill(fr_table *table, uint64_t first, uint64_t count, uint32_t now_tick, uint32_t expires_tick,
                             uint64_t *by_status)
    {
        for (uint64_t i = first; i < first + count; i++) {
            fr_fingerprint key = fr_test_key(i);
            fr_binding wanted = {i + 1, 1, expires_tick, now_tick, (uint16_t)(i & 255), 0, 0}, out;
            by_status[fr_aff_claim(table, &key, now_tick, &wanted, &out)]++;
        }
    }
    /* Number of the records found, over all rounds. chained: no lookup starts before the last one ended. */
    static uint64_t fr_test_probe(fr_table *table, uint64_t first, uint64_t count, uint64_t rounds, uint32_t now_tick,
                                  int chained)
    {
        uint64_t found = 0, last = 0;
        for (uint64_t round = 0; round < rounds; round++) {
            for (uint64_t i = first; i < first + count; i++) {
                fr_binding out;
                fr_fingerprint key = fr_test_key(i + (chained ? last >> 63 : 0));
                out.term = 0;
                int status = fr_aff_lookup(table, &key, now_tick, &out);
                last = out.term;
                found += status == FR_AFF_FOUND && out.term == i + 1;
            }
        }
        return found;
    }
    /* A record all of whose fields follow from its generation, so that half of one and half of another shows. */
    static fr_binding fr_test_binding(uint32_t generation)
    {
        fr_binding made = {fr_splitmix(generation), generation, ~generation, generation ^ 0x55555555u,
                           (uint16_t)(generation * 40503u), (uint8_t)generation, 0};
        return made;
    }
    static uint64_t fr_test_rewrite(fr_table *table, uint64_t i, uint32_t count)
    {
        uint64_t wrote = 0;
        for (uint32_t generation = 1; generation <= count; generation++) {
            fr_fingerprint key = fr_test_key(i);
            fr_binding next = fr_test_binding(generation), out;
            wrote += fr_aff_learn(table, &key, 1, &next, &out) == FR_AFF_WROTE;
        }
        return wrote;
    }
    static void fr_test_reread(fr_table *table, uint64_t i, uint64_t count, uint64_t *torn, uint64_t *changes)
    {
        uint32_t last = 0;
        for (uint64_t n = 0; n < count; n++) {
            fr_fingerprint key = fr_test_key(i);
            fr_binding out, whole;
            if (fr_aff_lookup(table, &key, 1, &out) != FR_AFF_FOUND)
                continue;
            whole = fr_test_binding(out.generation);
            *torn += memcmp(&out, &whole, sizeof(out)) != 0;
            *changes += out.generation != last;
            last = out.generation;
        }
    }
    """
    uint64_t fr_test_rewrite(fr_table *table, uint64_t i, uint32_t count) noexcept nogil
    void fr_test_reread(fr_table *table, uint64_t i, uint64_t count, uint64_t *torn, uint64_t *changes) noexcept nogil
    fr_fingerprint fr_test_key(uint64_t i) noexcept nogil
    void fr_test_fill(fr_table *table, uint64_t first, uint64_t count, uint32_t now_tick, uint32_t expires_tick,
                      uint64_t *by_status) noexcept nogil
    uint64_t fr_test_probe(fr_table *table, uint64_t first, uint64_t count, uint64_t rounds, uint32_t now_tick,
                           int chained) noexcept nogil

__all__ = ["ABSENT", "BUSY", "ECHO", "FOUND", "GUARDED", "ONCE", "OTHER", "PROVISIONAL", "WROTE", "AffinityTable", "Record", "arm_kill_point",
           "fingerprint_for_test", "kill_points_passed"]

ABSENT = FR_AFF_ABSENT
FOUND = FR_AFF_FOUND
WROTE = FR_AFF_WROTE
OTHER = FR_AFF_OTHER
BUSY = FR_AFF_BUSY
ONCE = FR_BIND_ONCE
PROVISIONAL = FR_BIND_PROVISIONAL
GUARDED = FR_BIND_GUARDED
ECHO = FR_BIND_ECHO


class Record(NamedTuple):
    """One affinity record, as the pxd's fr_binding."""

    term: int
    generation: int
    expires_tick: int
    verified_tick: int
    slot: int
    flags: int = 0


cdef fr_fingerprint _key(bytes fingerprint) except *:
    cdef fr_fingerprint key
    if len(fingerprint) != sizeof(fr_fingerprint):
        raise UsageError(f"fingerprint of {len(fingerprint)} bytes: accepted are {sizeof(fr_fingerprint)}")
    memcpy(&key, <const char *>fingerprint, sizeof(key))
    return key


cdef fr_binding _binding(object record) except *:
    cdef fr_binding binding
    binding.term, binding.generation, binding.expires_tick, binding.verified_tick, binding.slot, binding.flags = record
    binding.spare = 0
    return binding


cdef object _record(const fr_binding *binding):
    return Record(binding.term, binding.generation, binding.expires_tick, binding.verified_tick, binding.slot,
                  binding.flags)


@cython.final
@cython.no_gc_clear      # the table's memory is the zone's, to the last
cdef class AffinityTable:
    """The affinity table of a zone; any number of these objects may stand over one zone.

    Args:
        zone: the zone, which stays mapped as long as this object.

    Notes:
        Compiled callers use the methods of the pxd, which never raise. The methods here are for tools and tests: they hold
        the GIL, and their statuses are this module's ABSENT, FOUND, WROTE, OTHER and BUSY.
    """

    def __cinit__(self, Zone zone not None):
        zone.pin()
        self.zone = zone
        self.table = &zone.table

    def __dealloc__(self):
        if self.zone is not None and self.table != NULL:
            self.zone.unpin()

    # ---- the contract (pxd)

    cdef int lookup(self, const fr_fingerprint *key, uint32_t now_tick, fr_binding *out) noexcept nogil:
        return fr_aff_lookup(self.table, key, now_tick, out)

    cdef int claim(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *wanted,
                   fr_binding *out) noexcept nogil:
        return fr_aff_claim(self.table, key, now_tick, wanted, out)

    cdef int learn(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth,
                   fr_binding *out) noexcept nogil:
        return fr_aff_learn(self.table, key, now_tick, truth, out)

    cdef int learn_guarded(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth,
                           const fr_guard *guard, uint32_t own, bint only_read, fr_binding *out) noexcept nogil:
        return fr_aff_learn_guarded(self.table, key, now_tick, truth, guard, own, only_read, out)

    cdef int take_question(self, const fr_fingerprint *key, uint32_t now_tick) noexcept nogil:
        return fr_aff_take_question(self.table, key, now_tick)

    cdef void end_question(self, const fr_fingerprint *key, uint32_t now_tick) noexcept nogil:
        fr_aff_end_question(self.table, key, now_tick)

    cdef int take_touch(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *found,
                        uint32_t expires_tick) noexcept nogil:
        return fr_aff_take_touch(self.table, key, now_tick, found, expires_tick)

    cdef void want_touch(self, const fr_fingerprint *key, uint32_t now_tick) noexcept nogil:
        fr_aff_want_touch(self.table, key, now_tick)

    cdef int replace(self, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation,
                     const fr_binding *wanted, fr_binding *out) noexcept nogil:
        return fr_aff_replace(self.table, key, now_tick, term, generation, wanted, out)

    cdef int touch(self, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation,
                   uint32_t expires_tick, uint32_t verified_tick, uint8_t clear_flags) noexcept nogil:
        return fr_aff_touch(self.table, key, now_tick, term, generation, expires_tick, verified_tick, clear_flags)

    cdef int remove(self, const fr_fingerprint *key, uint32_t now_tick, uint64_t term,
                    uint32_t generation) noexcept nogil:
        return fr_aff_remove(self.table, key, now_tick, term, generation)

    # ---- for tools and tests

    @property
    def capacity(self):
        """Live records below which none is lost."""
        return fr_table_capacity(&self.zone.view.plan)

    @property
    def buckets(self):
        """Number of buckets, for scan()."""
        return fr_table_bucket_count(&self.zone.view.plan)

    def lookup_record(self, bytes fingerprint, uint32_t now_tick):
        """(status, live record or None): FOUND, ABSENT or BUSY."""
        cdef fr_fingerprint key = _key(fingerprint)
        cdef fr_binding out
        cdef int status = self.lookup(&key, now_tick, &out)
        return status, _record(&out) if status == FR_AFF_FOUND else None

    def claim_record(self, bytes fingerprint, uint32_t now_tick, record):
        """(status, record that stands): first writer wins; WROTE, OTHER, or (BUSY, None)."""
        cdef fr_fingerprint key = _key(fingerprint)
        cdef fr_binding wanted = _binding(record), out
        cdef int status = self.claim(&key, now_tick, &wanted, &out)
        return status, None if status == FR_AFF_BUSY else _record(&out)

    def learn_record(self, bytes fingerprint, uint32_t now_tick, record):
        """(status, record that stands): the store's truth; WROTE, OTHER, or (BUSY, None)."""
        cdef fr_fingerprint key = _key(fingerprint)
        cdef fr_binding truth = _binding(record), out
        cdef int status = self.learn(&key, now_tick, &truth, &out)
        return status, None if status == FR_AFF_BUSY else _record(&out)

    def replace_record(self, bytes fingerprint, uint32_t now_tick, uint64_t term, uint32_t generation, record):
        """(status, record that stands or None): compare and set; WROTE, OTHER, ABSENT or BUSY."""
        cdef fr_fingerprint key = _key(fingerprint)
        cdef fr_binding wanted = _binding(record), out
        cdef int status = self.replace(&key, now_tick, term, generation, &wanted, &out)
        return status, _record(&out) if status == FR_AFF_WROTE or status == FR_AFF_OTHER else None

    def touch_record(self, bytes fingerprint, uint32_t now_tick, uint64_t term, uint32_t generation,
                     uint32_t expires_tick, uint32_t verified_tick=0, uint8_t clear_flags=0):
        """Status of extending a record: WROTE, OTHER, ABSENT or BUSY."""
        cdef fr_fingerprint key = _key(fingerprint)
        return self.touch(&key, now_tick, term, generation, expires_tick, verified_tick, clear_flags)

    def learn_guarded_record(self, bytes fingerprint, uint32_t now_tick, record, guard, uint32_t own=0, *,
                             bint only_read=False):
        """(status, record that stands): learn_record of an answer that was asked for after `guard` (of PushBoard.guard).

        only_read: the time of the last touch stays what the table knows of it, and where it knows nothing one is wanted.
        """
        cdef fr_fingerprint key = _key(fingerprint)
        cdef fr_binding truth = _binding(record), out
        cdef fr_guard taken
        taken.guarded = guard is not None
        if guard is not None:
            taken.epoch, taken.sequence = guard
        cdef int status = self.learn_guarded(&key, now_tick, &truth, &taken, own, only_read, &out)
        return status, None if status == FR_AFF_BUSY else _record(&out)

    def take_touch_record(self, bytes fingerprint, uint32_t now_tick, record, uint32_t expires_tick):
        """Status of taking a touch of `record` (as it was looked up) on: WROTE for one process of those that try."""
        cdef fr_fingerprint key = _key(fingerprint)
        cdef fr_binding found = _binding(record)
        return self.take_touch(&key, now_tick, &found, expires_tick)

    def take_question_record(self, bytes fingerprint, uint32_t now_tick):
        """Status of taking on to ask the store: WROTE for one process of those that try, OTHER for the rest."""
        cdef fr_fingerprint key = _key(fingerprint)
        return self.take_question(&key, now_tick)

    def end_question_record(self, bytes fingerprint, uint32_t now_tick):
        """The question that was taken on has ended."""
        cdef fr_fingerprint key = _key(fingerprint)
        self.end_question(&key, now_tick)

    def remove_record(self, bytes fingerprint, uint32_t now_tick, uint64_t term=0, uint32_t generation=0):
        """Status of removing a record: WROTE, OTHER, ABSENT or BUSY."""
        cdef fr_fingerprint key = _key(fingerprint)
        return self.remove(&key, now_tick, term, generation)

    def scan(self, uint32_t start_bucket, uint32_t limit, uint32_t now_tick, *, slot=None, uint8_t any_flags=0,
             uint32_t expires_after=0, uint32_t expires_until=0xFFFFFFFF, uint32_t buckets_max=0xFFFFFFFF):
        """Live records from a bucket on.

        Args:
            start_bucket: 0 at first, then what the last call returned.
            limit: stop behind the bucket with which so many records are collected.
            now_tick: what counts as live.
            slot: only records of this zone slot; None for all.
            any_flags: only records that carry one of these flags; 0 for all.
            expires_after, expires_until: only records that expire later than the one, and not later than the other:
                walks over falling bands visit recently used records first.
            buckets_max: stop behind so many buckets, whatever was found: bounds the time of a call.

        Returns:
            (records, next bucket): records as (fingerprint, Record); next bucket None at the end.

        Notes: lock-free; a bucket that a writer holds all the while is skipped. Records written meanwhile may be missed or
            seen, none is seen twice in one walk unless it was removed and claimed again.
        """
        cdef fr_fingerprint[24] keys
        cdef fr_binding[24] bindings
        cdef uint32_t bucket = start_bucket, count = self.buckets, end = count
        cdef int found, i, wanted_slot = -1 if slot is None else slot
        cdef list records = []
        if start_bucket < count and buckets_max < count - start_bucket:
            end = start_bucket + max(buckets_max, 1)
        while bucket < end and <uint32_t>len(records) < limit:
            found = fr_aff_bucket_records(self.table, bucket, now_tick, keys, bindings)
            bucket += 1
            for i in range(found):
                if wanted_slot >= 0 and bindings[i].slot != wanted_slot:
                    continue
                if any_flags and not bindings[i].flags & any_flags:
                    continue
                if expires_after < bindings[i].expires_tick <= expires_until:
                    records.append((<bytes>(<char *>&keys[i])[:sizeof(fr_fingerprint)], _record(&bindings[i])))
        return records, bucket if bucket < count else None

    def check(self):
        """Number of broken rules of the layout in a table that nobody is writing: 0. For tests and tools."""
        return fr_aff_check(self.table)

    def fill_for_test(self, uint64_t first, uint64_t count, uint32_t now_tick, uint32_t expires_tick):
        """Claim made-up records first..first+count-1 (term i + 1, generation 1, slot i % 256): (wrote, other, busy)."""
        cdef uint64_t[8] by_status
        for i in range(8):
            by_status[i] = 0
        with nogil:
            fr_test_fill(self.table, first, count, now_tick, expires_tick, by_status)
        return by_status[<int>FR_AFF_WROTE], by_status[<int>FR_AFF_OTHER], by_status[<int>FR_AFF_BUSY]

    def probe_for_test(self, uint64_t first, uint64_t count, uint32_t now_tick, uint64_t rounds=1, bint chained=False):
        """Look up made-up records, `rounds` times each: how many were found right. chained: one after the other."""
        cdef uint64_t found
        with nogil:
            found = fr_test_probe(self.table, first, count, rounds, now_tick, chained)
        return found

    def rewrite_for_test(self, uint64_t i, uint32_t count):
        """Write made-up record i over and over, all fields new each time: how many were written."""
        cdef uint64_t wrote
        with nogil:
            wrote = fr_test_rewrite(self.table, i, count)
        return wrote

    def reread_for_test(self, uint64_t i, uint64_t count):
        """Read what rewrite_for_test writes: (records that were not whole, times it had changed)."""
        cdef uint64_t torn = 0, changes = 0
        with nogil:
            fr_test_reread(self.table, i, count, &torn, &changes)
        return torn, changes


def fingerprint_for_test(uint64_t i):
    """Fingerprint of the made-up record i."""
    cdef fr_fingerprint key = fr_test_key(i)
    return <bytes>(<char *>&key)[:sizeof(key)]


def arm_kill_point(n, action="kill"):
    """For tests: act on this process at the n-th store from now of the table's write paths.

    Args:
        n: 1 is the next store; 0 only counts.
        action: "kill" (SIGKILL), "stop" (SIGSTOP), or "off" to count no more.
    """
    kill_point_arm(n, action)


def kill_points_passed():
    """Stores of the table's write paths since arm_kill_point, in this process."""
    return kill_point_count()
