# ring_nginx: nginx's `hash KEY consistent`. Interface: ring.pxd, ring_point.pxd.
from fastroute._core.ring_point cimport PointRing

cdef class NginxRing(PointRing):
    cdef int _fill(self, list rows) except -1
