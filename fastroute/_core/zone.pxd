# zone: one shared-memory segment per machine and zone name, or a private one (name None).
# Holds the directory (name digests -> slots), round-robin cursors and the affinity table's buckets and stripes.
cimport cython
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "fr_zone.h" nogil:
    ctypedef struct fr_zone_plan:
        uint64_t size_bytes
        uint32_t server_entries
        uint32_t stripes
        uint32_t stripe_buckets
        uint32_t load_rows
        uint32_t load_words
    ctypedef struct fr_zone_header:
        uint32_t server_count
        uint32_t pool_count
        uint64_t repairs
    ctypedef struct fr_zone:
        uint8_t *base
        fr_zone_header *header
        fr_zone_plan plan

cdef extern from "fr_loads.h" nogil:
    ctypedef struct fr_load_process:
        uint32_t pid
    ctypedef struct fr_loads:
        int32_t *own
        const int32_t *rows
        const fr_load_process *processes
        uint32_t row_count
        uint32_t words

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
    cdef fr_loads loads                 # requests in flight by process, for Pool; own NULL: not joined yet
    cdef int32_t *own_loads             # where all rows are other processes'
    cdef int load_row                   # this process's, or -1
    cdef uint32_t look_next
    cdef uint64_t looked_ms
    cdef uint64_t pid_namespace
    cdef object __weakref__
    cdef int pins                       # users of the mapping; it goes when the zone is closed and none is left
    # Directory slot of (fleet, pool, server); allocates one at first sight. Raises UsageError when the directory is full.
    cpdef int server_slot(self, str fleet, str pool, str server) except -1
    # Address of the pool's shared 64-bit round-robin cursor, for atomic adds; lives as long as the zone object.
    cdef uint64_t *pool_cursor(self, str fleet, str pool) except NULL
    # Column of the pool in a row of loads; a server's column is its server_slot.
    cdef uint32_t pool_column(self, str fleet, str pool) except? 0xFFFFFFFF
    # The loads of all processes; the first call takes a row for this one. The address is good as long as this object.
    cdef fr_loads *join_loads(self) except NULL
    cdef int _take_row(self) except -1
    # Say that this process lives and look after one other; some 10 us, to be called every 50 ms or later.
    cdef void look(self, uint64_t now_ms) noexcept
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
