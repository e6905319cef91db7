# ring_table: the `table` ring, built once and never changed: cell -> first, second and third choice (slots).
# It knows keys, weights and slots; nothing of pools, states or I/O.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "fr_ring_table.h" nogil:
    ctypedef struct fr_table_cell:
        uint16_t *runner
        uint16_t count

cdef class TableRing:
    cdef readonly uint64_t cells
    cdef readonly int server_count          # servers with weight > 0
    # Struct of arrays, `cells` each; FR_NO_SLOT where there is none (fewer servers, or a cell left out). NULL: no server.
    cdef uint16_t *first
    cdef uint16_t *second
    cdef uint16_t *third
    cdef uint64_t *_seeds                   # per server, in key order: for choices beyond the third
    cdef uint64_t *_inverses
    cdef uint16_t *_slots
    # Slot with the best score for the cell among servers s with allowed[s] != 0 and not in skip; FR_NO_SLOT: none.
    # O(servers x skip_count). Preconditions: cell < cells, allowed has a byte for every slot the ring was given.
    cdef uint16_t scored(self, uint64_t cell, const unsigned char *allowed, const uint16_t *skip, int skip_count) noexcept nogil
    cdef int _build(self, list rows, object only) except -1
    cdef void _fill(self, const fr_table_cell *cell, const unsigned char *wanted, uint32_t n) noexcept nogil

# Ring of ((key, weight, slot), ...); see TableRing.
cdef TableRing ring_of(tuple inputs, uint64_t cells, object only=*)
# For a ring built from `inputs` of which only the slots in `allowed` may be used: a ring over those, built for the cells
# none of whose choices is among them, so that their answer is that of a whole ring over the allowed. None: no such cell.
cdef TableRing overlay_of(TableRing ring, tuple inputs, set allowed)
