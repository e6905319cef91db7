# http_relay: the clients' side. A Relay is one listener's settings and connections; a Downstream is one client connection:
# what it asks goes to a server (http_attempt), what comes back is written here.
cimport cython
from libc.stdint cimport uint8_t
from fastroute._core.http_caching cimport Caching
from fastroute._core.http_fields cimport fr_field_rules, fr_text
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_wire cimport fr_out

cdef extern from "fr_forward.h" nogil:
    ctypedef struct fr_forward_response:
        const uint8_t *cookie
        size_t cookie_size
        const uint8_t *date
        size_t date_size
        int body
        int close
        const fr_field_rules *rules
        const fr_text *values
        const fr_field_rules *more

@cython.final
cdef class Relay(Terms):
    pass

@cython.final
cdef class Downstream(Caching):
    cdef Relay relay

    cdef void _apply_rules(self, const uint8_t *data, fr_forward_response *how, fr_text *values) noexcept
    cdef void _next(self) noexcept
    cdef void _linger(self) noexcept
    cdef void _close_if_idle(self) noexcept
    cdef void _learn(self, const uint8_t *data, const fr_head *head) noexcept
    cdef void _put_debug(self, fr_out *out) noexcept
    cdef void _end_head(self, fr_out *out, const uint8_t *data, const fr_head *head) noexcept
    cdef void _swallow(self, const fr_head *head) noexcept
