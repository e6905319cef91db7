# ring_jump: jump consistent hash. Interface: ring.pxd.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastroute._core.ring cimport Ring

cdef class JumpRing(Ring):
    cdef readonly uint32_t bucket_count
    cdef uint16_t *_bucket                  # slot of each bucket; NULL: no server
