# http_watch: requests that take too long as a whole, peers that are too slow: looked at once per tick.
cimport cython
from libc.stdint cimport uint64_t
from fastroute._core.http_attempt cimport Attempt

@cython.final
cdef class Watch:
    cdef set connections
    cdef void _look_at(self, Attempt one, uint64_t now_ms) noexcept
    cdef int _part(self, Attempt one, uint64_t *mark) noexcept
    cdef void _judge(self, Attempt one, uint64_t mark, uint64_t now_ms) noexcept
    cdef void _out_of_time(self, Attempt one) noexcept
