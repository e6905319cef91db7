# zone_guest: a row of a zone's loads for what other replicas have in flight.
cimport cython

from fastroute._core.zone cimport Zone

@cython.final
cdef class GuestLoads:
    cdef Zone zone      # None: given back
    cdef int row
    cdef void _leave(self) noexcept
