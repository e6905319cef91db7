"""The look at requests that take too long as a whole, and at peers that are too slow: once per tick, over all connections.

Not here: time limits between two events (each connection's own timer). Why not that timer: a limit on a whole request, or on
a rate, outlives many events, and a second timer per connection, or a clock asked per read, would be paid by every request.
A look costs some nanoseconds per connection and tick, and only where such a limit is configured.

Theory of operation. A rate is judged over windows of the grace: whoever is in one slow part all through a window (the client
sends a body; the client leaves unsent bytes behind; the server sends a body to a client that keeps up) must have moved the
minimum rate times the window. Leaving the part ends the window, so that nobody is blamed for another's pace: a client whose
server takes no more is not sending slowly, a server whose client reads no more is not answering slowly.

Resolution: one tick; a request is seen one tick late at most, so a limit ends it at most two ticks late, never early.
"""

from libc.stdint cimport uint64_t

from fastroute._core.http_attempt cimport Attempt
from fastroute._core.http_reading cimport (
    FR_PHASE_GATHERING, FR_PHASE_NONE, FR_PHASE_SENT, FR_READ_BODY, FR_READ_DISCARD, FR_READ_TUNNEL
)
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_upstream cimport FR_FAIL_BODY, Upstream

cdef enum:
    PART_NONE = 0
    PART_REQUEST = 1                    # the client sends its body
    PART_RESPONSE = 2                   # the client leaves bytes unread
    PART_SERVER = 3                     # the server sends the body of its answer


cdef class Watch:
    """Looks at the connections of one listener.

    Args:
        connections: the listener's own set, which changes.
    """

    def __init__(self, set connections not None):
        self.connections = connections

    def look(self):
        """End what took too long, or is too slow."""
        cdef Attempt one
        for found in list(self.connections):
            one = <Attempt>found
            self._look_at(one, one.engine.now_ms())

    cdef void _look_at(self, Attempt one, uint64_t now_ms) noexcept:
        cdef Terms terms = one.terms
        cdef uint64_t mark = 0
        cdef int part
        if one.state == FR_READ_TUNNEL:
            one.watched_epoch = one.rate_part = 0
            return
        if one.phase == FR_PHASE_NONE or one.watched_epoch != one.epoch:
            one.watched_epoch, one.watched_ms = one.epoch, now_ms
        elif terms.total_ms and now_ms - one.watched_ms >= terms.total_ms:
            self._out_of_time(one)
            return
        part = self._part(one, &mark)
        if part == PART_NONE or part != one.rate_part or one.rate_epoch != one.epoch:
            one.rate_part, one.rate_epoch, one.rate_mark, one.rate_ms = part, one.epoch, mark, now_ms
            return
        self._judge(one, mark, now_ms)

    cdef int _part(self, Attempt one, uint64_t *mark) noexcept:
        """Which part the connection is in; *mark grows by every byte that it moves there."""
        cdef Upstream up = one.up
        cdef Py_ssize_t unsent
        if one.terms.rate_bytes and one.queued:
            unsent = one.unsent()
            if unsent:
                mark[0] = one.written - <uint64_t>unsent
                return PART_RESPONSE
        if one.closed or one.state == FR_READ_DISCARD:
            return PART_NONE
        if one.state == FR_READ_BODY:
            if not one.terms.rate_bytes or one.reading_paused or (one.expects and one.request is not None):
                return PART_NONE  # it is the server that is waited for, with its word to go on too
            if one.phase != FR_PHASE_SENT and one.phase != FR_PHASE_GATHERING:
                return PART_NONE
            mark[0] = one.body_bytes - one.left
            return PART_REQUEST
        if one.phase == FR_PHASE_SENT and one.route.lines.rate_bytes and one.head_flushed and up is not None and not up.reading_paused:
            mark[0] = one.written
            return PART_SERVER
        return PART_NONE

    cdef void _judge(self, Attempt one, uint64_t mark, uint64_t now_ms) noexcept:
        cdef bint servers = one.rate_part == PART_SERVER
        cdef uint64_t grace_ms = one.route.lines.rate_grace_ms if servers else one.terms.rate_grace_ms
        cdef uint64_t rate = one.route.lines.rate_bytes if servers else one.terms.rate_bytes
        cdef uint64_t took_ms = now_ms - one.rate_ms
        if took_ms < grace_ms:
            return
        if (mark - one.rate_mark) * 1000 >= rate * took_ms:
            one.rate_mark, one.rate_ms = mark, now_ms
            return
        if servers:
            one.engine.counts.limit_rate_server += 1
            one.up._fail(FR_FAIL_BODY)
        elif one.rate_part == PART_REQUEST:
            one.engine.counts.limit_rate_request += 1
            one.refuse(408)
        else:
            one.engine.counts.limit_rate_response += 1
            one.drop()

    cdef void _out_of_time(self, Attempt one) noexcept:
        one.engine.counts.timeout_total += 1
        if one.phase != FR_PHASE_SENT or not one.request_complete or one.head_sent:
            one.count_out(False)  # not the server alone was waited for
        if one.head_flushed:
            one.cut()
        else:
            one.answer(504, not one.request_complete)
