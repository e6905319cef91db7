# zone_push: the push channel's half of a zone, for the one process that runs the channel and for those that read it.
cimport cython
from libc.stdint cimport uint32_t, uint64_t
from fastroute._core.affinity_table cimport AffinityTable
from fastroute._core.base cimport fr_clock

@cython.final
cdef class PushBoard:
    cdef readonly AffinityTable table
    cdef readonly uint64_t store        # digest of the store
    cdef readonly uint32_t token        # of this object as an owner; never 0
    cdef fr_clock clock
