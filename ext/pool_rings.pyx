"""pool_rings: a look behind a pool, for explain and preview: which ring answers now.

Not here: picking (pool), the rings themselves (ring_*). Rules of this file: it reads, and changes nothing; what it hands
out is immutable, so that it stays true for the moment it was asked for.
"""

from libc.stdint cimport uint8_t, uint64_t

from fastroute._core.base cimport fr_clock, fr_now_tick
from fastroute._core.pool cimport Pool


def rings_in_force(Pool pool not None):
    """The rings that answer for a key now.

    Returns:
        (dialect, table, overlay): the ring that `hash` picks from when it is not the table, or None; the table, of the
        main servers or of the backups when it is their turn, None before it was needed; the table's overlay for cells
        none of whose listed choices is ready, or None.
    """
    return pool._rings.dialect, pool._rings.table, pool._rings.overlay


def likeness_of(Pool pool not None):
    """(servers in the order of their declaration, keyword arguments): what a pool of the same kind is made of.

    Options that depend on load or time (max_load, slow start) are left out: they say nothing of where a key belongs.
    """
    by_name = {server.name: server for server in pool._servers}
    options = {name: getattr(pool, name) for name in ("policy", "ring", "slots", "seed", "fleet")}
    if pool._rings.options:
        options["ring_options"] = dict(pool._rings.options)
    options["panic"] = pool._options.panic_ratio
    return [by_name[name] for name in pool._rings._declared], options


def slot_of_key(Pool pool not None, bytes key not None):
    """Slot that `hash` picks for a key now, with ramps, max_connections and max_load; -1: none. Nothing is counted."""
    cdef uint64_t counted = pool._p.panic_picks
    cdef int slot = pool.pick(<const uint8_t *><const char *>key, len(key))
    pool._p.panic_picks = counted
    return slot


def now_tick():
    """The tick that the zone's records count time in (64 ms of the machine's monotonic clock)."""
    cdef fr_clock clock
    clock.manual_ms = 0
    return fr_now_tick(&clock)
