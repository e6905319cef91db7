# mc_reply: the result of a request to memcached. Statuses are plain ints; UNKNOWN and DOWN are neither a hit nor a miss.
# Made by mc_queue (or make_reply) and never changed once handed out.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "fr_meta.h" nogil:     # what each means stands there
    enum: FR_MC_HIT
    enum: FR_MC_MISS
    enum: FR_MC_STORED
    enum: FR_MC_EXISTS
    enum: FR_MC_NOT_STORED
    enum: FR_MC_NOT_FOUND
    enum: FR_MC_DELETED
    enum: FR_MC_SERVER_ERROR
    enum: FR_MC_CLIENT_ERROR
    enum: FR_MC_UNKNOWN
    enum: FR_MC_DOWN

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
