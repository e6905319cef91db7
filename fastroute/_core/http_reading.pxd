# http_reading: a client's bytes as requests, one after the other: heads within limits, bodies decoded and framed anew.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.http_head cimport fr_chunked, fr_head
from fastroute._core.http_terms cimport Terms
from fastroute._core.http_upstream cimport Sink
from fastroute._core.http_wire cimport fr_out

# What is read next. HOLD: the request is in, what follows it waits for its answer. DISCARD: the connection is ending.
# TUNNEL: bytes go to the server as they are.
cdef enum:
    FR_READ_HEAD = 0
    FR_READ_BODY = 1
    FR_READ_HOLD = 2
    FR_READ_DISCARD = 3
    FR_READ_TUNNEL = 4

# How far the present request is. Its body is taken once the head is SENT.
cdef enum:
    FR_PHASE_NONE = 0
    FR_PHASE_ROUTING = 1
    FR_PHASE_QUEUED = 2                 # no server has room
    FR_PHASE_CONNECTING = 3
    FR_PHASE_SENT = 4                   # from here on its body is taken
    FR_PHASE_GATHERING = 5              # the key stands in the body
    FR_PHASE_LOOKING = 6                # the cache is asked

cdef class Reading(Sink):
    cdef Terms terms
    cdef fr_out kept                    # bytes that wait: part of a head, pipelined requests, a body that must wait
    cdef size_t searched
    cdef int state                      # FR_READ_*
    cdef bint consuming                 # consume is on the stack
    # The present request.
    cdef int phase                      # FR_PHASE_*
    cdef fr_chunked chunked
    cdef uint64_t left                  # body bytes still to come
    cdef uint64_t body_bytes            # that came
    cdef int body                       # FR_BODY_*
    cdef bint request_complete

    # Take what can be taken now; the caller keeps the rest.
    cdef Py_ssize_t consume(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef void consume_kept(self) noexcept
    # The body's first bytes, which came with the head, framed anew into the engine's scratch buffer; -1: refused.
    cdef Py_ssize_t first_of_body(self, const fr_head *head, const uint8_t *data, Py_ssize_t size) noexcept
    cdef Py_ssize_t _body(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef Py_ssize_t _chunks(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef void _is_in(self) noexcept
    cdef void _count_head(self, const uint8_t *data, Py_ssize_t size, int status) noexcept

    # What the layers above give their meaning.
    # A whole head stands at data, `more` bytes behind it; -> how many of those were used.
    cdef Py_ssize_t begin(self, const uint8_t *data, const fr_head *head, Py_ssize_t more) noexcept
    # Body bytes as they go on the wire; last: these were the last ones.
    cdef void go_on(self, const uint8_t *data, Py_ssize_t size, bint last) noexcept
    # Bytes of a head that is no request, or of a body that may not go on: answer, and end the connection.
    cdef void refuse(self, int status) noexcept
    cdef void refuse_head(self, int status) noexcept
    # The client sends no more within a body.
    cdef void cut_short(self) noexcept
    # The client sends no more into a tunnel.
    cdef void half_closed(self) noexcept
