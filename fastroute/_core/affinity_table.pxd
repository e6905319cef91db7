# affinity_table: the zone's table fingerprint -> binding. Sliding idle expiry, bounded eviction, kill-safe writes.
# Every call is bounded in time: FR_AFF_BUSY when a stopped process holds the stripe (then the near tier knows nothing).
# Slots here are the zone directory's, not a pool's.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastroute._core.base cimport fr_clock
from fastroute._core.hashes cimport fr_fingerprint
from fastroute._core.zone cimport Zone, fr_table

cdef extern from "fr_affinity.h" nogil:
    ctypedef struct fr_binding:
        uint64_t term
        uint32_t generation
        uint32_t expires_tick           # idle expiry; the record is absent from then on
        uint32_t verified_tick          # last time the store said so (or the zone, where it is the agreement)
        uint16_t slot                   # zone directory slot
        uint8_t flags                   # FR_BIND_*
        uint8_t spare
    enum: FR_BIND_ONCE                  # claimed for a key seen once only: short ttl until it is seen again
    enum: FR_BIND_PROVISIONAL           # decided while the store was away; claimed with ME when it is back
    enum: FR_BIND_GUARDED               # the push channel has watched the key since verified_tick (ext/fr_push.h)
    enum: FR_BIND_ECHO                  # unit of the two bits that count own lines of the channel still to come
    ctypedef struct fr_guard:
        uint64_t epoch
        uint64_t sequence
        int guarded
    enum: FR_AFF_ABSENT                 # no live record
    enum: FR_AFF_FOUND                  # *out is the live record
    enum: FR_AFF_WROTE                  # this call's record is the live one (*out equals it)
    enum: FR_AFF_OTHER                  # not written, *out is the live record that stands
    enum: FR_AFF_BUSY                   # stripe held by a stopped process, or the writer never ended: nothing is known

@cython.final
cdef class AffinityTable:
    cdef readonly Zone zone
    cdef fr_table *table                # the zone's
    # Live record, lock-free, bounded tries. Never writes.
    cdef int lookup(self, const fr_fingerprint *key, uint32_t now_tick, fr_binding *out) noexcept nogil
    # First writer wins: WROTE, or OTHER with the live record. Evicts when both buckets are full (counted).
    cdef int claim(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *wanted, fr_binding *out) noexcept nogil
    # What the store said, which wins over what stands here unless that is the same term with a higher generation: WROTE or OTHER.
    cdef int learn(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth, fr_binding *out) noexcept nogil
    # learn() of an answer that was asked for after `guard` was taken; own: this process's writes to the key since then;
    # only_read: a record of that decision keeps its expiry, a new one is flagged ONCE: a touch is wanted.
    cdef int learn_guarded(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth,
                           const fr_guard *guard, uint32_t own, bint only_read, fr_binding *out) noexcept nogil
    # Ask the store for all processes: WROTE: the caller is to, and ends it; OTHER: somebody does; ABSENT, BUSY.
    cdef int take_question(self, const fr_fingerprint *key, uint32_t now_tick) noexcept nogil
    cdef void end_question(self, const fr_fingerprint *key, uint32_t now_tick) noexcept nogil
    # Take a touch of the store's record on: WROTE for one process of those that found it due (found: what lookup gave).
    cdef int take_touch(self, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *found,
                        uint32_t expires_tick) noexcept nogil
    # The touch that was taken on did not reach the store.
    cdef void want_touch(self, const fr_fingerprint *key, uint32_t now_tick) noexcept nogil
    # Compare-and-set on (term, generation): WROTE, OTHER (another decision stands), ABSENT.
    cdef int replace(self, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation,
                     const fr_binding *wanted, fr_binding *out) noexcept nogil
    # Extend the idle expiry (never shortens) and set verified_tick (0 keeps it) and clear flags, if (term, generation) stand.
    cdef int touch(self, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation,
                   uint32_t expires_tick, uint32_t verified_tick, uint8_t clear_flags) noexcept nogil
    # Remove if (term, generation) stand, or whatever stands when term is 0: WROTE, OTHER, ABSENT.
    cdef int remove(self, const fr_fingerprint *key, uint32_t now_tick, uint64_t term, uint32_t generation) noexcept nogil
