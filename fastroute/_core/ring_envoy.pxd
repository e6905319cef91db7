# ring_envoy: Envoy's RING_HASH. Interface: ring.pxd, ring_point.pxd.
from fastroute._core.ring_point cimport PointRing

cdef class EnvoyRing(PointRing):
    cdef int _fill(self, list rows, double min_size, double max_size, bint murmur) except -1
