/* fr_policies.h: one pool's policy at work: what a pick without a key comes to, and what a request's begin and end teach.
 *
 * Here the policies (fr_policy_*.h, one each) meet what is the same for all of them: the ramps of servers that came back,
 * max_connections, servers that were tried already, panic. Keys and rings are the pool's (pool.pyx).
 *
 * Rules: the control plane builds `eligible` and `turns` anew and swaps them in; the rest lives as long as the pool. Arrays
 * by slot are reserved for every slot there can be: untouched pages cost nothing. One thread at a time; no Python.
 */
#ifndef FR_POLICIES_H
#define FR_POLICIES_H

#include "fr_policy_bounded.h"
#include "fr_policy_least.h"
#include "fr_policy_prequal.h"
#include "fr_policy_round_robin.h"
#include "fr_policy_two_choices.h"

/* In the order of POLICIES in fastroute/_core/pool_arguments.py. */
enum {
    FR_ROUND_ROBIN = 0,
    FR_RANDOM = 1,
    FR_HASH = 2,
    FR_LEAST_CONNECTIONS = 3,
    FR_TWO_CHOICES = 4,
    FR_PEAK_EWMA = 5,
    FR_PREQUAL = 6
};

/* Draws before the servers are scanned for any that is open: covers 9 of 10 closed with one miss in 1,000. */
#define FR_DRAWS_MAX 64

typedef struct {
    int policy;
    int gated;                  /* ramps or max_connections: a pick may be refused */
    int panic;                  /* so few are ready that all are used */
    fr_eligible eligible;
    fr_round_robin turns;       /* round robin, and `hash` without a key */
    uint64_t *cursor;           /* this process's or the zone's */
    fr_loads *loads;            /* this process's or the zone's */
    uint32_t pool_column;
    uint16_t *place_of;         /* by slot; FR_NO_SLOT: not eligible */
    uint16_t *column_of;        /* by slot */
    uint8_t *direct;            /* by slot; 1: a key's first choice may be taken without a look at anything else */
    fr_ewma *ewma;              /* by slot; peak-ewma alone */
    fr_prequal *prequal;        /* prequal alone */
    fr_load_bound bound;
    fr_ramp_rule ramp_rule;
    fr_xoshiro random;
    fr_clock clock;
    uint64_t panic_picks;
} fr_policies;

static inline int fr_is_tried(uint16_t slot, const uint16_t *tried, int tried_count)
{
    for (int i = 0; i < tried_count; i++)
        if (tried[i] == slot)
            return 1;
    return 0;
}

/* Ramps move on with the coarse clock; when the last is done, the gates go. */
static inline void fr_policies_step(fr_policies *p)
{
    fr_eligible *e = &p->eligible;
    uint64_t now_ms;
    if (!e->ramping_count)
        return;
    now_ms = fr_now_ms(&p->clock);
    if (now_ms - e->stepped_ms < FR_RAMP_STEP_MS && now_ms >= e->stepped_ms)
        return;
    if (fr_eligible_step(e, &p->ramp_rule, now_ms) == 0) {
        for (uint32_t i = 0; i < e->ramping_count; i++)
            p->direct[e->ramping[i].slot] = !p->bound.factor_percent && !p->panic && !e->limited_count;
        e->ramping_count = 0;
        e->equal_weights = 1;
        for (uint32_t i = 0; i < e->count; i++) {
            e->scaled[i] = e->weights[i] * FR_WEIGHT_SCALE;
            e->equal_weights &= e->weights[i] == e->weights[0];
        }
        p->gated = e->limited_count != 0;
    }
}

static inline uint32_t fr_draw(fr_policies *p)
{
    fr_eligible *e = &p->eligible;
    uint32_t one, other;
    switch (p->policy) {
    case FR_RANDOM:
    case FR_PREQUAL:
        return fr_random_place(e, &p->random);
    case FR_TWO_CHOICES:
        fr_two_places(e, &p->random, &one, &other);
        return fr_less_busy(e, p->loads, one, other);
    case FR_PEAK_EWMA:
        fr_two_places(e, &p->random, &one, &other);
        return fr_less_slow(e, p->loads, p->ewma, fr_now_ms(&p->clock), one, other);
    default:
        return p->place_of[fr_round_robin_next(&p->turns, p->cursor)];
    }
}

/* The least loaded place that was not tried; open ones first, then any with room; UINT32_MAX: none. */
static inline uint32_t fr_least_open(fr_policies *p, const uint16_t *tried, int tried_count)
{
    fr_eligible *e = &p->eligible;
    uint32_t found = UINT32_MAX;
    for (int any = 0; any < 2 && found == UINT32_MAX; any++) {
        fr_loads_many(p->loads, e->columns, e->count, e->in_line, e->load);
        if (p->gated && !any) {
            for (uint32_t i = 0; i < e->count; i++)
                if (e->limits[i] && !fr_has_room(e, p->loads, i))
                    e->load[i] = FR_LOAD_CLOSED;
            for (uint32_t i = 0; i < e->ramping_count; i++)
                if (!fr_ramp_has_token(&e->ramping[i], e->picks, e->ramped_sum))
                    e->load[e->ramping[i].place] = FR_LOAD_CLOSED;
        } else if (p->gated) {
            for (uint32_t i = 0; i < e->count; i++)
                if (!fr_has_room(e, p->loads, i))
                    e->load[i] = FR_LOAD_CLOSED;
        }
        for (int i = 0; i < tried_count; i++)
            if (p->place_of[tried[i]] != FR_NO_SLOT)
                e->load[p->place_of[tried[i]]] = FR_LOAD_CLOSED;
        found = fr_least_pick(e, e->load, p->cursor);
        if (!p->gated)
            break;
    }
    return found;
}

