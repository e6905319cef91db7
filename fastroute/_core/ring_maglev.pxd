# ring_maglev: Envoy's weighted Maglev table. Interface: ring.pxd.
from libc.stdint cimport uint16_t, uint64_t

from fastroute._core.ring cimport Ring

cdef class MaglevRing(Ring):
    cdef readonly uint64_t table_size       # a prime
    cdef uint16_t *_table                   # table_size slots; NULL: no server
    cdef int _fill(self, list rows) except -1
