# http_upstream: the servers' side. One keep-alive connection that carries one exchange at a time, its strict reading of
# responses, and the idle connections kept per server. Whoever asks for an exchange is a Sink.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.board cimport Tally, fr_board_pool, fr_board_server
from fastroute._core.http_head cimport fr_chunked, fr_head, fr_head_limits
from fastroute._core.http_wire cimport Engine, Wire, fr_out, fr_timer
from fastroute._core.pool cimport Pool

# How an exchange failed; nothing of the response has been passed on before FR_FAIL_BODY.
cdef enum:
    FR_FAIL_CLOSED = 1                  # closed before a byte of the response came
    FR_FAIL_PARTIAL = 2                 # closed within the head, or after interim responses
    FR_FAIL_PROTOCOL = 3                # not a response that may be passed on
    FR_FAIL_TIMEOUT = 4                 # no response within the time limit
    FR_FAIL_BODY = 5                    # closed, timed out or not the protocol within the body

cdef class Sink(Wire):
    cdef uint64_t epoch                 # names the present exchange: slow answers to an earlier one are not for it
    # An interim response (1xx, not 101). data and head live for this call only.
    cdef void on_interim(self, const uint8_t *data, const fr_head *head) noexcept
    # The final response head; framing is FR_BODY_* as it applies to this request. May end the exchange.
    cdef void on_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept
    # A run of body bytes, not framed. `whole` is the bytes object that is exactly this run, or None.
    cdef void on_body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept
    # The response is complete; the connection is idle again or closed.
    cdef void on_end(self) noexcept
    # It failed; the connection is gone. reused: the connection had carried an exchange before.
    cdef void on_fail(self, int how, bint reused) noexcept
    # Everything that one read brought has been passed on.
    cdef void on_flush(self) noexcept
    # 101: is what it switches to what the request of the present exchange asked for?
    cdef bint asked_for(self, const uint8_t *data, const fr_head *head) noexcept
    # 101, asked for: from here on bytes go both ways as they are; on_body has those of the server, more() takes those for it, and
    # forget() or on_fail ends it.
    cdef void on_switch(self, const uint8_t *data, const fr_head *head) noexcept
    # In a tunnel: the server sends no more, but may still read.
    cdef void on_half_close(self) noexcept
    # From time to time, if the exchange lasts: its binding is still in use.
    cdef void on_renew(self) noexcept
    # The server takes request bytes again, or no longer.
    cdef void on_flow(self, bint paused) noexcept
    # A connection that another exchange has just done with, for one that waits for a fresh one. False: it was not taken.
    cdef bint on_connection(self, Upstream upstream) noexcept
    # First in line for a server with room. True: it took the room; False: it waits again, or for something else.
    cdef bint on_room(self) noexcept
    # It waited for room as long as it may.
    cdef void on_no_room(self) noexcept

@cython.final
cdef class Upstream(Wire):
    cdef readonly ServerLine line
    cdef Sink sink
    cdef fr_out kept                    # a response head that came in pieces
    cdef size_t searched
    cdef fr_chunked chunked
    cdef uint64_t left
    cdef int state, interim
    cdef int peek_fd                    # to look whether the server has closed it; -1: there is none
    cdef bint is_head, reused, keep_alive, request_complete, got_bytes
    cdef bint deaf                      # a send failed: the server takes no more of the request
    cdef fr_timer renewal               # runs as long as the connection does, whatever it carries
    cdef void _renew_later(self) noexcept
    # Carry bytes from now on; what the server sent before is passed on at once. After expect_tunnel().
    cdef void begin_tunnel(self, Sink sink) noexcept
    # In a tunnel: bytes for the server.
    cdef int pass_on(self, bytes data) noexcept
    # In a tunnel: the client broke off; the server sees a reset.
    cdef void cut_off(self) noexcept
    # Start an exchange. -1: the connection was found dead and nothing was sent.
    cdef int begin(self, Sink sink, bytes request, bint is_head, bint request_complete) noexcept
    # More bytes of the request as they go on the wire; last: these were the last ones.
    cdef int more(self, const uint8_t *data, Py_ssize_t size, bint last) noexcept
    # In a tunnel: the client sends no more.
    cdef void half_close(self) noexcept
    # In a tunnel: nobody sends any more; what is queued goes out, then the connection ends.
    cdef void let_go(self) noexcept
    # The sink turns away from the exchange: the connection is closed, no call to the sink follows.
    cdef void forget(self) noexcept
    # The exchange has failed, as the sink will hear: FR_FAIL_*.
    cdef void _fail(self, int how) noexcept
    cdef void _finish(self, bint clean) noexcept
    cdef Py_ssize_t _head(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef void _body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept
    cdef void _read(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept

@cython.final
cdef class ServerLine:
    cdef readonly object server         # fastroute.model.Server
    cdef readonly int slot
    cdef readonly Lines lines
    cdef readonly uint64_t digest       # the hint that cookies carry
    cdef readonly bint limited          # it has max_connections
    cdef uint32_t failures              # in a row, up to now
    cdef int idle_max                   # connections kept when they carry nothing
    cdef list idle
    cdef dict connecting                # Sink -> epoch: who waits for a fresh connection, first come first
    cdef fr_board_server *counted       # own_counted, or in a board's row
    cdef fr_board_server own_counted
    # An idle connection, last used first; None when there is none. careful: ask the kernel whether it is still open.
    cdef Upstream take(self, bint careful)
    cdef void give(self, Upstream upstream) noexcept
    # Idle connections for those that wait for fresh ones.
    cdef void hand_out(self) noexcept

@cython.final
cdef class Lines:
    cdef readonly Engine engine
    cdef readonly Pool pool
    cdef object codec
    cdef fr_head_limits limits
    cdef uint64_t response_ms, idle_ms
    cdef uint64_t rate_bytes, rate_grace_ms # least bytes per second of an answer; 0: none
    cdef bint keeps                     # connections carry one exchange after the other
    cdef uint64_t renew_ms              # between two signs of life of an exchange; 0: none wanted
    cdef list by_slot
    cdef readonly int pending           # requests that wait for a connection or for a decision
    cdef int pending_max
    cdef readonly int active            # requests under way
    cdef readonly int retrying          # of these, on a further attempt
    cdef double retry_ratio             # share of the active ones that may be
    cdef uint32_t consecutive_max       # failures in a row after which a server is reported; 0: never
    # May one more request be tried again?
    cdef bint within_budget(self) noexcept
    cdef Tally tally                    # where requests are counted for others to read, or None
    cdef fr_board_pool *counted         # own_counted, or of the tally
    cdef fr_board_pool own_counted
    # The line of the server that is in this slot now.
    cdef ServerLine line(self, int slot)
