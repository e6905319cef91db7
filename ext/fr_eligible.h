/* fr_eligible.h: the servers that may take an unbound request, as the policies see them: parallel arrays in the order of
 * the names, built by the control plane and never changed but for the ramps and the scratch.
 *
 * A server's index in these arrays is its place; slots are the pool's, columns those of the loads (fr_loads.h).
 * Rules: one memory block; one thread at a time; no Python.
 */
#ifndef FR_ELIGIBLE_H
#define FR_ELIGIBLE_H

#include <stdlib.h>

#include "fr_loads.h"
#include "fr_slow_start.h"

/* Weights as load-driven policies compare them: in 256ths, so that a ramp is felt by a weight of 1. */
#define FR_WEIGHT_SCALE 256u
/* Load of a server that must not be picked now. */
#define FR_LOAD_CLOSED INT32_MAX

typedef struct {
    uint32_t count;
    uint32_t ramping_count;
    uint32_t limited_count;     /* servers with max_connections */
    int in_line;                /* columns follow each other */
    int equal_weights;
    uint64_t weight_sum;
    double ramped_sum;          /* sum of weight x ramp */
    uint64_t stepped_ms;        /* when the ramps were computed */
    uint64_t picks;             /* unbound picks: what ramps earn their tokens by */
    uint16_t *slots, *columns;
    uint32_t *weights;          /* 1..65535 */
    uint32_t *scaled;           /* weight x ramp in 256ths, at least 1 */
    uint32_t *limits;           /* max_connections, 0 = none */
    uint64_t *before;           /* sum of the weights of the places before */
    int32_t *load;              /* scratch of one pick */
    fr_ramping *ramping;
    void *block;
} fr_eligible;

static inline void fr_eligible_free(fr_eligible *e)
{
    free(e->block);
    memset(e, 0, sizeof *e);
}

/* Room for `count` places, all zero; 0, or -1 without memory. The caller fills slots, columns, weights, limits and ramping,
 * then calls fr_eligible_seal. */
static inline int fr_eligible_init(fr_eligible *e, uint32_t count)
{
    size_t n = count ? count : 1;
    char *at;
    memset(e, 0, sizeof *e);
    e->block = calloc(n, sizeof(fr_ramping) + sizeof(uint64_t) + 4 * sizeof(uint32_t) + 2 * sizeof(uint16_t));
    if (!e->block)
        return -1;
    at = (char *)e->block;
    e->ramping = (fr_ramping *)at;
    e->before = (uint64_t *)(at += n * sizeof(fr_ramping));
    e->weights = (uint32_t *)(at += n * sizeof(uint64_t));
    e->scaled = e->weights + n;
    e->limits = e->scaled + n;
    e->load = (int32_t *)(e->limits + n);
    e->slots = (uint16_t *)(e->load + n);
    e->columns = e->slots + n;
    e->count = count;
    return 0;
}

static inline uint32_t fr_scaled_weight(uint32_t weight, double ramp)
{
    double scaled = weight * (ramp * FR_WEIGHT_SCALE);
    return scaled < 1.0 ? 1 : (uint32_t)scaled;
}

/* Compute the ramps anew; how many are still below 1. */
static inline uint32_t fr_eligible_step(fr_eligible *e, const fr_ramp_rule *rule, uint64_t now_ms)
{
    uint32_t below = 0;
    double sum = (double)e->weight_sum;
    e->stepped_ms = now_ms;
    for (uint32_t i = 0; i < e->ramping_count; i++) {
        fr_ramping *r = &e->ramping[i];
        r->ramp = fr_ramp_of(rule, now_ms > r->since_ms ? now_ms - r->since_ms : 0);
        e->scaled[r->place] = fr_scaled_weight(r->weight, r->ramp);
        sum -= r->weight * (1.0 - r->ramp);
        below += r->ramp < 1.0;
    }
    e->ramped_sum = sum;
    return below;
}

static inline void fr_eligible_seal(fr_eligible *e)
{
    e->in_line = e->equal_weights = 1;
    e->weight_sum = 0;
    e->limited_count = 0;
    for (uint32_t i = 0; i < e->count; i++) {
        e->before[i] = e->weight_sum;
        e->weight_sum += e->weights[i];
        e->scaled[i] = e->weights[i] * FR_WEIGHT_SCALE;
        e->limited_count += e->limits[i] != 0;
        e->in_line &= e->columns[i] == e->columns[0] + i;
        e->equal_weights &= e->weights[i] == e->weights[0];
    }
    e->ramped_sum = (double)e->weight_sum;
    for (uint32_t i = 0; i < e->ramping_count; i++) {
        e->ramping[i].weight = e->weights[e->ramping[i].place];
        e->ramping[i].slot = e->slots[e->ramping[i].place];
    }
    e->equal_weights &= e->ramping_count == 0;
}

static inline fr_ramping *fr_ramping_at(const fr_eligible *e, uint32_t place)
{
    for (uint32_t i = 0; i < e->ramping_count; i++)
        if (e->ramping[i].place == place)
            return &e->ramping[i];
    return NULL;
}

/* Has the server in this place room for one more request? A ramping one has its ramp's part, at least 1 (as HAProxy's
 * maxconn). */
static inline int fr_has_room(const fr_eligible *e, const fr_loads *loads, uint32_t place)
{
    uint32_t limit = e->limits[place];
    if (!limit)
        return 1;
    if (e->ramping_count) {
        const fr_ramping *r = fr_ramping_at(e, place);
        if (r && r->ramp < 1.0) {
            limit = (uint32_t)(limit * r->ramp);
            if (!limit)
                limit = 1;
        }
    }
    return (uint32_t)fr_loads_of(loads, e->columns[place]) < limit;
}

/* May an unbound request without a key go there now: room, and a token if it ramps? */
static inline int fr_is_open(fr_eligible *e, const fr_loads *loads, uint32_t place)
{
    if (e->ramping_count) {
        fr_ramping *r = fr_ramping_at(e, place);
        if (r && !fr_ramp_has_token(r, e->picks, e->ramped_sum))
            return 0;
    }
    return fr_has_room(e, loads, place);
}

/* The server in this place was picked. */
static inline void fr_note_pick(fr_eligible *e, uint32_t place)
{
    e->picks++;
    if (e->ramping_count) {
        fr_ramping *r = fr_ramping_at(e, place);
        if (r)
            r->tokens = r->tokens < 1.0 ? 0.0 : r->tokens - 1.0;
    }
}

#endif
