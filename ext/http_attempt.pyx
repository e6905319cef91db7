"""The request's way to a server: which one, over which connection, and what happens when that fails.

Not here: reading it (http_reading), the response (http_relay), what waits (Python: fastroute.proxy.forward opens connections
and asks the affinity; it is called only when the near answer or an idle connection is missing).

    phase     NONE -> [GATHERING] -> [ROUTING] -> [QUEUED] -> [CONNECTING] -> SENT -> NONE

A request whose server is known near and has an idle connection runs from its head to the send without leaving C.

Rules of this file:
- A request is tried again only if nothing of an answer came and either nothing was sent, or it is idempotent and all of it
  is still at hand (RFC 9110, 9.2.2). A bound one is moved first: written before it is forwarded.
- Retries of requests that had reached a server are bounded by the pool's budget: a server in trouble must not get its
  load twice (Envoy: retry_budget). A refused connection cost no server anything and is outside of it.
- `epoch` names the request: every answer of the slow path carries it and is ignored when the request is another one.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastroute._core.affinity_view cimport FR_NEAR_HIT, FR_NEAR_MISS, FR_NEAR_NONE, AffinityView, Binding, fr_near
from fastroute._core.board cimport FR_WHY_NEAR, FR_WHY_OTHER, FR_WHY_POLICY, fr_observe
from fastroute._core.http_facts cimport Facts
from fastroute._core.http_fields cimport FR_PIECE_HOST, fr_field_rules, fr_fields_drop, fr_text
from fastroute._core.http_head cimport (
    FR_BODY_CHUNKED,
    FR_BODY_LENGTH,
    FR_BODY_NONE,
    FR_METHOD_DELETE,
    FR_METHOD_GET,
    FR_METHOD_HEAD,
    FR_METHOD_OPTIONS,
    FR_METHOD_PUT,
    fr_chunked,
    fr_chunked_next,
    fr_head,
)
from fastroute._core.http_reading cimport (
    FR_PHASE_CONNECTING, FR_PHASE_GATHERING, FR_PHASE_NONE, FR_PHASE_QUEUED, FR_PHASE_ROUTING, FR_PHASE_SENT, FR_READ_BODY, FR_READ_HOLD, FR_READ_TUNNEL
)
from fastroute._core.http_sticky cimport FR_FROM_INSERT
from fastroute._core.http_route cimport Route
from fastroute._core.http_terms cimport Terms, plain_address
from fastroute._core.http_upstream cimport FR_FAIL_CLOSED, FR_FAIL_TIMEOUT, Upstream
from fastroute._core.http_wire cimport fr_now_ns, fr_out, fr_out_clear, fr_out_free, fr_out_put
from fastroute._core.selection cimport Selection, make_selection
from fastroute._core.token cimport fr_token

from fastroute._core.board import REASONS as _REASONS

cdef extern from "fr_forward.h" nogil:
    ctypedef struct fr_forward_extra:
        const fr_field_rules *rules
        const fr_field_rules *more
        fr_text id_name
        int forwarded
        fr_text values[7]
    ctypedef struct fr_forward_request:
        const uint8_t *cookie
        size_t cookie_size
        const uint8_t *peer
        size_t peer_size
        int trusted
        int tls
        int upgrade
        const fr_forward_extra *extra
    void fr_write_request(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_request *how) noexcept
    int fr_max_forwards(const uint8_t *data, const fr_head *head) noexcept

cdef extern from "fr_upgrade.h" nogil:
    int fr_upgrade_asked(const uint8_t *request, size_t request_size, const uint8_t *data, const fr_head *head) noexcept

# As fastroute._core.http_sticky.JSON_BYTES_MAX.
cdef uint64_t JSON_BYTES_MAX = 64 << 10
cdef extern from *:
    """
    static const char fr_continue[] = "HTTP/1.1 100 Continue\\r\\n\\r\\n";
    """
    const char fr_continue[26]

cdef str REASON_NEAR = "affinity-near"
cdef str REASON_POLICY = "policy"
cdef str REASON_PANIC = "panic"
cdef dict WHY = {reason: i for i, reason in enumerate(_REASONS)}


cdef class Attempt(Facts):
    """One client connection whose requests find servers."""

    def __dealloc__(self):
        fr_out_free(&self.gathered)

    cdef bint know_peer(self) except -1:
        name = self.source if self.source is not None else self.transport.get_extra_info("peername")
        text = plain_address(name[0]) if isinstance(name, tuple) else "unix:"
        self.peer = self.client = text.encode("ascii", "replace")
        self.trusted = self.terms.trusts is not None and self.terms.trusts(text)
        return isinstance(name, tuple)

    def addresses(self):
        """(address, port) of the client, and of where it connected to; None each where there is none."""
        if self.source is not None:
            return self.source, self.destination
        ends = [None, None]
        if self.transport is not None:
            ends = [self.transport.get_extra_info(name) for name in ("peername", "sockname")]
        return tuple([end[:2] if isinstance(end, tuple) else None for end in ends])

    cdef bint from_cache(self, const uint8_t *data, const fr_head *head) noexcept:
        return False

    cdef bint look(self) noexcept:
        return False

    cdef void answer(self, int status, bint end) noexcept:
        pass

    cdef void cut(self) noexcept:
        pass

    cdef void drop(self) noexcept:
        pass

    cdef void tunnel_over(self) noexcept:
        pass

    cdef Py_ssize_t begin(self, const uint8_t *data, const fr_head *head, Py_ssize_t more) noexcept:
        cdef Terms terms = self.terms
        cdef fr_out *out = &self.engine.out
        cdef fr_forward_request how
        cdef fr_forward_extra extra
        cdef Py_ssize_t used = 0
        cdef int status
        cdef Route route = self.terms.route
        if self.trusted:
            self.find_client(data, head)
        if terms.id_name.size:
            self.name_it(data, head)
        if terms.log is not None:
            self.note(data, head)
        if terms.table is not None:
            route = terms.route_of(data, head, self.client)
        self.route = route
        self.epoch += 1
        self.served += 1
        self.engine.counts.requests += 1
        self.is_head = head.method == FR_METHOD_HEAD
        self.http10 = head.minor == 0
        self.idempotent = (head.method == FR_METHOD_GET or head.method == FR_METHOD_HEAD or head.method == FR_METHOD_PUT
                           or head.method == FR_METHOD_DELETE or head.method == FR_METHOD_OPTIONS)
        self.client_keeps = self.keep = head.keep_alive
        if terms.requests_per_connection and self.served >= terms.requests_per_connection:
            self.engine.counts.limit_requests_per_connection += 1
            self.keep = False
        self.begun_ns = self.head_ns = 0
        self.head_sent = self.head_flushed = self.refreshed = self.admitted = False
        self.queue_until_ms = 0
        self.continued = self.binding.wants_body = False
        self.binding.has_token = self.binding.fresh_token = self.binding.touch = self.binding.bound = self.binding.hint = False
        self.binding.old_key = self.binding.news = False
        self.selection = None
        self.tried_count = self.attempts = self.swallowed = 0
        self.body = head.body
        self.expects = head.expect_continue
        self.body_bytes = 0
        self.request_complete = head.body == FR_BODY_NONE or (head.body == FR_BODY_LENGTH and head.content_length == 0)
        self.state = FR_READ_HOLD if self.request_complete else FR_READ_BODY
        if terms.hooks is not None:
            status = self.ask_hook(data, head)
            if status:
                self.answer(status, not self.request_complete)
                return 0
            route = self.route
        if route.lines is None:
            self.answer(404, not self.request_complete)
            return 0
        if not self.active:
            self.active = True
            route.lines.active += 1
        if head.body == FR_BODY_LENGTH and terms.body_bytes_max and head.content_length > terms.body_bytes_max:
            self.engine.counts.limit_body += 1
            self.refuse(413)
            return more
        if fr_max_forwards(data, head) == 0:
            self.answer(200, not self.request_complete)
            return 0
        if route.near is not None and self.from_cache(data, head):
            return 0
        how.extra = NULL
        if terms.extra or route.request_fields is not None or self.hook_fields is not None:
            memset(&extra, 0, sizeof(extra))
            self.fill_values(extra.values)
            extra.values[FR_PIECE_HOST].data, extra.values[FR_PIECE_HOST].size = data + head.authority_at, head.authority_size
            if terms.id_name.size:
                extra.id_name.data, extra.id_name.size = <const uint8_t *>PyBytes_AS_STRING(terms.id_field), terms.id_name.size
            extra.forwarded = terms.forwarded
            if route.request_fields is not None:
                fr_fields_drop(data, self.engine.request, route.request_fields.rules.drops, route.request_fields.rules.drop_count)
                extra.rules = &route.request_fields.rules
            if self.hook_fields is not None:
                fr_fields_drop(data, self.engine.request, self.hook_fields.rules.drops, self.hook_fields.rules.drop_count)
                extra.more = &self.hook_fields.rules
            how.extra = &extra
        how.trusted = self.trusted
        how.tls = terms.tls
        how.upgrade = self.upgrades = head.upgrade
        how.peer = <const uint8_t *>PyBytes_AS_STRING(self.peer)
        how.peer_size = PyBytes_GET_SIZE(self.peer)
        how.cookie = route.sticky.own_cookie(&how.cookie_size)
        fr_out_clear(out)
        fr_write_request(out, data, head, &how)
        self.head_bytes = out.size
        if not self.request_complete:
            used = self.first_of_body(head, data + head.head_size, more)
            if used < 0:
                return more
        if self.request_complete:
            self.disarm()
        else:
            self.arm(terms.body_ms)
        if out.failed:
            self.refuse(503)
            return more
        self.request = PyBytes_FromStringAndSize(<const char *>out.data, out.size)
        fr_out_clear(out)
        self._route(data, head)
        return used

    cdef void go_on(self, const uint8_t *data, Py_ssize_t size, bint last) noexcept:
        if self.phase == FR_PHASE_GATHERING:
            fr_out_put(&self.gathered, data, size)
            if last or self.body_bytes > JSON_BYTES_MAX or self.gathered.failed:
                self._gathered()
            return
        self.request = None
        self.up.more(data, size, last)

    cdef void _route(self, const uint8_t *data, const fr_head *head) noexcept:
        """Find the request's key, and its server if that is known near."""
        cdef Route route = self.route
        cdef const uint8_t *key = NULL
        cdef Py_ssize_t size
        self.key = None
        self.reason = REASON_POLICY
        if self.hook_key is not None:
            self.key, self.binding.rule = self.hook_key, -1
            self._choose()
            return
        if route.sticky.looks_left:
            route.sticky.look(data, head)
        size = route.sticky.find(data, head, self.client, &self.binding, &key)
        if size:
            self.key = PyBytes_FromStringAndSize(<const char *>key, size)
        elif route.sticky.kind == FR_FROM_INSERT and not (self.binding.stale and self._stands()):
            # A client without a usable cookie of ours: the policy decides, and the cookie is the binding's first form.
            route.sticky.invent(&self.binding)
        if self.binding.wants_body:
            self._gather()
        elif route.near is None or not self.look():
            self._choose()

    cdef bint _stands(self) noexcept:
        """The cookie is too old, but does its binding stand? Something of the user's that goes on has kept it up."""
        cdef AffinityView view = self.route.router.view
        try:
            key = PyBytes_FromStringAndSize(<const char *>self.binding.token.key, sizeof(self.binding.token.key))
            if view is None or not isinstance(view.lookup(view.fingerprint(key)), Binding):
                return False
            self.key = key
        except Exception as error:
            self.report(error)
            return False
        self.binding.has_token = True  # an answer brings a new one
        return True

    cdef void _gather(self) noexcept:
        """The key, or a better one, may stand in the JSON body: wait until it is whole."""
        fr_out_clear(&self.gathered)
        fr_out_put(&self.gathered, PyBytes_AS_STRING(self.request), PyBytes_GET_SIZE(self.request))
        self.phase = FR_PHASE_GATHERING
        if self.request_complete or self.gathered.failed or self.body_bytes > JSON_BYTES_MAX:
            self._gathered()
        elif self.expects:  # it waits for a word before it sends the body
            self.continued = True
            self.put(<const uint8_t *>fr_continue, 25)

    cdef void _gathered(self) noexcept:
        """All of the body that is waited for is here."""
        cdef const uint8_t *body = self.gathered.data + self.head_bytes
        cdef const uint8_t *key = NULL
        cdef Py_ssize_t size = self.gathered.size - self.head_bytes
        cdef fr_out plain
        cdef fr_chunked state
        cdef size_t at = 0, run_at = 0, run_size = 0
        if self.gathered.failed:
            fr_out_free(&self.gathered)
            self.answer(503, True)
            return
        if self.request_complete:
            memset(&plain, 0, sizeof(plain))
            if self.body == FR_BODY_CHUNKED:
                memset(&state, 0, sizeof(state))
                while fr_chunked_next(&state, body, size, &at, &run_at, &run_size) == 1:
                    fr_out_put(&plain, body + run_at, run_size)
                body, size = plain.data, plain.size
            if 0 < size <= <Py_ssize_t>JSON_BYTES_MAX:
                size = self.route.sticky.find_in_json(body, size, &key)
                if size > 0:
                    self.key = PyBytes_FromStringAndSize(<const char *>key, size)
                    self.binding.rule = -1
            fr_out_free(&plain)
            fr_out_clear(&self.engine.out)
        self.request = PyBytes_FromStringAndSize(<const char *>self.gathered.data, self.gathered.size)
        fr_out_free(&self.gathered)
        self.phase = FR_PHASE_NONE
        self._choose()

    cdef void _choose(self) noexcept:
        """The server of the request's key, near or asked for; without a key the policy's."""
        cdef Route route = self.route
        cdef const uint8_t *key = NULL
        cdef Py_ssize_t size = 0
        cdef fr_near near
        cdef int status, slot
        if self.binding.fresh_token:
            slot = route.pool.pick(NULL, 0)
            if slot < 0:
                self._nobody()
                return
            if route.pool.panicking:
                self.reason = REASON_PANIC
            self._go(slot)
            return
        if self.key is not None:
            key, size = <const uint8_t *>PyBytes_AS_STRING(self.key), PyBytes_GET_SIZE(self.key)
        status = route.router.near(key, size, &near)
        if status == FR_NEAR_NONE:
            self._nobody()
        elif status == FR_NEAR_MISS or (status == FR_NEAR_HIT and self.binding.hint and near.term == self.binding.token.term
                                        and near.generation < self.binding.token.generation):
            if not self._wait(FR_PHASE_ROUTING):
                return
            try:
                route.slow.route(self, self.epoch, self.key,
                                 (self.binding.token.server_digest, self.binding.token.term, self.binding.token.generation)
                                 if self.binding.hint else None)
            except Exception:
                self.answer(500, not self.request_complete)
        else:
            self.binding.term, self.binding.generation = near.term, near.generation
            if status == FR_NEAR_HIT:
                self.binding.bound = True
                self.binding.touch = self.binding.news = near.wants_touch
                self.reason = REASON_NEAR
            elif route.pool.panicking:
                self.reason = REASON_PANIC
            self._go(near.slot)

    cdef void _nobody(self) noexcept:
        """No server takes the request now: wait, if one would have it were it not full."""
        cdef bint full = False
        try:
            full = self.route.slow.full()
        except Exception as error:
            self.report(error)
        if full:
            self._queue(-1)
        else:
            self.answer(503, not self.request_complete)

    cdef void _queue(self, int slot) noexcept:
        """Wait for room at this slot; -1: at any."""
        cdef bint again = self.queue_until_ms != 0
        self.admitted = False
        if not self._wait(FR_PHASE_QUEUED):
            return
        if not again:
            self.queue_until_ms = self.engine.now_ms() + self.route.waiting.time_ms
        try:
            self.route.waiting.join(self, slot, self.queue_until_ms, again)
        except Exception as error:
            self.unexpected(error)

    cdef void on_renew(self) noexcept:
        cdef fr_token *token = &self.binding.token
        try:
            if self.binding.bound and self.key is not None:
                self.route.router.touch_soon(self.key)
            elif self.binding.fresh_token and self.head_sent and self.route.sticky.kind == FR_FROM_INSERT:
                # A stranger's first request lasts: its cookie may be too old when it comes back, and would be all there is.
                self.key = PyBytes_FromStringAndSize(<const char *>token.key, sizeof(token.key))
                self.route.router.learn(self.key, self.slot, token.term)
                self.binding.term, self.binding.generation = token.term, token.generation
                self.binding.bound, self.binding.fresh_token = True, False
        except Exception as error:
            self.report(error)

    cdef bint asked_for(self, const uint8_t *data, const fr_head *head) noexcept:
        return (self.upgrades and self.request is not None
                and fr_upgrade_asked(<const uint8_t *>PyBytes_AS_STRING(self.request), self.head_bytes, data, head))

    cdef bint on_room(self) noexcept:
        if self.phase != FR_PHASE_QUEUED:
            return False
        self.admitted = True
        self._choose()
        return self.phase == FR_PHASE_SENT or self.phase == FR_PHASE_CONNECTING

    cdef void on_no_room(self) noexcept:
        if self.phase == FR_PHASE_QUEUED:
            self.engine.counts.limit_pending_time += 1
            self.answer(503, not self.request_complete)

    cdef bint _wait(self, int phase) noexcept:
        """The request waits for something slow; False: too many do, and it was answered."""
        self.phase = phase
        if self.begun_ns == 0:
            self.begun_ns = fr_now_ns()
        if not self.waiting:
            if self.route.lines.pending >= self.route.lines.pending_max > 0:
                self.engine.counts.limit_pending += 1
                self.count_out(False)  # no fault of the server's
                self.answer(503, not self.request_complete)
                return False
            self.waiting = True
            self.route.lines.pending += 1
        if not self.request_complete:
            self.hold()
            self.disarm()
        return True

    cdef void waited(self) noexcept:
        if self.waiting:
            self.waiting = False
            self.route.lines.pending -= 1
            if self.phase == FR_PHASE_CONNECTING and self.line is not None:
                self.line.connecting.pop(self, None)

    cdef void _go(self, int slot) noexcept:
        """Send the request to the server in this slot, over an idle connection if there is one."""
        cdef Upstream up
        cdef Route route = self.route
        self.slot = slot
        try:
            self.line = route.lines.line(slot)
            if self.line.limited and ((not self.admitted and route.waiting.ahead(slot)) or not route.pool.has_room(slot)):
                self._queue(slot if self.binding.bound else -1)
                return
            route.pool.begin(slot)
            self.begun = True
            self.started_ns = fr_now_ns()
            if self.begun_ns == 0:
                self.begun_ns = self.started_ns
            self.line.counted.requests += 1
            self.line.counted.in_flight += 1
            if not self.refreshed:
                self._count_why()
                if self.terms.hooks is not None and self.terms.hooks.selects:
                    self.terms.hooks.selection(self.hooked, self.line.server, self.reason)
            if not self.refreshed:
                while True:
                    up = self.line.take(not self.idempotent)
                    if up is None:
                        break
                    if up.begin(self, self.request, self.is_head, self.request_complete) == 0:
                        self._sent(up)
                        return
            if self._wait(FR_PHASE_CONNECTING):
                self.line.connecting[self] = self.epoch
                route.slow.connect(self, self.epoch, self.line)
        except Exception as error:
            self.unexpected(error)

    cdef void _sent(self, Upstream up) noexcept:
        self.waited()
        self.up = up
        self.phase = FR_PHASE_SENT
        if self.binding.touch:
            self.binding.touch = False
            self.on_renew()
        if up.writing_paused:
            self.hold()
        elif not self.request_complete:
            self.unhold()
            self.arm(self.terms.body_ms)
            self.consume_kept()  # nothing, when the caller is still reading: it goes on by itself

    cdef void count_out(self, bint failed) noexcept:
        if self.begun:
            self.begun = False
            self.route.pool.end(self.slot, failed, self.latency_ns)
            self.line.counted.in_flight -= 1
            self.line.counted.failures += failed
            if self.route.waiting.count:
                self.route.waiting.freed(self.slot)
            if failed:
                self.suspect()
        self.latency_ns = 0

    cdef void suspect(self) noexcept:
        if self.line is None or self.route.lines.consecutive_max == 0:
            return
        self.line.failures += 1
        if self.line.failures < self.route.lines.consecutive_max:
            return
        self.line.failures = 0
        try:
            self.route.slow.eject(self.line)
        except Exception as error:
            self.report(error)

    cdef void ended(self) noexcept:
        if self.logged:
            self.log_it(self.attempts + self.refreshed)
        if self.active:
            self.active = False
            self.route.lines.active -= 1
            if self.retrying:
                self.retrying = False
                self.route.lines.retrying -= 1

    cdef bint _may_retry(self) noexcept:
        """Take a place in the pool's budget of retries, unless this request has one."""
        if self.retrying:
            return True
        if not self.route.lines.within_budget():
            self.engine.counts.retries_over_budget += 1
            return False
        self.retrying = True
        self.route.lines.retrying += 1
        return True

    cdef void count_time(self) noexcept:
        # The clock is not asked again where head and end of the response came in one read.
        if self.begun_ns:
            fr_observe(&self.route.counted.duration, (self.head_ns if self.head_ns else fr_now_ns()) - self.begun_ns)
            self.begun_ns = 0

    cdef void _count_why(self) noexcept:
        cdef uint64_t *selections = self.route.counted.selections
        if self.reason is REASON_NEAR:
            selections[FR_WHY_NEAR] += 1
        elif self.reason is REASON_POLICY:
            selections[FR_WHY_POLICY] += 1
        else:
            why = WHY.get(self.reason)
            selections[FR_WHY_OTHER if why is None else <int>why] += 1

    cdef void _try_another(self, int status) noexcept:
        """The chosen server failed and nothing was executed: choose another one, or answer with status."""
        cdef const uint8_t *key = NULL
        cdef Py_ssize_t size = 0
        cdef int slot
        if self.attempts >= self.route.attempts_max:
            self.answer(status, not self.request_complete)
            return
        self.tried[self.tried_count] = <uint16_t>self.slot
        self.tried_count += 1
        self.attempts += 1
        self.refreshed = False
        self.engine.counts.retries += 1
        if self.binding.bound:
            try:
                selection = self.selection
                if selection is None:
                    selection = make_selection(self.route.pool, self.line.server, self.slot, REASON_NEAR, self.key,
                                               self.binding.term, self.binding.generation)
                if self._wait(FR_PHASE_ROUTING):
                    self.route.slow.move(self, self.epoch, selection, status == 504)
            except Exception as error:
                self.unexpected(error)
            return
        if self.key is not None:
            key, size = <const uint8_t *>PyBytes_AS_STRING(self.key), PyBytes_GET_SIZE(self.key)
        slot = self.route.pool.pick_other(key, size, self.tried, self.tried_count)
        if slot < 0:
            self.engine.counts.retries_failed += 1
            self.answer(status, not self.request_complete)
        else:
            self._go(slot)

    cdef void on_fail(self, int how, bint reused) noexcept:
        self.up = None
        if self.head_flushed:
            if self.state == FR_READ_TUNNEL:
                self.tunnel_over()
            else:
                self.cut()
            return
        fr_out_clear(&self.engine.out)
        self.head_sent = False  # it had not left yet
        if how == FR_FAIL_CLOSED and self.request is not None and self.idempotent and not self.closed:
            self.count_out(not reused)
            if not reused:
                self.swallowed += 1
            # A fresh connection that ends unanswered may have executed the request: no more often than configured.
            if self.swallowed <= self.route.attempts_max and (reused or self._may_retry()):
                if not self.refreshed and (reused or self.binding.bound):
                    # The server closed an idle connection as we wrote, or went away: a fresh connection tells which.
                    self.refreshed = True
                    self.engine.counts.retries += 1
                    self._go(self.slot)
                    return
                if not self.binding.bound:
                    self._try_another(502)
                    return
        self.answer(504 if how == FR_FAIL_TIMEOUT else 502, not self.request_complete)

    cdef void on_flow(self, bint paused) noexcept:
        if self.state == FR_READ_TUNNEL:
            if paused:
                self.hold()
            else:
                self.unhold()
            return
        if self.state != FR_READ_BODY:
            return
        if paused:
            self.hold()
            self.disarm()
        else:
            self.unhold()
            self.arm(self.terms.body_ms)
            self.consume_kept()

    cdef void unexpected(self, error) noexcept:
        self.report(error)
        if self.head_sent:
            self.cut()
        else:
            self.answer(500, not self.request_complete)

    # ---- what the slow path calls ------------------------------------------------------------------------------

    def routed(self, uint64_t epoch, Selection selection not None):
        """The affinity's answer."""
        if epoch != self.epoch or self.phase != FR_PHASE_ROUTING:
            return
        self.selection, self.reason = selection, selection.reason
        self.binding.term, self.binding.generation = selection.term, selection.generation
        self.binding.bound = self.binding.news = selection.term != 0
        self._go(selection.slot)

    def unrouted(self, uint64_t epoch, int status):
        """No server, or no answer: `status` goes to the client."""
        if epoch == self.epoch and self.phase == FR_PHASE_ROUTING:
            if self.attempts:
                self.engine.counts.retries_failed += 1
            self.answer(status, not self.request_complete)

    def full(self, uint64_t epoch):
        """No server has room: the request waits for one."""
        if epoch == self.epoch and self.phase == FR_PHASE_ROUTING:
            self._queue(-1)

    def connected(self, uint64_t epoch, Upstream upstream not None):
        """A fresh connection; False: nobody waits for it any more."""
        if epoch != self.epoch or self.phase != FR_PHASE_CONNECTING:
            return False
        if (not upstream.closed and not upstream.eof
                and upstream.begin(self, self.request, self.is_head, self.request_complete) == 0):
            self._sent(upstream)
        else:  # it ended before anything was sent: as good as a refusal
            upstream.abort(False)
            self.connect_failed(epoch, False)
        return True

    cdef bint on_connection(self, Upstream upstream) noexcept:
        if self.phase != FR_PHASE_CONNECTING or upstream.begin(self, self.request, self.is_head, self.request_complete) < 0:
            return False
        self._sent(upstream)
        return True

    def connect_failed(self, uint64_t epoch, bint timed_out):
        """The server could not be reached; nothing was sent."""
        if epoch != self.epoch or self.phase != FR_PHASE_CONNECTING:
            return
        self.line.connecting.pop(self, None)
        self.count_out(True)
        self._try_another(504 if timed_out else 502)

    def unconnected(self, uint64_t epoch, int status):
        """No connection, and not for the server's sake: `status` goes to the client."""
        if epoch == self.epoch and self.phase == FR_PHASE_CONNECTING:
            self.count_out(False)
            self.answer(status, not self.request_complete)
