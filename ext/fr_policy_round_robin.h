/* fr_policy_round_robin.h: nginx's smooth weighted round robin (ngx_http_upstream_round_robin.c).
 *
 * Each pick: every server's current += weight; the first highest current wins and pays the sum of weights. With weights
 * 5, 1, 1: a a b a c a a. Dividing all weights by their common divisor does not change the sequence, and after
 * sum(weights) picks it repeats; so where that is short it is precomputed, and a pick is one atomic add to a cursor (which
 * the workers of a zone share: one sequence for all) and one load.
 *
 * Where it is long (weights such as 65535 and 65534) the sequence is walked (fr_smooth.h). The cursor still says which
 * pick is whose: a worker walks over the picks that the others took, up to FR_SEQUENCE_BEHIND_MAX of them; one that was
 * idle for longer jumps to a state within one pick per server of the exact one, and is exact again after the period.
 *
 * With charge_sticky the sequence depends on the sticky requests too, which each process knows of its own alone: then it
 * is walked, and the process's own.
 *
 * Rules: servers come in the order of their names; every weight is at least 1; one thread at a time; no Python.
 */
#ifndef FR_POLICY_ROUND_ROBIN_H
#define FR_POLICY_ROUND_ROBIN_H

#include "fr_smooth.h"

#define FR_SEQUENCE_PICKS_MAX (1u << 16)   /* 128 KiB, some 10 ms to compute */
#define FR_SEQUENCE_BEHIND_MAX 4096u       /* some 0.5 ms of catching up */
#define FR_SMOOTH_TIME_MAX (1ll << 31)     /* a charged sequence starts over: fr_smooth.h's limit, once in 2^31 picks */

typedef struct {
    uint32_t count;
    uint32_t table_size;       /* of the precomputed sequence; 0 = walked */
    uint64_t period;           /* picks until the sequence repeats */
    uint16_t *slots;           /* by place, in the order of the names */
    uint16_t *sequence;        /* of slots; is `slots` itself where all weights are equal */
    uint64_t base;             /* cursor at the sequence's first pick: 0 where workers share it */
    int charged;               /* sticky requests are charged: the cursor is not used */
    fr_smooth smooth;          /* where it is walked */
} fr_round_robin;

static inline void fr_round_robin_free(fr_round_robin *rr)
{
    if (rr->sequence != rr->slots)
        free(rr->sequence);
    free(rr->slots);
    fr_smooth_free(&rr->smooth);
    memset(rr, 0, sizeof *rr);
}

static inline uint32_t fr_common_divisor(const uint32_t *weights, uint32_t count)
{
    uint32_t divisor = 0;
    for (uint32_t i = 0; i < count && divisor != 1; i++) {
        uint32_t a = weights[i], b = divisor;
        while (b) {
            uint32_t rest = a % b;
            a = b;
            b = rest;
        }
        divisor = a;
    }
    return divisor ? divisor : 1;
}

/* 0, or -1 without memory (then *rr is empty). count 0 is fine: nothing may be picked from it. */
static inline int fr_round_robin_init(fr_round_robin *rr, const uint16_t *slots, const uint32_t *weights, uint32_t count,
                                      uint64_t base, int charged)
{
    uint32_t divisor = fr_common_divisor(weights, count);

    memset(rr, 0, sizeof *rr);
    if (!count)
        return 0;
    rr->count = count;
    rr->base = base;
    rr->charged = charged;
    for (uint32_t i = 0; i < count; i++)
        rr->period += weights[i] / divisor;
    rr->slots = (uint16_t *)malloc(count * sizeof *rr->slots);
    if (!rr->slots)
        goto no_memory;
    memcpy(rr->slots, slots, count * sizeof *slots);
    if (rr->period == count && !charged) { /* equal weights: the names in turn */
        rr->table_size = count;
        rr->sequence = rr->slots;
        return 0;
    }
    if (fr_smooth_init(&rr->smooth, weights, count, divisor))
        goto no_memory;
    if (rr->period <= FR_SEQUENCE_PICKS_MAX && !charged) {
        rr->table_size = (uint32_t)rr->period;
        rr->sequence = (uint16_t *)malloc(rr->table_size * sizeof *rr->sequence);
        if (!rr->sequence)
            goto no_memory;
        for (uint32_t i = 0; i < rr->table_size; i++)
            rr->sequence[i] = rr->slots[fr_smooth_next(&rr->smooth)];
        fr_smooth_free(&rr->smooth);
    }
    return 0;
no_memory:
    fr_round_robin_free(rr);
    return -1;
}

static __attribute__((noinline, unused)) uint16_t fr_round_robin_walk(fr_round_robin *rr, uint64_t *cursor)
{
    fr_smooth *smooth = &rr->smooth;
    if (!rr->charged) {
        uint64_t ticket = (__atomic_fetch_add(cursor, 1, __ATOMIC_RELAXED) - rr->base) % rr->period;
        uint64_t behind;
        if ((uint64_t)smooth->time == rr->period) /* here all currents are zero again */
            fr_smooth_restart(smooth);
        behind = (ticket + rr->period - (uint64_t)smooth->time) % rr->period;
        if (behind > FR_SEQUENCE_BEHIND_MAX) {
            fr_smooth_jump(smooth, (int64_t)ticket);
        } else {
            for (; behind; behind--) {
                (void)fr_smooth_next(smooth);
                if ((uint64_t)smooth->time == rr->period)
                    fr_smooth_restart(smooth);
            }
        }
    } else if (smooth->time >= FR_SMOOTH_TIME_MAX) {
        fr_smooth_restart(smooth);
    }
    return rr->slots[fr_smooth_next(smooth)];
}

/* Next slot. Precondition: count > 0. */
static inline uint16_t fr_round_robin_next(fr_round_robin *rr, uint64_t *cursor)
{
    FR_ASSERT(rr->count > 0);
    if (FR_LIKELY(rr->table_size))
        return rr->sequence[__atomic_fetch_add(cursor, 1, __ATOMIC_RELAXED) % rr->table_size];
    return fr_round_robin_walk(rr, cursor);
}

/* A sticky request went to the server in this place. */
static inline void fr_round_robin_charge(fr_round_robin *rr, uint32_t place)
{
    if (rr->charged && place < rr->count) {
        if (rr->smooth.time >= FR_SMOOTH_TIME_MAX)
            fr_smooth_restart(&rr->smooth);
        fr_smooth_charge(&rr->smooth, place);
    }
}

/* Length and one place of the circle of picks to come, without taking one; a walked sequence shows its servers in turn. */
static inline uint32_t fr_round_robin_length(const fr_round_robin *rr)
{
    return rr->table_size ? rr->table_size : rr->count;
}

static inline uint16_t fr_round_robin_peek(const fr_round_robin *rr, const uint64_t *cursor, uint32_t ahead)
{
    if (rr->table_size)
        return rr->sequence[(__atomic_load_n(cursor, __ATOMIC_RELAXED) + ahead) % rr->table_size];
    return rr->slots[ahead % rr->count];
}

#endif
