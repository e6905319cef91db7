"""ring_point: the base of the rings that are a circle of points: the first point at or behind the hash gives the server.

Not here: where the points come from (ring_ketama, ring_nginx, ring_envoy, ring_haproxy, ring_uhashring).
Rules: a subclass fills the room of _open and closes it; the circle is freed with the object.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastroute._core.base cimport FR_NO_SLOT
from fastroute._core.ring cimport Ring, fr_walk
from fastroute._core.ring_point cimport FR_POINTS_MAX, fr_point, fr_points, fr_points_at, fr_points_walk

from fastroute.errors import UsageError


cdef extern from "fr_ring_point.h" nogil:
    int fr_points_build(fr_points *circle, fr_point *item, uint32_t count, uint32_t bits, int keep) noexcept
    void fr_points_free(fr_points *circle) noexcept

POINTS_MAX = FR_POINTS_MAX


cdef class PointRing(Ring):
    """A ring of points. Subclasses are the dialects.

    Notes: pick() is O(1) on average: one entry of an index by the hash's top bits, then a scan of 1.5 points. 18 to 34
    bytes per point. candidates() walks on from point to point.
    """

    def __dealloc__(self):
        fr_points_free(&self._points)

    cdef fr_point *_open(self, uint64_t count) except NULL:
        cdef fr_point *points
        if self._points.count:
            raise UsageError("a ring is built once")
        if count > FR_POINTS_MAX:
            raise UsageError(f"a ring of {count} points; accepted are up to {FR_POINTS_MAX}: lower the weights in proportion")
        points = <fr_point *>malloc((count + 1) * sizeof(fr_point))
        if points == NULL:
            raise MemoryError(f"no memory for a ring of {count} points")
        return points

    cdef int _close(self, fr_point *points, uint32_t count, uint32_t bits, int keep) except -1:
        cdef int status = 0, servers = 0
        cdef uint32_t i
        cdef unsigned char *met = <unsigned char *>calloc(FR_NO_SLOT + 1, 1)
        if met == NULL:
            status = -1
        elif count:
            with nogil:
                status = fr_points_build(&self._points, points, count, bits, keep)
                if status == 0:
                    for i in range(self._points.count):
                        servers += not met[self._points.slot[i]]
                        met[self._points.slot[i]] = 1
        free(met)
        free(points)
        if status != 0:
            raise MemoryError(f"no memory for a ring of {count} points")
        self.server_count = servers
        return 0

    cdef uint16_t slot_of(self, uint64_t hash) noexcept nogil:
        if self._points.count == 0:
            return FR_NO_SLOT
        return self._points.slot[fr_points_at(&self._points, hash)]

    cdef void offer(self, uint64_t hash, fr_walk *walk) noexcept nogil:
        fr_points_walk(&self._points, fr_points_at(&self._points, hash), walk)

    @property
    def point_count(self):
        """Points on the circle."""
        return self._points.count

    def points(self):
        """The circle: (hash, slot) in ascending order. A copy, for tests and tools."""
        cdef uint32_t i
        return [(self._points.hash[i], self._points.slot[i]) for i in range(self._points.count)]

    def point_at(self, hash):
        """Hash of the point that decides for a hash, of the dialect's bits.

        Raises:
            UsageError: a ring without points.
        """
        cdef uint32_t at
        if self._points.count == 0:
            raise UsageError("a ring without servers has no points")
        at = fr_points_at(&self._points, <uint64_t>hash)
        return self._points.hash[0 if at == self._points.count else at]

    def __repr__(self):
        return f"{type(self).__name__}({self.server_count} servers, {self._points.count} points)"
