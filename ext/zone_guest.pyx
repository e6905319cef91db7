"""zone_guest: a row of a zone's loads for requests that are not this machine's: what other replicas have in flight.

Every policy adds up the rows of a zone (fr_loads.h), so that a row filled with what other replicas say makes their
requests count in least-connections, max_load and max_connections without a change, or a cost, per pick.
Not here: what others say and how old it may be (fastroute.fleet.load).

Beside the row a zone has the turn of each pool's choices among equals: turn_within() keeps the zones of a fleet from
going through idle servers in step, which would send two machines' next users to the same one.

Rules: the row belongs to this process and goes with it: its writer gone, it counts nothing (fr_zone_loads.h). One writer,
plain stores; holds the GIL.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastroute._core.zone cimport Zone, fr_zone

from fastroute.errors import UsageError

cdef extern from *:
    uint64_t __atomic_load_n(uint64_t *at, int order) nogil
    void __atomic_store_n(uint64_t *at, uint64_t word, int order) nogil
    int __ATOMIC_RELAXED

cdef extern from "fr_zone_loads.h" nogil:
    int fr_loads_enter(fr_zone *zone) noexcept
    void fr_loads_leave(fr_zone *zone, int row) noexcept
    int32_t *fr_zone_load_row(const fr_zone *zone, uint32_t row) noexcept


cdef class GuestLoads:
    """A row of a zone.

    Args:
        zone: open; it stays mapped until close().

    Raises:
        UsageError: the zone is closed, or all its rows are taken.
    """

    def __init__(self, Zone zone not None):
        if self.zone is not None:
            raise UsageError("a row is taken once")
        self.row = -1
        zone.pin()
        self.zone = zone
        self.row = fr_loads_enter(&zone.view)
        if self.row < 0:
            self.close()
            raise UsageError(f"zone {zone.name!r}: all rows of loads belong to other processes; a larger zone has more")

    def __dealloc__(self):
        self._leave()

    def set(self, str fleet not None, str pool not None, servers not None):
        """Say what others have in flight: server -> requests. Servers that are not named keep what they had.

        Raises:
            UsageError: closed, or a zone without room for another server.
        """
        cdef int32_t *words
        cdef int32_t total = 0
        cdef int slot
        cdef object count
        if self.zone is None or self.row < 0:
            raise UsageError("the row was given back")
        words = fr_zone_load_row(&self.zone.view, <uint32_t>self.row)
        for server, count in servers.items():
            slot = self.zone.server_slot(fleet, pool, server)
            words[slot] = <int32_t>min(max(count, 0), 1 << 24)
        for server in servers:
            total += words[self.zone.server_slot(fleet, pool, server)]
        words[self.zone.pool_column(fleet, pool)] = total

    def of(self, str fleet not None, str pool not None, str server not None):
        """What was said of a server."""
        if self.zone is None or self.row < 0:
            raise UsageError("the row was given back")
        return fr_zone_load_row(&self.zone.view, <uint32_t>self.row)[self.zone.server_slot(fleet, pool, server)]

    def turn_within(self, str fleet not None, str pool not None, uint32_t begin, uint32_t end, uint32_t count):
        """Let the zone's next choice among equals under least-connections begin in begin..end-1, unless it does already.

        Args:
            begin, end: places among the eligible servers, in the pool's order.
            count: of draws among equals of unequal weight, where none was made yet.
        Raises:
            UsageError: closed, or a zone without room for another pool.
        """
        cdef uint64_t *turn
        cdef uint64_t word, place
        if self.zone is None or self.row < 0:
            raise UsageError("the row was given back")
        turn = self.zone.pool_cursor(fleet, pool)
        word = __atomic_load_n(turn, __ATOMIC_RELAXED)
        place = word & 0xFFFFFFFFu
        if not begin <= place < end:
            place = begin
        if word >> 32 == 0:
            word = <uint64_t>count << 32
        __atomic_store_n(turn, (word & ~<uint64_t>0xFFFFFFFFu) | place, __ATOMIC_RELAXED)

    def close(self):
        """Give the row back: what it said counts no more. Safe to call again."""
        self._leave()

    cdef void _leave(self) noexcept:
        if self.zone is not None:
            fr_loads_leave(&self.zone.view, self.row)
            self.row = -1
            self.zone.unpin()
            self.zone = None
