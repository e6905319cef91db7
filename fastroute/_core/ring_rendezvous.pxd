# ring_rendezvous: weighted rendezvous hashing. Interface: ring.pxd.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastroute._core.ring cimport Ring

cdef extern from "fr_ring_rendezvous.h" nogil:
    ctypedef struct fr_rival:
        uint64_t seed
        uint32_t weight
        uint16_t slot

cdef class RendezvousRing(Ring):
    cdef fr_rival *_rival                   # server_count, by weight, then by key
