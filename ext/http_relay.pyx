"""The clients' side of the relay: one Downstream per connection, an asyncio protocol.

Not here: scanning (http_head), writing heads (fr_forward.h), the servers' side (http_upstream), what waits (Python:
fastroute.proxy.forward opens connections and asks the affinity; it is called only when the near answer or an idle
connection is missing).

Theory of operation. Reading and answering are two small machines that meet at the request:

    reading   HEAD -> BODY -> HOLD -> HEAD ...       HOLD: the request is in, what follows it waits for its answer
              any  -> DISCARD                        refused or cut short: answer, half-close, read away, close
    phase     NONE -> [ROUTING] -> [CONNECTING] -> SENT -> NONE

A request whose server is known near and has an idle connection runs from data_received to the send to the server
without leaving this file's C functions. Requests of one connection are answered one after the other.

Rules of this file:
- What a server or a client gets is written anew from parsed fields; body bytes are framed anew.
- Nothing goes to a server before its head was accepted whole; bytes of a refused body never go on.
- Before the response head has gone out a failure is answered; after it, the connection is cut so that the client sees
  that the message is not whole (RFC 9112, 8).
- `epoch` names the request: every answer of the slow path carries it and is ignored when the request is another one.
- Buffers are bounded: kept by the limit on heads plus one read, the transports by WRITE_HIGH_BYTES plus one read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastroute._core.http_head cimport (
    FR_BODY_CHUNKED,
    FR_BODY_LENGTH,
    FR_BODY_NONE,
    FR_BODY_UNTIL_CLOSE,
    FR_FIELD_SET_COOKIE,
    FR_FIELD_X_FORWARDED_FOR,
    FR_METHOD_DELETE,
    FR_METHOD_GET,
    FR_METHOD_HEAD,
    FR_METHOD_OPTIONS,
    FR_METHOD_PUT,
    FR_SCAN_DONE,
    FR_SCAN_MORE,
    fr_chunked_next,
    fr_cookie_value,
    fr_field,
    fr_head,
    fr_scan_request,
)
from fastroute._core.affinity_view cimport FR_NEAR_HIT, FR_NEAR_MISS, FR_NEAR_NONE, fr_near
from fastroute._core.http_upstream cimport FR_FAIL_CLOSED, FR_FAIL_TIMEOUT, Lines, ServerLine, Sink, Upstream
from fastroute._core.http_wire cimport (
    Engine,
    Wire,
    fr_out,
    fr_out_chunk,
    fr_out_clear,
    fr_out_decimal,
    fr_out_drop,
    fr_out_free,
    fr_out_put,
    fr_out_text,
)
from fastroute._core.router cimport Router
from fastroute._core.selection cimport Selection, make_selection
from fastroute._core.token cimport FR_TOKEN_OK, TokenCodec, fr_token

from fastroute.errors import InternalError

cdef extern from "fr_forward.h" nogil:
    ctypedef struct fr_forward_request:
        const uint8_t *cookie
        size_t cookie_size
        const uint8_t *peer
        size_t peer_size
        int trusted
        int tls
    ctypedef struct fr_forward_response:
        const uint8_t *cookie
        size_t cookie_size
        const uint8_t *date
        size_t date_size
        int body
        int close
    void fr_write_request(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_request *how) noexcept
    int fr_write_response(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_response *how) noexcept
    bint fr_sets_cookie(const uint8_t *data, const fr_field *field, const uint8_t *name, size_t name_size, size_t *at, size_t *size) noexcept
    long fr_find_field(const uint8_t *data, const fr_head *head, const char *name, size_t name_size, size_t *value_at) noexcept
    int fr_max_forwards(const uint8_t *data, const fr_head *head) noexcept

# After a refusal the client may still be sending; closing at once would reset the connection and take the answer with
# it (RFC 9112, 9.6). nginx: lingering_timeout 5 s; the answers here are short.
cdef uint64_t LINGER_MS = 2000
# Body bytes at least this many are passed on as the object they came in, without a copy.
cdef Py_ssize_t WHOLE_BYTES = 4096
# Longest affinity key; fastroute.routing.keys has the same.
cdef Py_ssize_t KEY_BYTES_MAX = 4096
# What one write to a client gathers at most.
cdef size_t GATHER_BYTES = 256 << 10

cdef enum:
    READ_HEAD = 0
    READ_BODY = 1
    READ_HOLD = 2
    READ_DISCARD = 3

cdef enum:
    PHASE_NONE = 0
    PHASE_ROUTING = 1
    PHASE_CONNECTING = 2
    PHASE_SENT = 3

cdef str REASON_NEAR = "affinity-near"
cdef str REASON_POLICY = "policy"

cdef dict REASON_PHRASES = {
    200: b"OK", 400: b"Bad Request", 408: b"Request Timeout", 413: b"Content Too Large",
    414: b"URI Too Long", 417: b"Expectation Failed", 421: b"Misdirected Request", 426: b"Upgrade Required",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway",
    503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}


cdef inline uint64_t _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef class Relay:
    """One listener's settings, compiled; makes its Downstreams.

    Args:
        engine, lines, router: what connections work with.
        slow: object with route(downstream, epoch, key, hint), move(downstream, epoch, selection, timed_out) and
            connect(downstream, epoch, line); none waits. hint: None or (server digest, term, generation).
        limits, timeouts: fastroute.config.schema.ListenerLimits and ListenerTimeouts.
        attempts: beyond the first, per request.
        key_kind: "", "insert", "cookie", "header" or "client-ip"; `key_name` is the cookie's or field's name.
        codec: TokenCodec, with "insert".
        ttl_s: idle lifetime of a binding; the cookie is renewed when a quarter has passed.
        cookie_attributes: what follows the value in Set-Cookie, starting with ";".
        trusts: callable address -> bool for peers whose forwarded fields count, or None.
        debug: responses say X-Fastroute.
    """

    def __init__(self, Engine engine, Lines lines, Router router, slow, *, limits, timeouts, attempts, key_kind="", key_name="",
                 TokenCodec codec=None, ttl_s=0, cookie_attributes="", trusts=None, debug=False):
        self.engine, self.lines, self.router, self.pool, self.slow = engine, lines, router, router.pool, slow
        self.connections, self.clients = set(), {}
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
        self.attempts_max = min(attempts, 7)
        self.key_kind = {"": FR_KEY_NONE, "insert": FR_KEY_INSERT, "cookie": FR_KEY_COOKIE, "header": FR_KEY_HEADER,
                         "client-ip": FR_KEY_CLIENT_IP}[key_kind]
        self.name = (key_name.lower() if key_kind == "header" else key_name).encode("ascii")
        if (self.key_kind == FR_KEY_INSERT) != (codec is not None):
            raise InternalError("a codec goes with insert, and only with it")
        self.codec = codec
        self.ttl_minutes = max(1, <uint32_t>((ttl_s + 59) // 60))
        self.set_cookie = (cookie_attributes + "\r\n").encode("ascii")
        self.trusts, self.debug = trusts, debug

    def make(self):
        """A Downstream for one new connection: what create_server takes as its factory."""
        return Downstream(self)

    def close_idle(self):
        """Close the connections that carry no request."""
        for downstream in list(self.connections):
            (<Downstream>downstream)._close_if_idle()

    def abort(self):
        """Close every connection now."""
        for downstream in list(self.connections):
            (<Downstream>downstream).abort(False)


cdef class Downstream(Sink):
    """One client connection; an asyncio protocol."""

    def __init__(self, Relay relay):
        self.relay = relay
        self.engine = relay.engine

    def __dealloc__(self):
        fr_out_free(&self.kept)

    # ---- reading -----------------------------------------------------------------------------------------------

    cdef Py_ssize_t _consume(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Take what can be taken now; the caller keeps the rest."""
        cdef fr_head *head = self.engine.request
        cdef Py_ssize_t at = 0, used
        cdef int verdict
        self.consuming = True
        while at < size and not self.closed:
            if self.state == READ_HEAD:
                if self.writing_paused:  # answers wait for the client: no further one is asked for
                    self.hold()
                    break
                verdict = fr_scan_request(data + at, size - at, &self.searched, &self.relay.limits, head)
                if verdict == FR_SCAN_MORE:
                    break
                self.searched = 0
                if verdict != FR_SCAN_DONE:
                    self._refuse_head(-verdict)
                    at = size
                else:
                    at += head.head_size
                    at += self._begin(data + at - head.head_size, head, size - at)
            elif self.state == READ_BODY:
                if self.phase != PHASE_SENT:
                    self.hold()
                    break
                used = self._body(data + at, size - at)
                at = size if used < 0 else at + used
            elif self.state == READ_HOLD:
                self.hold()
                break
            else:
                at = size
        self.consuming = False
        return at

    cdef void _consume_kept(self) noexcept:
        cdef Py_ssize_t used
        if self.kept.size and not self.consuming and not self.closed:
            used = self._consume(self.kept.data, self.kept.size)
            fr_out_drop(&self.kept, used)
        if self.state == READ_HEAD and self.kept.size and not self.closed:
            self.arm(self.relay.head_ms)

    cdef Py_ssize_t _body(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Pass on body bytes of the present request; -1: refused."""
        cdef fr_out *out = &self.engine.out
        cdef Py_ssize_t used
        if self.body == FR_BODY_LENGTH:
            used = size if <uint64_t>size <= self.left else <Py_ssize_t>self.left
            self.left -= used
            if self.left == 0:
                self._request_is_in()
            self.request = None
            self.up.more(data, used, self.request_complete)
        else:
            used = self._chunks(data, size)
            if used >= 0:
                self.request = None
                self.up.more(out.data, out.size, self.request_complete)
            fr_out_clear(out)
        if used >= 0 and not self.request_complete:
            self.arm(self.relay.body_ms)
        return used

    cdef Py_ssize_t _chunks(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Decode chunks and frame them anew into the scratch buffer; -1: refused."""
        cdef fr_out *out = &self.engine.out
        cdef size_t at = 0, run_at = 0, run_size = 0
        cdef int step
        while True:
            step = fr_chunked_next(&self.chunked, data, size, &at, &run_at, &run_size)
            if step == 1:
                self.body_bytes += run_size
                if self.relay.body_bytes_max and self.body_bytes > self.relay.body_bytes_max:
                    self.engine.counts.limit_body += 1
                    self._refuse(413)
                    return -1
                fr_out_chunk(out, data + run_at, run_size)
            elif step == 2:
                fr_out_text(out, b"0\r\n\r\n")
                self._request_is_in()
                return at
            elif step == 0:
                # A chunk over the limit is refused when it is announced, not when it has come.
                if self.relay.body_bytes_max and self.chunked.left > self.relay.body_bytes_max - self.body_bytes:
                    self.engine.counts.limit_body += 1
                    self._refuse(413)
                    return -1
                return at
            else:
                self._refuse(-step)
                return -1

    cdef void _request_is_in(self) noexcept:
        self.request_complete = True
        self.state = READ_HOLD
        self.disarm()

    # ---- one request -------------------------------------------------------------------------------------------

    cdef Py_ssize_t _begin(self, const uint8_t *data, const fr_head *head, Py_ssize_t more) noexcept:
        """A whole head stands at data, `more` bytes behind it; -> how many of those were used."""
        cdef Relay relay = self.relay
        cdef fr_out *out = &self.engine.out
        cdef fr_forward_request how
        cdef Py_ssize_t used = 0
        self.epoch += 1
        self.served += 1
        self.engine.counts.requests += 1
        self.is_head = head.method == FR_METHOD_HEAD
        self.http10 = head.minor == 0
        self.idempotent = (head.method == FR_METHOD_GET or head.method == FR_METHOD_HEAD or head.method == FR_METHOD_PUT
                           or head.method == FR_METHOD_DELETE or head.method == FR_METHOD_OPTIONS)
        self.client_keeps = self.keep = head.keep_alive
        if relay.requests_per_connection and self.served >= relay.requests_per_connection:
            self.engine.counts.limit_requests_per_connection += 1
            self.keep = False
        self.head_sent = self.head_flushed = self.refreshed = self.has_token = self.fresh_token = self.touch = self.bound = False
        self.selection = None
        self.tried_count = self.attempts = self.swallowed = 0
        self.body = head.body
        self.expects = head.expect_continue
        self.body_bytes = 0
        self.request_complete = head.body == FR_BODY_NONE or (head.body == FR_BODY_LENGTH and head.content_length == 0)
        self.state = READ_HOLD if self.request_complete else READ_BODY
        if head.body == FR_BODY_LENGTH and relay.body_bytes_max and head.content_length > relay.body_bytes_max:
            self.engine.counts.limit_body += 1
            self._refuse(413)
            return more
        if fr_max_forwards(data, head) == 0:
            self._answer(200, not self.request_complete)
            return 0
        how.trusted = self.trusted
        how.tls = 0
        how.peer = <const uint8_t *>PyBytes_AS_STRING(self.peer)
        how.peer_size = PyBytes_GET_SIZE(self.peer)
        how.cookie_size = 0
        how.cookie = NULL
        if relay.key_kind == FR_KEY_INSERT:
            how.cookie = <const uint8_t *>PyBytes_AS_STRING(relay.name)
            how.cookie_size = PyBytes_GET_SIZE(relay.name)
        fr_out_clear(out)
        fr_write_request(out, data, head, &how)
        if not self.request_complete:
            if head.body == FR_BODY_LENGTH:
                self.left = head.content_length
                used = more if <uint64_t>more <= self.left else <Py_ssize_t>self.left
                fr_out_put(out, data + head.head_size, used)
                self.left -= used
                if self.left == 0:
                    self._request_is_in()
            else:
                memset(&self.chunked, 0, sizeof(self.chunked))
                used = self._chunks(data + head.head_size, more)
                if used < 0:
                    return more
        if self.request_complete:
            self.disarm()
        else:
            self.arm(relay.body_ms)
        if out.failed:
            self._refuse(503)
            return more
        self.request = PyBytes_FromStringAndSize(<const char *>out.data, out.size)
        fr_out_clear(out)
        self._route(data, head)
        return used

    cdef void _route(self, const uint8_t *data, const fr_head *head) noexcept:
        """Find the request's key, and its server if that is known near."""
        cdef Relay relay = self.relay
        cdef const uint8_t *key = NULL
        cdef Py_ssize_t size = 0
        cdef size_t at = 0
        cdef fr_near near
        cdef int status, verdict
        cdef uint32_t age
        cdef bint hint = False
        self.key = None
        self.reason = REASON_POLICY
        if relay.key_kind == FR_KEY_INSERT:
            size = fr_cookie_value(data, head, <const uint8_t *>PyBytes_AS_STRING(relay.name), PyBytes_GET_SIZE(relay.name), &at)
            if size > 0:
                verdict = relay.codec.verify(data + at, size, &self.token)
                if verdict != FR_TOKEN_OK:
                    self.engine.counts.cookie_rejected[verdict if verdict < 5 else 1] += 1
                else:
                    # A clock behind the issuer's makes no cookie old; one far behind it makes the cookie void.
                    age = self.engine.minute - self.token.issued_minute if self.engine.minute > self.token.issued_minute else 0
                    if (age > relay.ttl_minutes + (relay.ttl_minutes + 3) // 4
                            or self.token.issued_minute > self.engine.minute + relay.ttl_minutes):
                        self.engine.counts.cookie_rejected[5] += 1
                    else:
                        # Issued up to a quarter before its user's last request: past ttl the binding may live, the hint not.
                        self.has_token = True
                        hint = age <= relay.ttl_minutes
                        key, size = self.token.key, sizeof(self.token.key)
            if not self.has_token:
                self._new_user()
                return
        elif relay.key_kind == FR_KEY_COOKIE:
            size = fr_cookie_value(data, head, <const uint8_t *>PyBytes_AS_STRING(relay.name), PyBytes_GET_SIZE(relay.name), &at)
            key = data + at
        elif relay.key_kind == FR_KEY_HEADER:
            size = fr_find_field(data, head, PyBytes_AS_STRING(relay.name), PyBytes_GET_SIZE(relay.name), &at)
            key = data + at
        elif relay.key_kind == FR_KEY_CLIENT_IP:
            key, size = <const uint8_t *>PyBytes_AS_STRING(self.peer), PyBytes_GET_SIZE(self.peer)
            if self.trusted:
                self._forwarded_client(data, head, &key, &size)
        if size <= 0 or size > KEY_BYTES_MAX:
            key, size = NULL, 0
        else:
            self.key = PyBytes_FromStringAndSize(<const char *>key, size)
        status = relay.router.near(key, size, &near)
        if status == FR_NEAR_NONE:
            self._answer(503, not self.request_complete)
        elif status == FR_NEAR_MISS or (status == FR_NEAR_HIT and hint and near.term == self.token.term
                                        and near.generation < self.token.generation):
            if not self._wait(PHASE_ROUTING):
                return
            try:
                relay.slow.route(self, self.epoch, self.key,
                                 (self.token.server_digest, self.token.term, self.token.generation) if hint else None)
            except Exception:
                self._answer(500, not self.request_complete)
        else:
            self.term, self.generation = near.term, near.generation
            if status == FR_NEAR_HIT:
                self.bound = True
                self.touch = near.wants_touch
                self.reason = REASON_NEAR
            self._go(near.slot)

    cdef void _new_user(self) noexcept:
        """A client without a usable cookie of ours: the policy decides, and the cookie is the binding's first form."""
        cdef int slot = self.relay.pool.pick(NULL, 0)
        if slot < 0:
            self._answer(503, not self.request_complete)
            return
        self.fresh_token = True
        self.engine.random(self.token.key, sizeof(self.token.key))
        self.token.term = 0
        while self.token.term == 0:
            self.engine.random(<uint8_t *>&self.token.term, sizeof(self.token.term))
        self.token.generation = 1
        self._go(slot)

    cdef void _forwarded_client(self, const uint8_t *data, const fr_head *head, const uint8_t **key, Py_ssize_t *size) noexcept:
        """The address that a trusted peer says it speaks for: the last one it or its like added."""
        cdef unsigned int i
        cdef Py_ssize_t start, end, stop
        for i in range(head.field_count, 0, -1):
            if head.fields[i - 1].id == FR_FIELD_X_FORWARDED_FOR:
                start = head.fields[i - 1].value_at
                end = start + head.fields[i - 1].value_size
                stop = end
                while stop > start and data[stop - 1] != c",":
                    stop -= 1
                while stop < end and (data[stop] == c" " or data[stop] == c"\t"):
                    stop += 1
                if stop < end:
                    key[0], size[0] = data + stop, end - stop
                return

    cdef bint _wait(self, int phase) noexcept:
        """The request waits for something slow; False: too many do, and it was answered."""
        self.phase = phase
        if not self.waiting:
            if self.relay.lines.pending >= self.relay.lines.pending_max > 0:
                self.engine.counts.limit_pending += 1
                self._count_out(False)  # no fault of the server's
                self._answer(503, not self.request_complete)
                return False
            self.waiting = True
            self.relay.lines.pending += 1
        if not self.request_complete:
            self.hold()
            self.disarm()
        return True

    cdef void _waited(self) noexcept:
        if self.waiting:
            self.waiting = False
            self.relay.lines.pending -= 1

    cdef void _go(self, int slot) noexcept:
        """Send the request to the server in this slot, over an idle connection if there is one."""
        cdef Upstream up
        self.slot = slot
        self.relay.pool.begin(slot)
        self.begun = True
        self.started_ns = _now_ns()
        try:
            self.line = self.relay.lines.line(slot)
            if not self.refreshed:
                while True:
                    up = self.line.take(not self.idempotent)
                    if up is None:
                        break
                    if up.begin(self, self.request, self.is_head, self.request_complete) == 0:
                        self._sent(up)
                        return
            if self._wait(PHASE_CONNECTING):
                self.relay.slow.connect(self, self.epoch, self.line)
        except Exception as error:
            self._unexpected(error)

    cdef void _sent(self, Upstream up) noexcept:
        self._waited()
        self.up = up
        self.phase = PHASE_SENT
        if self.touch:
            self.touch = False
            try:
                self.relay.router.touch_soon(self.key)
            except Exception as error:
                self._report(error)
        if up.writing_paused:
            self.hold()
        elif not self.request_complete:
            self.unhold()
            self.arm(self.relay.body_ms)
            self._consume_kept()  # nothing, when the caller is still reading: it goes on by itself

    cdef void _count_out(self, bint failed) noexcept:
        if self.begun:
            self.begun = False
            self.relay.pool.end(self.slot, failed, self.latency_ns)
        self.latency_ns = 0

    cdef void _try_another(self, int status) noexcept:
        """The chosen server failed and nothing was executed: choose another one, or answer with status."""
        cdef int slot
        if self.attempts >= self.relay.attempts_max:
            self._answer(status, not self.request_complete)
            return
        self.tried[self.tried_count] = <uint16_t>self.slot
        self.tried_count += 1
        self.attempts += 1
        self.refreshed = False
        self.engine.counts.retries += 1
        if self.bound:
            try:
                selection = self.selection
                if selection is None:
                    selection = make_selection(self.relay.pool, self.line.server, self.slot, REASON_NEAR, self.key, self.term, self.generation)
                if self._wait(PHASE_ROUTING):
                    self.relay.slow.move(self, self.epoch, selection, status == 504)
            except Exception as error:
                self._unexpected(error)
            return
        if self.key is None:
            slot = self.relay.pool.pick_other(NULL, 0, self.tried, self.tried_count)
        else:
            slot = self.relay.pool.pick_other(<const uint8_t *>PyBytes_AS_STRING(self.key), PyBytes_GET_SIZE(self.key), self.tried, self.tried_count)
        if slot < 0:
            self.engine.counts.retries_failed += 1
            self._answer(status, not self.request_complete)
        else:
            self._go(slot)

    # ---- answers of our own ------------------------------------------------------------------------------------

    cdef void _answer(self, int status, bint end) noexcept:
        """Answer in the server's place. end: the connection ends, for the request was not read whole or not understood."""
        cdef fr_out *out = &self.engine.out
        cdef bytes phrase
        if self.up is not None:
            self.up.forget()
            self.up = None
        self._waited()
        self._count_out(status >= 502)
        self.epoch += 1
        if self.closed:
            return
        if end or self.engine.draining:
            self.keep = False
        self.engine.counts.responses[status // 100] += 1
        phrase = <bytes>REASON_PHRASES[status]
        fr_out_clear(out)
        fr_out_text(out, b"HTTP/1.1 ")
        fr_out_decimal(out, status)
        fr_out_text(out, b" ")
        fr_out_put(out, PyBytes_AS_STRING(phrase), PyBytes_GET_SIZE(phrase))
        fr_out_text(out, b"\r\nDate: ")
        fr_out_put(out, self.engine.date, self.engine.date_size)
        fr_out_text(out, b"\r\nContent-Type: text/plain\r\nContent-Length: ")
        fr_out_decimal(out, PyBytes_GET_SIZE(phrase) + 1)
        if not self.keep:
            fr_out_text(out, b"\r\nConnection: close")
        fr_out_text(out, b"\r\n\r\n")
        if not self.is_head:
            fr_out_put(out, PyBytes_AS_STRING(phrase), PyBytes_GET_SIZE(phrase))
            fr_out_text(out, b"\n")
        self.put(out.data, out.size)
        fr_out_clear(out)
        self._over()

    cdef void _refuse(self, int status) noexcept:
        """The request cannot be accepted: say so if that is still possible, and end the connection."""
        self.engine.counts.refused += 1
        fr_out_clear(&self.engine.out)  # it held the request's bytes
        if self.head_sent:
            self._cut()
        else:
            self._answer(status, True)

    cdef void _refuse_head(self, int status) noexcept:
        if status == 431 or status == 414:
            self.engine.counts.limit_head += 1
        self.is_head = self.http10 = self.head_sent = self.head_flushed = self.request_complete = False
        self._refuse(status)

    cdef void _cut(self) noexcept:
        """The response cannot be finished: make that visible."""
        cdef fr_out *out = &self.engine.out
        if self.up is not None:
            self.up.forget()
            self.up = None
        if out.size:
            self.put(out.data, out.size)
            fr_out_clear(out)
        self.epoch += 1
        self.phase = PHASE_NONE
        self._count_out(True)
        self.engine.counts.truncated += 1
        # A body that ends with the connection looks whole unless the connection is reset.
        if self.out_body == FR_BODY_UNTIL_CLOSE:
            self.abort(True)
        else:
            self.close()

    cdef void _unexpected(self, error) noexcept:
        self._report(error)
        if self.head_sent:
            self._cut()
        else:
            self._answer(500, not self.request_complete)

    cdef void _report(self, error) noexcept:
        try:
            self.engine.loop.call_exception_handler({"message": "fastroute: unexpected error in the relay", "exception": error})
        except Exception:
            pass

    # ---- after an answer ---------------------------------------------------------------------------------------

    cdef void _over(self) noexcept:
        """The answer has gone out: the next request, or the end."""
        self.phase = PHASE_NONE
        self.request = self.key = None
        self.selection = None
        self.up = None
        self.line = None
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
            self.state = READ_HEAD
            self.arm(self.relay.idle_ms)
            self.unhold()
            if not self.consuming:
                self._next()

    cdef void _next(self) noexcept:
        """Go on with the requests that wait; after the last one of a client that sends no more, end."""
        self._consume_kept()
        if self.eof and self.state == READ_HEAD and not self.writing_paused and not self.closed:
            self.close()

    cdef void _linger(self) noexcept:
        """Say that no more comes, read away what the client still sends, then close."""
        self.state = READ_DISCARD
        fr_out_clear(&self.kept)
        if self.eof:
            self.close()
            return
        try:
            self.transport.write_eof()
            self.unhold()
        except Exception:
            self.abort(False)
            return
        self.unsent_before = self.unsent()
        self.arm(LINGER_MS)

    cdef void _close_if_idle(self) noexcept:
        if self.phase == PHASE_NONE and self.state == READ_HEAD and self.kept.size == 0:
            self.close()

    # ---- the server's answer -----------------------------------------------------------------------------------

    cdef void on_interim(self, const uint8_t *data, const fr_head *head) noexcept:
        cdef fr_forward_response how
        self.engine.counts.responses[1] += 1
        if self.http10:
            return
        memset(&how, 0, sizeof(how))
        if self.relay.key_kind == FR_KEY_INSERT:
            how.cookie = <const uint8_t *>PyBytes_AS_STRING(self.relay.name)
            how.cookie_size = PyBytes_GET_SIZE(self.relay.name)
        self.engine.counts.cookie_overwritten += fr_write_response(&self.engine.out, data, head, &how)
        fr_out_text(&self.engine.out, b"\r\n")

    cdef void on_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept:
        cdef Relay relay = self.relay
        cdef fr_out *out = &self.engine.out
        cdef fr_forward_response how
        cdef int code = head.status // 100
        self.latency_ns = _now_ns() - self.started_ns
        self.engine.counts.responses[code if code <= 5 else 0] += 1
        self.out_body = framing
        if framing == FR_BODY_CHUNKED or framing == FR_BODY_UNTIL_CLOSE:
            self.out_body = FR_BODY_UNTIL_CLOSE if self.http10 else FR_BODY_CHUNKED
        if self.out_body == FR_BODY_UNTIL_CLOSE or not self.request_complete or self.engine.draining:
            self.keep = False
        how.cookie = NULL
        how.cookie_size = 0
        if relay.key_kind == FR_KEY_INSERT:
            how.cookie = <const uint8_t *>PyBytes_AS_STRING(relay.name)
            how.cookie_size = PyBytes_GET_SIZE(relay.name)
        how.date = self.engine.date
        how.date_size = self.engine.date_size
        how.body = self.out_body
        how.close = not self.keep
        self.engine.counts.cookie_overwritten += fr_write_response(out, data, head, &how)
        if relay.key_kind == FR_KEY_INSERT:
            self._put_cookie(out)
        elif relay.key_kind == FR_KEY_COOKIE:
            self._learn(data, head)
        if relay.debug:
            self._put_debug(out)
        fr_out_text(out, b"\r\n")
        self.head_sent = True

    cdef void _put_cookie(self, fr_out *out) noexcept:
        """Set-Cookie of the balancer's own cookie, when it is due."""
        cdef uint8_t text[160]
        cdef Py_ssize_t size
        cdef uint32_t age
        if self.fresh_token:
            pass
        elif not self.bound:
            return
        elif self.term != self.token.term or self.generation != self.token.generation:
            self.token.term, self.token.generation = self.term, self.generation
        else:
            age = self.engine.minute - self.token.issued_minute if self.engine.minute > self.token.issued_minute else 0
            if age * 4 < self.relay.ttl_minutes:
                return
        self.token.server_digest = self.line.digest
        self.token.issued_minute = self.engine.minute
        size = self.relay.codec.sign(&self.token, text)
        fr_out_text(out, b"Set-Cookie: ")
        fr_out_put(out, PyBytes_AS_STRING(self.relay.name), PyBytes_GET_SIZE(self.relay.name))
        fr_out_text(out, b"=")
        fr_out_put(out, text, size)
        fr_out_put(out, PyBytes_AS_STRING(self.relay.set_cookie), PyBytes_GET_SIZE(self.relay.set_cookie))
        self.engine.counts.cookies_set += 1

    cdef void _learn(self, const uint8_t *data, const fr_head *head) noexcept:
        """A server that gives a client a session has it: remember that before the session is first shown to us."""
        cdef unsigned int i
        cdef size_t at = 0, size = 0
        for i in range(head.field_count):
            if head.fields[i].id != FR_FIELD_SET_COOKIE:
                continue
            if not fr_sets_cookie(data, &head.fields[i], <const uint8_t *>PyBytes_AS_STRING(self.relay.name),
                                  PyBytes_GET_SIZE(self.relay.name), &at, &size):
                continue
            if size == 0 or <Py_ssize_t>size > KEY_BYTES_MAX:
                continue
            if (self.key is not None and <size_t>PyBytes_GET_SIZE(self.key) == size
                    and memcmp(PyBytes_AS_STRING(self.key), data + at, size) == 0):
                continue
            try:
                self.relay.router.learn(PyBytes_FromStringAndSize(<const char *>data + at, size), self.slot)
            except Exception as error:
                self._report(error)

    cdef void _put_debug(self, fr_out *out) noexcept:
        cdef bytes text
        try:
            text = f"X-Fastroute: server={self.line.server.name}; reason={self.reason}\r\n".encode("ascii")
            fr_out_put(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        except Exception as error:
            self._report(error)

    cdef void on_body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        cdef fr_out *out = &self.engine.out
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
        if out.failed:
            self.abort(False)
        elif out.size:
            self.head_flushed = self.head_sent
            self.put(out.data, out.size)
        fr_out_clear(out)

    cdef void on_end(self) noexcept:
        self.up = None  # it is idle, or another's: what this client does from here on must not pause it
        if self.out_body == FR_BODY_CHUNKED:
            fr_out_text(&self.engine.out, b"0\r\n\r\n")
        self.on_flush()
        self._count_out(False)
        self._over()

    cdef void on_fail(self, int how, bint reused) noexcept:
        self.up = None
        if self.head_flushed:
            self._cut()
            return
        fr_out_clear(&self.engine.out)
        self.head_sent = False  # it had not left yet
        if how == FR_FAIL_CLOSED and self.request is not None and self.idempotent and not self.closed:
            self._count_out(not reused)
            if not reused:
                self.swallowed += 1
            # A fresh connection that ends unanswered may have executed the request: no more often than configured.
            if self.swallowed <= self.relay.attempts_max:
                if not self.refreshed and (reused or self.bound):
                    # The server closed an idle connection as we wrote, or went away: a fresh connection tells which.
                    self.refreshed = True
                    self.engine.counts.retries += 1
                    self._go(self.slot)
                    return
                if not self.bound:
                    self._try_another(502)
                    return
        self._answer(504 if how == FR_FAIL_TIMEOUT else 502, not self.request_complete)

    cdef void on_flow(self, bint paused) noexcept:
        if self.state != READ_BODY:
            return
        if paused:
            self.hold()
            self.disarm()
        else:
            self.unhold()
            self.arm(self.relay.body_ms)
            self._consume_kept()

    # ---- what the slow path calls ------------------------------------------------------------------------------

    def routed(self, uint64_t epoch, Selection selection not None):
        """The affinity's answer."""
        if epoch != self.epoch or self.phase != PHASE_ROUTING:
            return
        self.selection, self.reason = selection, selection.reason
        self.term, self.generation = selection.term, selection.generation
        self.bound = selection.term != 0
        self._go(selection.slot)

    def unrouted(self, uint64_t epoch, int status):
        """No server, or no answer: `status` goes to the client."""
        if epoch == self.epoch and self.phase == PHASE_ROUTING:
            if self.attempts:
                self.engine.counts.retries_failed += 1
            self._answer(status, not self.request_complete)

    def connected(self, uint64_t epoch, Upstream upstream not None):
        """A fresh connection; False: nobody waits for it any more."""
        if epoch != self.epoch or self.phase != PHASE_CONNECTING:
            return False
        if (not upstream.closed and not upstream.eof
                and upstream.begin(self, self.request, self.is_head, self.request_complete) == 0):
            self._sent(upstream)
        else:  # it ended before anything was sent: as good as a refusal
            upstream.abort(False)
            self.connect_failed(epoch, False)
        return True

    def connect_failed(self, uint64_t epoch, bint timed_out):
        """The server could not be reached; nothing was sent."""
        if epoch != self.epoch or self.phase != PHASE_CONNECTING:
            return
        self._count_out(True)
        self._try_another(504 if timed_out else 502)

    def unconnected(self, uint64_t epoch, int status):
        """No connection, and not for the server's sake: `status` goes to the client."""
        if epoch == self.epoch and self.phase == PHASE_CONNECTING:
            self._count_out(False)
            self._answer(status, not self.request_complete)

    # ---- what the event loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef Relay relay = self.relay
        self.attach(transport)
        self.engine.counts.downstream_accepted += 1
        self.engine.counts.downstream_connections += 1
        relay.connections.add(self)
        name = transport.get_extra_info("peername")
        text = name[0] if isinstance(name, tuple) else "unix:"
        if text.startswith("::ffff:"):
            text = text[7:]
        self.peer = text.partition("%")[0].encode("ascii", "replace")
        self.trusted = relay.trusts is not None and relay.trusts(text)
        self.keep = self.client_keeps = self.request_complete = True
        if relay.connections_max and <uint32_t>len(relay.connections) > relay.connections_max:
            self.engine.counts.limit_connections += 1
            self._answer(503, True)
        elif relay.connections_per_client and not self.trusted and isinstance(name, tuple):  # a unix socket's have no address
            open_count = relay.clients.get(self.peer, 0) + 1
            relay.clients[self.peer] = open_count
            self.counted = True
            if <uint32_t>open_count > relay.connections_per_client:
                self.engine.counts.limit_connections_per_client += 1
                self._answer(503, True)
        if not self.closed and self.state == READ_HEAD:
            self.arm(relay.head_ms)

    def data_received(self, data):
        cdef bytes whole
        cdef Py_ssize_t used, size
        cdef bint partial
        if self.closed or self.state == READ_DISCARD:
            return
        whole = <bytes>data if type(data) is bytes else bytes(data)
        size = PyBytes_GET_SIZE(whole)
        partial = self.kept.size > 0
        if partial:
            fr_out_put(&self.kept, PyBytes_AS_STRING(whole), size)
            used = self._consume(self.kept.data, self.kept.size)
            fr_out_drop(&self.kept, used)
        else:
            used = self._consume(<const uint8_t *>PyBytes_AS_STRING(whole), size)
            if used < size and not self.closed:
                fr_out_put(&self.kept, PyBytes_AS_STRING(whole) + used, size - used)
        if self.state == READ_HEAD and self.kept.size and not self.closed and (not partial or used):
            self.arm(self.relay.head_ms)
        if self.kept.failed:
            self.abort(False)

    def eof_received(self):
        self.eof = True
        if self.closed:
            return None
        if self.state == READ_HOLD:  # a half-close: the answer is still wanted
            return True
        if self.state == READ_HEAD and self.kept.size:
            self._refuse_head(400)
        elif self.state == READ_BODY:
            if self.phase != PHASE_NONE:
                self.engine.counts.aborted_by_client += 1
            self._drop()
        return None

    cdef void _drop(self) noexcept:
        """The client is gone: so is its request."""
        self.epoch += 1
        self._waited()
        if self.up is not None:
            self.up.forget()
            self.up = None
        self._count_out(False)
        self.phase = PHASE_NONE
        self.abort(False)

    cdef void gone(self, object error) noexcept:
        self.engine.counts.downstream_connections -= 1
        self.relay.connections.discard(self)
        if self.counted:
            self.counted = False
            count = self.relay.clients.pop(self.peer, 1) - 1
            if count:
                self.relay.clients[self.peer] = count
        if self.phase != PHASE_NONE:
            self.engine.counts.aborted_by_client += 1
            self._drop()
        self.request = self.key = None
        self.selection = None
        self.line = None
        fr_out_clear(&self.kept)

    cdef void expired(self) noexcept:
        if self.closed:
            Wire.expired(self)
            return
        if self.state == READ_HEAD and not self.writing_paused:
            if self.kept.size:
                self.engine.counts.timeout_head += 1
                self._refuse_head(408)
            else:
                self.engine.counts.timeout_idle += 1
                self.close()
        elif self.state == READ_DISCARD:
            if self.stalled():
                self.abort(False)
            else:
                self.arm(LINGER_MS)
        elif self.writing_paused:
            if self.stalled():
                self.engine.counts.timeout_send += 1
                self._drop()
            else:
                self.arm(self.relay.idle_ms)
        elif self.state == READ_BODY and not self.reading_paused:
            self.engine.counts.timeout_body += 1
            # A client that waits for a 100 which it did not get, or did not understand, asks again without it after a
            # 417 (RFC 9110, 10.1.1); after a 408 it would only wait again.
            self._refuse(417 if self.expects and self.request is not None else 408)

    cdef void flow(self) noexcept:
        """The client reads slower than the server sends, or again."""
        if self.writing_paused:
            if self.up is not None:
                self.up.hold()
                self.up.disarm()
            self.unsent_before = self.unsent()
            self.arm(self.relay.idle_ms)
        else:
            if self.state == READ_HOLD:
                self.disarm()
            elif self.state == READ_BODY:
                self.arm(self.relay.body_ms)
            elif self.state == READ_HEAD:
                self.arm(self.relay.idle_ms)
                self.unhold()
                self._next()
            if self.up is not None and self.up.reading_paused:
                self.up.unhold()
                self.up.arm(self.relay.lines.response_ms)
