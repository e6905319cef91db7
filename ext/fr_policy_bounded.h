/* fr_policy_bounded.h: the bound on a server's load under `hash` with `max_load`: HAProxy's integer formula
 * (hash-balance-factor, chash_server_is_eligible), strict less-than.
 *
 * All requests in flight and the one to come, times the factor in percent, rounded up, are shared out over the servers by
 * weight so that the shares add up exactly; a server takes one more while it has fewer than its share. A floor, which
 * HAProxy has at 1, keeps keys where they belong while load is low: one page with six parallel requests must not spill.
 *
 * Rules: no Python, integers only.
 */
#ifndef FR_POLICY_BOUNDED_H
#define FR_POLICY_BOUNDED_H

#include "fr_eligible.h"

typedef struct {
    uint32_t factor_percent; /* 125: at most 1.25 times the average; 0: no bound */
    uint32_t floor;          /* in flight that a server always may have */
} fr_load_bound;

/* What the server in this place may have in flight when the pool has `total`. */
static inline uint64_t fr_bound_of(const fr_eligible *e, const fr_load_bound *bound, uint64_t total, uint32_t place)
{
    uint64_t shared = ((total + 1) * bound->factor_percent + 99) / 100;
    uint64_t rest = shared % e->weight_sum, weight = e->weights[place], before = e->before[place];
    uint64_t share = weight * (shared / e->weight_sum);
    share += (before + weight) * rest / e->weight_sum - before * rest / e->weight_sum;
    return share < bound->floor ? bound->floor : share;
}

static inline int fr_below_bound(const fr_eligible *e, const fr_load_bound *bound, const fr_loads *loads,
                                 uint32_t pool_column, uint32_t place)
{
    uint64_t total = (uint64_t)(uint32_t)fr_loads_of(loads, pool_column);
    return (uint64_t)(uint32_t)fr_loads_of(loads, e->columns[place]) < fr_bound_of(e, bound, total, place);
}

#endif
