"""TCP listeners: one TcpDownstream per client connection, an asyncio protocol, and the TcpRelay that makes them.

Not here: choosing a server, moving a bound client, the line for room (http_attempt, the same as for a request: a connection
is one request whose answer never ends), limits on connections (http_client), ends in good order (http_tunnel), the servers'
side (http_upstream, in its tunnel state), reading a ClientHello (fastroute.proxy.client_hello).

    HEAD -> HOLD -> TUNNEL      HEAD: only with a key from the ClientHello; HOLD: no server yet, at most one read is kept

Rules of this file:
- Nothing is changed, added or looked at after the key; a read on one side is a send on the other.
- Until the first byte has gone to a server another one may be tried: what the client sent is still here.
- An end in good order is passed on as such (half-close), a failure as a reset where nothing is unsent: bytes that are
  missing must not look like the end.
- The access log has one line per connection, when it is over (http_facts). `status` is for it alone: 200 (it had a server), 408,
  502, 503, and none for a client that left or broke off.
- Bounded: whoever takes no more than WRITE_HIGH_BYTES pauses the other side's reading.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastroute._core.http_head cimport fr_head
from fastroute._core.http_log cimport FR_LOG_FIELD_MAX
from fastroute._core.http_reading cimport FR_PHASE_CONNECTING, FR_PHASE_NONE, FR_PHASE_SENT, FR_READ_DISCARD, FR_READ_HEAD, FR_READ_HOLD, FR_READ_TUNNEL
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_tunnel cimport Tunnel
from fastroute._core.http_upstream cimport Upstream
from fastroute._core.http_wire cimport Wire, fr_now_ns, fr_out_free, fr_out_put

cdef str REASON_POLICY = "policy"


cdef class TcpRelay(Terms):
    """One TCP listener's settings and its open connections.

    Args:
        rule: where the key is found: `extract` gets {"client-ip": ..., "sni": ...}; None: the policy decides.
        read_name: server name of what a client sent first ("": none, None: more has to come); None: not needed.
        others: http_terms.Terms.
    """

    def __init__(self, *args, rule=None, read_name=None, **named):
        Terms.__init__(self, *args, **named)
        self.rule, self.read_name = rule, read_name

    def make(self):
        """A TcpDownstream for one new connection."""
        return TcpDownstream(self)

    def close_idle(self):
        """Close the connections that have not said yet where they want to go."""
        for one in list(self.connections):
            if (<TcpDownstream>one).state == FR_READ_HEAD and (<TcpDownstream>one).kept.size == 0:
                (<TcpDownstream>one).close()

    def go_away(self, int most):
        """Nobody can be told: the protocol is not ours. How many were told: none."""
        return 0


cdef class TcpDownstream(Tunnel):
    """One client connection; an asyncio protocol."""

    def __init__(self, TcpRelay relay):
        self.relay = self.terms = relay
        self.route = relay.route
        self.engine = relay.engine
        self.raw = True

    # ---- the way to a server -----------------------------------------------------------------------------------

    cdef void _begin(self, object name) noexcept:
        self.state = FR_READ_HOLD
        if self.logged and name:
            self.noted_sizes[2] = <uint32_t>min(len(<bytes>name), <Py_ssize_t>FR_LOG_FIELD_MAX)
            fr_out_put(&self.noted, PyBytes_AS_STRING(<bytes>name), self.noted_sizes[2])
            if self.noted.failed:
                self.noted_sizes[2] = 0
        self.request_complete = True  # so that nobody holds or times what the client still sends
        self.epoch += 1
        self.reason = REASON_POLICY
        self.active = True
        self.route.lines.active += 1
        self.disarm()
        try:
            if self.relay.rule is not None:
                self.key = self.relay.rule.extract({"client-ip": self.peer, "sni": name or b""})
            self._choose()
        except Exception as error:
            self.unexpected(error)

    def connected(self, uint64_t epoch, Upstream upstream not None):
        """A fresh connection. True: whatever becomes of it is settled here."""
        if epoch != self.epoch or self.phase != FR_PHASE_CONNECTING or self.closed:
            upstream.abort(False)
        elif upstream.closed:
            self.connect_failed(epoch, False)
        else:
            self.latency_ns = fr_now_ns() - self.started_ns
            self.line.failures = 0
            self._open(upstream)
        return True

    cdef void _open(self, object upstream) noexcept:
        cdef Upstream up = <Upstream>upstream
        self._sent(up)
        self.head_sent = self.head_flushed = True
        self.status = 200
        self.state = FR_READ_TUNNEL
        self.engine.counts.tunnels += 1
        self.engine.counts.tunnels_total += 1
        self.arm(self.terms.tunnel_ms)
        if self.kept.size:
            up.more(self.kept.data, self.kept.size, False)
            fr_out_free(&self.kept)
        up.begin_tunnel(self)
        if self.up is not up or self.closed:
            return
        if self.eof:
            up.half_close()
        if not up.writing_paused:
            self.unhold()

    # What http_attempt leaves to the layer above. There is nobody to tell a status.

    cdef void answer(self, int status, bint end) noexcept:
        self.status = status
        self.waited()
        self.count_out(status >= 502)
        self.epoch += 1
        self.ended()
        self.phase = FR_PHASE_NONE
        self.state = FR_READ_DISCARD
        self.engine.counts.refused += 1
        self.close()

    cdef void cut(self) noexcept:
        self._break_off()

    cdef void tunnel_over(self) noexcept:
        self._break_off()

    # ---- bytes -------------------------------------------------------------------------------------------------

    def data_received(self, data):
        cdef bytes whole = <bytes>data if type(data) is bytes else bytes(data)
        if self.closed:
            return
        if self.state == FR_READ_TUNNEL:
            if self.up is not None:
                self.arm(self.terms.tunnel_ms)
                self.up.pass_on(whole)
            return
        fr_out_put(&self.kept, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
        if self.kept.failed:
            self.abort(False)
        elif self.state == FR_READ_HEAD:
            self._look()
        elif self.state == FR_READ_HOLD:
            self.reading_paused = False  # a loop may start reading after connection_made, whatever was asked for there
            self.hold()

    cdef void _look(self) noexcept:
        """Is the name here?"""
        try:
            name = self.relay.read_name(PyBytes_FromStringAndSize(<const char *>self.kept.data, self.kept.size))
        except Exception as error:
            self.report(error)
            name = ""
        if name is not None:
            self.hold()
            self._begin((<str>name).encode("ascii"))

    cdef void on_body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        self.arm(self.terms.tunnel_ms)
        if whole is not None:
            self.put_bytes(whole)
        else:
            self.put(data, size)

    def eof_received(self):
        self.eof = True
        if self.closed:
            return None
        if self.state == FR_READ_HEAD:
            self.engine.counts.aborted_by_client += 1
            self.close()
            return None
        if self.state == FR_READ_TUNNEL:
            self.half_closed()
        return None if self.closed or self.tls else True

    # ---- ends --------------------------------------------------------------------------------------------------

    cdef void on_fail(self, int how, bint reused) noexcept:
        cdef bint in_order = self.up is not None and self.up.eof
        self.up = None
        if in_order:
            self.tunnel_ends()
        else:
            self.status = 502
            self._break_off()

    cdef void _break_off(self) noexcept:
        if self.phase == FR_PHASE_NONE:
            return
        self.phase = FR_PHASE_NONE
        self.epoch += 1
        self.engine.counts.tunnels -= 1
        self.engine.counts.truncated += 1
        self.count_out(False)
        self.ended()
        if self.unsent():
            self.close()
        else:
            self.abort(True)

    # ---- what the event loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef TcpRelay relay = self.relay
        cdef bint placed = self.arrive(transport)
        if relay.log is not None:
            self.note(NULL, NULL)
        if not placed:
            self.answer(503, True)
        if self.closed:
            return
        if relay.read_name is None:
            self._begin(None)
        elif self.tls:
            name = getattr(transport.get_extra_info("ssl_object"), "fr_name", None)
            self._begin(name.encode("ascii") if name else None)
        else:
            self.arm(relay.head_ms)

    cdef void gone(self, object error) noexcept:
        self.leave()
        self.waited()
        if self.phase == FR_PHASE_SENT:
            if error is not None:
                self.status = 0
            if self.up is not None and error is not None:
                self.up.cut_off()
                self.up = None
            self.tunnel_ends()
        elif self.phase != FR_PHASE_NONE:
            self.engine.counts.aborted_by_client += 1
            self.count_out(False)
            self.ended()
            self.epoch += 1
            self.phase = FR_PHASE_NONE
        if self.logged:
            self.log_it(0)
        self.key = None
        self.selection = None
        self.line = None
        fr_out_free(&self.kept)

    cdef void expired(self) noexcept:
        if self.closed:
            Wire.expired(self)
        elif self.state == FR_READ_HEAD:
            self.engine.counts.timeout_head += 1
            self.status = 408
            self.close()
        elif self.state == FR_READ_TUNNEL:
            self.tunnel_expired()

    cdef void flow(self) noexcept:
        """The client reads slower than the server sends, or again."""
        if self.up is None or self.state != FR_READ_TUNNEL:
            return
        if self.writing_paused:
            self.up.hold()
            self.unsent_before = self.unsent()
        elif self.up.reading_paused:
            self.up.unhold()
        self.arm(self.relay.tunnel_ms)
