# mc_queue: the queue of one memcached node. Requests are written into one buffer; replies complete them in order.
# Between _admit (1: there is room) and _push nothing else may be written. All calls hold the GIL; one event loop per queue.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from fastroute._core.base cimport fr_clock
from fastroute._core.mc_reply cimport Reply

cdef extern from "fr_meta.h" nogil:     # what a request expects
    enum: FR_ASK_GET
    enum: FR_ASK_TOUCH
    enum: FR_ASK_STORE
    enum: FR_ASK_DELETE
    enum: FR_ASK_ARITHMETIC
    enum: FR_ASK_NOOP

cdef extern from "fr_meta_read.h" nogil:
    ctypedef struct fr_meta_reader:
        pass

cdef struct fr_mc_slot:
    void *waiter                        # owned future; NULL for the first of a pair
    void *key                           # owned bytes, where keys are checked in replies
    void *first                         # owned Reply of the first of a pair
    uint64_t sequence
    uint64_t at_ms                      # when it was asked
    uint8_t kind
    uint8_t pair                        # 1: the first of a pair

cdef class MetaQueue:
    cdef readonly int state
    cdef readonly uint64_t generation
    cdef readonly object failure        # why the last connection ended: str or None
    cdef uint64_t _epoch                # number of the connection that may be read
    cdef object _new_waiter, _notify, _on_failure, _on_idle, _on_up
    cdef public object on_burst         # called when BURST requests wait to be taken; None: they wait for the turn's end
    cdef fr_clock _clock
    cdef uint64_t _timeout_ms, _value_bytes_max, _queued_bytes_max
    cdef int _check, _probe
    # requests
    cdef fr_mc_slot *_slots
    cdef uint32_t _mask, _in_flight_max
    cdef uint64_t _head, _tail, _taken
    cdef uint8_t *_out
    cdef size_t _out_size, _out_capacity
    cdef bint _notified
    cdef bint _alone                    # the last write carried one request, and nothing else was waiting
    cdef object _next_waiter            # of the request that is being written; None: a future
    # replies
    cdef fr_meta_reader _reader
    cdef object _value
    cdef size_t _value_at
    cdef Reply _reply
    # statistics
    cdef readonly uint64_t requests, unknown, down, busy, timeouts, protocol_errors, connections, stale_tokens
    cdef readonly uint64_t server_errors, bytes_out, bytes_in
    cdef uint64_t _sample, _sample_us   # the request whose round trip is measured, and when it was sent; 0: none
    cdef uint64_t _roundtrip_sum_us
    cdef uint64_t _roundtrips[10]

    cdef object _waiter(self)
    cdef int _sent(self) except -1
    cdef object _done(self, Reply first, Reply reply, bint pair)
    cdef int _admit(self, int slots, size_t size) except -1
    cdef object _push(self, int kind, bint pair_first, Reply first, bint waits, object key, uint64_t now_ms)
    cdef int _drop(self) except -1
    cdef void _drop_reading(self) noexcept
    cdef void _new_generation(self) noexcept
    cdef uint8_t *_put_check(self, uint8_t *p) noexcept
    cdef int _resolve(self, fr_mc_slot *slot, Reply reply) except -1
    cdef int _broken(self, str reason) except -1
    cdef int _fatal(self, str reason) except -1
    cdef int _consume(self, const uint8_t *p, const uint8_t *end) except -1
    cdef int _line_read(self, const uint8_t *line, size_t size) except -1
    cdef int _probe_line(self, const uint8_t *line, size_t size) except -1
    cdef int _deliver(self) except -1

cdef class Inlet:
    cdef MetaQueue _codec
    cdef uint64_t _epoch
