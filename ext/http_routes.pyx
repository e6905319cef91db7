"""A listener's routes and networks of addresses, in the form in which requests read them.

Not here: the lookup itself (fr_route.h), what a route leads to (http_route). Rules of this file: everything is checked and
ordered here, once; afterwards nothing changes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastroute._core.http_wire cimport fr_out, fr_out_free

import ipaddress

from fastroute.errors import InternalError

cdef extern from "fr_route.h" nogil:
    uint64_t fr_host_hash(const uint8_t *host, size_t size) noexcept
    long fr_route_find(const fr_routes *table, const uint8_t *authority, size_t authority_size, const uint8_t *path, size_t path_size,
                       const fr_address *client, fr_out *scratch) noexcept


cdef class Networks:
    """Networks of addresses, IPv4 and IPv6.

    Args:
        networks: texts such as "10.0.0.0/8", "fd00::/8", "10.0.0.1".
    """

    def __init__(self, networks):
        parsed = [ipaddress.ip_network(text, strict=False) for text in networks]
        cdef bytes packed
        cdef uint32_t i
        self.items = <fr_network *>calloc(max(1, len(parsed)), sizeof(fr_network))
        if self.items is NULL:
            raise MemoryError
        for i, network in enumerate(parsed):
            packed = network.network_address.packed
            if network.version == 4:
                packed = bytes(10) + b"\xff\xff" + packed
            memcpy(&self.items[i].base, PyBytes_AS_STRING(packed), 16)
            self.items[i].bits = network.prefixlen + (96 if network.version == 4 else 0)
        self.count = len(parsed)

    def __dealloc__(self):
        free(self.items)

    def __len__(self):
        return self.count

    def __call__(self, address):
        """Is this text an address in one of the networks?"""
        cdef bytes text = address.encode("ascii", "replace")
        return self.hold(<const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef bint hold(self, const uint8_t *text, Py_ssize_t size) noexcept:
        cdef fr_address address
        return fr_address_parse(text, size, &address) and fr_networks_hold(self.items, self.count, &address)


cdef class RouteTable:
    """Routes of one listener.

    Args:
        routes: (host, path prefix, clients, target) each. host: "a.example", "*.example" or "" for every host; path prefix:
            "/api", or "" or "/" for every path; clients: Networks or None for everybody; target: a number of 0 or more.
            Which comes first is decided here: the more exact host, then the longer path, then the one for some clients,
            then the one that stands first.
    """

    def __init__(self, routes):
        cdef uint32_t i, at
        cdef fr_route *route
        cdef fr_route_host *host
        cdef Networks clients
        by_host = {b"": []}
        self.kept = []
        for order, (name, prefix, networks, target) in enumerate(routes):
            key = name.lower().rstrip(".").encode("ascii").removeprefix(b"*")
            path = b"" if prefix == "/" else prefix.encode("ascii")
            by_host.setdefault(key, []).append((-len(path), networks is None, order, path, networks, target))
        self.table.host_count = len(by_host)
        self.table.mask = (1 << (2 * len(by_host)).bit_length()) - 1
        self.table.routes = <fr_route *>calloc(max(1, sum(map(len, by_host.values()))), sizeof(fr_route))
        self.table.hosts = <fr_route_host *>calloc(len(by_host), sizeof(fr_route_host))
        self.table.buckets = <uint32_t *>calloc(self.table.mask + 1, sizeof(uint32_t))
        if self.table.routes is NULL or self.table.hosts is NULL or self.table.buckets is NULL:
            raise MemoryError
        i = 0
        for index, (key, its) in enumerate(by_host.items()):
            host = &self.table.hosts[<int>index]
            self.kept.append(key)
            host.host, host.host_size = <const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)
            host.hash = fr_host_hash(host.host, host.host_size)
            host.first, host.count = i, len(its)
            for _, _, _, path, clients, target in sorted(its, key=_rank):
                route = &self.table.routes[i]
                self.kept += [path, clients]
                route.path, route.path_size = <const uint8_t *>PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path)
                if target < 0:
                    raise InternalError("a route's target is a number of 0 or more")
                route.target = target
                if clients is not None:
                    route.networks, route.network_count = clients.items, clients.count
                    self.table.has_networks = True
                i += 1
            if index:
                at = <uint32_t>host.hash & self.table.mask
                while self.table.buckets[at]:
                    at = (at + 1) & self.table.mask
                self.table.buckets[at] = index

    def __dealloc__(self):
        free(self.table.routes)
        free(self.table.hosts)
        free(self.table.buckets)

    cdef long find_target(self, const uint8_t *authority, size_t authority_size, const uint8_t *path, size_t path_size,
                          const uint8_t *client, size_t client_size, fr_out *scratch) noexcept:
        cdef fr_address address
        cdef bint known = self.table.has_networks and fr_address_parse(client, client_size, &address)
        return fr_route_find(&self.table, authority, authority_size, path, path_size, &address if known else NULL, scratch)

    def find(self, str authority, str path, str client=""):
        """The target of the route that takes such a request, or None.

        Args:
            authority: as in Host: "a.example" or "a.example:8080".
            path: as in the request line, with or without a query.
            client: the client's address; "" where it has none.
        """
        cdef bytes host = authority.encode("latin-1", "replace"), target = path.encode("latin-1", "replace")
        cdef bytes peer = client.encode("ascii", "replace")
        cdef fr_out scratch
        cdef long found
        memset(&scratch, 0, sizeof(scratch))
        found = self.find_target(<const uint8_t *>PyBytes_AS_STRING(host), PyBytes_GET_SIZE(host),
                                 <const uint8_t *>PyBytes_AS_STRING(target), PyBytes_GET_SIZE(target),
                                 <const uint8_t *>PyBytes_AS_STRING(peer), PyBytes_GET_SIZE(peer), &scratch)
        fr_out_free(&scratch)
        return None if found < 0 else found


def _rank(one):
    return one[:3]
