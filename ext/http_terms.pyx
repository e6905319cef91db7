"""One listener's settings in the form in which the compiled connections read them.

Not here: what is done with them, and what depends on a request's pool (http_route). Rules of this file: times in
milliseconds, 0 is no limit; nothing changes after __init__.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint8_t, uint64_t

from fastroute._core.board cimport Row
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_log cimport AccessLog
from fastroute._core.http_route cimport Route
from fastroute._core.http_routes cimport Networks, RouteTable
from fastroute._core.http_wire cimport Engine, Wire


cdef class Terms:
    """Settings of one listener.

    Args:
        engine: what connections work with.
        route: of requests that no other takes; one that leads nowhere if there is no such pool.
        limits, timeouts: fastroute.config.schema.ListenerLimits and ListenerTimeouts.
        table, targets: further routes; a target of the table is a place in targets. None: there are none.
        trusts: Networks whose forwarded fields count, or None.
        forwarded: Forwarded of trusted peers counts before X-Forwarded-For, and servers get one.
        request_id: name of the field with a request's id, "" for none.
        pages: status -> Page, for answers of our own.
        log: where requests are logged, or None.
        hooks: fastroute.proxy.hooks.ListenerHooks, or None.
        name: the listener's.
        debug: responses say X-Fastroute.
        tls: clients come over TLS.
        row, column: where the listener's connections are counted for others to read; None: nowhere.
    """

    def __init__(self, Engine engine not None, Route route not None, *, limits, timeouts, RouteTable table=None, targets=(),
                 Networks trusts=None, forwarded=False, request_id="", pages=None, AccessLog log=None, hooks=None, name="", debug=False, tls=False, Row row=None, column=0):
        self.engine, self.route = engine, route
        self.table, self.targets = table, tuple(targets)
        for target in self.targets:
            if not isinstance(target, Route):
                raise TypeError("targets are Routes")
        self.limits.request_line_bytes = limits.request_line_bytes
        self.limits.head_bytes = limits.head_bytes
        self.limits.fields = limits.fields
        self.limits.method_bytes = limits.method_bytes
        self.body_bytes_max = limits.body_bytes
        self.connections_max, self.connections_per_client = limits.connections, limits.connections_per_client
        self.requests_per_connection = limits.requests_per_connection
        self.head_ms = <uint64_t>(timeouts.head_s * 1000)
        self.body_ms = <uint64_t>(timeouts.body_s * 1000)
        self.idle_ms = <uint64_t>(timeouts.idle_s * 1000)
        self.tunnel_ms = <uint64_t>(timeouts.tunnel_idle_s * 1000)
        self.total_ms = <uint64_t>(timeouts.total_s * 1000)
        self.rate_bytes, self.rate_grace_ms = limits.min_rate_bytes, <uint64_t>(timeouts.min_rate_grace_s * 1000)
        self.trusts, self.debug, self.tls, self.forwarded = trusts, debug, tls, forwarded
        self.id_field = request_id.encode("ascii")
        self.id_lower = self.id_field.lower()
        self.id_name.data, self.id_name.size = <const uint8_t *>PyBytes_AS_STRING(self.id_lower), PyBytes_GET_SIZE(self.id_lower)
        self.extra = self.id_name.size != 0 or forwarded
        self.pages = dict(pages or {})
        self.hooks = hooks
        self.log, self.name = log, name.encode("ascii")
        self.row = row
        self.gauges = &self.own_gauges if row is None else row.listener(column)
        self.connections, self.clients = set(), {}

    cdef Route route_of(self, const uint8_t *data, const fr_head *head, bytes client):
        cdef long target = self.table.find_target(data + head.authority_at, head.authority_size, data + head.path_at, head.path_size,
                                                  <const uint8_t *>PyBytes_AS_STRING(client), PyBytes_GET_SIZE(client), &self.engine.out)
        if target < 0 or target >= len(self.targets):
            return self.route
        return <Route>PyTuple_GET_ITEM(self.targets, target)

    def make_for(self, source, destination):
        """As make(), for a client whose addresses a proxy in front told: (address, port) each, or None."""
        one = self.make()
        one.come_from(source, destination)
        return one

    def abort(self):
        """Close every connection now."""
        for one in list(self.connections):
            (<Wire>one).abort(False)

    def only_ending(self):
        """Is every connection left one that has ended here, over TLS, and waits for the client to say so too?"""
        cdef Wire one
        for one in self.connections:
            if not (one.closed and one.tls and one.unsent() == 0):
                return False
        return True

    def turns_away(self, address, Py_ssize_t waiting, Py_ssize_t of_address):
        """Is there no place for one more connection? Then it is counted as over the limit.

        Args:
            address: of the peer, as text; None: it has none.
            waiting, of_address: connections accepted but not made yet, in all and from there.
        """
        if self.connections_max and len(self.connections) + waiting >= self.connections_max:
            self.engine.counts.limit_connections += 1
            return True
        if not self.connections_per_client or address is None:
            return False
        text = plain_address(address)
        if self.trusts is not None and self.trusts(text):
            return False
        if self.clients.get(text.encode("ascii", "replace"), 0) + of_address >= self.connections_per_client:
            self.engine.counts.limit_connections_per_client += 1
            return True
        return False


cdef str plain_address(str address):
    if address.startswith("::ffff:"):
        address = address[7:]
    return address.partition("%")[0]
