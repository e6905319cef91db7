"""What both sides of a relayed connection share: the engine of one proxy, and the wire.

Not here: HTTP. The engine owns what there is one of per proxy: clock, timer wheel, scratch buffers, counters. A wire is
one connection below an event loop's transport.

Rules of this file:
- A send goes to the socket directly while the transport holds nothing unsent (one system call, no object); what the
  kernel does not take goes through the transport, which then owns order and back-pressure.
- The descriptor is forgotten before close is asked for: it may belong to another client right after.
- Nothing raises into a callback: a send on a dead connection answers -1, and connection_lost follows.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport abort as c_abort, calloc, free
from libc.string cimport memcpy, memset

from email.utils import formatdate

from fastroute._core.base cimport fr_now_ms
from fastroute._core.board cimport FR_BOARD_ENGINE_BYTES, Row

cdef extern from "fr_wheel.h" nogil:
    ctypedef void (*fr_wheel_fire)(fr_timer *timer) noexcept
    int fr_wheel_advance(fr_wheel *wheel, uint64_t now_ms, fr_wheel_fire fire, unsigned int most) noexcept
    int fr_wheel_fire_late(fr_wheel *wheel, uint64_t now_ms, fr_wheel_fire fire, unsigned int most) noexcept

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_NOSIGNAL
    enum: MSG_DONTWAIT
    enum: SOL_SOCKET
    enum: SO_LINGER
    struct linger:
        int l_onoff
        int l_linger
    Py_ssize_t send(int fd, const void *data, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)

cdef extern from "<sys/random.h>" nogil:
    Py_ssize_t getrandom(void *to, size_t size, unsigned int flags)

# Unsent bytes a transport may hold before the other side stops reading: asyncio's own default, and uvloop's.
WRITE_HIGH_BYTES = 64 << 10
# How long a peer may take nothing of what was queued when the connection was closed. nginx: send_timeout 60 s.
cdef uint64_t CLOSE_MS = 30000
# How long a peer gets to answer the end of TLS; many clients look at an idle connection only when they want to use it.
# Longer than a lingering close of nginx (5 s), for what the kernel still sends.
cdef uint64_t TLS_CLOSE_MS = 10000
COUNT_WORDS = sizeof(fr_counts) // sizeof(uint64_t)
"""64-bit words of an engine's counters."""

if sizeof(fr_counts) > FR_BOARD_ENGINE_BYTES:
    raise ImportError("an engine's counters do not fit into a board's row")

# One tick of the wheel.
TICK_S = 0.25
# Time limits that end a connection each, in one go: about a millisecond. What else has passed waits until the event loop has
# looked at everybody again.
cdef unsigned int FIRE_MOST = 50

cdef void _fire(fr_timer *timer) noexcept with gil:
    cdef Wire wire = <Wire>timer.owner
    if timer == &wire.timer:
        wire.expired()
    else:
        wire.pulse()


