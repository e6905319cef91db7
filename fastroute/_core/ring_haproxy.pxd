# ring_haproxy: HAProxy's two hash types. Interface: ring.pxd, ring_point.pxd.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastroute._core.ring cimport Ring
from fastroute._core.ring_point cimport PointRing

cdef class HaproxyRing(PointRing):
    cdef int _function
    cdef bint _avalanche
    cdef uint32_t _nearest(self, uint64_t hash, const unsigned char *allowed) noexcept nogil

cdef class HaproxyMap(Ring):
    cdef int _function
    cdef bint _avalanche
    cdef uint16_t *_map                     # NULL: no server
    cdef readonly uint32_t size
