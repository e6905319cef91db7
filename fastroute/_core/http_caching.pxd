# http_caching: what a connection has to do with the cache of responses: a fresh stored response is sent at once, anything
# else is asked of the rules (Python: fastroute.proxy.caching), and what a server sends is copied for it on the way.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from fastroute._core.http_request cimport Request
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_stored cimport Stored
from fastroute._core.http_wire cimport fr_out

# What becomes of a server's response for the cache's sake.
cdef enum:
    FR_FILL_PASS = 0                    # nothing: it only goes to the client
    FR_FILL_TEE = 1                     # its body is copied
    FR_FILL_SWALLOW = 2                 # the client does not get it, but what the fill says when it has ended
    FR_FILL_WATCH = 3                   # the fill wants to know when it has ended

cdef class Caching(Request):
    cdef object fill                    # whose the present response is, or None; see fastroute.proxy.caching.Fill
    cdef int fill_does                  # FR_FILL_*
    cdef bytes fill_says                # field lines for the client
    cdef fr_out teed
    cdef object cache_key               # str: what the present request is called; None: it has no name
    cdef int cache_asks                 # FR_CACHE_* of fr_cache_key.h
    cdef bint cache_reads               # GET or HEAD without a body

    cdef bint _send_stored(self, Stored stored) noexcept
    # Send what stands in the scratch buffer, a head without its end, and this part of a body; then the request is over.
    cdef void _send_own(self, int status, bytes body, Py_ssize_t first, Py_ssize_t size) noexcept
    # A response head of the server: what to do with the response. May raise nothing; a failure is PASS.
    cdef int fill_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept
    # Body bytes on their way.
    cdef void fill_body(self, const uint8_t *data, Py_ssize_t size) noexcept
    # The response is complete. True: the client was answered from the cache.
    cdef bint fill_end(self) noexcept
    # No response will come, a failure with this status would be the answer. True: the client was answered from the cache.
    cdef bint fill_failed(self, int status) noexcept
    # The response, or the client, is gone.
    cdef void fill_lost(self) noexcept
    cdef bint _serve(self, answer) noexcept

    # What the layer above gives its meaning: the answer has gone out.
    cdef void _over(self) noexcept
    # Header rules are applied to the head in the scratch buffer, which has no end yet.
    cdef void dress(self) noexcept
