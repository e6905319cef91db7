# zone: one shared-memory segment per machine and zone name, or a private one (name None).
# Holds the directory (name digests -> slots), round-robin cursors and the affinity table's buckets and stripes.
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fr_zone.h" nogil:
    ctypedef struct fr_zone_plan:
        uint64_t size_bytes
        uint32_t server_entries
        uint32_t stripes
        uint32_t stripe_buckets
    ctypedef struct fr_zone_header:
        uint32_t server_count
        uint32_t pool_count
        uint64_t repairs
    ctypedef struct fr_zone:
        uint8_t *base
        fr_zone_header *header
        fr_zone_plan plan

cdef extern from "fr_bucket.h" nogil:
    ctypedef struct fr_table:
        uint64_t busy_reads
        uint64_t busy_writes

@cython.final
cdef class Zone:
    cdef readonly object name           # str, or None for a private zone
    cdef readonly uint64_t size_bytes
    cdef readonly object path           # of the segment, or None
    cdef readonly bint shared           # other processes may have it open
    cdef readonly bint closed
    cdef fr_zone view
    cdef fr_table table                 # this process's view of the affinity table, for AffinityTable
    cdef uint64_t *blocked_until_ms
    cdef int pins                       # users of the mapping; it goes when the zone is closed and none is left
    # Directory slot of (fleet, pool, server); allocates one at first sight. Raises UsageError when the directory is full.
    cpdef int server_slot(self, str fleet, str pool, str server) except -1
    # Address of the pool's shared 64-bit round-robin cursor, for atomic adds; lives as long as the zone object.
    cdef uint64_t *pool_cursor(self, str fleet, str pool) except NULL
    # Keep the mapping after close(), until as many unpins.
    cdef int pin(self) except -1
    cdef int _map(self, int fd, const fr_zone_plan *plan) except -1
    cdef int _create(self, bytes digest) except -1
    cdef int _open_shared(self, bytes digest, const fr_zone_plan *plan) except -1
    cdef int _create_linked(self, str entry, int directory_fd, bytes digest, const fr_zone_plan *plan,
                            bint unnamed) except -1
    cdef int _enter(self, int kind, tuple names) except -1
    cdef void unpin(self) noexcept
    cdef void unmap(self) noexcept
