# pool: a named set of servers with one policy. Control plane calls swap an immutable snapshot; a pick reads one.
# A server keeps its slot as long as its name stays in the pool; states and counters are kept by slot.
# All calls hold the GIL.
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastroute._core.base cimport fr_clock
from fastroute._core.policies cimport Policies, fr_policies
from fastroute._core.ring_set cimport RingSet
from fastroute._core.selection cimport Selection
from fastroute._core.server_table cimport ServerTable

cdef class Pool:
    cdef readonly str name
    # Read by every pick:
    cdef int _policy                        # POLICY_*
    cdef uint64_t _seed                     # of the keys' hash
    cdef const uint16_t *_first             # first choices of _ring; NULL: no server, or no ring was needed yet
    cdef uint64_t _cells
    cdef const uint8_t *_unbound            # the server table's arrays
    cdef PyObject **_objects
    cdef const uint8_t *_direct             # 1: a key's first choice may be taken without a look at anything else
    cdef fr_policies *_p                    # _policies.state
    # Kept for the rest:
    cdef Policies _policies
    cdef object _options                    # checked arguments: fastroute._core.pool_arguments.Options
    cdef object _ramps                      # pool_arguments.Ramps: who is in slow start, who will be
    cdef object _queue                      # waiters of acquire(), or None
    cdef readonly bint charges              # charge_sticky
    cdef readonly bint panicking            # so few servers are ready that all are used
    cdef object _zone
    cdef readonly str fleet
    cdef readonly str policy
    cdef readonly str ring
    cdef readonly uint64_t slots
    cdef object _lock                       # one control-plane call at a time
    cdef ServerTable _table
    cdef tuple _servers                     # sorted by name
    cdef dict _states                       # name -> FR_*
    cdef readonly int ready_count
    cdef readonly uint64_t version          # grows with each change of membership
    cdef RingSet _rings
    cdef object __weakref__

    # Slot of the policy's pick for an unbound request; -1 when no server can take it. key may be NULL (size 0).
    cdef int pick(self, const uint8_t *key, Py_ssize_t size) noexcept
    # Like pick, but not one of the tried slots; -1 when no other is left.
    cdef int pick_other(self, const uint8_t *key, Py_ssize_t size, const uint16_t *tried, int tried_count) noexcept
    # Deterministic answer of the `table` ring over ready servers, alike on every replica, whatever the policy; -1: none.
    # The first call builds the ring (control-plane work: see prepare_fallback).
    cdef int fallback(self, const uint8_t *key, Py_ssize_t size) noexcept
    # May a bound request go there? (ready or draining)        May an unbound one? (ready, weight > 0, backup's turn)
    cdef bint takes_bound(self, int slot) noexcept
    cdef bint takes_unbound(self, int slot) noexcept
    # The Server in a slot, None when the slot is empty.
    cdef object server_in(self, int slot)
    # Slot of a name, -1 when it is not in the pool.
    cdef int slot_of_name(self, str name) noexcept
    # May one more request go there as far as max_connections goes?
    cdef bint has_room(self, int slot) noexcept
    # A bound request went there: round robin's sequence pays for it where charge_sticky says so.
    cdef void charge(self, int slot) noexcept
    # Count a request in and out: in_flight, totals, failures, latency (0 = not measured).
    cdef void begin(self, int slot) noexcept
    cdef void end(self, int slot, bint failed, uint64_t latency_ns) noexcept

    cdef int _pick_hash(self, uint64_t hash) noexcept
    cdef int _pick_guarded(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept
    cdef int _pick_dialect(self, uint64_t hash) noexcept
    cdef int _pick_object(self, object key) except -2
    cdef object _none_available(self)
    cdef void _wake(self) noexcept
    cdef int _swap(self, tuple servers, dict states, bint with_ring=*, tuple declared=*) except -1
    cdef int _point(self) except -1

cdef class PoolRequest(Selection):
    cdef uint64_t _began_ns
    cdef bint _entered
    cdef bint _failed
