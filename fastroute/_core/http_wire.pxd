# http_wire: what both sides of a relayed connection share: the engine of one proxy (clock, timer wheel, buffers,
# counters) and the wire, one TCP or unix connection with direct sends, back-pressure flags and one time limit.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from fastroute._core.base cimport fr_clock
from fastroute._core.board cimport Row
from fastroute._core.http_head cimport fr_head

cdef extern from "fr_out.h" nogil:
    ctypedef struct fr_out:
        uint8_t *data
        size_t size
        size_t capacity
        int failed
    void fr_out_put(fr_out *out, const void *data, size_t size) noexcept
    void fr_out_text(fr_out *out, const char *text) noexcept
    void fr_out_chunk(fr_out *out, const uint8_t *data, size_t size) noexcept
    void fr_out_decimal(fr_out *out, uint64_t value) noexcept
    void fr_out_clear(fr_out *out) noexcept
    void fr_out_drop(fr_out *out, size_t size) noexcept
    void fr_out_free(fr_out *out) noexcept

cdef extern from "fr_wheel.h" nogil:
    ctypedef struct fr_timer:
        uint64_t deadline_ms
        void *owner
    ctypedef struct fr_wheel:
        uint64_t tick
    void fr_wheel_init(fr_wheel *wheel, uint64_t now_ms) noexcept
    void fr_wheel_arm(fr_wheel *wheel, fr_timer *timer, uint64_t deadline_ms) noexcept
    void fr_timer_disarm(fr_timer *timer) noexcept
    void fr_timer_remove(fr_timer *timer) noexcept

# Monotonic nanoseconds, exact: for latencies.
cdef inline uint64_t fr_now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec

# What is counted, per proxy. Names are the keys of Engine.counters().
ctypedef struct fr_counts:
    uint64_t requests
    uint64_t responses[6]               # by class; [0] = outside 100..599
    uint64_t retries
    uint64_t retries_failed
    uint64_t retries_over_budget
    uint64_t cookie_rejected[6]         # by FR_TOKEN_* verdict; [5] = expired
    uint64_t cookie_overwritten         # servers' Set-Cookie of the balancer's name
    uint64_t cookies_set
    uint64_t refused                    # requests that are not acceptable
    uint64_t limit_body
    uint64_t limit_head
    uint64_t limit_connections
    uint64_t limit_connections_per_client
    uint64_t limit_requests_per_connection
    uint64_t limit_pending
    uint64_t limit_pending_time
    uint64_t limit_request_line
    uint64_t limit_fields
    uint64_t limit_method
    uint64_t limit_response_head
    uint64_t limit_rate_request         # clients that sent a body, or took an answer, too slowly
    uint64_t limit_rate_response
    uint64_t limit_rate_server          # servers that sent an answer too slowly
    uint64_t timeout_head
    uint64_t timeout_body
    uint64_t timeout_idle
    uint64_t timeout_response
    uint64_t timeout_send
    uint64_t timeout_tunnel
    uint64_t timeout_total
    uint64_t timeout_connect
    uint64_t timeout_upstream_idle
    uint64_t tunnels                    # open now
    uint64_t tunnels_total
    uint64_t aborted_by_client
    uint64_t truncated                  # responses cut off because the server failed midway
    uint64_t downstream_connections     # open now
    uint64_t downstream_accepted
    uint64_t upstream_connects
    uint64_t upstream_connect_failures
    uint64_t upstream_reused
    uint64_t upstream_open              # open now
    uint64_t handshakes                 # of clients, over TLS
    uint64_t handshakes_failed
    uint64_t proxy_headers              # connections that said whose they are
    uint64_t proxy_headers_refused
    uint64_t log_lines                  # of the access log
    uint64_t log_dropped                # that it had no room for

@cython.final
cdef class Engine:
    cdef fr_wheel *wheel
    cdef fr_clock clock                 # manual_ms != 0: held still by a test
    cdef fr_out out                     # scratch: filled and sent within one callback, never across
    cdef fr_head *request               # scratch for scanning, likewise
    cdef fr_head *response
    cdef fr_counts *counts              # own_counts, or in a board's row
    cdef fr_counts own_counts
    cdef Row row                        # keeps the board
    cdef uint8_t date[32]               # value of a Date field, refreshed by the tick
    cdef int date_size
    cdef uint32_t minute                # minutes since 1970, likewise
    cdef uint8_t noise[2048]
    cdef Py_ssize_t noise_left
    cdef readonly bint draining
    cdef object loop, handle, late, wall
    cdef readonly list watches          # callables, each called at every tick
    # Monotonic milliseconds, coarse.
    cdef uint64_t now_ms(self) noexcept
    # Fill with bytes nobody can predict. Never fails: without a source of randomness the process ends.
    cdef void random(self, uint8_t *to, Py_ssize_t size) noexcept

cdef class Wire:
    cdef Engine engine
    cdef fr_timer timer
    cdef object transport               # None before connection_made and after connection_lost
    cdef int fd                         # for direct sends; -1: through the transport (TLS, closing, closed)
    cdef bint queued                    # the transport may hold unsent bytes
    cdef bint writing_paused            # the transport holds more than WRITE_HIGH_BYTES
    cdef bint reading_paused
    cdef bint closed                    # no more sends: close or abort was asked for, or the connection is gone
    cdef bint eof                       # the peer sends no more
    cdef uint64_t written               # bytes given to put and put_bytes
    cdef bint tls                       # no half-close: whoever ends its side ends the connection
    cdef Py_ssize_t unsent_before       # at the last look of stalled()
    cdef int attach(self, object transport) except -1
    # Send a copy; 0 = taken, -1 = the connection is gone and none of these bytes was taken.
    cdef int put(self, const uint8_t *data, Py_ssize_t size) noexcept
    # Likewise; what cannot be sent at once is kept by reference.
    cdef int put_bytes(self, bytes data) noexcept
    # Bytes the kernel took at once, perhaps none; -1: the connection is gone.
    cdef Py_ssize_t direct(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef Py_ssize_t unsent(self) noexcept
    # Has the peer taken nothing of what is unsent since the last look? Also when nothing is unsent.
    cdef bint stalled(self) noexcept
    cdef void arm(self, uint64_t after_ms) noexcept     # 0: no limit
    cdef void disarm(self) noexcept
    cdef void hold(self) noexcept       # stop reading
    cdef void unhold(self) noexcept
    cdef void close(self) noexcept      # after what is queued has gone out; expired() follows if that takes long
    cdef void abort(self, bint reset) noexcept          # at once; reset: the peer sees RST, not an orderly end
    cdef void expired(self) noexcept    # the time limit passed
    cdef void pulse(self) noexcept      # another timer of this owner's passed
    cdef void flow(self) noexcept       # writing_paused changed
    cdef void gone(self, object error) noexcept         # connection lost
