"""zone_census: how many live bindings each server of a zone has, counted in one walk over the affinity table.

Not here: the table (fr_bucket.h), whose server a slot is (Zone.server_slot). Reads only, without locks: a bucket that a
writer holds is left out.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastroute._core.affinity_table cimport fr_binding
from fastroute._core.base cimport fr_clock, fr_now_tick
from fastroute._core.hashes cimport fr_fingerprint
from fastroute._core.zone cimport Zone, fr_table, fr_zone_plan

cdef extern from "fr_bucket.h" nogil:
    uint64_t fr_table_bucket_count(const fr_zone_plan *plan) noexcept
    int fr_aff_bucket_records(const fr_table *table, uint32_t index, uint32_t now_tick, fr_fingerprint *keys,
                              fr_binding *bindings) noexcept

cdef enum:
    CELLS = 24          # FR_BUCKET_CELLS
    SLOTS = 65536


def bindings_by_slot(Zone zone not None, now_tick=None):
    """Live bindings per slot of the zone's directory: {slot: count}, slots without any left out.

    Args:
        now_tick: the time in ticks of 64 ms, for what counts as live; None for now.

    Raises:
        UsageError: the zone is closed.

    Notes: about 10 ms for 64 MiB, without the GIL: for the control plane, in a thread where that is too long.
    """
    cdef fr_clock clock
    cdef fr_fingerprint[CELLS] keys
    cdef fr_binding[CELLS] bindings
    cdef uint32_t *counts
    cdef uint32_t tick, slot
    cdef uint64_t bucket, buckets
    cdef int i, found
    zone.pin()          # a close() meanwhile leaves the mapping
    counts = <uint32_t *>calloc(SLOTS, sizeof(uint32_t))
    if counts == NULL:
        zone.unpin()
        raise MemoryError
    try:
        clock.manual_ms = 0
        tick = fr_now_tick(&clock) if now_tick is None else now_tick
        with nogil:
            buckets = fr_table_bucket_count(&zone.view.plan)
            for bucket in range(buckets):
                found = fr_aff_bucket_records(&zone.table, <uint32_t>bucket, tick, keys, bindings)
                for i in range(found):
                    counts[bindings[i].slot] += 1
        return {slot: counts[slot] for slot in range(<uint32_t>SLOTS) if counts[slot]}
    finally:
        free(counts)
        zone.unpin()
