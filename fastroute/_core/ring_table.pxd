# ring_table: the `table` ring, made once and never changed: cell -> first, second and third choice (slots).
# It knows keys, weights and slots; nothing of pools, states or I/O.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "fr_ring_table.h" nogil:
    ctypedef struct fr_table_server:
        uint64_t seed
        uint64_t inverse
        uint16_t slot
    ctypedef struct fr_runner:
        pass

cdef extern from "fr_ring_change.h" nogil:
    ctypedef struct fr_table_records:
        uint64_t weight_sum
        uint64_t *horizon
        uint64_t *list

cdef class TableRing:
    cdef readonly uint64_t cells
    cdef readonly int server_count          # servers with weight > 0
    # Struct of arrays, `cells` each; FR_NO_SLOT where there is none (fewer servers, or a cell left out). NULL: no server.
    cdef uint16_t *first
    cdef uint16_t *second
    cdef uint16_t *third
    cdef readonly bint derived              # made from another ring's records, not by a race of all
    cdef readonly int64_t raced_again       # cells that the change had to race anew
    cdef fr_table_server *_servers          # in key order
    cdef list _rows                         # (key, weight, slot) in key order
    cdef uint64_t _weight_sum
    cdef fr_table_records *_records         # NULL: none kept, or a changed ring has taken them
    # Slot with the best score for the cell among servers s with allowed[s] != 0 and not in skip; FR_NO_SLOT: none.
    # O(servers x skip_count). Preconditions: cell < cells, allowed has a byte for every slot the ring was given.
    cdef uint16_t scored(self, uint64_t cell, const unsigned char *allowed, const uint16_t *skip, int skip_count) noexcept nogil
    cdef int _set_up(self, list rows, uint64_t cells) except -1
    cdef int _build(self, object only, bint keep) except -1
    cdef int _race(self, const unsigned char *wanted, fr_table_records *records, uint64_t *lists, fr_runner *runner) noexcept nogil
    cdef int _raise(self, int status) except -1
    cdef list _changes_to(self, list rows)
    cdef bint _derive(self, TableRing old, list changes) except -1

# Ring of ((key, weight, slot), ...); see TableRing.
cdef TableRing ring_of(tuple inputs, uint64_t cells, object only=*)
# The same ring, made from the one that stood before (or None): by the records it holds where few servers differ, else whole.
# Takes the records of `before` along, which stays usable.
cdef TableRing ring_after(TableRing before, tuple inputs, uint64_t cells)
# For a ring built from `inputs` of which only the slots in `allowed` may be used: a ring over those, built for the cells
# none of whose choices is among them, so that their answer is that of a whole ring over the allowed. None: no such cell.
cdef TableRing overlay_of(TableRing ring, tuple inputs, set allowed)
