/* fr_policy_two_choices.h: the better of two servers drawn at random by weight (Mitzenmacher, "The power of two choices in
 * randomized load balancing", 2001): by in_flight / weight, or by the peak EWMA load / weight.
 *
 * The two are different servers wherever there are two (Envoy draws with replacement and now and then compares a server
 * with itself). Equal: the first drawn, which is random. O(log servers).
 *
 * Rules: no Python, no allocation.
 */
#ifndef FR_POLICY_TWO_CHOICES_H
#define FR_POLICY_TWO_CHOICES_H

#include "fr_policy_peak_ewma.h"
#include "fr_policy_random.h"

/* Draws for a second server that is not the first before the neighbour is taken: one server may have nearly all weight. */
#define FR_SECOND_DRAWS_MAX 8

static inline void fr_two_places(const fr_eligible *e, fr_xoshiro *state, uint32_t *one, uint32_t *other)
{
    *one = *other = fr_random_place(e, state);
    for (int i = 0; i < FR_SECOND_DRAWS_MAX && *other == *one && e->count > 1; i++)
        *other = fr_random_place(e, state);
    if (*other == *one)
        *other = (*one + 1) % e->count;
}

static inline uint32_t fr_less_busy(const fr_eligible *e, const fr_loads *loads, uint32_t one, uint32_t other)
{
    uint64_t left = (uint64_t)(uint32_t)fr_loads_of(loads, e->columns[one]) * e->scaled[other];
    uint64_t right = (uint64_t)(uint32_t)fr_loads_of(loads, e->columns[other]) * e->scaled[one];
    return right < left ? other : one;
}

/* ewma: by slot. */
static inline uint32_t fr_less_slow(const fr_eligible *e, const fr_loads *loads, const fr_ewma *ewma, uint64_t now_ms,
                                    uint32_t one, uint32_t other)
{
    double left = fr_ewma_load(&ewma[e->slots[one]], now_ms, (uint32_t)fr_loads_of(loads, e->columns[one]));
    double right = fr_ewma_load(&ewma[e->slots[other]], now_ms, (uint32_t)fr_loads_of(loads, e->columns[other]));
    /* By weight, not weight x ramp: the +1 in a load would keep a ramping server from any request while load is low, and
     * its share is held by its tokens. */
    return right * e->weights[one] < left * e->weights[other] ? other : one;
}

#endif
