"""A client's connection among those of its listener: whose it is, and whether there is room for it.

Not here: what it asks (http_reading), what is known of one request (http_facts). Rules of this file: nothing of it runs per
request; who is over a limit is counted here and answered by the layer above.
"""

from libc.stdint cimport uint32_t

from fastroute._core.http_facts cimport Facts
from fastroute._core.http_terms cimport Terms, plain_address


cdef class Client(Facts):
    """One client's connection."""

    def come_from(self, source, destination):
        """What a proxy in front said of the client: (address, port) of it and of where it connected to, or None each."""
        self.source, self.destination = source, destination

    def addresses(self):
        """(address, port) of the client, and of where it connected to; None each where there is none."""
        if self.source is not None:
            return self.source, self.destination
        ends = [None, None]
        if self.transport is not None:
            ends = [self.transport.get_extra_info(name) for name in ("peername", "sockname")]
        return tuple([end[:2] if isinstance(end, tuple) else None for end in ends])

    cdef bint _know_peer(self) except -1:
        """Set peer and trusted; whether it has an address."""
        name = self.source if self.source is not None else self.transport.get_extra_info("peername")
        text = plain_address(name[0]) if isinstance(name, tuple) else "unix:"
        self.peer = self.client = text.encode("ascii", "replace")
        self.trusted = self.terms.trusts is not None and self.terms.trusts(text)
        return isinstance(name, tuple)

    cdef bint arrive(self, object transport) except -1:
        cdef Terms terms = self.terms
        cdef bint has_address
        self.attach(transport)
        self.engine.counts.downstream_accepted += 1
        self.engine.counts.downstream_connections += 1
        terms.gauges.open += 1
        terms.connections.add(self)
        has_address = self._know_peer()
        if terms.connections_max and <uint32_t>len(terms.connections) > terms.connections_max:
            self.engine.counts.limit_connections += 1
            return False
        if terms.connections_per_client and not self.trusted and has_address:  # a unix socket's have no address
            open_count = terms.clients.get(self.peer, 0) + 1
            terms.clients[self.peer] = open_count
            self.counted = True
            if <uint32_t>open_count > terms.connections_per_client:
                self.engine.counts.limit_connections_per_client += 1
                return False
        return True

    cdef void leave(self) noexcept:
        cdef Terms terms = self.terms
        self.engine.counts.downstream_connections -= 1
        terms.gauges.open -= 1
        terms.connections.discard(self)
        if self.counted:
            self.counted = False
            count = terms.clients.pop(self.peer, 1) - 1
            if count:
                terms.clients[self.peer] = count
