"""A connection whose bytes go both ways as they are, and how that ends: in good order, by half-close, after too long a silence.

Not here: how it began (http_relay: a server agreed to another protocol; tcp_relay: it never was anything else), reading and
sending (there too, each in its own way), renewal of its binding (http_upstream).

Rules of this file: an end in good order is passed on as such, and what is on its way goes out first. Of the bytes nothing is
looked at but where the frames of a WebSocket begin (fr_frames.h).
"""

from libc.stdint cimport uint8_t

from fastroute._core.http_attempt cimport Attempt
from fastroute._core.http_reading cimport FR_PHASE_NONE
from fastroute._core.http_wire cimport fr_out_put

cdef extern from "fr_frames.h" nogil:
    const uint8_t fr_frame_going_away[4]
    int fr_frames_between(const fr_frames *s) noexcept
    size_t fr_frames_pass(fr_frames *s, const uint8_t *data, size_t size, int stop) noexcept


cdef class Tunnel(Attempt):
    """One client connection that may become a tunnel."""

    cdef bint go_away(self) noexcept:
        """Send a Close frame in the server's place, between two of its frames: now, or when the present one has ended."""
        if not self.websocket or self.leaving or self.frames.closed or self.closed or self.phase == FR_PHASE_NONE:
            return False
        if self.up is None or self.up.eof:  # the server has ended its side, and the client was told so
            return False
        self.leaving = True
        if fr_frames_between(&self.frames):
            self.frames.closed = self.left_off = True
            self.put(fr_frame_going_away, 4)
        return True

    cdef Py_ssize_t whole_frames(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """The server's bytes in a WebSocket: how many of them go on."""
        cdef Py_ssize_t taken
        if self.left_off:  # the client's answer to the Close frame still reaches the server, which then ends
            return 0
        taken = fr_frames_pass(&self.frames, data, size, self.leaving)
        if self.leaving and not self.frames.closed and fr_frames_between(&self.frames):
            self.frames.closed = self.left_off = True
            fr_out_put(&self.engine.out, data, taken)
            fr_out_put(&self.engine.out, fr_frame_going_away, 4)
            return 0
        return taken

    cdef void half_closed(self) noexcept:
        if self.up is None:
            self.abort(False)
        elif self.up.eof:
            self.tunnel_ends()
        else:
            self.up.half_close()

    cdef void on_half_close(self) noexcept:
        if self.eof or self.tls:  # which has no half-close
            self.tunnel_ends()
            return
        try:
            self.transport.write_eof()
        except Exception:
            self.tunnel_ends()

    cdef void tunnel_over(self) noexcept:
        self.tunnel_ends()

    cdef void tunnel_ends(self) noexcept:
        """What is on its way goes out on both sides; then both end."""
        if self.phase == FR_PHASE_NONE:
            return
        self.phase = FR_PHASE_NONE
        self.epoch += 1
        self.engine.counts.tunnels -= 1
        if self.up is not None:
            self.up.let_go()
            self.up = None
        self.count_out(False)
        self.ended()
        self.close()

    cdef void tunnel_expired(self) noexcept:
        if self.writing_paused and not self.stalled():
            self.arm(self.terms.tunnel_ms)
        else:
            self.engine.counts.timeout_tunnel += 1
            self.tunnel_ends()
