# http_routes: a listener's routes and networks of addresses, compiled: built once, then only read (fr_route.h).
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.http_wire cimport fr_out

cdef extern from "fr_address.h" nogil:
    ctypedef struct fr_address:
        uint8_t bytes[16]
    ctypedef struct fr_network:
        fr_address base
        int bits
    bint fr_address_parse(const uint8_t *text, size_t size, fr_address *out) noexcept
    bint fr_networks_hold(const fr_network *networks, uint32_t count, const fr_address *address) noexcept

cdef extern from "fr_route.h" nogil:
    ctypedef struct fr_route:
        const uint8_t *path
        size_t path_size
        const fr_network *networks
        uint32_t network_count
        uint32_t target
    ctypedef struct fr_route_host:
        const uint8_t *host
        size_t host_size
        uint64_t hash
        uint32_t first
        uint32_t count
    ctypedef struct fr_routes:
        fr_route *routes
        fr_route_host *hosts
        uint32_t *buckets
        uint32_t mask
        uint32_t host_count
        bint has_networks

@cython.final
cdef class Networks:
    cdef fr_network *items
    cdef uint32_t count
    # Is this text (with or without a port) an address in one of them?
    cdef bint hold(self, const uint8_t *text, Py_ssize_t size) noexcept

@cython.final
cdef class RouteTable:
    cdef fr_routes table
    cdef list kept                      # owners of what the table points to
    # The target of the route that takes the request, -1: none. client: text of an address, or not one.
    cdef long find_target(self, const uint8_t *authority, size_t authority_size, const uint8_t *path, size_t path_size,
                          const uint8_t *client, size_t client_size, fr_out *scratch) noexcept
