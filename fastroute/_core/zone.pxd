# zone: one shared-memory segment per machine and zone name, or a private one (name None).
# Holds the directory (name digests -> slots), round-robin cursors and the affinity table's buckets and stripes.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef class Zone:
    cdef readonly object name           # str, or None for a private zone
    cdef readonly uint64_t size_bytes
    # Directory slot of (fleet, pool, server); allocates one at first sight. Raises UsageError when the directory is full.
    cpdef int server_slot(self, str fleet, str pool, str server) except -1
    # Address of the pool's shared 64-bit round-robin cursor, for atomic adds; lives as long as the zone object.
    cdef uint64_t *pool_cursor(self, str fleet, str pool) except NULL
