"""The servers' side: keep-alive connections, strict reading of responses, idle connections per server.

Not here: opening connections (slow path, Python), choosing servers, what becomes of a failed request (the sink decides).

Theory of operation. An Upstream is idle, or carries one exchange for one sink: head -> body -> idle, or
head -> tunnel, after which the connection ends. Responses are
scanned in place in the bytes that the event loop hands over; only a head that comes in pieces is kept.
A connection is used again only if the response was fully framed, both sides said keep-alive, the request had gone out
whole and no byte is left over (RFC 9112, 9.3); a byte on an idle connection closes it: nothing may be matched to the
next request (RFC 9112, 9.2). HEAD, 204 and 304 end with their head whatever it says of a body (RFC 9112, 6.3).

Bindings in use are renewed by a timer of the connection, not of the exchange: it runs from the connection's first moment to
its last, nothing arms it anew, and whoever's exchange it meets is renewed. So a short request pays nothing for it, a read
nothing, and no pause puts it off.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastroute._core.board cimport Tally
from fastroute._core.http_head cimport (
    FR_BODY_CHUNKED,
    FR_BODY_LENGTH,
    FR_BODY_NONE,
    FR_BODY_UNTIL_CLOSE,
    FR_SCAN_DONE,
    FR_SCAN_MORE,
    fr_chunked_next,
    fr_head,
    fr_scan_response,
)
from fastroute._core.http_wire cimport Engine, Wire, fr_out_clear, fr_out_drop, fr_out_free, fr_out_put, fr_timer_remove, fr_wheel_arm
from fastroute._core.pool cimport Pool
from fastroute._core.token cimport TokenCodec

cdef extern from "<string.h>" nogil:
    void *memmem(const void *data, size_t size, const void *what, size_t what_size)

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_PEEK
    enum: MSG_DONTWAIT
    Py_ssize_t recv(int fd, void *data, size_t size, int flags)

# Interim responses per exchange: a server that says "102 Processing" for ever must not hold a client for ever. Go's
# client allows 5, curl 100 KiB of heads; progress reports come by the second.
cdef int INTERIM_MAX = 64
# Retries that are always allowed. Envoy: min_retry_concurrency 3.
cdef int RETRIES_MIN = 3
# Idle connections kept per server: what nginx's `keepalive` is set to in its own examples for busy sites is 16 to 256.
cdef int IDLE_PER_SERVER_MAX = 256

cdef enum:
    STATE_IDLE = 0
    STATE_HEAD = 1
    STATE_LENGTH = 2
    STATE_CHUNKED = 3
    STATE_UNTIL_CLOSE = 4
    STATE_TUNNEL = 5


cdef class Sink(Wire):
    """Whoever asks for an exchange. See the .pxd for the contract of each call."""

    cdef void on_interim(self, const uint8_t *data, const fr_head *head) noexcept:
        pass

    cdef void on_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept:
        pass

    cdef void on_body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        pass

    cdef void on_end(self) noexcept:
        pass

    cdef void on_fail(self, int how, bint reused) noexcept:
        pass

    cdef void on_flush(self) noexcept:
        pass

    cdef void on_flow(self, bint paused) noexcept:
        pass

    cdef void on_switch(self, const uint8_t *data, const fr_head *head) noexcept:
        pass

    cdef void on_half_close(self) noexcept:
        pass

    cdef void on_renew(self) noexcept:
        pass

    cdef bint asked_for(self, const uint8_t *data, const fr_head *head) noexcept:
        return False

    cdef bint on_connection(self, Upstream upstream) noexcept:
        return False

    cdef bint on_room(self) noexcept:
        return True

    cdef void on_no_room(self) noexcept:
        pass


cdef class Upstream(Wire):
    """One connection to a server; an asyncio protocol.

    Args:
        line: the server it belongs to.
    """

    def __init__(self, ServerLine line):
        self.line = line
        self.engine = line.lines.engine
        self.renewal.owner = <void *>self

    def __dealloc__(self):
        fr_timer_remove(&self.renewal)
        fr_out_free(&self.kept)

    cdef int begin(self, Sink sink, bytes request, bint is_head, bint request_complete) noexcept:
        if self.put_bytes(request) < 0:
            return -1
        self.sink = sink
        self.state = STATE_HEAD
        self.is_head = is_head
        self.request_complete = request_complete
        self.keep_alive = self.got_bytes = False
        self.interim = 0
        self.searched = 0
        # While the request is still coming the client's time limits hold, unless the server already takes no more.
        self.unsent_before = self.unsent()
        self.arm(self.line.lines.response_ms if request_complete or self.writing_paused else 0)
        return 0

    cdef int more(self, const uint8_t *data, Py_ssize_t size, bint last) noexcept:
        cdef Py_ssize_t sent
        if last:
            self.request_complete = True
            if not self.reading_paused:
                self.arm(self.line.lines.response_ms)
        if self.closed or self.deaf:
            return -1
        sent = self.direct(data, size)
        if sent < 0:
            # The server reads no more. It may have said why (a 413, say): that is read before the connection is given up.
            self.deaf = True
            return -1
        return 0 if sent == size else self.put(data + sent, size - sent)

    cdef void half_close(self) noexcept:
        try:
            if not self.closed:
                self.transport.write_eof()
        except Exception:
            self._fail(FR_FAIL_BODY)

    def expect_tunnel(self):
        """This connection carries bytes, not requests: what the server sends first waits for begin_tunnel()."""
        self.state = STATE_TUNNEL

    cdef void begin_tunnel(self, Sink sink) noexcept:
        self.sink = sink
        self.request_complete = True
        if self.kept.size:
            sink.on_body(self.kept.data, self.kept.size, None)
            fr_out_clear(&self.kept)
        if self.closed:
            return
        if self.eof:
            sink.on_half_close()
        elif not sink.writing_paused:
            self.unhold()

    cdef int pass_on(self, bytes data) noexcept:
        return self.put_bytes(data)

    cdef void cut_off(self) noexcept:
        self.sink = None
        self.abort(True)

    cdef void let_go(self) noexcept:
        self.sink = None
        self.close()

    cdef void forget(self) noexcept:
        self.sink = None
        self.abort(False)

    cdef void _fail(self, int how) noexcept:
        cdef Sink sink = self.sink
        cdef bint reused = self.reused
        self.sink = None
        self.state = STATE_IDLE
        self.abort(False)
        if sink is not None:
            sink.on_fail(how, reused)

    cdef void _finish(self, bint clean) noexcept:
        """The response is complete. clean: no byte follows it, and the server keeps the connection."""
        cdef Sink sink = self.sink
        self.sink = None
        self.state = STATE_IDLE
        if (clean and self.keep_alive and self.request_complete and self.unsent() == 0 and not self.deaf and not self.eof
                and not self.closed):
            self.reused = True
            if self.reading_paused:
                self.unhold()
            self.line.give(self)
        else:
            self.disarm()
            self.close()
        sink.on_end()
        if len(self.line.connecting) and len(self.line.idle):
            self.line.hand_out()

    cdef Py_ssize_t _head(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Bytes of data that were heads; -1: the exchange failed. The state says what follows."""
        cdef fr_head *head = self.engine.response
        cdef Py_ssize_t at = 0
        cdef int verdict, framing
        while True:
            verdict = fr_scan_response(data + at, size - at, &self.searched, &self.line.lines.limits, head)
            if verdict == FR_SCAN_MORE:
                return at
            self.searched = 0
            if verdict != FR_SCAN_DONE or (head.status == 101 and not self.sink.asked_for(data + at, head)):
                if (verdict != FR_SCAN_DONE and <size_t>(size - at) >= self.line.lines.limits.head_bytes
                        and memmem(data + at, self.line.lines.limits.head_bytes, <const char *>b"\r\n\r\n", 4) is NULL):
                    self.engine.counts.limit_response_head += 1
                self._fail(FR_FAIL_PROTOCOL)
                return -1
            if head.status == 101:
                self.state = STATE_TUNNEL
                self.disarm()  # from here on the client's side keeps the time
                self.sink.on_switch(data + at, head)
                return at + head.head_size
            if head.status >= 200:
                break
            self.interim += 1
            if self.interim > INTERIM_MAX:
                self._fail(FR_FAIL_PROTOCOL)
                return -1
            self.sink.on_interim(data + at, head)
            if self.sink is None:
                return -1
            if self.request_complete:
                self.arm(self.line.lines.response_ms)
            at += head.head_size
        framing = head.body
        self.keep_alive = head.keep_alive
        if self.is_head or head.status == 204 or head.status == 304:
            if head.status == 204 and (framing == FR_BODY_CHUNKED or (framing == FR_BODY_LENGTH and head.content_length)):
                self.keep_alive = False  # it may be about to send that body (RFC 9112, 6.1 forbids the framing)
            framing = FR_BODY_NONE
        if framing == FR_BODY_LENGTH:
            self.state = STATE_LENGTH
            self.left = head.content_length
        elif framing == FR_BODY_CHUNKED:
            self.state = STATE_CHUNKED
            memset(&self.chunked, 0, sizeof(self.chunked))
        elif framing == FR_BODY_UNTIL_CLOSE:
            self.state = STATE_UNTIL_CLOSE
            self.keep_alive = False
        else:
            self.state = STATE_LENGTH
            self.left = 0
        self.sink.on_head(data + at, head, framing)
        return at + head.head_size

    cdef void _body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        cdef size_t at = 0, run_at = 0, run_size = 0
        cdef Py_ssize_t taken
        cdef int step
        if self.state == STATE_LENGTH:
            taken = size if <uint64_t>size <= self.left else <Py_ssize_t>self.left
            self.left -= taken
            if taken:
                self.sink.on_body(data, taken, whole if taken == size else None)
            if self.sink is not None and self.left == 0:
                self._finish(taken == size)
        elif self.state == STATE_CHUNKED:
            while self.sink is not None:
                step = fr_chunked_next(&self.chunked, data, size, &at, &run_at, &run_size)
                if step == 1:
                    self.sink.on_body(data + run_at, run_size, None)
                elif step == 2:
                    self._finish(at == <size_t>size)
                    return
                elif step == 0:
                    return
                else:
                    self._fail(FR_FAIL_BODY)
                    return
        elif size:
            self.sink.on_body(data, size, whole)

    cdef void _read(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        """One read; data is whole's bytes, or those kept and completed."""
        cdef Sink sink = self.sink
        cdef Py_ssize_t used = 0
        if self.state == STATE_HEAD:
            self.got_bytes = True
            used = self._head(data, size)
            whole = None
            if used < 0:
                return
            if self.state == STATE_HEAD:
                if self.kept.size:
                    fr_out_drop(&self.kept, used)
                else:
                    fr_out_put(&self.kept, data + used, size - used)
                if used:
                    sink.on_flush()
                return
        if self.sink is not None:
            self._body(data + used, size - used, whole)
        if self.sink is not None:
            if self.state != STATE_HEAD and self.state != STATE_TUNNEL and not self.reading_paused:  # else begin() armed it, for the next exchange
                self.arm(self.line.lines.response_ms)
            sink.on_flush()
        if self.kept.size:
            fr_out_clear(&self.kept)

    # What the event loop calls.

    def connection_made(self, transport):
        self.attach(transport)
        self.peek_fd = self.fd
        if self.tls:
            sock = transport.get_extra_info("socket")
            self.peek_fd = -1 if sock is None else sock.fileno()
        self.engine.counts.upstream_open += 1
        self._renew_later()

    def data_received(self, data):
        if self.closed:
            return
        cdef bytes whole = <bytes>data if type(data) is bytes else bytes(data)
        if self.sink is None:
            if self.state != STATE_TUNNEL:
                self.abort(False)
                return
            fr_out_put(&self.kept, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            self.hold()
            return
        if self.kept.size:
            fr_out_put(&self.kept, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            if self.kept.failed:
                self._fail(FR_FAIL_PARTIAL)
            else:
                self._read(self.kept.data, self.kept.size, None)
        else:
            self._read(<const uint8_t *>PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole), whole)

    def eof_received(self):
        self.eof = True
        if self.sink is None or self.closed:
            return True if self.state == STATE_TUNNEL and not self.closed and not self.tls else None
        if self.state == STATE_TUNNEL:
            self.sink.on_half_close()
            return None if self.closed or self.tls else True
        if self.state == STATE_UNTIL_CLOSE:
            self._finish(False)
        elif self.state == STATE_HEAD:
            self._fail(FR_FAIL_PARTIAL if self.got_bytes else FR_FAIL_CLOSED)
        else:
            self._fail(FR_FAIL_BODY)
        return None

    cdef void gone(self, object error) noexcept:
        self.engine.counts.upstream_open -= 1
        fr_timer_remove(&self.renewal)
        if self.sink is not None:
            if self.state == STATE_HEAD:
                self._fail(FR_FAIL_PARTIAL if self.got_bytes else FR_FAIL_CLOSED)
            else:
                self._fail(FR_FAIL_BODY)
        elif self in self.line.idle:
            self.line.idle.remove(self)

    cdef void expired(self) noexcept:
        if self.closed:
            Wire.expired(self)
            return
        if self.sink is None:
            self.engine.counts.timeout_upstream_idle += 1
            self.close()
            return
        if self.writing_paused and not self.request_complete and not self.stalled():
            self.arm(self.line.lines.response_ms)
            return
        if self.state == STATE_HEAD:
            self.engine.counts.timeout_response += 1
            self._fail(FR_FAIL_TIMEOUT)
        elif not self.reading_paused:
            self.engine.counts.timeout_response += 1
            self._fail(FR_FAIL_BODY)

    cdef void _renew_later(self) noexcept:
        if self.line.lines.renew_ms:
            fr_wheel_arm(self.engine.wheel, &self.renewal, self.engine.now_ms() + self.line.lines.renew_ms)

    cdef void pulse(self) noexcept:
        self._renew_later()
        if self.sink is not None:
            self.sink.on_renew()

    cdef void flow(self) noexcept:
        if self.sink is None:
            return
        if self.state == STATE_TUNNEL:
            pass  # the client's side keeps the time
        elif self.writing_paused:
            self.unsent_before = self.unsent()
            self.arm(self.line.lines.response_ms)
        elif not self.request_complete:
            self.disarm()
        self.sink.on_flow(self.writing_paused)


cdef class ServerLine:
    """One server of a pool and the idle connections to it."""

    def __init__(self, Lines lines, object server, int slot, uint64_t digest):
        self.lines, self.server, self.slot, self.digest = lines, server, slot, digest
        self.counted = &self.own_counted if lines.tally is None else lines.tally.server_cell(server.name)
        self.idle, self.connecting = [], {}
        most = server.max_connections
        self.limited = most > 0
        self.idle_max = min(most, IDLE_PER_SERVER_MAX) if most else IDLE_PER_SERVER_MAX

    cdef Upstream take(self, bint careful):
        cdef Upstream upstream
        cdef char byte
        cdef Py_ssize_t got
        while self.idle:
            upstream = <Upstream>self.idle.pop()
            if upstream.closed or upstream.eof:
                continue
            if careful and upstream.peek_fd >= 0:
                got = recv(upstream.peek_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT)
                if got >= 0 or (errno != EAGAIN and errno != EINTR):
                    upstream.abort(False)
                    continue
            self.lines.engine.counts.upstream_reused += 1
            return upstream
        return None

    cdef void give(self, Upstream upstream) noexcept:
        if len(self.idle) >= self.idle_max or self.lines.engine.draining or self.server is None or not self.lines.keeps:
            upstream.close()
            return
        self.idle.append(upstream)
        upstream.arm(self.lines.idle_ms)

    cdef void hand_out(self) noexcept:
        cdef Upstream upstream
        while len(self.connecting) and len(self.idle):
            sink = next(iter(self.connecting))
            epoch = self.connecting.pop(sink)
            if (<Sink>sink).epoch != epoch:
                continue
            upstream = self.take(True)
            if upstream is None or not (<Sink>sink).on_connection(upstream):
                self.connecting[sink] = epoch  # its own connection is on the way
                return

    def adopt(self, Upstream upstream):
        """Keep a fresh connection that nobody waits for any more."""
        if not upstream.closed and not upstream.eof:
            self.give(upstream)
            self.hand_out()

    def close_idle(self):
        """Close the connections that carry nothing."""
        for upstream in self.idle:
            (<Upstream>upstream).close()
        self.idle = []


cdef class Lines:
    """The connections of one pool.

    Args:
        engine: of the proxy.
        pool: whose servers they lead to.
        codec: TokenCodec for the servers' digests, or None.
        response_head_bytes: limit on a response head.
        response_s, idle_s: time limits, 0 for none.
        pending: how many requests may wait for a connection, a decision or room.
        retry_ratio: share of the requests under way that may be on a further attempt; 3 always may.
        consecutive: failures of a server in a row after which the slow path hears of them; 0: never.
        min_rate_bytes, min_rate_grace_s: how many bytes per second an answer's body must bring, over windows of the grace;
            0: any number.
        renew_s: how often the binding of an exchange that goes on is renewed; 0: never.
        keeps: a connection carries one exchange after the other; False: one, since it begins with its client's address.
        tally: where requests are counted for others to read; None: nobody reads them.
    """

    def __init__(self, Engine engine, Pool pool, TokenCodec codec, *, response_head_bytes, response_s, idle_s, pending,
                 retry_ratio=1.0, consecutive=0, renew_s=0, min_rate_bytes=0, min_rate_grace_s=0, keeps=True, Tally tally=None):
        self.engine, self.pool, self.codec = engine, pool, codec
        self.limits.request_line_bytes = self.limits.head_bytes = response_head_bytes
        self.limits.fields = 256
        self.limits.method_bytes = 64
        self.response_ms, self.idle_ms = <uint64_t>(response_s * 1000), <uint64_t>(idle_s * 1000)
        self.pending_max, self.retry_ratio, self.consecutive_max = pending, retry_ratio, consecutive
        self.renew_ms = <uint64_t>(renew_s * 1000)
        self.rate_bytes, self.rate_grace_ms = min_rate_bytes, <uint64_t>(min_rate_grace_s * 1000)
        self.by_slot = []
        self.keeps = keeps
        self.tally = tally
        self.counted = &self.own_counted if tally is None else tally.pool_cell()

    cdef bint within_budget(self) noexcept:
        return self.retrying < RETRIES_MIN or self.retrying < self.retry_ratio * self.active

    cdef ServerLine line(self, int slot):
        cdef ServerLine line
        server = self.pool.server_in(slot)
        while len(self.by_slot) <= slot:
            self.by_slot.append(None)
        line = <ServerLine>self.by_slot[slot]
        if line is None or (line.server is not server and line.server != server):
            if line is not None:
                line.close_idle()
                line.server = None
            digest = (<TokenCodec>self.codec).server_digest(server.name) if self.codec is not None else 0
            line = ServerLine(self, server, slot, digest)
            self.by_slot[slot] = line
        return line

    def count_connect(self):
        """A connection is being opened."""
        self.engine.counts.upstream_connects += 1

    def count_connect_failure(self, bint timed_out=False):
        """It could not be; timed_out: within its time."""
        self.engine.counts.upstream_connect_failures += 1
        self.engine.counts.timeout_connect += timed_out

    def close_idle(self):
        """Close every connection that carries nothing."""
        for line in self.by_slot:
            if line is not None:
                line.close_idle()
