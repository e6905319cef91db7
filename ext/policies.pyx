"""policies: builds and keeps what one pool's policy reads (fr_policies.h).

Not here: who the servers are (pool), their slots and counters (server_table), rings.
Rules: `stage` computes and may raise, `commit` puts in force and cannot fail; both under the pool's lock, with the GIL held,
so that no pick sees half of it.
"""

from libc.stdint cimport UINT32_MAX, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastroute._core.base cimport FR_NO_SLOT, fr_clock, fr_now_ms
from fastroute._core.hashes cimport fr_xxh64
from fastroute._core.zone cimport Zone, fr_loads


cdef extern from "fr_zone_loads.h" nogil:
    enum: FR_LOADS_LOOK_MS

cdef extern from "fr_policies.h" nogil:
    void fr_eligible_free(fr_eligible *e) noexcept
    int fr_eligible_init(fr_eligible *e, uint32_t count) noexcept
    void fr_eligible_seal(fr_eligible *e) noexcept
    uint32_t fr_eligible_step(fr_eligible *e, const fr_ramp_rule *rule, uint64_t now_ms) noexcept
    int fr_round_robin_init(fr_round_robin *rr, const uint16_t *slots, const uint32_t *weights, uint32_t count,
                            uint64_t base, int charged) noexcept
    void fr_round_robin_free(fr_round_robin *rr) noexcept
    void fr_xoshiro_seed(fr_xoshiro *state, uint64_t seed) noexcept

cdef enum:
    SLOTS = 65536
    RAMP_SEED = 0x72616d70
    LISTED_MAX = 64         # candidates of least-connections by load; who comes behind them comes by name

cdef fr_clock _machine
_machine.manual_ms = 0


cdef uint64_t _salt(str name) except? 0:
    # Which of its keys a ramping server takes first: by its name, so that replicas agree.
    cdef bytes raw = name.encode("utf-8", "surrogatepass")
    return fr_xxh64(<const char *>raw, len(raw), RAMP_SEED)


