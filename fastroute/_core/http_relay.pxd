# http_relay: the clients' side. A Relay is one listener's compiled settings; a Downstream is one client connection, which
# reads requests, routes them, forwards them through an Upstream and writes what comes back.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastroute._core.http_head cimport fr_chunked, fr_head, fr_head_limits
from fastroute._core.http_upstream cimport Lines, ServerLine, Sink, Upstream
from fastroute._core.http_wire cimport Engine, fr_out
from fastroute._core.pool cimport Pool
from fastroute._core.router cimport Router
from fastroute._core.token cimport TokenCodec, fr_token

# Where the affinity key of a request comes from.
cdef enum:
    FR_KEY_NONE = 0
    FR_KEY_INSERT = 1                   # the balancer's own signed cookie
    FR_KEY_COOKIE = 2                   # the application's cookie: learned from its Set-Cookie too
    FR_KEY_HEADER = 3
    FR_KEY_CLIENT_IP = 4

@cython.final
cdef class Relay:
    cdef readonly Engine engine
    cdef readonly Lines lines
    cdef readonly Router router
    cdef readonly Pool pool
    cdef readonly set connections       # open Downstreams
    cdef TokenCodec codec               # with FR_KEY_INSERT
    cdef object slow                    # Python: route, move, connect (fastroute.proxy.forward)
    cdef object trusts                  # Python: address -> bool; None: nobody is trusted
    cdef dict clients                   # address -> open connections
    cdef fr_head_limits limits
    cdef uint64_t body_bytes_max, head_ms, body_ms, idle_ms
    cdef uint32_t requests_per_connection, connections_max, connections_per_client, ttl_minutes
    cdef int key_kind, attempts_max
    cdef bint debug
    cdef bytes name                     # of the cookie or field
    cdef bytes set_cookie               # what follows the token in Set-Cookie

@cython.final
cdef class Downstream(Sink):
    cdef Relay relay
    cdef bytes peer                     # address as text
    cdef bint trusted                   # its forwarded fields count
    cdef bint counted                   # in Relay.clients
    cdef fr_out kept                    # bytes that wait: part of a head, pipelined requests, a body that must wait
    cdef size_t searched
    cdef int state                      # of reading
    cdef int phase                      # of the present request
    cdef bint consuming                 # _consume is on the stack
    cdef bint keep                      # the connection goes on after this answer
    cdef bint client_keeps              # the client expects it to
    cdef uint32_t served
    # The present request.
    cdef uint64_t epoch                 # names it: slow answers to an earlier one are not ours
    cdef bytes request                  # all bytes for the server so far; None once more of the body went after them
    cdef bytes key                      # affinity key; None: none
    cdef object selection               # of the slow path, or None
    cdef object reason                  # str
    cdef Upstream up
    cdef ServerLine line
    cdef fr_chunked chunked
    cdef uint64_t left                  # body bytes still to come
    cdef uint64_t body_bytes            # that came
    cdef uint64_t started_ns, latency_ns, term
    cdef uint32_t generation
    cdef fr_token token                 # the client's, or its new one
    cdef uint16_t tried[8]
    cdef int tried_count, attempts, slot, body, out_body
    cdef int swallowed                  # fresh connections that took the request and ended unanswered
    cdef bint begun                     # counted in by the pool
    cdef bint waiting                   # counted by Lines.pending
    cdef bint request_complete, expects, is_head, idempotent, http10, head_sent, head_flushed, refreshed, has_token, fresh_token, touch, bound

    cdef Py_ssize_t _consume(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef void _consume_kept(self) noexcept
    cdef Py_ssize_t _body(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef Py_ssize_t _chunks(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef void _request_is_in(self) noexcept
    cdef Py_ssize_t _begin(self, const uint8_t *data, const fr_head *head, Py_ssize_t more) noexcept
    cdef void _route(self, const uint8_t *data, const fr_head *head) noexcept
    cdef void _new_user(self) noexcept
    cdef void _forwarded_client(self, const uint8_t *data, const fr_head *head, const uint8_t **key, Py_ssize_t *size) noexcept
    cdef bint _wait(self, int phase) noexcept
    cdef void _waited(self) noexcept
    cdef void _go(self, int slot) noexcept
    cdef void _sent(self, Upstream up) noexcept
    cdef void _count_out(self, bint failed) noexcept
    cdef void _try_another(self, int status) noexcept
    cdef void _answer(self, int status, bint end) noexcept
    cdef void _refuse(self, int status) noexcept
    cdef void _refuse_head(self, int status) noexcept
    cdef void _cut(self) noexcept
    cdef void _unexpected(self, error) noexcept
    cdef void _report(self, error) noexcept
    cdef void _over(self) noexcept
    cdef void _next(self) noexcept
    cdef void _linger(self) noexcept
    cdef void _close_if_idle(self) noexcept
    cdef void _put_cookie(self, fr_out *out) noexcept
    cdef void _learn(self, const uint8_t *data, const fr_head *head) noexcept
    cdef void _put_debug(self, fr_out *out) noexcept
    cdef void _drop(self) noexcept