/* A pick where some servers may not be taken. Slot, or -1. */
static __attribute__((noinline, unused)) int fr_policies_choose(fr_policies *p, const uint16_t *tried, int tried_count)
{
    fr_eligible *e = &p->eligible;
    uint32_t place = UINT32_MAX, start;

    fr_policies_step(p);
    if (p->policy == FR_LEAST_CONNECTIONS) {
        place = fr_least_open(p, tried, tried_count);
    } else {
        if (p->policy == FR_PREQUAL && !tried_count) {
            uint64_t now_ms = fr_now_ms(&p->clock);
            fr_prequal_look(p->prequal, e, p->loads, fr_random_place(e, &p->random), now_ms);
            place = fr_prequal_pick(p->prequal, e, p->loads, p->place_of, now_ms);
        }
        for (int i = 0; place == UINT32_MAX && i < FR_DRAWS_MAX; i++) {
            uint32_t drawn = fr_draw(p);
            if (fr_is_tried(e->slots[drawn], tried, tried_count) || !fr_is_open(e, p->loads, drawn))
                continue;
            if (p->policy == FR_PREQUAL && i < FR_DRAWS_MAX / 8 &&
                fr_prequal_is_struck(p->prequal, e->slots[drawn], fr_now_ms(&p->clock)))
                continue;
            place = drawn;
        }
        start = place == UINT32_MAX ? (uint32_t)fr_mulhi64(fr_xoshiro_next(&p->random), e->count) : 0;
        for (int any = 0; any < 2; any++)
            for (uint32_t i = 0; place == UINT32_MAX && i < e->count; i++) {
                uint32_t at = (start + i) % e->count;
                if (!fr_is_tried(e->slots[at], tried, tried_count) &&
                    (any ? fr_has_room(e, p->loads, at) : fr_is_open(e, p->loads, at)))
                    place = at;
            }
    }
    if (place == UINT32_MAX)
        return -1;
    fr_note_pick(e, place);
    return e->slots[place];
}

/* Slot of the policy's pick without a key; -1: no server can take it. */
static inline int fr_policies_pick(fr_policies *p)
{
    fr_eligible *e = &p->eligible;
    uint32_t place;
    if (FR_UNLIKELY(!e->count))
        return -1;
    if (FR_UNLIKELY(p->panic))
        p->panic_picks++;
    if (FR_UNLIKELY(p->gated))
        return fr_policies_choose(p, NULL, 0);
    switch (p->policy) {
    case FR_ROUND_ROBIN:
    case FR_HASH:
        return fr_round_robin_next(&p->turns, p->cursor);
    case FR_LEAST_CONNECTIONS:
        fr_loads_many(p->loads, e->columns, e->count, e->in_line, e->load);
        place = fr_least_pick(e, e->load, p->cursor);
        break;
    case FR_PREQUAL:
        return fr_policies_choose(p, NULL, 0);
    default:
        place = fr_draw(p);
    }
    return e->slots[place];
}

/* May the key's server in this place take an unbound request? */
static inline int fr_takes_key(fr_policies *p, uint64_t hash, uint32_t place)
{
    fr_eligible *e = &p->eligible;
    if (e->ramping_count) {
        const fr_ramping *r = fr_ramping_at(e, place);
        if (r && !fr_ramp_takes_key(r, hash))
            return 0;
    }
    return fr_has_room(e, p->loads, place) &&
           (!p->bound.factor_percent || fr_below_bound(e, &p->bound, p->loads, p->pool_column, place));
}

static inline void fr_policies_begin(fr_policies *p, uint16_t slot)
{
    fr_loads_begin(p->loads, p->column_of[slot], p->pool_column);
}

static inline void fr_policies_end(fr_policies *p, uint16_t slot, int failed, uint64_t latency_ns)
{
    fr_loads_end(p->loads, p->column_of[slot], p->pool_column);
    if (p->policy == FR_PEAK_EWMA) {
        if (latency_ns && !failed)
            fr_ewma_observe(&p->ewma[slot], fr_now_ms(&p->clock), latency_ns);
    } else if (p->policy == FR_PREQUAL) {
        fr_prequal_response(p->prequal, slot, (uint32_t)fr_loads_of(p->loads, p->column_of[slot]), failed, latency_ns,
                            fr_now_ms(&p->clock), p->eligible.count);
    }
}

#endif
