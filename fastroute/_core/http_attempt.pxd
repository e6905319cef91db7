# http_attempt: one request on its way from its key to a server: chosen, connected, sent, and tried again where that is safe.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastroute._core.http_client cimport Client
from fastroute._core.http_head cimport fr_head
from fastroute._core.http_sticky cimport fr_binding
from fastroute._core.http_upstream cimport ServerLine, Upstream

cdef class Attempt(Client):
    cdef bint keep                      # the connection goes on after this answer
    cdef bint client_keeps              # the client expects it to
    cdef uint32_t served                # requests of this connection
    # The present request.
    cdef size_t head_bytes              # of the head in `request`
    cdef bytes request                  # all bytes for the server so far; None once more of the body went after them
    cdef bytes key                      # affinity key; None: none
    cdef object selection               # of the slow path, or None
    cdef object reason                  # str
    cdef Upstream up
    cdef ServerLine line
    cdef fr_binding binding
    cdef uint64_t started_ns, latency_ns
    cdef uint64_t begun_ns              # when the request began to wait, or its first attempt began; 0: neither yet
    cdef uint64_t head_ns               # when the present read brought the response head; 0: an earlier one did
    cdef uint16_t tried[8]
    cdef int tried_count, attempts, slot, out_body
    cdef int swallowed                  # fresh connections that took the request and ended unanswered
    cdef bint begun                     # counted in by the pool
    cdef bint waiting                   # counted by Lines.pending
    cdef bint active, retrying          # counted by Lines.active, Lines.retrying
    cdef bint admitted                  # first in line for room, and there was some
    cdef uint64_t queue_until_ms        # when its wait for room is over; 0: it did not wait yet
    cdef bint continued                 # the client was told to go on with its body
    cdef bint upgrades                  # it asks for another protocol
    cdef bint expects, is_head, idempotent, http10, refreshed
    cdef bint head_sent                 # the response head was written,
    cdef bint head_flushed              # and has left: nothing can be tried again
    # What http_watch knows: since when it has seen this epoch; the slow part it saw last, since when, and how far that was.
    cdef uint64_t watched_epoch, watched_ms, rate_epoch, rate_ms, rate_mark
    cdef int rate_part

    cdef bint _wait(self, int phase) noexcept
    cdef void _choose(self) noexcept
    cdef void _nobody(self) noexcept
    cdef void _queue(self, int slot) noexcept
    cdef void _go(self, int slot) noexcept
    cdef void _sent(self, Upstream up) noexcept
    cdef void _try_another(self, int status) noexcept
    cdef bint _may_retry(self) noexcept
    cdef void suspect(self) noexcept    # the present server failed
    # It waits no more.
    cdef void waited(self) noexcept
    # Count it out of the pool, if it is in.
    cdef void count_out(self, bint failed) noexcept
    # The request is over, however it ended.
    cdef void ended(self) noexcept
    # The request is over: how long it took.
    cdef void count_time(self) noexcept
    # A server was chosen: count the reason.
    cdef void _count_why(self) noexcept
    # An exception that nobody expected: told to the event loop, and the request fails.
    cdef void unexpected(self, error) noexcept

    # What the layers above give their meaning.
    # Answer in the server's place. end: the connection ends, for the request was not read whole or not understood.
    cdef void answer(self, int status, bint end) noexcept
    # The response cannot be finished: make that visible.
    cdef void cut(self) noexcept
    # The client is gone or given up: so is its request.
    cdef void drop(self) noexcept
    # The tunnel has ended on the server's side.
    cdef void tunnel_over(self) noexcept
