"""A request from its head to its key: written anew for the server, and what it is bound by found.

Not here: reading it (http_reading), keys and cookies one by one (http_sticky), its way to a server from then on
(http_attempt), what the cache has of it (http_caching).

Rules of this file:
- What a server gets is written anew from parsed fields (fr_forward.h), in one piece with the first of the body.
- A key in the body is waited for up to a limit; the head's key stands in until then.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from fastroute._core.affinity_view cimport AffinityView, Binding
from fastroute._core.http_fields cimport FR_PIECE_HOST, FR_PIECES_MAX, fr_field_rules, fr_fields_drop, fr_text
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
from fastroute._core.http_reading cimport FR_PHASE_GATHERING, FR_PHASE_NONE, FR_READ_BODY, FR_READ_HOLD
from fastroute._core.http_route cimport Route
from fastroute._core.http_sticky cimport FR_FROM_INSERT
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_tunnel cimport Tunnel
from fastroute._core.http_wire cimport fr_out, fr_out_clear, fr_out_free, fr_out_put

cdef extern from "fr_forward.h" nogil:
    ctypedef struct fr_forward_extra:
        const fr_field_rules *rules
        const fr_field_rules *more
        fr_text id_name
        int forwarded
        fr_text values[FR_PIECES_MAX]
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

# As fastroute._core.http_sticky.JSON_BYTES_MAX.
cdef uint64_t JSON_BYTES_MAX = 64 << 10
cdef extern from *:
    """
    static const char fr_continue[] = "HTTP/1.1 100 Continue\\r\\n\\r\\n";
    """
    const char fr_continue[26]
cdef str REASON_POLICY = "policy"


cdef class Request(Tunnel):
    """One client connection whose requests have keys."""

    def __dealloc__(self):
        fr_out_free(&self.gathered)

    cdef bint from_cache(self, const uint8_t *data, const fr_head *head) noexcept:
        return False

    cdef bint look(self) noexcept:
        return False

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
