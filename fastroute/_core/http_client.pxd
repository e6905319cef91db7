# http_client: a client's connection among those of its listener: whose it is, and whether there is room for it.
from fastroute._core.http_facts cimport Facts

cdef class Client(Facts):
    cdef object source, destination     # (address, port) that a proxy in front told, or None
    cdef bint counted                   # in Terms.clients
    cdef bint _know_peer(self) except -1
    # The connection is made. False: a limit is met, and it is to be answered and ended.
    cdef bint arrive(self, object transport) except -1
    # It is gone.
    cdef void leave(self) noexcept
