# http_request: a request from its head to its key: written anew for the server, and what it is bound by found.
from libc.stdint cimport uint8_t
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_tunnel cimport Tunnel
from fastroute._core.http_wire cimport fr_out

cdef class Request(Tunnel):
    cdef fr_out gathered                # head and body so far, as they go on the wire, while the key is looked for in it

    cdef void _route(self, const uint8_t *data, const fr_head *head) noexcept
    cdef bint _stands(self) noexcept
    cdef void _gather(self) noexcept
    cdef void _gathered(self) noexcept

    # What the layer above gives its meaning.
    # Answer from the cache; False: it is not that simple.
    cdef bint from_cache(self, const uint8_t *data, const fr_head *head) noexcept
    # Ask the cache what to do; False: it has nothing to do with this request.
    cdef bint look(self) noexcept