cdef class Policies:
    """What one pool's policy reads and learns.

    Args:
        policy: index into pool_arguments.POLICIES.
        seed: of the random draws.
        zone: None, or what shares the cursor (and, when it is a Zone, the loads).
        fleet, pool: names for the zone.
        charge_sticky: see fr_policy_round_robin.h.
        bound: (factor in percent, floor) for `hash`.
        ramp: (window_ms, aggression, min_weight, haproxy).
    """

    def __cinit__(self):
        self.state.cursor = &self._own_cursor
        self.state.loads = &self._own_loads
        self.state.place_of = <uint16_t *>calloc(SLOTS, sizeof(uint16_t))
        self.state.column_of = <uint16_t *>calloc(SLOTS, sizeof(uint16_t))
        self.state.direct = <uint8_t *>calloc(SLOTS, 1)
        if self.state.place_of == NULL or self.state.column_of == NULL or self.state.direct == NULL:
            raise MemoryError("no memory for the tables of a pool")

    def __init__(self, int policy, uint64_t seed, zone, str fleet, str pool, bint charge_sticky, tuple bound, tuple ramp):
        cdef fr_policies *p = &self.state
        cdef size_t address
        p.policy = policy
        self._charged = charge_sticky
        p.bound.factor_percent, p.bound.floor = bound
        p.ramp_rule.window_ms, p.ramp_rule.aggression, p.ramp_rule.min_weight, p.ramp_rule.haproxy = ramp
        self._by_load = policy > FR_HASH or p.bound.factor_percent != 0
        fr_xoshiro_seed(&p.random, seed)
        memset(p.place_of, 0xFF, SLOTS * sizeof(uint16_t))
        if policy == FR_PEAK_EWMA:
            p.ewma = <fr_ewma *>calloc(SLOTS, sizeof(fr_ewma))
            if p.ewma == NULL:
                raise MemoryError("no memory for the latencies of a pool")
        if policy == FR_PREQUAL:
            p.prequal = <fr_prequal *>calloc(1, sizeof(fr_prequal))
            if p.prequal != NULL:
                p.prequal.samples = <fr_samples *>calloc(SLOTS, sizeof(fr_samples))
            if p.prequal == NULL or p.prequal.samples == NULL:
                raise MemoryError("no memory for the probes of a pool")
        self.zone = zone
        if zone is not None:
            address = zone.cursor_address(fleet, pool)
            p.cursor = <uint64_t *>address
        if isinstance(zone, Zone):
            self.loads_zone = zone
            p.loads = self.loads_zone.join_loads()
            p.pool_column = self.loads_zone.pool_column(fleet, pool)
        else:
            self._own_loads.own = <int32_t *>calloc(SLOTS, sizeof(int32_t))
            if self._own_loads.own == NULL:
                raise MemoryError("no memory for the loads of a pool")
            self._own_loads.row_count, self._own_loads.words = 1, SLOTS
            p.pool_column = SLOTS - 1

    def __dealloc__(self):
        fr_eligible_free(&self.state.eligible)
        fr_round_robin_free(&self.state.turns)
        fr_eligible_free(&self._next_eligible)
        fr_round_robin_free(&self._next_turns)
        if self.state.prequal != NULL:
            free(self.state.prequal.samples)
        free(self.state.prequal)
        free(self.state.ewma)
        free(self.state.place_of)
        free(self.state.column_of)
        free(self.state.direct)
        free(self._own_loads.own)

    cdef int stage(self, list rows) except -1:
        # rows: (slot, column, weight, limit, since_ms or 0, name) of the eligible, in the order of their names.
        cdef fr_eligible *e = &self._next_eligible
        cdef fr_ramping *ramping
        cdef uint32_t i, count = <uint32_t>len(rows)
        cdef uint64_t base = self.state.cursor[0] if self.state.cursor == &self._own_cursor else 0
        cdef int status
        fr_eligible_free(e)
        fr_round_robin_free(&self._next_turns)
        status = fr_eligible_init(e, count)
        if status == 0:
            for i in range(count):
                slot, column, weight, limit, since_ms, name = rows[i]
                e.slots[i], e.columns[i], e.weights[i], e.limits[i] = slot, column, weight, limit
                if since_ms:
                    ramping = &e.ramping[e.ramping_count]
                    e.ramping_count += 1
                    ramping.place, ramping.since_ms, ramping.salt = <uint16_t>i, since_ms, _salt(name)
            fr_eligible_seal(e)
            with nogil:
                status = fr_round_robin_init(&self._next_turns, e.slots, e.weights, count, base, self._charged)
        if status != 0:
            fr_eligible_free(e)
            raise MemoryError("no memory for the tables of a pool")
        self._staged = True
        return 0

    cdef int commit(self, list columns, list fresh, bint panic) except -1:
        cdef fr_policies *p = &self.state
        cdef fr_eligible *e = &p.eligible
        cdef uint32_t i
        cdef int slot, column
        assert self._staged
        self._staged = False
        for i in range(e.count):
            p.place_of[e.slots[i]] = FR_NO_SLOT
            p.direct[e.slots[i]] = 0
        fr_eligible_free(e)
        fr_round_robin_free(&p.turns)
        p.eligible, p.turns = self._next_eligible, self._next_turns
        memset(&self._next_eligible, 0, sizeof(fr_eligible))
        memset(&self._next_turns, 0, sizeof(fr_round_robin))
        for slot, column in columns:
            p.column_of[slot] = <uint16_t>column
        for slot in fresh:
            if p.ewma != NULL:
                memset(&p.ewma[slot], 0, sizeof(fr_ewma))
            if p.prequal != NULL:
                memset(&p.prequal.samples[slot], 0, sizeof(fr_samples))
        p.panic = panic
        for i in range(e.count):
            p.place_of[e.slots[i]] = <uint16_t>i
            p.direct[e.slots[i]] = not panic and not p.bound.factor_percent and not e.limited_count
        for i in range(e.ramping_count):
            p.direct[e.ramping[i].slot] = 0
        p.gated = e.ramping_count != 0 or e.limited_count != 0
        if e.ramping_count:
            fr_eligible_step(e, &p.ramp_rule, fr_now_ms(&p.clock))
        return 0

    cdef void look(self) noexcept:
        cdef uint64_t now_ms
        if self.loads_zone is not None:
            now_ms = fr_now_ms(&_machine)
            if now_ms - self.loads_zone.looked_ms >= FR_LOADS_LOOK_MS:
                self.loads_zone.look(now_ms)

    cdef void step(self) noexcept:
        fr_policies_step(&self.state)

    cdef object weight_of(self, int slot, uint32_t weight):
        cdef uint32_t i
        fr_policies_step(&self.state)
        for i in range(self.state.eligible.ramping_count):
            if self.state.eligible.ramping[i].slot == slot:
                return round(weight * self.state.eligible.ramping[i].ramp, 3)
        return weight

    cdef void drop(self, uint16_t slot, long in_flight) noexcept:
        cdef fr_loads *loads = self.state.loads
        if in_flight > 0:
            loads.own[self.state.column_of[slot]] -= <int32_t>in_flight
            loads.own[self.state.pool_column] -= <int32_t>in_flight

    cdef dict columns_of(self, str fleet, str pool, tuple servers, dict slots):
        if self.loads_zone is None:
            return slots
        return {server.name: self.loads_zone.server_slot(fleet, pool, server.name) for server in servers}

    cdef list least_slots(self, int n):
        cdef uint64_t word = self.state.cursor[0]
        cdef uint64_t *cursor = self.state.cursor
        cdef uint16_t listed[LISTED_MAX]
        cdef uint32_t place
        cdef int count = 0
        self.state.cursor = &word
        while count < min(n, LISTED_MAX) and self.state.eligible.count:
            place = fr_least_open(&self.state, listed, count)
            if place >= self.state.eligible.count:
                break
            listed[count] = self.state.eligible.slots[place]
            count += 1
        self.state.cursor = cursor
        return [listed[i] for i in range(count)]

    cdef list slots_to_probe(self):
        cdef list slots = []
        if self.state.prequal != NULL and self.state.eligible.count:
            while self.state.prequal.wanted:
                self.state.prequal.wanted -= 1
                slots.append(self.state.eligible.slots[fr_random_place(&self.state.eligible, &self.state.random)])
        return slots
