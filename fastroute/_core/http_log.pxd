# http_log: the access log of one process, up to the bytes that are ready to be written; bounded, and nothing waits.
cimport cython
from libc.stdint cimport int64_t, uint64_t
from fastroute._core.http_fields cimport fr_text
from fastroute._core.http_wire cimport Engine, fr_out

cdef extern from "fr_log.h" nogil:
    enum: FR_LOG_TARGET_MAX
    enum: FR_LOG_FIELD_MAX
    ctypedef struct fr_log_record:
        fr_text client
        fr_text method
        fr_text target
        fr_text host
        fr_text agent
        fr_text referer
        fr_text listener
        fr_text pool
        fr_text server
        fr_text reason
        fr_text id
        int minor
        int status
        int retries
        uint64_t bytes
        uint64_t duration_ns
        const char *stamp
        unsigned stamp_ms
        int tcp

@cython.final
cdef class AccessLog:
    cdef Engine engine
    cdef fr_out ready                   # whole lines
    cdef size_t bytes_max
    cdef bint json
    cdef int64_t second                 # that `stamp` is of
    cdef char stamp[40]
    # One more line, or one more that is dropped.
    cdef void put(self, fr_log_record *one) noexcept