cdef class Engine:
    """Clock, timer wheel, scratch buffers and counters of one proxy. Single-threaded: used by one event loop.

    Args:
        clock: a fastroute.clock.Clock, for dates and stamps.
        manual: the connections' time limits follow `clock` too, and only `tick()` looks at it: for tests.
        row: where the counters stand for others to read; None: in the engine.
    """

    def __cinit__(self):
        self.wheel = <fr_wheel *>calloc(1, sizeof(fr_wheel))
        self.request = <fr_head *>calloc(1, sizeof(fr_head))
        self.response = <fr_head *>calloc(1, sizeof(fr_head))
        if self.wheel is NULL or self.request is NULL or self.response is NULL:
            raise MemoryError
        self.counts = &self.own_counts
        self.watches = []

    def __init__(self, clock, manual=False, Row row=None):
        self.wall, self.row = clock, row
        if row is not None:
            self.counts = <fr_counts *>row.engine()
            self.counts.downstream_connections = self.counts.upstream_open = 0  # of the process that had the row before
        if manual:
            self.clock.manual_ms = <uint64_t>(clock.monotonic_s() * 1000)
        fr_wheel_init(self.wheel, self.now_ms())
        self._refresh()

    def __dealloc__(self):
        free(self.wheel)
        free(self.request)
        free(self.response)
        fr_out_free(&self.out)

    cdef uint64_t now_ms(self) noexcept:
        return fr_now_ms(&self.clock)

    cdef void random(self, uint8_t *to, Py_ssize_t size) noexcept:
        cdef Py_ssize_t got
        if self.noise_left < size:
            self.noise_left = 0
            while self.noise_left < <Py_ssize_t>sizeof(self.noise):
                got = getrandom(self.noise + self.noise_left, sizeof(self.noise) - self.noise_left, 0)
                if got > 0:
                    self.noise_left += got
                elif errno != EINTR:
                    c_abort()
        self.noise_left -= size
        memcpy(to, self.noise + self.noise_left, size)
        memset(self.noise + self.noise_left, 0, size)

    def _refresh(self):
        wall_s = self.wall.wall_s()
        self.minute = <uint32_t>(wall_s / 60)
        cdef bytes text = formatdate(wall_s, usegmt=True).encode("ascii")
        self.date_size = min(<int>len(text), <int>sizeof(self.date))
        memcpy(self.date, PyBytes_AS_STRING(text), self.date_size)

    def tick(self):
        """Look at the clocks and end what is over its time limit."""
        if self.clock.manual_ms:
            self.clock.manual_ms = <uint64_t>(self.wall.monotonic_s() * 1000)
        self._refresh()
        if fr_wheel_advance(self.wheel, self.now_ms(), _fire, FIRE_MOST):
            self._more_later()
        for look in self.watches:
            look()

    def _more_later(self):
        if self.late is not None:
            return
        if self.loop is None:  # only tick() is called: by a test
            while fr_wheel_fire_late(self.wheel, self.now_ms(), _fire, FIRE_MOST):
                pass
        else:
            self.late = self.loop.call_soon(self._fire_late)

    def _fire_late(self):
        self.late = None
        if fr_wheel_fire_late(self.wheel, self.now_ms(), _fire, FIRE_MOST):
            self._more_later()

    def start(self, loop):
        """Tick on this loop from now on."""
        self.loop = loop
        if self.handle is None:
            self.handle = loop.call_later(TICK_S, self._again)

    def _again(self):
        self.handle = self.loop.call_later(TICK_S, self._again)
        self.tick()

    def stop(self):
        """Tick no more."""
        for handle in (self.handle, self.late):
            if handle is not None:
                handle.cancel()
        self.handle = self.late = None

    def drain(self):
        """From now on every answer ends its connection."""
        self.draining = True

    def count_handshake(self, bint ok):
        """A client's TLS handshake is over."""
        self.counts.handshakes += ok
        self.counts.handshakes_failed += not ok

    def count_proxy_header(self, bint ok):
        """A connection has said whose it is (PROXY protocol), or was refused for not saying so."""
        self.counts.proxy_headers += ok
        self.counts.proxy_headers_refused += not ok

    @property
    def upstream_open(self):
        """Connections to servers that are open now."""
        return self.counts.upstream_open

    def counters(self):
        """All counters, as a dict of numbers and dicts."""
        return _named(self.counts, self.counts)


