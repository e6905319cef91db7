# policies: one pool's policy at work (ext/fr_policies.h), and the control plane that builds what it reads.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastroute._core.base cimport fr_clock
from fastroute._core.zone cimport Zone, fr_loads

cdef extern from "fr_policies.h" nogil:
    enum: FR_ROUND_ROBIN
    enum: FR_RANDOM
    enum: FR_HASH
    enum: FR_LEAST_CONNECTIONS
    enum: FR_TWO_CHOICES
    enum: FR_PEAK_EWMA
    enum: FR_PREQUAL
    ctypedef struct fr_xoshiro:
        uint64_t s[4]
    ctypedef struct fr_ramp_rule:
        uint64_t window_ms
        double aggression
        double min_weight
        int haproxy
    ctypedef struct fr_ramping:
        uint64_t since_ms
        uint64_t salt
        double ramp
        uint16_t slot
        uint16_t place
    ctypedef struct fr_eligible:
        uint32_t count
        uint32_t ramping_count
        uint32_t limited_count
        uint64_t picks
        uint64_t weight_sum
        uint16_t *slots
        uint16_t *columns
        uint32_t *weights
        uint32_t *limits
        fr_ramping *ramping
    ctypedef struct fr_round_robin:
        uint32_t count
    ctypedef struct fr_load_bound:
        uint32_t factor_percent
        uint32_t floor
    ctypedef struct fr_ewma:
        double average_ns
        uint64_t at_ms
    ctypedef struct fr_samples:
        uint8_t strikes
    ctypedef struct fr_prequal:
        uint32_t count
        uint32_t wanted
        fr_samples *samples
    ctypedef struct fr_policies:
        int policy
        int gated
        int panic
        fr_eligible eligible
        fr_round_robin turns
        uint64_t *cursor
        fr_loads *loads
        uint32_t pool_column
        uint16_t *place_of
        uint16_t *column_of
        uint8_t *direct
        fr_ewma *ewma
        fr_prequal *prequal
        fr_load_bound bound
        fr_ramp_rule ramp_rule
        fr_xoshiro random
        fr_clock clock
        uint64_t panic_picks
    # Slot of the policy's pick without a key; -1: no server can take it.
    int fr_policies_pick(fr_policies *p) noexcept
    # The same, but none of the tried.
    int fr_policies_choose(fr_policies *p, const uint16_t *tried, int tried_count) noexcept
    # The least loaded place that was not tried and has room; UINT32_MAX: none.
    uint32_t fr_least_open(fr_policies *p, const uint16_t *tried, int tried_count) noexcept
    # May the key's server in this place take an unbound request (ramp, room, bound)?
    bint fr_takes_key(fr_policies *p, uint64_t hash, uint32_t place) noexcept
    bint fr_has_room(const fr_eligible *e, const fr_loads *loads, uint32_t place) noexcept
    void fr_policies_begin(fr_policies *p, uint16_t slot) noexcept
    void fr_policies_end(fr_policies *p, uint16_t slot, int failed, uint64_t latency_ns) noexcept
    void fr_policies_step(fr_policies *p) noexcept
    void fr_prequal_result(fr_prequal *p, uint16_t slot, uint32_t rif, uint64_t latency_ns, uint64_t now_ms,
                           uint32_t servers) noexcept
    uint32_t fr_random_place(const fr_eligible *e, fr_xoshiro *state) noexcept
    void fr_round_robin_charge(fr_round_robin *rr, uint32_t place) noexcept
    uint32_t fr_round_robin_length(const fr_round_robin *rr) noexcept
    uint16_t fr_round_robin_peek(const fr_round_robin *rr, const uint64_t *cursor, uint32_t ahead) noexcept
    int32_t fr_loads_of(const fr_loads *loads, uint32_t column) noexcept

cdef class Policies:
    cdef fr_policies state
    cdef object zone                        # whose memory the cursor and the loads are, or None
    cdef Zone loads_zone                    # the zone if it has loads, else None
    cdef bint _charged
    cdef bint _by_load                      # picks read the loads
    cdef bint _staged
    cdef fr_loads _own_loads
    cdef uint64_t _own_cursor
    cdef fr_eligible _next_eligible
    cdef fr_round_robin _next_turns
    # Compute what picks will read; raises without having changed anything.
    cdef int stage(self, list rows) except -1
    # Put it in force: cannot fail. columns: (slot, column) of every server of the pool; fresh: slots of who is new.
    cdef int commit(self, list columns, list fresh, bint panic) except -1
    # Look after the zone's dead processes, when it is time.
    cdef void look(self) noexcept
    # Move the ramps on.
    cdef void step(self) noexcept
    # Weight x ramp of a slot, a whole number where it does not ramp.
    cdef object weight_of(self, int slot, uint32_t weight)
    # Where each server's count stands in a row of loads, by name; makes directory entries in the zone.
    cdef dict columns_of(self, str fleet, str pool, tuple servers, dict slots)
    # Give up the count of requests that never ended (their pool is going).
    cdef void drop(self, uint16_t slot, long in_flight) noexcept
    # The n least loaded eligible slots, as they would be picked one after the other; nobody's turn is taken.
    cdef list least_slots(self, int n)
    # Slots of the servers that prequal wants probed now.
    cdef list slots_to_probe(self)
