# http_waiting: the line of one pool's requests that wait for a server with room (max_connections), first come, first served.
cimport cython
from libc.stdint cimport uint64_t
from fastroute._core.http_upstream cimport Sink
from fastroute._core.http_wire cimport Engine
from fastroute._core.pool cimport Pool

@cython.final
cdef class Waiting:
    cdef Engine engine
    cdef Pool pool
    cdef readonly int count             # who waits; those that left unseen included
    cdef readonly uint64_t time_ms      # how long one may wait
    cdef dict _lines                    # slot, or -1 for whoever takes any server -> deque of _Waiter
    cdef set _freed
    cdef object _soon, _poll            # handles of the event loop
    cdef uint64_t _sequence
    # Does anybody wait who would go there before one that comes now?
    cdef bint ahead(self, int slot) noexcept
    # Stand in line for this slot (-1: any) until the deadline; front: it was first and found no room after all.
    cdef int join(self, Sink sink, int slot, uint64_t deadline_ms, bint front) except -1
    # A request to this slot has ended: soon, not now, since the caller may be in the middle of a message.
    cdef void freed(self, int slot) noexcept
    cdef void _serve(self, int slot)
