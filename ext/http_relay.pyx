"""The clients' side of the relay: one Downstream per connection, an asyncio protocol, and the Relay that makes them.

Not here: reading requests (http_reading, http_request), their way to a server (http_attempt), keys and cookies (http_sticky),
scanning (http_head), writing heads (fr_forward.h), the servers' side (http_upstream), limits on connections (http_client), how
a tunnel ends (http_tunnel). Here: the server's answer on its way to the client, answers of our own, and how a connection
begins, goes on and ends. Requests of one connection are answered one after the other.

Rules of this file:
- What a client gets is written anew from parsed fields; body bytes are framed anew.
- Before the response head has gone out a failure is answered; after it, the connection is cut so that the client sees
  that the message is not whole (RFC 9112, 8).
- Buffers are bounded: the transport by WRITE_HIGH_BYTES plus one read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from fastroute._core.board cimport FR_RETRY_FAILED, FR_RETRY_OK
from fastroute._core.http_caching cimport FR_FILL_SWALLOW, FR_FILL_TEE, Caching
from fastroute._core.http_fields cimport FR_PIECES_MAX, FieldRules, Page, fr_field_rules, fr_fields_drop, fr_text
from fastroute._core.http_head cimport FR_BODY_CHUNKED, FR_BODY_LENGTH, FR_BODY_UNTIL_CLOSE, FR_SCAN_DONE, fr_head, fr_head_limits, fr_scan_response
from fastroute._core.http_reading cimport FR_PHASE_NONE, FR_READ_BODY, FR_READ_DISCARD, FR_READ_HEAD, FR_READ_HOLD, FR_READ_TUNNEL
from fastroute._core.http_route cimport Route
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_watch cimport Watch
from fastroute._core.http_wire cimport Wire, fr_now_ns, fr_out, fr_out_chunk, fr_out_clear, fr_out_free, fr_out_put, fr_out_text

cdef extern from "fr_forward.h" nogil:
    int fr_write_response(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_response *how) noexcept

cdef extern from "fr_frames.h" nogil:
    int fr_frames_follow(const uint8_t *data, const fr_head *head) noexcept

cdef extern from "fr_answer.h" nogil:
    ctypedef struct fr_answer:
        const uint8_t *date
        size_t date_size
        int close
        const fr_field_rules *rules
        const fr_text *values
        const fr_text *head
        const fr_text *body
        int is_head
    size_t fr_write_answer(fr_out *out, int status, const fr_answer *how) noexcept

# After a refusal the client may still be sending; closing at once would reset the connection and take the answer with
# it (RFC 9112, 9.6). nginx: lingering_timeout 5 s; the answers here are short.
cdef uint64_t LINGER_MS = 2000
# Body bytes at least this many are passed on as the object they came in, without a copy.
cdef Py_ssize_t WHOLE_BYTES = 4096
# What one write to a client gathers at most.
cdef size_t GATHER_BYTES = 256 << 10


cdef class Relay(Terms):
    """One listener's settings and its open connections; makes its Downstreams. Arguments: http_terms.Terms."""

    def __init__(self, *args, **named):
        Terms.__init__(self, *args, **named)
        cdef Route route
        cdef bint rated = False
        for route in (self.route, *self.targets):
            rated = rated or (route.lines is not None and route.lines.rate_bytes != 0)
        if self.total_ms or self.rate_bytes or rated:
            self.engine.watches.append(Watch(self.connections).look)

    def make(self):
        """A Downstream for one new connection: what create_server takes as its factory."""
        return Downstream(self)

    def close_idle(self):
        """Close the connections that carry no request."""
        for downstream in list(self.connections):
            (<Downstream>downstream)._close_if_idle()

    def go_away(self, int most):
        """Tell the clients of WebSockets that this end is going away (1001); -> how many, `most` at most."""
        cdef int count = 0
        for downstream in list(self.connections):
            if count >= most:
                break
            count += (<Downstream>downstream).go_away()
        return count


