# affinity_view: one pool's view of the affinity table: keys become fingerprints, zone slots become the pool's slots.
# Data plane: near(), which reads the table and judges what it found. Control plane: the Python methods that
# fastroute.affinity drives. All calls hold the GIL and are bounded in time.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastroute._core.affinity_table cimport AffinityTable, fr_binding, fr_guard
from fastroute._core.base cimport fr_clock
from fastroute._core.hashes cimport fr_fingerprint, fr_hash_key
from fastroute._core.pool cimport Pool

ctypedef struct fr_near:
    uint64_t term
    uint32_t generation
    int slot                            # pool slot; -1 where the status names no server
    bint wants_touch                    # call Router.touch_soon(key) once the request is on its way

cdef enum:
    FR_NEAR_HIT = 0                     # slot is the key's server, use it now
    FR_NEAR_MISS = 1                    # nothing usable near: await Router.route()
    FR_NEAR_POLICY = 2                  # no affinity, or no key: slot is the policy's pick and nothing is bound
    FR_NEAR_NONE = 3                    # no server can take it

cdef class AffinityView:
    cdef readonly Pool pool
    cdef readonly AffinityTable table
    cdef readonly str fleet
    cdef fr_hash_key hash_key
    cdef fr_clock clock
    cdef uint32_t ttl_ticks             # sliding idle expiry of a binding
    cdef uint32_t once_ticks            # the same for a key seen once
    cdef uint32_t slide_ticks           # an expiry is moved only when it lags by more
    cdef uint32_t near_ticks            # trust in an entry that the store has confirmed; 0: the zone is the agreement
    cdef uint32_t lifetime_s            # absolute, counted from the second in the term; 0: none
    cdef int64_t wall_minus_clock_s     # what makes a wall clock of the view's clock
    cdef uint32_t touch_ticks           # lifetime left at which the store's record is touched, less the spread
    cdef uint32_t touch_spread
    cdef uint64_t store                 # whose push channel is believed; 0: none
    cdef fr_guard expected              # taken before what learn() is about to take over was asked for
    cdef uint32_t expected_own
    cdef public bint trust_stale        # the store is away: entries are used however old
    cdef uint16_t *pool_slot_of         # zone slot -> pool slot or FR_NO_SLOT; ZONE_SLOTS entries
    cdef list zone_slot_of              # pool slot -> zone slot
    cdef uint64_t seen_version          # of the pool's membership

    # HIT or MISS for one key; never waits. In zone-only use it also slides the expiry.
    cdef int near(self, const uint8_t *key, Py_ssize_t size, fr_near *out) noexcept
    cdef fr_fingerprint fingerprint_of(self, const uint8_t *key, Py_ssize_t size) noexcept

    cdef uint32_t age_s(self, uint64_t term) noexcept
    # Does the push channel say that this entry is the store's word now?
    cdef bint watched(self, const fr_binding *found, uint32_t now) noexcept
    cdef bint touch_due(self, const fr_fingerprint *key, const fr_binding *found, uint32_t now) noexcept
    cdef _binding(self, const fr_binding *found, uint32_t now)
    cdef int _fill(self, fr_binding *wanted, int slot, uint64_t term, uint32_t generation, bint once, bint provisional,
                   uint32_t now) except -1
    cdef fr_fingerprint _parsed(self, bytes fingerprint) except *
    cdef _verdict(self, int status, const fr_binding *out, uint32_t now)

cdef class Binding:
    cdef readonly int slot
    cdef readonly int zone_slot
    cdef readonly uint64_t term
    cdef readonly uint32_t generation
    cdef readonly bint once
    cdef readonly bint provisional
    cdef readonly uint64_t age_ms
