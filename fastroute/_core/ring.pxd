# ring: what every ring dialect is to its user: a key's hash, the hash's server, and where to go next. Built once, never
# changed. A ring knows keys, weights and slots; nothing of pools, states or I/O.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fr_ring_walk.h" nogil:
    ctypedef struct fr_walk:
        const uint8_t *allowed
        const uint16_t *tried
        int tried_count
        int wanted
        int count
        uint16_t *out
        uint64_t *seen
    bint fr_walk_offer(fr_walk *walk, uint16_t slot) noexcept

# One server while a ring is built: borrowed text, weight above zero, slot, and its place in the product's order.
ctypedef struct fr_ring_row:
    const uint8_t *text
    size_t size
    uint32_t weight
    uint16_t slot
    uint32_t number

cdef class Ring:
    cdef readonly int server_count          # servers that can be picked
    cdef uint64_t _seed
    # Hash of a key as the dialect hashes keys. 32-bit dialects give 32 bits. key may be NULL when size is 0.
    cdef uint64_t hash_key(self, const uint8_t *key, size_t size) noexcept nogil
    # Slot of a hash (any 64 bits); FR_NO_SLOT: no server.
    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil
    # Offer slots to the walk in the product's own order, the pick first; bounded. Preconditions: as fr_ring_walk.h.
    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil
    # Up to n distinct slots that are allowed (NULL: all; else a byte per slot) and not among the tried; how many.
    # A server that is not allowed is treated as the product treats one that is out of the ring without rebuilding it.
    cdef int walk(self, uint64_t hash, const uint8_t *allowed, const uint16_t *tried, int tried_count,
                  uint16_t *out, int n) noexcept nogil
    cdef int candidates_into(self, uint64_t hash, uint16_t *out, int n) noexcept nogil

# For the dialects' builders (ring.pyx): checked rows and their struct array (the caller frees it; rows keep the text).
cdef list ring_rows(object keys, object weights, object slots, bint ordered, uint32_t weight_max)
cdef fr_ring_row *ring_row_array(list rows) except NULL