cdef class Downstream(Caching):
    """One client connection; an asyncio protocol."""

    def __init__(self, Relay relay):
        self.relay = self.terms = relay
        self.route = relay.route
        self.engine = relay.engine

    # ---- answers of our own ------------------------------------------------------------------------------------

    cdef void answer(self, int status, bint end) noexcept:
        """Answer in the server's place. end: the connection ends, for the request was not read whole or not understood."""
        cdef fr_out *out = &self.engine.out
        cdef fr_answer how
        cdef fr_text values[FR_PIECES_MAX]
        cdef Page page = None
        if self.up is not None:
            self.up.forget()
            self.up = None
        self.waited()
        self.count_out(status >= 502)
        if self.fill is not None and self.fill_failed(status):
            return
        self.epoch += 1
        if self.closed:
            self.ended()
            return
        if end or self.engine.draining:
            self.keep = False
        self.engine.counts.responses[status // 100] += 1
        if self.line is not None and (status == 502 or status == 504):
            self.line.counted.responses[5] += 1
        else:
            self.route.counted.responses[status // 100] += 1
        if self.attempts or self.refreshed:
            self.route.counted.retries[FR_RETRY_FAILED] += 1
        self.count_time()
        how.date, how.date_size = self.engine.date, self.engine.date_size
        how.close, how.is_head = not self.keep, self.is_head
        how.rules, how.values, how.head, how.body = NULL, values, NULL, NULL
        if self.route.response_fields is not None:
            self.fill_values(values)
            how.rules = &self.route.response_fields.rules
        if self.page is not None:
            page, self.page = self.page, None
            how.head, how.body = &page.head, &page.body
        elif len(self.relay.pages):
            page = self.relay.pages.get(status)
            if page is not None:
                how.head, how.body = &page.head, &page.body
        fr_out_clear(out)
        self.head_out = fr_write_answer(out, status, &how)
        self.head_out = out.size - self.head_out
        self.status = status
        self.put(out.data, out.size)
        fr_out_clear(out)
        self._over()

    cdef void refuse(self, int status) noexcept:
        """The request cannot be accepted: say so if that is still possible, and end the connection."""
        self.engine.counts.refused += 1
        fr_out_clear(&self.engine.out)  # it held the request's bytes
        if self.head_sent:
            self.count_out(False)  # it is not the server's fault
            self.cut()
        else:
            self.answer(status, True)

    cdef void refuse_head(self, int status) noexcept:
        self.route = self.relay.route
        if self.relay.log is not None:
            self.note(NULL, NULL)
        self.is_head = self.http10 = self.head_sent = self.head_flushed = self.request_complete = False
        self.refuse(status)

    cdef void cut(self) noexcept:
        """The response cannot be finished: make that visible."""
        cdef fr_out *out = &self.engine.out
        if self.fill is not None:
            self.fill_lost()
        if self.up is not None:
            self.up.forget()
            self.up = None
        if out.size:
            self.put(out.data, out.size)
            fr_out_clear(out)
        self.epoch += 1
        self.phase = FR_PHASE_NONE
        self.count_out(True)
        self.ended()
        self.count_time()
        self.engine.counts.truncated += 1
        # A body that ends with the connection looks whole unless the connection is reset.
        if self.out_body == FR_BODY_UNTIL_CLOSE:
            self.abort(True)
        else:
            self.close()

    # ---- after an answer ---------------------------------------------------------------------------------------

    cdef void _over(self) noexcept:
        """The answer has gone out: the next request, or the end."""
        if self.fill is not None:
            self.fill_lost()
        self.ended()
        self.phase = FR_PHASE_NONE
        self.request = self.key = None
        self.selection = None
        self.up = None
        self.line = None
        self.attempts = 0
        self.refreshed = False
        if self.closed:
            return
        if not self.request_complete:
            self._linger()
        elif not self.keep:
            if self.client_keeps or self.kept.size:
                self._linger()
            else:
                self.close()
        else:
            self.state = FR_READ_HEAD
            self.arm(self.relay.idle_ms)
            self.unhold()
            if not self.consuming:
                self._next()

    cdef void _next(self) noexcept:
        """Go on with the requests that wait; after the last one of a client that sends no more, end."""
        self.consume_kept()
        if self.eof and self.state == FR_READ_HEAD and not self.writing_paused and not self.closed:
            self.close()

    cdef void _linger(self) noexcept:
        """Say that no more comes, read away what the client still sends, then close."""
        self.state = FR_READ_DISCARD
        fr_out_clear(&self.kept)
        if self.eof:
            self.close()
            return
        try:
            if not self.tls:  # which cannot end one side alone
                self.transport.write_eof()
            self.unhold()
        except Exception:
            self.abort(False)
            return
        self.unsent_before = self.unsent()
        self.arm(LINGER_MS)

    cdef void _close_if_idle(self) noexcept:
        if self.phase == FR_PHASE_NONE and self.state == FR_READ_HEAD and self.kept.size == 0:
            self.close()

    # ---- the server's answer -----------------------------------------------------------------------------------

    cdef void on_interim(self, const uint8_t *data, const fr_head *head) noexcept:
        cdef fr_forward_response how
        self.engine.counts.responses[1] += 1
        if self.http10 or (self.continued and head.status == 100):
            return
        memset(&how, 0, sizeof(how))
        how.cookie = self.route.sticky.own_cookie(&how.cookie_size)
        self.engine.counts.cookie_overwritten += fr_write_response(&self.engine.out, data, head, &how)
        fr_out_text(&self.engine.out, b"\r\n")

    cdef void on_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept:
        cdef Relay relay = self.relay
        cdef fr_out *out = &self.engine.out
        cdef fr_forward_response how
        cdef fr_text values[FR_PIECES_MAX]
        cdef FieldRules changed = None
        cdef int code = head.status // 100
        if code > 5:
            code = 0
        self.head_ns = fr_now_ns()
        self.latency_ns = self.head_ns - self.started_ns
        self.engine.counts.responses[code] += 1
        self.line.counted.responses[code] += 1
        if self.attempts or self.refreshed:
            self.route.counted.retries[FR_RETRY_OK] += 1
        if code == 5:
            self.suspect()
        else:
            self.line.failures = 0
        self.fill_says = None
        if self.fill is not None and self.fill_head(data, head, framing) == FR_FILL_SWALLOW:
            self._swallow(head)
            return
        self.out_body = framing
        if framing == FR_BODY_CHUNKED or framing == FR_BODY_UNTIL_CLOSE:
            self.out_body = FR_BODY_UNTIL_CLOSE if self.http10 else FR_BODY_CHUNKED
        if self.out_body == FR_BODY_UNTIL_CLOSE or not self.request_complete or self.engine.draining:
            self.keep = False
        how.cookie = self.route.sticky.own_cookie(&how.cookie_size)
        how.date = self.engine.date
        how.date_size = self.engine.date_size
        how.body = self.out_body
        how.close = not self.keep
        how.rules = how.more = NULL
        if relay.hooks is not None and relay.hooks.responds:
            changed = self.ask_response_hook(data, head, self.line.server)
            if changed is not None:
                fr_fields_drop(data, self.engine.response, changed.rules.drops, changed.rules.drop_count)
                how.more = &changed.rules
                how.values = values
        if self.route.response_fields is not None:
            self._apply_rules(data, &how, values)
        self.engine.counts.cookie_overwritten += fr_write_response(out, data, head, &how)
        self._end_head(out, data, head)
        self.status, self.head_out = head.status, out.size
        self.head_sent = True

    cdef void _apply_rules(self, const uint8_t *data, fr_forward_response *how, fr_text *values) noexcept:
        cdef fr_field_rules *rules = &self.route.response_fields.rules
        fr_fields_drop(data, self.engine.response, rules.drops, rules.drop_count)
        self.fill_values(values)
        how.rules, how.values = rules, values

    cdef void dress(self) noexcept:
        cdef fr_out *out = &self.engine.out
        cdef fr_out plain
        cdef fr_head head
        cdef fr_head_limits limits
        cdef fr_forward_response how
        cdef fr_text values[FR_PIECES_MAX]
        cdef fr_field_rules *rules = &self.route.response_fields.rules
        cdef size_t searched = 0
        fr_out_text(out, b"\r\n")
        plain = out[0]
        memset(out, 0, sizeof(fr_out))
        memset(&limits, 0, sizeof(limits))
        if fr_scan_response(plain.data, plain.size, &searched, &limits, &head) == FR_SCAN_DONE:
            memset(&how, 0, sizeof(how))
            how.date, how.date_size, how.body = self.engine.date, self.engine.date_size, FR_BODY_LENGTH
            fr_fields_drop(plain.data, &head, rules.drops, rules.drop_count)
            self.fill_values(values)
            how.rules, how.values = rules, values
            fr_write_response(out, plain.data, &head, &how)
        else:
            fr_out_put(out, plain.data, plain.size - 2)
        fr_out_free(&plain)

    cdef void _end_head(self, fr_out *out, const uint8_t *data, const fr_head *head) noexcept:
        """After the server's fields come our own."""
        if self.route.sticky.peeks_left:
            self.route.sticky.peek(data, head)
        if self.route.sticky.learns:
            self._learn(data, head)
        if self.hook_key is None:  # a key that a hook names needs no cookie
            self.route.sticky.put_cookie(out, &self.binding, self.line.digest)
        if self.relay.debug:
            self._put_debug(out)
        if self.fill_says is not None:
            fr_out_put(out, PyBytes_AS_STRING(self.fill_says), PyBytes_GET_SIZE(self.fill_says))
        fr_out_text(out, b"\r\n")

    cdef void _swallow(self, const fr_head *head) noexcept:
        """The client gets a stored response instead: a 304 has ended; of anything else no more is wanted."""
        if head.status == 304:
            return
        self.up.forget()
        self.up = None
        self.count_out(head.status >= 502)
        if not self.fill_end():
            self.answer(502, not self.request_complete)

    # ---- tunnels -----------------------------------------------------------------------------------------------

    cdef void on_switch(self, const uint8_t *data, const fr_head *head) noexcept:
        """The server agreed to another protocol: from here on bytes go both ways as they are, until both sides have ended."""
        cdef Relay relay = self.relay
        cdef fr_out *out = &self.engine.out
        cdef fr_forward_response how
        cdef fr_text values[FR_PIECES_MAX]
        memset(&how, 0, sizeof(how))
        how.cookie = self.route.sticky.own_cookie(&how.cookie_size)
        if self.route.response_fields is not None:
            self._apply_rules(data, &how, values)
        self.head_ns = fr_now_ns()
        self.latency_ns = self.head_ns - self.started_ns
        self.engine.counts.responses[1] += 1
        self.line.counted.responses[1] += 1
        if self.attempts or self.refreshed:
            self.route.counted.retries[FR_RETRY_OK] += 1
        self.count_time()  # the request's; how long the tunnel lasts is its users' business
        self.head_ns = 0
        self.engine.counts.tunnels += 1
        self.engine.counts.tunnels_total += 1
        self.line.failures = 0
        self.engine.counts.cookie_overwritten += fr_write_response(out, data, head, &how)
        self._end_head(out, data, head)
        self.status, self.head_out = 101, out.size
        self.head_sent = self.head_flushed = True
        self.keep = False
        self.out_body = FR_BODY_UNTIL_CLOSE
        self.state = FR_READ_TUNNEL
        self.on_flush()
        if self.closed:
            return
        self.arm(relay.tunnel_ms)
        self.unhold()
        self.websocket = fr_frames_follow(data, head)
        self.consume_kept()  # what the client sent ahead
        if self.eof and self.up is not None:
            self.up.half_close()

    cdef void _learn(self, const uint8_t *data, const fr_head *head) noexcept:
        try:
            self.route.sticky.learn(self.route.router, data, head, self.key, self.slot, &self.engine.out, &self.binding)
        except Exception as error:
            self.report(error)

    cdef void _put_debug(self, fr_out *out) noexcept:
        cdef bytes text
        try:
            text = f"X-Fastroute: server={self.line.server.name}; reason={self.reason}\r\n".encode("ascii")
            fr_out_put(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        except Exception as error:
            self.report(error)

    cdef void on_body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        cdef fr_out *out = &self.engine.out
        if self.websocket and self.whole_frames(data, size) < size:
            return
        if self.fill is not None:
            self.fill_body(data, size)
        if self.out_body == FR_BODY_CHUNKED:
            fr_out_chunk(out, data, size)
        elif whole is not None and size >= WHOLE_BYTES and out.size == 0:
            self.put_bytes(whole)
            return
        else:
            fr_out_put(out, data, size)
        if out.size >= GATHER_BYTES:
            self.on_flush()

    cdef void on_flush(self) noexcept:
        cdef fr_out *out = &self.engine.out
        self.head_ns = 0
        if out.failed:
            self.abort(False)
        elif out.size:
            self.head_flushed = self.head_sent
            self.put(out.data, out.size)
            if self.state == FR_READ_TUNNEL:
                self.arm(self.relay.tunnel_ms)
        fr_out_clear(out)

    cdef void on_end(self) noexcept:
        self.up = None  # it is idle, or another's: what this client does from here on must not pause it
        if self.fill is not None:
            if self.fill_does == FR_FILL_SWALLOW:
                self.count_out(False)
                if not self.fill_end():
                    self.answer(502, False)
                return
            self.fill_end()
        if self.out_body == FR_BODY_CHUNKED:
            fr_out_text(&self.engine.out, b"0\r\n\r\n")
        self.count_time()
        self.on_flush()
        self.count_out(False)
        self._over()

    # ---- what the event loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef Relay relay = self.relay
        self.keep = self.client_keeps = self.request_complete = True
        if not self.arrive(transport):
            self.answer(503, True)
        if not self.closed and self.state == FR_READ_HEAD:
            self.arm(relay.head_ms)

    cdef void cut_short(self) noexcept:
        if self.phase != FR_PHASE_NONE:
            self.engine.counts.aborted_by_client += 1
        self.drop()

    cdef void drop(self) noexcept:
        if self.fill is not None:
            self.fill_lost()
        self.epoch += 1
        self.waited()
        if self.up is not None:
            self.up.forget()
            self.up = None
        self.count_out(False)
        self.ended()
        self.phase = FR_PHASE_NONE
        self.abort(False)

    cdef void gone(self, object error) noexcept:
        self.leave()
        if self.phase != FR_PHASE_NONE and self.state == FR_READ_TUNNEL:
            self.tunnel_ends()
        elif self.phase != FR_PHASE_NONE:
            self.engine.counts.aborted_by_client += 1
            self.drop()
        self.request = self.key = None
        self.selection = None
        self.line = None
        fr_out_clear(&self.kept)

    cdef void expired(self) noexcept:
        if self.closed:
            Wire.expired(self)
            return
        if self.state == FR_READ_HEAD and not self.writing_paused:
            if self.kept.size:
                self.engine.counts.timeout_head += 1
                self.refuse_head(408)
            else:
                self.engine.counts.timeout_idle += 1
                self.close()
        elif self.state == FR_READ_DISCARD:
            if not self.stalled():
                self.arm(LINGER_MS)
            elif self.tls and self.unsent() == 0:
                self.close()
            else:
                self.abort(False)
        elif self.state == FR_READ_TUNNEL:
            self.tunnel_expired()
        elif self.writing_paused:
            if self.stalled():
                self.engine.counts.timeout_send += 1
                self.drop()
            else:
                self.arm(self.relay.idle_ms)
        elif self.state == FR_READ_BODY and not self.reading_paused:
            self.engine.counts.timeout_body += 1
            # A client that waits for a 100 which it did not get, or did not understand, asks again without it after a
            # 417 (RFC 9110, 10.1.1); after a 408 it would only wait again.
            self.refuse(417 if self.expects and self.request is not None else 408)

    cdef void flow(self) noexcept:
        """The client reads slower than the server sends, or again."""
        if self.writing_paused:
            if self.up is not None and self.fill_does != FR_FILL_TEE:
                self.up.hold()
                self.up.disarm()
            self.unsent_before = self.unsent()
            self.arm(self.relay.tunnel_ms if self.state == FR_READ_TUNNEL else self.relay.idle_ms)
        else:
            if self.state == FR_READ_HOLD:
                self.disarm()
            elif self.state == FR_READ_BODY:
                self.arm(self.relay.body_ms)
            elif self.state == FR_READ_HEAD:
                self.arm(self.relay.idle_ms)
                self.unhold()
                self._next()
            if self.up is not None and self.up.reading_paused:
                self.up.unhold()
                if self.state == FR_READ_TUNNEL:
                    self.arm(self.relay.tunnel_ms)
                else:
                    self.up.arm(self.route.lines.response_ms)
