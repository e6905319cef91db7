# ring_point: the base of the rings that are a circle of points (ext/fr_ring_point.h).
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastroute._core.ring cimport Ring, fr_walk

cdef extern from "fr_ring_point.h" nogil:
    enum: FR_POINTS_MAX
    enum: FR_POINTS_KEEP_ALL
    enum: FR_POINTS_KEEP_FIRST
    enum: FR_POINTS_KEEP_LAST
    ctypedef struct fr_point:
        uint64_t hash
        uint64_t slot
    ctypedef struct fr_points:
        uint64_t *hash
        uint16_t *slot
        uint32_t *index
        uint64_t mask
        uint32_t count
        uint32_t shift
    uint32_t fr_points_at(const fr_points *circle, uint64_t hash) noexcept
    int fr_points_walk(const fr_points *circle, uint32_t at, fr_walk *walk) noexcept
    size_t fr_text_number(unsigned char *out, uint32_t number) noexcept

cdef class PointRing(Ring):
    cdef fr_points _points
    # Room for `count` points; raises UsageError beyond FR_POINTS_MAX. The caller fills it and hands it to _close.
    cdef fr_point *_open(self, uint64_t count) except NULL
    # Sort the points into the circle and free them (also on failure). bits: of a hash, 32 or 64.
    cdef int _close(self, fr_point *points, uint32_t count, uint32_t bits, int keep) except -1
