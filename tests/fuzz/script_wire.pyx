"""What a relay runs on when scripts drive it: a loop that turns when it is told to, and transports without sockets.

Not here: what is said, and when (script_drive). Rules of this file: a transport does what asyncio's do, and counts as a finding
what asyncio would only warn of: a write after the end, an end after the end, more that waits than may.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t

from fastroute._core.http_wire cimport fr_out, fr_out_clear, fr_out_put

from fastroute._core.http_wire import WRITE_HIGH_BYTES
from tests.fuzz.relay_world import Finding

cdef extern from "<string.h>" nogil:
    void *memmem(const void *data, size_t size, const void *what, size_t what_size)

# What may wait for a peer: as relay_world.UNSENT_BYTES_MAX.
cdef size_t UNSENT_MAX = WRITE_HIGH_BYTES + (256 << 10) + (192 << 10)
cdef size_t LOW = WRITE_HIGH_BYTES // 4


cdef class _Handle:
    cdef object what, arguments
    cdef double at_s
    cdef bint cancelled

    def cancel(self):
        self.cancelled = True


cdef class Loop:
    """What the engine and the pool's line of waiting ask of an event loop; it turns when it is told to."""

    def __init__(self, clock):
        self.clock, self.soon, self.later, self.errors = clock, [], [], []

    def call_soon(self, what, *arguments):
        cdef _Handle handle = _Handle.__new__(_Handle)
        handle.what, handle.arguments = what, arguments
        self.soon.append(handle)
        return handle

    def call_later(self, delay_s, what, *arguments):
        cdef _Handle handle = _Handle.__new__(_Handle)
        handle.what, handle.arguments = what, arguments
        handle.at_s = self.clock.monotonic_s() + delay_s
        self.later.append(handle)
        return handle

    def call_exception_handler(self, context):
        self.errors.append(context)

    cdef bint turn(self) except -1:
        """Run what was asked for, once; False: nothing was."""
        cdef list due = self.soon
        cdef _Handle handle
        if not due:
            return False
        self.soon = []
        for handle in due:
            if not handle.cancelled:
                handle.what(*handle.arguments)
        return True

    cdef int passed(self) except -1:
        """Time has passed: who waited for it is due."""
        cdef _Handle handle
        cdef double now_s = self.clock.monotonic_s()
        cdef list still = []
        for handle in self.later:
            (self.soon if handle.at_s <= now_s else still).append(handle)
        self.later = still
        return 0


cdef bint is_tunnel(const script_peer *p) noexcept:
    return p.written.size != 0 and memmem(p.written.data, p.written.size, <const char *>b"HTTP/1.1 101 ", 13) is not NULL


cdef dict FACTS = {"sockname": ("192.0.2.1", 80)}


cdef class Transport:
    """A connection whose other end is the script."""

    cdef void open(self, script_peer *p, Loop loop, bint slow) noexcept:
        fr_out_clear(&p.outbox)
        fr_out_clear(&p.written)
        p.given = p.heard = p.unsent = p.asked_at = 0
        p.piece, p.high, p.slow = 1 << 20, WRITE_HIGH_BYTES, slow
        p.stopped = p.closing = p.aborted = p.lost = p.ended = p.eof = False
        p.reading = True
        self.p, self.loop = p, loop

    def get_extra_info(self, name, default=None):
        return self.peername if name == "peername" else FACTS.get(name, default)

    def set_write_buffer_limits(self, high=None, low=None):
        self.p.high = high or WRITE_HIGH_BYTES

    def get_write_buffer_size(self):
        return self.p.unsent

    def write(self, data):
        cdef bytes whole = data if type(data) is bytes else bytes(data)
        cdef Py_ssize_t size = len(whole)
        cdef script_peer *p = self.p
        if p.closing or p.ended:
            raise self._finding("a write after the end")
        fr_out_put(&p.written, <const char *>whole, size)
        if p.slow:
            p.unsent += size
            if p.unsent > UNSENT_MAX:
                raise self._finding(f"{p.unsent} bytes wait")
            if p.unsent > p.high and not p.stopped:
                p.stopped = True
                self.protocol.pause_writing()

    def write_eof(self):
        if self.p.closing or self.p.ended:
            raise self._finding("an end after the end")
        self.p.ended = True

    def pause_reading(self):
        self.p.reading = False

    def resume_reading(self):
        self.p.reading = True

    def close(self):
        if not self.p.closing:
            self.p.closing = True
            if not self.p.unsent:
                self.loop.call_soon(self._lost, None)

    def abort(self):
        self.p.aborted = True
        if not self.p.closing or self.p.unsent:
            self.p.closing = True
            self.loop.call_soon(self._lost, None)

    def _finding(self, text):
        found = Finding(f"{type(self.protocol).__name__}: {text}")
        self.loop.errors.append(found)  # the relay catches what transports raise
        return found

    def _lost(self, error):
        if not self.p.lost:
            self.p.lost = True
            self.protocol.connection_lost(error)

    # ---- what the script does

    cdef bint hears(self) noexcept:
        return self.p.reading and not self.p.closing and not self.p.lost and not self.p.eof

    cdef bint give(self) except -1:
        """The next piece of what it says arrives, if it is heard."""
        cdef script_peer *p = self.p
        cdef size_t size = p.outbox.size - p.given
        if size == 0 or not self.hears():
            return False
        if size > p.piece:
            size = p.piece
        data = PyBytes_FromStringAndSize(<const char *>p.outbox.data + p.given, size)
        p.given += size
        if not p.ended or is_tunnel(p):  # in a tunnel one side may end
            p.heard = p.given
        self.protocol.data_received(data)
        return True

    cdef int give_eof(self) except -1:
        if self.hears():
            self.p.outbox.size = self.p.given
            self.p.eof = True
            if not self.protocol.eof_received():
                self.close()
        return 0

    cdef bint take(self, size_t size) except -1:
        """The peer reads."""
        cdef script_peer *p = self.p
        if p.unsent == 0:
            return False
        p.unsent -= min(size, p.unsent)
        if p.stopped and p.unsent <= LOW and not p.lost:
            p.stopped = False
            self.protocol.resume_writing()
        if p.closing and not p.unsent:
            self.loop.call_soon(self._lost, None)
        return True

    cdef int reset(self) except -1:
        """The peer is gone."""
        if not self.p.lost:
            self.p.closing = self.p.eof = self.p.aborted = True
            self._lost(ConnectionResetError())
        return 0
