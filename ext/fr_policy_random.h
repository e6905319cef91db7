/* fr_policy_random.h: weighted random picks. For completeness: its spread is worse than round robin's (a test shows it),
 * and it is never a default.
 *
 * Rules: binary search over cumulated weights, O(log servers); every weight is at least 1; no Python.
 */
#ifndef FR_POLICY_RANDOM_H
#define FR_POLICY_RANDOM_H

#include <stdlib.h>

#include "fr_base.h"
#include "fr_rand.h"

typedef struct {
    uint32_t count;
    uint16_t *slots;
    uint64_t *up_to; /* sum of the weights up to and including this server's */
} fr_random;

static inline void fr_random_free(fr_random *random)
{
    free(random->slots);
    free(random->up_to);
    memset(random, 0, sizeof *random);
}

/* 0, or -1 without memory (then *random is empty). */
static inline int fr_random_init(fr_random *random, const uint16_t *slots, const uint32_t *weights, uint32_t count)
{
    uint64_t sum = 0;
    memset(random, 0, sizeof *random);
    if (!count)
        return 0;
    random->slots = (uint16_t *)malloc(count * sizeof *random->slots);
    random->up_to = (uint64_t *)malloc(count * sizeof *random->up_to);
    if (!random->slots || !random->up_to) {
        fr_random_free(random);
        return -1;
    }
    random->count = count;
    for (uint32_t i = 0; i < count; i++) {
        random->slots[i] = slots[i];
        random->up_to[i] = sum += weights[i];
    }
    return 0;
}

/* Next slot. Precondition: count > 0. */
static inline uint16_t fr_random_next(const fr_random *random, fr_xoshiro *state)
{
    uint64_t drawn = fr_mulhi64(fr_xoshiro_next(state), random->up_to[random->count - 1]);
    uint32_t low = 0, high = random->count - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (drawn < random->up_to[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return random->slots[low];
}

#endif