cdef dict _named(const fr_counts *c, const fr_counts *living):
    return {
        "requests": c.requests,
        "responses": {name: c.responses[i] for i, name in enumerate(("other", "1xx", "2xx", "3xx", "4xx", "5xx"))},
        "retries": {"tried": c.retries, "failed": c.retries_failed, "over_budget": c.retries_over_budget},
        "cookie_rejected": {
            name: c.cookie_rejected[i + 1]
            for i, name in enumerate(("malformed", "unknown-key", "bad-mac", "version", "expired"))
        },
        "cookie_overwritten": c.cookie_overwritten,
        "cookies_set": c.cookies_set,
        "access_log": {"lines": c.log_lines, "dropped": c.log_dropped},
        "refused": c.refused,
        "limits_hit": {
            "body_bytes": c.limit_body,
            "head_bytes": c.limit_head,
            "request_line_bytes": c.limit_request_line,
            "fields": c.limit_fields,
            "method_bytes": c.limit_method,
            "response_head_bytes": c.limit_response_head,
            "connections": c.limit_connections,
            "connections_per_client": c.limit_connections_per_client,
            "requests_per_connection": c.limit_requests_per_connection,
            "pending": c.limit_pending,
            "pending_time": c.limit_pending_time,
            "min_rate_request": c.limit_rate_request,
            "min_rate_response": c.limit_rate_response,
            "min_rate_server": c.limit_rate_server,
            "timeout_head": c.timeout_head,
            "timeout_body": c.timeout_body,
            "timeout_idle": c.timeout_idle,
            "timeout_response": c.timeout_response,
            "timeout_send": c.timeout_send,
            "timeout_tunnel": c.timeout_tunnel,
            "timeout_total": c.timeout_total,
            "timeout_connect": c.timeout_connect,
            "timeout_upstream_idle": c.timeout_upstream_idle,
        },
        "aborted_by_client": c.aborted_by_client,
        "truncated": c.truncated,
        "tunnels": living.tunnels,
        "tunnels_total": c.tunnels_total,
        "downstream_connections": living.downstream_connections,
        "downstream_accepted": c.downstream_accepted,
        "upstream_connects": c.upstream_connects,
        "upstream_connect_failures": c.upstream_connect_failures,
        "upstream_reused": c.upstream_reused,
        "upstream_open": living.upstream_open,
        "handshakes": {"ok": c.handshakes, "failed": c.handshakes_failed},
        "proxy_headers": {"ok": c.proxy_headers, "refused": c.proxy_headers_refused},
    }


def counters_of(words, living):
    """What Engine.counters() says, of sums over several engines' rows.

    Args:
        words: COUNT_WORDS sums over all rows (Board.sum_words("engine", 0, 0, COUNT_WORDS)).
        living: the same of the rows that have a process.
    """
    cdef fr_counts all_rows, living_rows
    cdef Py_ssize_t i
    if len(words) != COUNT_WORDS or len(living) != COUNT_WORDS:
        raise ValueError(f"{len(words)} and {len(living)} words: accepted are {COUNT_WORDS} each")
    for i in range(COUNT_WORDS):
        (<uint64_t *>&all_rows)[i] = words[i]
        (<uint64_t *>&living_rows)[i] = living[i]
    return _named(&all_rows, &living_rows)


