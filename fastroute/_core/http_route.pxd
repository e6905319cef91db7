# http_route: where a request goes once its route is known: one pool as one listener uses it. Set once, then only read.
cimport cython
from libc.stdint cimport uint64_t
from fastroute._core.board cimport fr_board_pool
from fastroute._core.http_fields cimport FieldRules
from fastroute._core.http_sticky cimport Sticky
from fastroute._core.http_upstream cimport Lines
from fastroute._core.http_waiting cimport Waiting
from fastroute._core.near_cache cimport NearCache
from fastroute._core.pool cimport Pool
from fastroute._core.router cimport Router

@cython.final
cdef class Route:
    cdef readonly Lines lines           # None: nowhere; the request is answered with 404
    cdef readonly Router router
    cdef readonly Pool pool
    cdef Sticky sticky
    cdef Waiting waiting
    cdef object slow                    # Python: route, move, connect (fastroute.proxy.forward)
    cdef int attempts_max
    cdef fr_board_pool *counted         # where its requests are counted: lines.counted
    cdef fr_board_pool own_counted
    cdef bytes name                     # the pool's, b"": nowhere
    cdef readonly bint cache            # its responses may be cached
    cdef FieldRules request_fields      # or None
    cdef FieldRules response_fields     # or None
    cdef NearCache near                 # of the cache of responses; None: there is none
    cdef object responses               # Python: look (fastroute.proxy.caching)
    cdef uint64_t object_bytes_max      # what of a response is copied for it
