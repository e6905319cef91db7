/* fr_policy_round_robin.h: nginx's smooth weighted round robin (ngx_http_upstream_round_robin.c).
 *
 * Each pick: every server's current += weight; the first highest current wins and pays the sum of weights. With weights
 * 5, 1, 1: a a b a c a a. Dividing all weights by their common divisor does not change the sequence, and after
 * sum(weights) picks it repeats; so it is precomputed where it is short, and a pick is one atomic add to a cursor (which
 * the workers of a zone share: one sequence for all) and one load. Where it is long (weights such as 65535 and 65534 among
 * many servers) nginx's own steps are taken in this process, O(servers) per pick, and the cursor is not used.
 *
 * Rules: servers come in the order of their names; every weight is at least 1; no Python.
 */
#ifndef FR_POLICY_ROUND_ROBIN_H
#define FR_POLICY_ROUND_ROBIN_H

#include <stdlib.h>

#include "fr_base.h"

#define FR_SEQUENCE_PICKS_MAX (1u << 16)  /* 128 KiB */
#define FR_SEQUENCE_STEPS_MAX (1ull << 23) /* picks x servers to precompute: some 10 ms */

typedef struct {
    uint32_t count, period;    /* servers; picks until the sequence repeats, 0 = stepped */
    uint16_t *slots, *sequence;
    int64_t *weight, *current; /* stepped: one each per server */
    int64_t weight_sum;
} fr_round_robin;

static inline uint32_t fr_smooth_step(int64_t *current, const int64_t *weight, int64_t weight_sum, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        current[i] += weight[i];
        if (current[i] > current[best])
            best = i;
    }
    current[best] -= weight_sum;
    return best;
}

static inline void fr_round_robin_free(fr_round_robin *rr)
{
    free(rr->slots);
    if (rr->sequence != rr->slots)
        free(rr->sequence);
    free(rr->weight);
    free(rr->current);
    memset(rr, 0, sizeof *rr);
}

/* 0, or -1 without memory (then *rr is empty). count 0 is fine: nothing may be picked from it. */
static inline int fr_round_robin_init(fr_round_robin *rr, const uint16_t *slots, const uint32_t *weights, uint32_t count)
{
    uint64_t divisor = 0, sum = 0;
    memset(rr, 0, sizeof *rr);
    if (!count)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t a = weights[i], b = divisor;
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        divisor = a;
        sum += weights[i];
    }
    rr->count = count;
    rr->weight_sum = (int64_t)(sum / divisor);
    rr->slots = (uint16_t *)malloc(count * sizeof *rr->slots);
    if (!rr->slots)
        goto no_memory;
    memcpy(rr->slots, slots, count * sizeof *slots);
    if ((uint64_t)rr->weight_sum == count) { /* equal weights: the names in turn */
        rr->period = count;
        rr->sequence = rr->slots;
        return 0;
    }
    rr->weight = (int64_t *)malloc(count * sizeof *rr->weight);
    rr->current = (int64_t *)calloc(count, sizeof *rr->current);
    if (!rr->weight || !rr->current)
        goto no_memory;
    for (uint32_t i = 0; i < count; i++)
        rr->weight[i] = (int64_t)(weights[i] / divisor);
    if (rr->weight_sum <= FR_SEQUENCE_PICKS_MAX && (uint64_t)rr->weight_sum * count <= FR_SEQUENCE_STEPS_MAX) {
        rr->period = (uint32_t)rr->weight_sum;
        rr->sequence = (uint16_t *)malloc(rr->period * sizeof *rr->sequence);
        if (!rr->sequence)
            goto no_memory;
        for (uint32_t i = 0; i < rr->period; i++)
            rr->sequence[i] = rr->slots[fr_smooth_step(rr->current, rr->weight, rr->weight_sum, count)];
    }
    return 0;
no_memory:
    fr_round_robin_free(rr);
    return -1;
}

/* Next slot. Precondition: count > 0. */
static inline uint16_t fr_round_robin_next(fr_round_robin *rr, uint64_t *cursor)
{
    FR_ASSERT(rr->count > 0);
    if (FR_LIKELY(rr->period))
        return rr->sequence[__atomic_fetch_add(cursor, 1, __ATOMIC_RELAXED) % rr->period];
    return rr->slots[fr_smooth_step(rr->current, rr->weight, rr->weight_sum, rr->count)];
}

/* Length and one place of the circle of picks to come, without taking one; a stepped sequence shows its servers in turn. */
static inline uint32_t fr_round_robin_length(const fr_round_robin *rr)
{
    return rr->period ? rr->period : rr->count;
}

static inline uint16_t fr_round_robin_peek(const fr_round_robin *rr, const uint64_t *cursor, uint32_t ahead)
{
    if (rr->period)
        return rr->sequence[(__atomic_load_n(cursor, __ATOMIC_RELAXED) + ahead) % rr->period];
    return rr->slots[ahead % rr->count];
}

#endif
