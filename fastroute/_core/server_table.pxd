# server_table: slots of a pool's servers: who stands in which, its state, its counters.
# A name keeps its slot while it stays; a slot is given away only when nothing is in flight there.
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from fastroute._core.base cimport fr_clock

cdef extern from "fr_server_table.h" nogil:
    ctypedef struct fr_counters:
        int64_t in_flight
        uint64_t total
        uint64_t failures
        uint64_t latency_ewma_ns
    void fr_counters_begin(fr_counters *c) noexcept
    void fr_counters_end(fr_counters *c, bint failed, uint64_t latency_ns) noexcept
    uint64_t fr_precise_ns(const fr_clock *clock) noexcept

cdef class ServerTable:
    cdef readonly int capacity              # slots 0..capacity-1 exist in every array below
    cdef list members                       # Server or None by slot; owns the references in `objects`
    cdef dict slot_of                       # name -> slot
    cdef list blocks                        # the memory of the arrays below; all but the last are waiting to go
    cdef PyObject **objects                 # borrowed, NULL where a slot is empty
    cdef uint8_t *state                     # FR_READY ... FR_ABSENT_SERVER
    cdef uint8_t *unbound                   # 1: may take a request without a binding
    cdef uint8_t *bound                     # 1: may take a request bound to it
    cdef fr_counters *counters
    # Slot for each name (a dict), keeping those that are known; grows the arrays, changes no member. May raise.
    cdef dict assign(self, list names)
    # Is a request in flight in one of these slots?
    cdef bint in_use(self, list slots) except -1
    # Make (servers, slots, state codes by name, unbound slots) the present; in panic they take bound
    # requests too, whatever their state. Cannot fail once `assign` gave the slots.
    # The slots new to a server are not in_use.
    cdef int commit(self, tuple servers, dict slots, dict states, list unbound_slots, bint panic) except -1
    cdef int _grow(self, int capacity) except -1
    # Free what `assign` replaced; nobody holds an address into it any more.
    cdef int release_old_blocks(self) except -1
