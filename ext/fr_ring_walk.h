/* fr_ring_walk.h: collecting distinct servers while a ring walks in its own order.
 *
 * The ring offers slots, the same one many times over; the walk keeps the first n that are allowed, were not tried and
 * are not in the list yet. Up to FR_WALK_SHORT of them the list itself is searched, beyond that a bit per slot is kept
 * on the stack (8 KiB).
 * Rules: no allocation; `allowed` has a byte for every slot of the ring, NULL allows all.
 */
#ifndef FR_RING_WALK_H
#define FR_RING_WALK_H

#include "fr_base.h"

#define FR_WALK_SHORT 16
#define FR_WALK_WORDS 1024

typedef struct {
    const uint8_t *allowed;
    const uint16_t *tried;
    int tried_count;
    int wanted;
    int count;
    uint16_t *out;
    uint64_t *seen; /* FR_WALK_WORDS words, zeroed, when wanted > FR_WALK_SHORT; else NULL */
} fr_walk;

/* 1 when the list is full. */
static inline int fr_walk_offer(fr_walk *walk, uint16_t slot)
{
    if (walk->allowed && !walk->allowed[slot])
        return 0;
    for (int i = 0; i < walk->tried_count; i++)
        if (walk->tried[i] == slot)
            return 0;
    if (walk->seen) {
        if (walk->seen[slot >> 6] >> (slot & 63) & 1)
            return 0;
        walk->seen[slot >> 6] |= 1ull << (slot & 63);
    } else {
        for (int i = 0; i < walk->count; i++)
            if (walk->out[i] == slot)
                return 0;
    }
    walk->out[walk->count++] = slot;
    return walk->count >= walk->wanted;
}

#endif
