# http_terms: one listener's settings as the data plane reads them: set once, then only read.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.board cimport Row, fr_board_listener
from fastroute._core.http_fields cimport fr_text
from fastroute._core.http_head cimport fr_head, fr_head_limits
from fastroute._core.http_log cimport AccessLog
from fastroute._core.http_route cimport Route
from fastroute._core.http_routes cimport Networks, RouteTable
from fastroute._core.http_wire cimport Engine

cdef class Terms:
    cdef readonly Engine engine
    cdef readonly Route route           # of requests that no other takes
    cdef RouteTable table               # the others, by host, path and client; None: there are none
    cdef tuple targets                  # of Route
    cdef Networks trusts                # whose forwarded fields count; None: nobody's
    cdef fr_head_limits limits
    cdef uint64_t body_bytes_max, head_ms, body_ms, idle_ms, tunnel_ms
    cdef uint64_t total_ms              # of one request, whole
    cdef uint64_t rate_bytes, rate_grace_ms # least bytes per second of a client that sends a body or reads an answer
    cdef uint32_t requests_per_connection, connections_max, connections_per_client
    cdef bint forwarded                 # Forwarded of trusted peers counts before X-Forwarded-For, and servers get one
    cdef bytes id_field, id_lower       # name of the field with the request's id as configured, and in lower case; b"": none
    cdef fr_text id_name                # id_lower
    cdef bint extra                     # id_name or forwarded
    cdef dict pages                     # status -> Page
    cdef object hooks                   # fastroute.proxy.hooks.ListenerHooks; None: there are none
    cdef AccessLog log                  # None: there is none
    cdef bytes name                     # the listener's
    cdef bint debug
    cdef bint tls                       # clients came over TLS
    cdef readonly set connections       # open ones
    cdef dict clients                   # address -> open connections
    cdef fr_board_listener *gauges      # own_gauges, or in a board's row
    cdef fr_board_listener own_gauges
    cdef Row row                        # keeps the board
    # The route that takes this request. Uses the engine's scratch buffer.
    cdef Route route_of(self, const uint8_t *data, const fr_head *head, bytes client)

# An address as it is forwarded and counted: IPv4 as such, no zone.
cdef str plain_address(str address)
