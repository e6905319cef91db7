"""The request's way to a server: which one, over which connection, and what happens when that fails.

Not here: reading it (http_reading), its key (http_request), the response (http_relay), what waits (Python: fastroute.proxy.forward opens connections
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
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastroute._core.affinity_view cimport FR_NEAR_HIT, FR_NEAR_MISS, FR_NEAR_NONE, fr_near
from fastroute._core.board cimport FR_WHY_NEAR, FR_WHY_OTHER, FR_WHY_POLICY, fr_observe
from fastroute._core.http_client cimport Client
from fastroute._core.http_fields cimport FR_PIECE_REASON, FR_PIECE_SERVER, fr_text
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_reading cimport (
    FR_PHASE_CONNECTING, FR_PHASE_QUEUED, FR_PHASE_ROUTING, FR_PHASE_SENT, FR_READ_BODY, FR_READ_TUNNEL
)
from fastroute._core.http_route cimport Route
from fastroute._core.http_sticky cimport FR_FROM_INSERT
from fastroute._core.http_upstream cimport FR_FAIL_CLOSED, FR_FAIL_TIMEOUT, Upstream
from fastroute._core.http_wire cimport fr_now_ns, fr_out_clear
from fastroute._core.selection cimport Selection, make_selection
from fastroute._core.token cimport fr_token

from fastroute._core.board import REASONS as _REASONS

cdef extern from "fr_upgrade.h" nogil:
    int fr_upgrade_asked(const uint8_t *request, size_t request_size, const uint8_t *data, const fr_head *head) noexcept

cdef str REASON_NEAR = "affinity-near"
cdef str REASON_POLICY = "policy"
cdef str REASON_PANIC = "panic"
cdef dict WHY = {reason: i for i, reason in enumerate(_REASONS)}


cdef class Attempt(Client):
    """One client connection whose requests find servers."""

    cdef void answer(self, int status, bint end) noexcept:
        pass

    cdef void cut(self) noexcept:
        pass

    cdef void drop(self) noexcept:
        pass

    cdef void tunnel_over(self) noexcept:
        pass

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
                while not self.raw:
                    up = self.line.take(not self.idempotent)
                    if up is None:
                        break
                    if up.begin(self, self.request, self.is_head, self.request_complete) == 0:
                        self._sent(up)
                        return
            if self._wait(FR_PHASE_CONNECTING):
                if not self.raw:  # which begins its connections by itself
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

    cdef void fill_values(self, fr_text *values) noexcept:
        cdef Py_ssize_t size = 0
        Client.fill_values(self, values)
        try:
            if self.line is not None and self.line.server is not None:
                values[FR_PIECE_SERVER].data = <const uint8_t *>PyUnicode_AsUTF8AndSize(self.line.server.name, &size)
                values[FR_PIECE_SERVER].size = size
                values[FR_PIECE_REASON].data = <const uint8_t *>PyUnicode_AsUTF8AndSize(self.reason, &size)
                values[FR_PIECE_REASON].size = size
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
