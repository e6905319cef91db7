"""One listener's settings in the form in which the compiled connections read them.

Not here: what is done with them. Rules of this file: times in milliseconds, 0 is no limit; nothing changes after __init__.
"""

from libc.stdint cimport uint64_t

from fastroute._core.board cimport Row
from fastroute._core.http_sticky cimport Sticky
from fastroute._core.http_upstream cimport Lines
from fastroute._core.http_waiting cimport Waiting
from fastroute._core.http_wire cimport Engine
from fastroute._core.router cimport Router


cdef class Terms:
    """Settings of one listener.

    Args:
        engine, lines, router: what connections work with.
        slow: object with route(request, epoch, key, hint), move(request, epoch, selection, timed_out) and
            connect(request, epoch, line); none waits. hint: None or (server digest, term, generation). eject(line) hears of a
            server that fails in a row; full() says whether a server could take a request if it had room.
        sticky: where keys stand.
        waiting: the pool's line for room.
        limits, timeouts: fastroute.config.schema.ListenerLimits and ListenerTimeouts.
        attempts: beyond the first, per request.
        trusts: callable address -> bool for peers whose forwarded fields count, or None.
        debug: responses say X-Fastroute.
        tls: clients come over TLS.
        row, column: where the listener's connections are counted for others to read; None: nowhere.
    """

    def __init__(self, Engine engine, Lines lines, Router router, slow, Sticky sticky not None, Waiting waiting not None, *,
                 limits, timeouts, attempts, trusts=None, debug=False, tls=False, Row row=None, column=0):
        self.engine, self.lines, self.router, self.pool, self.slow = engine, lines, router, router.pool, slow
        self.sticky, self.waiting = sticky, waiting
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
        self.attempts_max = min(attempts, 7)
        self.trusts, self.debug, self.tls = trusts, debug, tls
        self.counted, self.row = lines.counted, row
        self.gauges = &self.own_gauges if row is None else row.listener(column)
