# ring_ketama: the ketama family: libmemcached, its spymemcached dialect, libketama. Interface: ring.pxd, ring_point.pxd.
from fastroute._core.ring_point cimport PointRing

cdef class KetamaRing(PointRing):
    cdef bint _weighted
    cdef int _function
    cdef int _fill(self, list rows, object counts) except -1