cdef class Wire:
    """One connection below a transport. Subclasses give `expired`, `flow` and `gone` their meaning."""

    def __cinit__(self, *args, **named):
        self.fd = -1
        self.timer.owner = <void *>self

    def __dealloc__(self):
        fr_timer_remove(&self.timer)

    cdef int attach(self, object transport) except -1:
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self.tls = transport.get_extra_info("ssl_object") is not None
        if not self.tls:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                self.fd = sock.fileno()
        return 0

    cdef Py_ssize_t unsent(self) noexcept:
        if not self.queued or self.transport is None:
            return 0
        try:
            size = <Py_ssize_t>self.transport.get_write_buffer_size()
        except Exception:
            return 0
        if size == 0:
            self.queued = False
        return size

    cdef bint stalled(self) noexcept:
        cdef Py_ssize_t unsent = self.unsent()
        if unsent and unsent < self.unsent_before:
            self.unsent_before = unsent
            return False
        return True

    cdef Py_ssize_t direct(self, const uint8_t *data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t sent
        if self.fd < 0 or (self.queued and self.unsent() != 0):
            return 0
        sent = send(self.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent >= 0:
            return sent
        return 0 if errno == EAGAIN or errno == EINTR else -1

    cdef int put(self, const uint8_t *data, Py_ssize_t size) noexcept:
        cdef Py_ssize_t sent
        if self.closed:
            return -1
        self.written += size
        sent = self.direct(data, size)
        if sent == size:
            return 0
        if sent < 0:
            self.abort(False)
            return -1
        try:
            self.queued = True
            self.transport.write(PyBytes_FromStringAndSize(<const char *>data + sent, size - sent))
        except Exception:
            self.abort(False)
            return -1
        return 0

    cdef int put_bytes(self, bytes data) noexcept:
        cdef Py_ssize_t sent, size = PyBytes_GET_SIZE(data)
        if self.closed:
            return -1
        self.written += size
        sent = self.direct(<const uint8_t *>PyBytes_AS_STRING(data), size)
        if sent == size:
            return 0
        if sent < 0:
            self.abort(False)
            return -1
        try:
            self.queued = True
            self.transport.write(data if sent == 0 else memoryview(data)[sent:])
        except Exception:
            self.abort(False)
            return -1
        return 0

    cdef void arm(self, uint64_t after_ms) noexcept:
        if after_ms:
            fr_wheel_arm(self.engine.wheel, &self.timer, self.engine.now_ms() + after_ms)
        else:
            self.timer.deadline_ms = 0

    cdef void disarm(self) noexcept:
        self.timer.deadline_ms = 0

    cdef void hold(self) noexcept:
        if self.reading_paused or self.closed or self.transport is None:
            return
        try:
            self.transport.pause_reading()
            self.reading_paused = True
        except Exception:
            pass

    cdef void unhold(self) noexcept:
        if not self.reading_paused or self.closed or self.eof or self.transport is None:
            return
        try:
            self.reading_paused = False
            self.transport.resume_reading()
        except Exception:
            pass

    cdef void close(self) noexcept:
        if self.closed:
            return
        self.closed = True
        self.fd = -1
        self.unsent_before = self.unsent()
        if self.unsent_before:
            self.arm(CLOSE_MS)
        elif self.tls:
            self.arm(TLS_CLOSE_MS)
        try:
            self.transport.close()
        except Exception:
            pass

    cdef void abort(self, bint reset) noexcept:
        cdef linger how
        if self.transport is None:
            self.closed = True
            return
        if reset and self.fd >= 0:
            how.l_onoff, how.l_linger = 1, 0
            setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &how, sizeof(how))
        self.closed = True
        self.fd = -1
        try:
            self.transport.abort()
        except Exception:
            pass

    cdef void expired(self) noexcept:
        if self.closed and not self.stalled():
            self.arm(CLOSE_MS)
        else:
            self.abort(False)

    cdef void pulse(self) noexcept:
        pass

    cdef void flow(self) noexcept:
        pass

    cdef void gone(self, object error) noexcept:
        pass

    # What the event loop calls.

    def pause_writing(self):
        self.writing_paused = True
        self.flow()

    def resume_writing(self):
        self.writing_paused = False
        self.flow()

    def connection_lost(self, error):
        self.closed = True
        self.fd = -1
        fr_timer_remove(&self.timer)
        try:
            self.gone(error)
        finally:
            self.transport = None


def wheel_trace(steps, unsigned int most=50):
    """What the timer wheel fires, for tests.

    Args:
        steps: ("arm", timer, deadline_ms), ("disarm", timer) or ("advance", now_ms), timers numbered from 0 to 63;
            time starts at 0.
        most: how many fire in one go; more goes follow at once.

    Returns:
        One list per "advance": the timers that fired, in order.
    """
    cdef fr_wheel *wheel = <fr_wheel *>calloc(1, sizeof(fr_wheel))
    cdef fr_timer *timers = <fr_timer *>calloc(64, sizeof(fr_timer))
    cdef list trace = []
    if wheel is NULL or timers is NULL:
        free(wheel)
        free(timers)
        raise MemoryError
    try:
        fr_wheel_init(wheel, 0)
        for step in steps:
            if step[0] == "advance":
                global _fired
                _fired = []
                fr_wheel_advance(wheel, step[1], _note, most)
                while fr_wheel_fire_late(wheel, step[1], _note, most):
                    pass
                trace.append(_fired)
                continue
            if not 0 <= step[1] < 64:
                raise IndexError(step[1])
            timers[<int>step[1]].owner = <void *><size_t><int>step[1]
            if step[0] == "arm":
                fr_wheel_arm(wheel, &timers[<int>step[1]], step[2])
            else:
                fr_timer_disarm(&timers[<int>step[1]])
    finally:
        free(wheel)
        free(timers)
    return trace


cdef list _fired = []


cdef void _note(fr_timer *timer) noexcept with gil:
    _fired.append(<size_t>timer.owner)
