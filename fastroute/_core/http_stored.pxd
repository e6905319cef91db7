# http_stored: one stored HTTP response in the form in which the relay sends it. Immutable.
cimport cython
from libc.stdint cimport int64_t

@cython.final
cdef class Stored:
    cdef readonly int status
    cdef readonly str reason
    cdef readonly tuple fields          # (name, value), as they are sent; no Age, no Content-Length
    cdef readonly bytes body
    cdef readonly bytes head            # status line, fields and Content-Length, each line ended
    cdef readonly bytes number          # names this version of it
    # Milliseconds; those of the first line by the wall clock.
    cdef readonly int64_t born_ms, made_ms
    cdef readonly int64_t lifetime_ms, stale_while_revalidate_ms, stale_if_error_ms
    cdef readonly bint no_cache, must_revalidate
    cdef object _lowered
