"""Cookies of some requests and responses, put aside for somebody who has time to look at them.

Not here: what they mean (fastroute.session.foreign), who asks and how often (fastroute.proxy.layers). Why: whether another
balancer on a request's way is sticky too can be seen by its cookies, and by nothing else; a sample tells it as well as all.

Rules of this file: nothing of a value is kept beyond the next take(); what is put aside is bounded, whatever a head brings.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t

from fastroute._core.http_head cimport FR_FIELD_COOKIE, FR_FIELD_SET_COOKIE, fr_field, fr_head

# Of one field: browsers send at most 4096 bytes a cookie, and layers that stick put theirs in 20 to 200.
cdef Py_ssize_t FIELD_BYTES_MAX = 4096
# Fields kept between two takes; a head may hold 256.
cdef Py_ssize_t FIELDS_MAX = 256


cdef class Sights:
    """What was seen of one pool's cookies since the last take()."""

    def __cinit__(self):
        self.cookies, self.set_cookies = [], []

    cdef void request(self, const uint8_t *data, const fr_head *head) noexcept:
        self.requests += 1
        self._keep(self.cookies, FR_FIELD_COOKIE, data, head)

    cdef void response(self, const uint8_t *data, const fr_head *head) noexcept:
        self.responses += 1
        self._keep(self.set_cookies, FR_FIELD_SET_COOKIE, data, head)

    cdef void _keep(self, list kept, int which, const uint8_t *data, const fr_head *head) noexcept:
        cdef unsigned int i
        cdef const fr_field *field
        try:
            for i in range(head.field_count):
                field = &head.fields[i]
                if field.id == which and len(kept) < FIELDS_MAX:
                    kept.append(PyBytes_FromStringAndSize(<const char *>data + field.value_at, min(<Py_ssize_t>field.value_size, FIELD_BYTES_MAX)))
        except MemoryError:  # then there is nothing to see
            pass

    def take(self):
        """(requests looked at, their Cookie fields, responses looked at, their Set-Cookie fields) since the last take."""
        taken = (self.requests, self.cookies, self.responses, self.set_cookies)
        self.requests = self.responses = 0
        self.cookies, self.set_cookies = [], []
        return taken
