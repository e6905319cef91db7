# http_sights: cookies of some requests and responses of a pool, put aside for somebody who has time to look at them.
cimport cython
from libc.stdint cimport uint8_t
from fastroute._core.http_head cimport fr_head

@cython.final
cdef class Sights:
    cdef int requests, responses        # looked at since the last take()
    cdef list cookies, set_cookies      # their fields' values, as they came
    # Keep this head's Cookie or Set-Cookie fields.
    cdef void request(self, const uint8_t *data, const fr_head *head) noexcept
    cdef void response(self, const uint8_t *data, const fr_head *head) noexcept
    cdef void _keep(self, list kept, int which, const uint8_t *data, const fr_head *head) noexcept
