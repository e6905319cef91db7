/* fr_server_table.h: the counters of one server, one cache line each, so that two servers never share one.
 *
 * They live in private memory now and are reached through a pointer alone, so that they can stand in the zone.
 * Rules: relaxed atomics; nothing here is a lock; a reader may see one counter newer than another.
 */
#ifndef FR_SERVER_TABLE_H
#define FR_SERVER_TABLE_H

#include "fr_base.h"

/* Weight of a new sample in the latency average: 1/8, the smoothed round-trip time's alpha (RFC 6298, 2.3). */
#define FR_LATENCY_SHIFT 3

typedef struct {
    int64_t in_flight;
    uint64_t total, failures;
    uint64_t latency_ewma_ns; /* 0: never measured */
    uint64_t spare[4];
} fr_counters;

static inline void fr_counters_begin(fr_counters *c)
{
    __atomic_fetch_add(&c->in_flight, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&c->total, 1, __ATOMIC_RELAXED);
}

/* latency_ns 0: not measured. Of two samples at one instant one may be lost, which an average bears. */
static inline void fr_counters_end(fr_counters *c, int failed, uint64_t latency_ns)
{
    int64_t before = __atomic_fetch_sub(&c->in_flight, 1, __ATOMIC_RELAXED);
    FR_ASSERT(before > 0);
    (void)before;
    if (failed)
        __atomic_fetch_add(&c->failures, 1, __ATOMIC_RELAXED);
    if (latency_ns) {
        uint64_t old = __atomic_load_n(&c->latency_ewma_ns, __ATOMIC_RELAXED);
        uint64_t now = old ? old - (old >> FR_LATENCY_SHIFT) + (latency_ns >> FR_LATENCY_SHIFT) : latency_ns;
        __atomic_store_n(&c->latency_ewma_ns, now ? now : 1, __ATOMIC_RELAXED);
    }
}

/* Time of a request's start and end: the precise monotonic clock, or what a test holds. */
static inline uint64_t fr_precise_ns(const fr_clock *clock)
{
    struct timespec ts;
    if (FR_UNLIKELY(clock->manual_ms))
        return clock->manual_ms * 1000000u;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
