# http_terms: one listener's settings as the data plane reads them: set once, then only read.
from libc.stdint cimport uint32_t, uint64_t
from fastroute._core.board cimport Row, fr_board_listener, fr_board_pool
from fastroute._core.http_head cimport fr_head_limits
from fastroute._core.http_sticky cimport Sticky
from fastroute._core.http_upstream cimport Lines
from fastroute._core.http_waiting cimport Waiting
from fastroute._core.http_wire cimport Engine
from fastroute._core.pool cimport Pool
from fastroute._core.router cimport Router

cdef class Terms:
    cdef readonly Engine engine
    cdef readonly Lines lines
    cdef readonly Router router
    cdef readonly Pool pool
    cdef Sticky sticky
    cdef Waiting waiting
    cdef object slow                    # Python: route, move, connect (fastroute.proxy.forward)
    cdef object trusts                  # Python: address -> bool; None: nobody is trusted
    cdef fr_head_limits limits
    cdef uint64_t body_bytes_max, head_ms, body_ms, idle_ms, tunnel_ms
    cdef uint64_t total_ms              # of one request, whole
    cdef uint64_t rate_bytes, rate_grace_ms # least bytes per second of a client that sends a body or reads an answer
    cdef uint32_t requests_per_connection, connections_max, connections_per_client
    cdef int attempts_max
    cdef bint debug
    cdef bint tls                       # clients came over TLS
    cdef fr_board_pool *counted         # where the pool's requests are counted: lines.counted
    cdef fr_board_listener *gauges      # own_gauges, or in a board's row
    cdef fr_board_listener own_gauges
    cdef Row row                        # keeps the board
