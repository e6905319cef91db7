# ring_uhashring: the two rings of the Python package uhashring. Interface: ring.pxd, ring_point.pxd.
from libc.stdint cimport uint32_t, uint64_t

from fastroute._core.ring_point cimport PointRing

cdef class UhashringRing(PointRing):
    cdef bint _ketama
    cdef int _fill(self, list rows, object counts) except -1
    cdef uint32_t _behind(self, uint64_t hash) noexcept nogil
