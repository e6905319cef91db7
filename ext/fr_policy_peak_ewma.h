/* fr_policy_peak_ewma.h: the latency of a server as Finagle's and tower's peak EWMA see it.
 *
 * A response slower than the average replaces it at once (the peak); a faster one pulls it down with weight
 * 1 - exp(-dt / tau). Read later, the average has decayed towards zero by exp(-dt / tau), so that a server that was slow is
 * tried again. Load = average x (in flight + 1) / weight. A server that never answered has load 0 while nothing is in
 * flight there, and Finagle's penalty plus what is in flight from then on: it is tried, with one request.
 *
 * Rules: this process's own measurements; no Python, no allocation.
 */
#ifndef FR_POLICY_PEAK_EWMA_H
#define FR_POLICY_PEAK_EWMA_H

#include <math.h>

#include "fr_base.h"

#define FR_EWMA_TAU_MS 10000.0             /* Finagle's decayTime */
#define FR_EWMA_PENALTY_NS 140737488355327.0 /* 2^47 - 1, Finagle's */

typedef struct {
    double average_ns; /* 0: never measured */
    uint64_t at_ms;
} fr_ewma;

static inline void fr_ewma_observe(fr_ewma *e, uint64_t now_ms, uint64_t latency_ns)
{
    double rtt = (double)latency_ns, weight;
    if (rtt > e->average_ns || e->at_ms == 0) {
        e->average_ns = rtt;
    } else {
        weight = exp(-(double)(now_ms - e->at_ms) / FR_EWMA_TAU_MS);
        e->average_ns = e->average_ns * weight + rtt * (1.0 - weight);
    }
    e->at_ms = now_ms ? now_ms : 1;
}

static inline double fr_ewma_load(const fr_ewma *e, uint64_t now_ms, uint32_t in_flight)
{
    double average;
    if (!e->at_ms)
        return in_flight ? FR_EWMA_PENALTY_NS + in_flight : 0.0;
    average = now_ms > e->at_ms ? e->average_ns * exp(-(double)(now_ms - e->at_ms) / FR_EWMA_TAU_MS) : e->average_ns;
    return average * (in_flight + 1.0);
}

#endif
