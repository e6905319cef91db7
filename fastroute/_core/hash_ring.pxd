# hash_ring: points of named nodes as uhashring lays them, and a memo of recent keys. Python is its only user.
# All calls hold the GIL. Names are borrowed: _names and the memo point at objects that _rows keeps.
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fr_ring_point.h" nogil:
    ctypedef struct fr_points:
        uint64_t *hash
        uint16_t *slot
        uint32_t count
        uint64_t mask

cdef extern from "fr_memo.h" nogil:
    ctypedef struct fr_memo_entry:
        void *object
        uint32_t place

cdef class HashRingCore:
    cdef fr_points _circle
    cdef fr_memo_entry *_memo           # NULL before the first lookup, or without memory for it
    cdef unsigned _turn                 # which way of a full set is replaced next
    cdef bint _ketama
    cdef bint _own_hash                 # the user's hash function decides: nothing is compiled
    cdef PyObject **_names              # name of node i
    cdef list _rows
    cdef readonly dict _nodes           # name -> configuration
    # Place of the first point behind the key's hash, from 0. Precondition of the three: the circle has points.
    @cython.final
    cdef uint32_t _search(self, const uint8_t *key, size_t size) noexcept
    # Borrowed name of the node that takes the key, and the place of its point; remembers it.
    @cython.final
    cdef PyObject *_name_of(self, const uint8_t *key, size_t size, uint32_t *place) noexcept
    # The same for any object, whose str() counts; raises what str() and UTF-8 raise.
    @cython.final
    cdef PyObject *_name(self, object key, uint32_t *place) except NULL
    # get_node() of a key that is not in the memo.
    cdef object _found(self, object key)
