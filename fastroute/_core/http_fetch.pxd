# http_fetch: a request of the cache's own, without a client: a stored response that is served stale is asked about.
from fastroute._core.http_caching cimport Caching

cdef class Fetch(Caching):
    cdef object over                    # called when it has ended
    cdef void _end(self) noexcept
