/* fr_policy_random.h: weighted random picks. For completeness: its spread is worse than round robin's (a test shows it),
 * and it is never a default. Two draws of it are what the two-choices policies compare.
 *
 * Rules: binary search over cumulated weights, O(log servers); every weight is at least 1; no Python.
 */
#ifndef FR_POLICY_RANDOM_H
#define FR_POLICY_RANDOM_H

#include "fr_eligible.h"
#include "fr_rand.h"

/* A place, by weight. Precondition: count > 0. */
static inline uint32_t fr_random_place(const fr_eligible *e, fr_xoshiro *state)
{
    uint64_t drawn;
    uint32_t low = 0, high = e->count;
    if (e->equal_weights)
        return (uint32_t)fr_mulhi64(fr_xoshiro_next(state), e->count);
    drawn = fr_mulhi64(fr_xoshiro_next(state), e->weight_sum);
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (drawn < e->before[middle])
            high = middle;
        else
            low = middle;
    }
    return low;
}

#endif
