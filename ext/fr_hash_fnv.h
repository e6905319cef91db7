/* fr_hash_fnv.h: FNV-1a of 32 and 64 bits (Fowler, Noll and Vo; IETF draft-eastlake-fnv). Short keys only: a byte a step.
 *
 *   fr_fnv1a_32_signed   libmemcached's: its bytes above 127 are negative, as char is on x86-64
 *
 * Checked against the draft's test values in tests/unit/test_ring_hashes.py.
 */
#ifndef FR_HASH_FNV_H
#define FR_HASH_FNV_H

#include "fr_base.h"

static inline uint32_t fr_fnv1a_32(const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t h = 0x811c9dc5u;
    for (; size; size--)
        h = (h ^ *p++) * 0x01000193u;
    return h;
}

static inline uint32_t fr_fnv1a_32_signed(const void *data, size_t size)
{
    const int8_t *p = (const int8_t *)data;
    uint32_t h = 0x811c9dc5u;
    for (; size; size--)
        h = (h ^ (uint32_t)*p++) * 0x01000193u;
    return h;
}

static inline uint64_t fr_fnv1a_64(const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    uint64_t h = 0xcbf29ce484222325ull;
    for (; size; size--)
        h = (h ^ *p++) * 0x100000001b3ull;
    return h;
}

#endif
