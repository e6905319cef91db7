"""A request of the cache's own: the usual way to a server (selection, connections, limits, retries), and no client.

Not here: why it is made and what its response changes (fastroute.proxy.caching). Rules of this file: it has no key, so it binds
nobody to a server; the body is copied for the fill or dropped; `over` is called exactly once.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memset

from fastroute._core.http_caching cimport FR_FILL_PASS, FR_FILL_SWALLOW, Caching
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_reading cimport FR_PHASE_NONE, FR_READ_HOLD
from fastroute._core.http_route cimport Route
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_wire cimport fr_out_clear


cdef class Fetch(Caching):
    """One GET.

    Args:
        relay: the listener's settings under which it goes.
        route: to its pool.
        request: its head for the server.
        fill: hears of the response.
    """

    def __init__(self, Terms relay not None, Route route not None, bytes request not None, fill):
        self.terms, self.route = relay, route
        self.engine = relay.engine
        self.peer = self.client = b""
        self.request, self.fill = request, fill
        self.head_bytes = PyBytes_GET_SIZE(request)
        self.request_complete = self.idempotent = True
        self.state = FR_READ_HOLD
        memset(&self.binding, 0, sizeof(self.binding))
        self.reason = "policy"

    def start(self, over):
        """Send it."""
        self.over = over
        self.active = True
        self.route.lines.active += 1
        self._choose()

    def stop(self):
        """Nobody wants it any more."""
        self._end()

    cdef void _end(self) noexcept:
        over = self.over
        self.over = None
        self.epoch += 1
        self.waited()
        if self.up is not None:
            self.up.forget()
            self.up = None
        self.count_out(False)
        self.ended()
        self.phase = FR_PHASE_NONE
        if self.fill is not None:
            self.fill_lost()
        if over is not None:
            try:
                over()
            except Exception as error:
                self.report(error)

    cdef void answer(self, int status, bint end) noexcept:
        self.up = None
        self.waited()
        self.count_out(status >= 502)
        if self.fill is not None:
            self.fill_failed(status)
        self._end()

    cdef void cut(self) noexcept:
        self.count_out(True)
        self._end()

    cdef bint _serve(self, answer) noexcept:
        return False

    cdef void on_head(self, const uint8_t *data, const fr_head *head, int framing) noexcept:
        cdef int does = FR_FILL_PASS
        self.head_sent = self.head_flushed = True
        if head.status // 100 == 5:
            self.suspect()
        else:
            self.line.failures = 0
        if self.fill is not None:
            does = self.fill_head(data, head, framing)
        if does == FR_FILL_PASS or (does == FR_FILL_SWALLOW and head.status != 304):
            self.up.forget()
            self.up = None
            self.count_out(head.status >= 502)
            if self.fill is not None:
                self.fill_end()
            self._end()

    cdef void on_body(self, const uint8_t *data, Py_ssize_t size, bytes whole) noexcept:
        if self.fill is not None:
            self.fill_body(data, size)

    cdef void on_flush(self) noexcept:
        fr_out_clear(&self.engine.out)

    cdef void on_end(self) noexcept:
        self.up = None
        self.count_out(False)
        if self.fill is not None:
            self.fill_end()
        self._end()

    cdef void on_fail(self, int how, bint reused) noexcept:
        if self.head_sent:
            self.up = None
            self.cut()
        else:
            Caching.on_fail(self, how, reused)
