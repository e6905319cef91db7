# ring_set: the rings that one pool picks from by key, and the order in which a key's servers come.
# Reading holds the GIL and allocates nothing but lists where it says so; `unbound` is the pool's: who is eligible, by slot.
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastroute._core.ring cimport Ring
from fastroute._core.ring_table cimport TableRing

cdef class RingSet:
    cdef readonly str ring                  # name
    cdef readonly uint64_t cells            # of the table
    cdef readonly uint64_t seed             # of the keys' hash
    cdef readonly dict options              # of the dialect
    cdef bint by_dialect                    # keys go by a dialect, not by the table
    cdef const uint8_t *unbound
    cdef Ring dialect                       # or None
    cdef TableRing table                    # in force: of the main servers, or of the backups; None: not needed yet
    cdef TableRing overlay                  # over the eligible, for cells none of whose choices is among them; or None
    cdef bint has_table
    cdef TableRing _main
    cdef TableRing _backup
    cdef tuple _main_inputs                 # what they were built from: ((key, weight, slot), ...)
    cdef tuple _backup_inputs
    cdef tuple _dialect_inputs
    cdef tuple _declared                    # names in the order of declaration: part of some dialects' rule
    cdef tuple _staged

    # Build what is new; raises without having changed anything. Releases the GIL while a ring is built.
    cdef int stage(self, tuple servers, dict slots, list eligible, bint on_backup, bint with_table, tuple declared) except -1
    # Put it in force: cannot fail. Returns what was in force, for whoever may still be reading it.
    cdef object commit(self)
    # Hash of a key as the pool routes by it.
    cdef uint64_t hash_key(self, const uint8_t *key, Py_ssize_t size) noexcept
    # The first eligible server of the key's order that was not tried; -1: none. table_next: of the table's order.
    cdef int next(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept
    cdef int table_next(self, uint64_t hash, const uint16_t *tried, int tried_count) noexcept
    # Eligible slots in the key's order, a list of at least n where there are; of the table's order.
    cdef list slots_by_key(self, uint64_t hash, int n)
    cdef list slots_by_table(self, uint64_t hash, int n)
    # out[i] = slot for hashes[i]; see Pool.slots_of.
    cdef int fill(self, object hashes, object out) except -1
