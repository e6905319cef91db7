"""pool_rings: a look behind a pool, for explain and preview: which ring answers now.

Not here: picking (pool), the rings themselves (ring_*). Rules of this file: it reads, and changes nothing; what it hands
out is immutable, so that it stays true for the moment it was asked for.
"""

from libc.stdint cimport uint32_t

from fastroute._core.base cimport fr_clock, fr_now_tick
from fastroute._core.pool cimport Pool


def rings_in_force(Pool pool not None):
    """The rings that answer for a key now.

    Returns:
        (dialect, table, overlay): the ring that `hash` picks from when it is not the table, or None; the table, of the
        main servers or of the backups when it is their turn, None before it was needed; the table's overlay for cells
        none of whose listed choices is ready, or None.
    """
    return pool._dialect, pool._ring, pool._overlay


def ring_options_of(Pool pool not None):
    """A copy of the options of the pool's ring."""
    return dict(pool._ring_options)


def now_tick():
    """The tick that the zone's records count time in (64 ms of the machine's monotonic clock)."""
    cdef fr_clock clock
    clock.manual_ms = 0
    return fr_now_tick(&clock)
