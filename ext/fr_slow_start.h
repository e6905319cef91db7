/* fr_slow_start.h: the ramp of a server that came back, and the gate that holds its share of unbound picks to it.
 *
 * The ramp says which part of its weight a server has, t after its return:
 *   envoy     max(min_weight, (t / window) ^ (1 / aggression))         (Envoy, slow_start_config)
 *   haproxy   (steps x t / window + 1) / steps, in whole steps of 1/16  (HAProxy, server_recalc_eweight; wdiv 16)
 * fastroute/routing/slow_start.py is the same as pure functions, and their tests hold the two together.
 *
 * The gate. A policy that looks at load finds a server that has just come back empty, and sends it everything: that is the
 * bombardment that slow start is against, and lowering the weight does not help while the load is zero. So a returning
 * server may only be picked with a token, and with each pick of the pool it earns its ramped share of one:
 *   weight x ramp / sum of (weight x ramp) over the eligible.
 * Its share of the picks then is at most its ramped share whatever the policy, in each process, so in all together.
 * Round robin, of which it has its turns, comes out at exactly that share. `hash` asks the key instead of a token: of the
 * keys that are the server's, the part `ramp`, chosen by the key's hash, so that replicas agree and a key comes once.
 *
 * Rules: bound requests never pass here. No Python, no allocation.
 */
#ifndef FR_SLOW_START_H
#define FR_SLOW_START_H

#include <math.h>

#include "fr_base.h"

#define FR_RAMP_HAPROXY_STEPS 16
/* The ramps are computed anew when the coarse clock has moved by this much. */
#define FR_RAMP_STEP_MS 20u
/* A server that nobody asked for saves no more than this: else it would come back with a burst. */
#define FR_RAMP_TOKENS_MAX 1.0

typedef struct {
    uint64_t window_ms;  /* 0: no slow start */
    double aggression;
    double min_weight;
    int haproxy;
} fr_ramp_rule;

/* One server on its ramp. */
typedef struct {
    uint64_t since_ms;
    uint64_t seen_picks;
    uint64_t salt;      /* hash of its name: which keys come first */
    double ramp;        /* 0..1; 1 and more: done */
    double tokens;
    uint32_t weight;
    uint16_t slot;
    uint16_t place;
} fr_ramping;

static inline double fr_ramp_of(const fr_ramp_rule *rule, uint64_t elapsed_ms)
{
    double part;
    if (elapsed_ms >= rule->window_ms)
        return 1.0;
    if (rule->haproxy) {
        part = (double)(FR_RAMP_HAPROXY_STEPS * elapsed_ms / rule->window_ms + 1) / FR_RAMP_HAPROXY_STEPS;
    } else {
        if (!elapsed_ms)
            elapsed_ms = 1;
        part = pow((double)elapsed_ms / (double)rule->window_ms, 1.0 / rule->aggression);
    }
    return part < rule->min_weight ? rule->min_weight : part > 1.0 ? 1.0 : part;
}

/* weight_total: sum of (weight x ramp) over the eligible. picks: unbound picks of the pool so far. */
static inline int fr_ramp_has_token(fr_ramping *r, uint64_t picks, double weight_total)
{
    if (r->ramp >= 1.0)
        return 1;
    r->tokens += (double)(picks - r->seen_picks) * r->weight * r->ramp / weight_total;
    r->seen_picks = picks;
    if (r->tokens > FR_RAMP_TOKENS_MAX + 1.0)
        r->tokens = FR_RAMP_TOKENS_MAX + 1.0;
    return r->tokens >= 1.0;
}

static inline int fr_ramp_takes_key(const fr_ramping *r, uint64_t hash)
{
    uint64_t z = (hash ^ r->salt) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 32)) * 0xD6E8FEB86659FD93ull;
    return (double)(z >> 11) * 0x1p-53 < r->ramp;
}

#endif
