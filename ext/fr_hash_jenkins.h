/* fr_hash_jenkins.h: the small hashes of HAProxy's hash-type and of libmemcached, each a few shifts per byte.
 *
 *   fr_sdbm, fr_djb2, fr_wt6   HAProxy's functions of a key (configuration manual 2.6, "hash-type")
 *   fr_avalanche               Bob Jenkins' six-shift avalanche times 3221225473: HAProxy's full_hash
 *   fr_one_at_a_time           Bob Jenkins' one-at-a-time, libmemcached's default ("Hash functions", Dr. Dobb's, 1997),
 *                              with libmemcached's bytes: above 127 they are negative, as char is on x86-64
 *
 * Checked against the products in tests/conformance/.
 */
#ifndef FR_HASH_JENKINS_H
#define FR_HASH_JENKINS_H

#include "fr_base.h"

static inline uint32_t fr_sdbm(const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t h = 0;
    for (; size; size--)
        h = *p++ + h * 65599u;
    return h;
}

static inline uint32_t fr_djb2(const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t h = 5381;
    for (; size; size--)
        h = h * 33u + *p++;
    return h;
}

static inline uint32_t fr_rotl32(uint32_t x, uint32_t r)
{
    return (x << (r & 31)) | (x >> ((32 - r) & 31));
}

static inline uint32_t fr_wt6(const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t left = 0xa53c965au, right = 0x5ca6953au, turn_left = 6, turn_right = 18;
    for (; size; size--, p++) {
        uint32_t mixed = ~(left ^ *p), summed = ~(right + *p), turns;
        left = fr_rotl32(summed, turn_left);
        right = fr_rotl32(mixed, turn_right);
        turns = ((left >> 16) ^ right) & 0xffff;
        turn_left = turns & 31;
        turn_right = turns >> 11;
    }
    return left ^ right;
}

static inline uint32_t fr_avalanche(uint32_t a)
{
    a = (a + 0x7ed55d16u) + (a << 12);
    a = (a ^ 0xc761c23cu) ^ (a >> 19);
    a = (a + 0x165667b1u) + (a << 5);
    a = (a + 0xd3a2646cu) ^ (a << 9);
    a = (a + 0xfd7046c5u) + (a << 3);
    a = (a ^ 0xb55a4f09u) ^ (a >> 16);
    return a * 3221225473u;
}

static inline uint32_t fr_one_at_a_time(const void *data, size_t size)
{
    const int8_t *p = (const int8_t *)data;
    uint32_t h = 0;
    for (; size; size--) {
        h += (uint32_t)*p++;
        h += h << 10;
        h ^= h >> 6;
    }
    h += h << 3;
    h ^= h >> 11;
    return h + (h << 15);
}

#endif
