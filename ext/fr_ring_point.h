/* fr_ring_point.h: what rings of points share: building a sorted circle, finding the first point at or behind a hash,
 * and walking on to other servers.
 *
 * A circle is three arrays: hashes ascending, their slots, and an index by the top bits of the hash: index[top] is the
 * position of the first point whose top bits are not below. With about two index entries per point a lookup reads one
 * index entry and, on average, 1.5 hashes (a bisection of 144,000 points reads 17, most of them cache misses). A sentinel
 * behind the last point (hash all ones, slot of the first) ends every scan and makes the circle wrap without a branch.
 *
 * Equal hashes keep the order in which the points were added (radix sort is stable), or only the first or last stays.
 * Rules: no Python, no GIL needed; only building and freeing allocate.
 */
#ifndef FR_RING_POINT_H
#define FR_RING_POINT_H

#include <stdio.h>
#include <stdlib.h>

#include "fr_ring_walk.h"

#define FR_POINTS_MAX (1u << 24) /* 16,777,216 points: 230 MB while they are sorted, 170 MB in use */
#define FR_POINTS_INDEX_BITS_MAX 22
#define FR_POINTS_SCAN 12 /* points between two index entries beyond which bisection is faster than a scan */

enum { FR_POINTS_KEEP_ALL = 0, FR_POINTS_KEEP_FIRST = 1, FR_POINTS_KEEP_LAST = 2 };

typedef struct {
    uint64_t hash;
    uint64_t slot;
} fr_point;

typedef struct {
    uint64_t *hash; /* count + 1 */
    uint16_t *slot; /* count + 1 */
    uint32_t *index;
    uint64_t mask; /* of the bits a hash of this circle has: 32 or 64 */
    uint32_t count;
    uint32_t shift;
} fr_points;

static inline void fr_points_free(fr_points *c)
{
    free(c->hash);
    free(c->slot);
    free(c->index);
    memset(c, 0, sizeof *c);
}

/* Sort by hash, stable, least significant byte first; bytes that are alike in all points cost one pass of counting.
 * `other` has room for `count` points; the result is in the array returned. */
static inline fr_point *fr_points_sort(fr_point *item, fr_point *other, uint32_t count)
{
    for (uint32_t shift = 0; shift < 64; shift += 8) {
        uint32_t start[256] = {0}, sum = 0;
        for (uint32_t i = 0; i < count; i++)
            start[(item[i].hash >> shift) & 255]++;
        if (start[(item[0].hash >> shift) & 255] == count)
            continue;
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t here = start[byte];
            start[byte] = sum;
            sum += here;
        }
        for (uint32_t i = 0; i < count; i++)
            other[start[(item[i].hash >> shift) & 255]++] = item[i];
        fr_point *swap = item;
        item = other;
        other = swap;
    }
    return item;
}

/* Make the circle of `count` >= 1 points with hashes of `bits` (32 or 64) bits. 0, or -1 without memory. */
static inline int fr_points_build(fr_points *c, fr_point *item, uint32_t count, uint32_t bits, int keep)
{
    uint32_t kept = 0, index_bits = 1;
    fr_point *other = (fr_point *)malloc(count * sizeof *other), *sorted;

    memset(c, 0, sizeof *c);
    if (!other)
        return -1;
    sorted = fr_points_sort(item, other, count);
    for (uint32_t i = 0; i < count; i++) {
        if (keep != FR_POINTS_KEEP_ALL && kept && sorted[kept - 1].hash == sorted[i].hash) {
            if (keep == FR_POINTS_KEEP_LAST)
                sorted[kept - 1] = sorted[i];
            continue;
        }
        sorted[kept++] = sorted[i];
    }
    while (index_bits < FR_POINTS_INDEX_BITS_MAX && (1u << index_bits) < 2 * kept)
        index_bits++;
    c->count = kept;
    c->shift = bits - index_bits;
    c->mask = bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
    c->hash = (uint64_t *)malloc((kept + 1ull) * sizeof *c->hash);
    c->slot = (uint16_t *)malloc((kept + 1ull) * sizeof *c->slot);
    c->index = (uint32_t *)malloc(((1ull << index_bits) + 1) * sizeof *c->index);
    if (!c->hash || !c->slot || !c->index) {
        free(other);
        fr_points_free(c);
        return -1;
    }
    for (uint32_t i = 0, top = 0; i <= kept; i++) {
        c->hash[i] = i < kept ? sorted[i].hash : UINT64_MAX;
        c->slot[i] = (uint16_t)(i < kept ? sorted[i].slot : sorted[0].slot);
        uint64_t until = i < kept ? sorted[i].hash >> c->shift : 1ull << index_bits;
        for (; top <= until; top++)
            c->index[top] = i;
    }
    free(other);
    return 0;
}

/* Position of the first point with a hash >= the given one; `count` (whose slot is that of point 0) behind the last. */
static inline uint32_t fr_points_at(const fr_points *c, uint64_t hash)
{
    uint64_t top;
    uint32_t low, high;
    hash &= c->mask;
    top = hash >> c->shift;
    low = c->index[top];
    high = c->index[top + 1];
    while (FR_UNLIKELY(high - low > FR_POINTS_SCAN)) {
        uint32_t middle = low + (high - low) / 2;
        if (c->hash[middle] < hash)
            low = middle + 1;
        else
            high = middle;
    }
    while (c->hash[low] < hash)
        low++;
    return low;
}

/* Offer the servers in the order of the points from `at` on, once round. */
static inline int fr_points_walk(const fr_points *c, uint32_t at, fr_walk *walk)
{
    for (uint32_t left = c->count; left; left--, at++) {
        at = at >= c->count ? 0 : at;
        if (fr_walk_offer(walk, c->slot[at]))
            break;
    }
    return walk->count;
}

/* Decimal digits of a number; how many were written. */
static inline size_t fr_text_number(uint8_t *out, uint32_t number)
{
    uint8_t digits[10];
    size_t count = 0;
    do
        digits[count++] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    for (size_t i = 0; i < count; i++)
        out[i] = digits[count - 1 - i];
    return count;
}

#endif
