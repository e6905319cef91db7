# pool: a named set of servers with one policy. Control plane calls swap an immutable snapshot; a pick reads one.
# A server keeps its slot as long as its name stays in the pool; states and counters are kept by slot.
# All calls hold the GIL.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef class Pool:
    cdef readonly str name
    # ... (private state follows; owner: pool.pyx)

    # Slot of the policy's pick for an unbound request; -1 when no server can take it. key may be NULL (size 0).
    cdef int pick(self, const uint8_t *key, Py_ssize_t size) noexcept
    # Like pick, but not one of the tried slots; -1 when no other is left.
    cdef int pick_other(self, const uint8_t *key, Py_ssize_t size, const uint16_t *tried, int tried_count) noexcept
    # Deterministic answer of the `table` ring over ready servers, alike on every replica, whatever the policy; -1: none.
    cdef int fallback(self, const uint8_t *key, Py_ssize_t size) noexcept
    # May a bound request go there? (ready or draining)        May an unbound one? (ready)
    cdef bint takes_bound(self, int slot) noexcept
    cdef bint takes_unbound(self, int slot) noexcept
    # Borrowed reference to the Server in a slot, NULL when the slot is empty.
    cdef object server_in(self, int slot)
    # Count a request in and out: in_flight, totals, failures, latency (0 = not measured).
    cdef void begin(self, int slot) noexcept
    cdef void end(self, int slot, bint failed, uint64_t latency_ns) noexcept
