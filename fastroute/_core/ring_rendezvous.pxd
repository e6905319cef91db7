# ring_rendezvous: weighted rendezvous hashing. Interface: ring.pxd.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastroute._core.ring cimport Ring

ctypedef struct fr_rival:
    uint64_t seed
    uint32_t weight
    uint16_t slot

cdef class RendezvousRing(Ring):
    cdef fr_rival *_rival                   # server_count, in the order of the keys
    # The best rival behind (score, position) of the last one, allowed and not tried; -1: none.
    cdef int _after(self, uint64_t hash, int last, const unsigned char *allowed) noexcept nogil
