# mc_meta: memcached's meta protocol without sockets. Requests are written into one buffer; replies complete them in order.
# Statuses are plain ints; UNKNOWN and DOWN are neither a hit nor a miss. All calls hold the GIL; one event loop per codec.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastroute._core.base cimport fr_clock

cdef enum:
    FR_MC_HIT = 0                       # a value, or "done" for touch and noop
    FR_MC_MISS = 1                      # the node says: no such key
    FR_MC_STORED = 2
    FR_MC_EXISTS = 3                    # the CAS token is not the current one; or, not sent, of another connection
    FR_MC_NOT_STORED = 4                # add found a value
    FR_MC_NOT_FOUND = 5                 # a compare-and-set, delete or increment found nothing
    FR_MC_DELETED = 6
    FR_MC_SERVER_ERROR = 7              # refused (memory, size); what was stored before under the key may be gone
    FR_MC_CLIENT_ERROR = 8              # increment of a value that is not a number
    FR_MC_UNKNOWN = 9                   # sent, the answer did not come: may or may not have happened
    FR_MC_DOWN = 10                     # not sent: the node is away, or too much is waiting for it

cdef class CasToken:
    cdef readonly uint64_t cas
    cdef readonly uint64_t generation   # of the connection that read it; no other may send it

cdef class Reply:
    cdef readonly object value          # bytes, or None where no value was asked or found
    cdef readonly uint64_t cas          # 0: none
    cdef readonly uint64_t generation   # of the connection that read it; 0: not sent
    cdef readonly int64_t ttl_s         # before any touch of the same request; -1 never expires, -2 not told
    cdef readonly uint32_t client_flags
    cdef readonly int status
    cdef readonly bint won              # the lease is yours: compute and store
    cdef readonly bint stale            # the value was marked stale
    cdef readonly bint sent             # somebody else holds the lease

cdef struct fr_mc_slot:
    void *waiter                        # owned future; NULL for the first of a pair
    void *key                           # owned bytes, where keys are checked in replies
    void *first                         # owned Reply of the first of a pair
    uint64_t sequence
    uint64_t at_ms                      # when it was asked
    uint8_t kind
    uint8_t pair                        # 1: the first of a pair

cdef class MetaCodec:
    cdef readonly int state
    cdef readonly uint64_t generation
    cdef readonly object failure        # why the last connection ended: str or None
    cdef uint64_t _epoch                # number of the connection that may be read
    cdef object _new_waiter, _notify, _on_failure, _on_idle, _on_up
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
    # replies
    cdef int _reading
    cdef uint8_t _line[2048]
    cdef size_t _line_size
    cdef object _value
    cdef size_t _value_at, _value_size
    cdef Reply _reply
    # statistics
    cdef readonly uint64_t requests, unknown, down, busy, timeouts, protocol_errors, connections, stale_tokens
    cdef readonly uint64_t server_errors, bytes_out, bytes_in

    cdef object _done(self, Reply first, Reply reply, bint pair)
    cdef int _admit(self, int slots, size_t size) except -1
    cdef object _push(self, int kind, bint pair_first, Reply first, bint waits, object key, uint64_t now_ms)
    cdef int _drop(self) except -1
    cdef void _drop_reading(self) noexcept
    cdef uint8_t *_put_check(self, uint8_t *p) noexcept
    cdef object _store(self, object key, object value, object ttl_s, object client_flags, char mode, CasToken token,
                       bint then_get)
    cdef int _resolve(self, fr_mc_slot *slot, Reply reply) except -1
    cdef int _broken(self, str reason) except -1
    cdef int _fatal(self, str reason) except -1
    cdef int _consume(self, const uint8_t *p, const uint8_t *end) except -1
    cdef int _line_read(self, const uint8_t *line, size_t size) except -1
    cdef int _probe_line(self, const uint8_t *line, size_t size) except -1
    cdef int _deliver(self) except -1

cdef class Inlet:
    cdef MetaCodec _codec
    cdef uint64_t _epoch
