/* fr_policy_least.h: least connections, weighted and exact: the least in_flight / weight over all processes of the zone.
 *
 * Fractions are compared by cross multiplication. Among equals, of equal weight, the turn goes on from the server that was
 * picked last; of unequal weight, a golden-ratio sequence over their weights decides, so that an idle pool follows the
 * weights. (HAProxy's leastconn takes any of the equals, nginx's goes by smooth round robin among them.)
 *
 * A scan of all servers: 1,000 take 0.3 us when weights are equal, 1.1 us when not (benchmarks/micro/test_policies.py). A tree would have to be told of what
 * other processes do; the scan reads it.
 *
 * Rules: `turn` is one word, shared by the workers of a zone: low half the place after the last pick, high half the count
 * of weighted ties. Two workers at once may overwrite each other's turn, which costs a turn. No Python.
 */
#ifndef FR_POLICY_LEAST_H
#define FR_POLICY_LEAST_H

#include "fr_eligible.h"

#define FR_GOLDEN 0x9E3779B97F4A7C15ull

static inline int fr_is_less(const fr_eligible *e, const int32_t *load, uint32_t i, uint32_t than)
{
    return (uint64_t)(uint32_t)load[i] * e->scaled[than] < (uint64_t)(uint32_t)load[than] * e->scaled[i];
}

static inline int fr_is_tie(const fr_eligible *e, const int32_t *load, uint32_t i, uint32_t with)
{
    if (!load[with] || !load[i])
        return load[i] == load[with];
    return load[i] != FR_LOAD_CLOSED &&
           (uint64_t)(uint32_t)load[i] * e->scaled[with] == (uint64_t)(uint32_t)load[with] * e->scaled[i];
}

/* Place with the least load[i] / scaled[i], closed ones left out; UINT32_MAX when all are closed. */
static inline uint32_t fr_least_pick(const fr_eligible *e, const int32_t *load, uint64_t *turn)
{
    uint64_t word = __atomic_load_n(turn, __ATOMIC_RELAXED);
    uint32_t start = (uint32_t)word, n = e->count, next = UINT32_MAX, best = 0;
    uint64_t tie_weight = 0;
    int unequal = 0;

    if (e->equal_weights) {
        int32_t least = FR_LOAD_CLOSED;
        for (uint32_t i = 0; i < n; i++)
            least = load[i] < least ? load[i] : least;
        if (least == FR_LOAD_CLOSED)
            return UINT32_MAX;
        for (uint32_t i = start < n ? start : 0; i < n; i++)
            if (load[i] == least) {
                next = i;
                break;
            }
        for (uint32_t i = 0; next == UINT32_MAX; i++)
            if (load[i] == least)
                next = i;
        __atomic_store_n(turn, (word & ~0xFFFFFFFFull) | (next + 1), __ATOMIC_RELAXED);
        return next;
    }
    while (best < n && load[best] == FR_LOAD_CLOSED)
        best++;
    if (best == n)
        return UINT32_MAX;
    for (uint32_t i = best + 1; i < n && load[best]; i++)
        if (load[i] != FR_LOAD_CLOSED && fr_is_less(e, load, i, best))
            best = i;
    for (uint32_t i = best; i < n; i++) {
        if (!fr_is_tie(e, load, i, best))
            continue;
        tie_weight += e->scaled[i];
        unequal |= e->scaled[i] != e->scaled[best];
        if (next == UINT32_MAX && i >= start)
            next = i;
    }
    if (next == UINT32_MAX)
        next = best;
    if (unequal) {
        uint64_t drawn = fr_mulhi64((word >> 32) * FR_GOLDEN + (FR_GOLDEN >> 1), tie_weight);
        word += 1ull << 32;
        for (next = best;; next++) {
            if (!fr_is_tie(e, load, next, best))
                continue;
            if (drawn < e->scaled[next])
                break;
            drawn -= e->scaled[next];
        }
    }
    __atomic_store_n(turn, (word & ~0xFFFFFFFFull) | (next + 1), __ATOMIC_RELAXED);
    return next;
}

#endif
