/* fr_base.h: what every compiled file shares: the coarse clock, bit helpers, assertions, kill points.
 *
 * Not here: hashing (fr_hash.h), random numbers (fr_rand.h).
 * Rules: static inline only, no state except the manual clock handed in by the caller, nothing touches Python.
 */
#ifndef FR_BASE_H
#define FR_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fastroute's shared layouts are little endian; big-endian machines are not supported yet"
#endif

#define FR_LIKELY(x) __builtin_expect(!!(x), 1)
#define FR_UNLIKELY(x) __builtin_expect(!!(x), 0)

#ifdef FR_DEBUG
#include <assert.h>
#define FR_ASSERT(x) assert(x)
#else
#define FR_ASSERT(x) ((void)0)
#endif

/* A server's dense index; FR_NO_SLOT where there is none. */
#define FR_NO_SLOT 0xFFFFu

/* Server states. Ready = healthy AND enabled AND not ejected. Order is part of the admin contract, not of any layout. */
enum { FR_READY = 0, FR_DRAINING = 1, FR_MAINTENANCE = 2, FR_DOWN = 3, FR_EJECTED = 4, FR_ABSENT_SERVER = 255 };

/* Time in the shared records: ticks of 64 ms of the machine's monotonic clock, the same for every process on it.
 * 32 bits last 8.7 years of uptime. */
#define FR_TICK_SHIFT 6

/* A clock that tests can hold still: manual_ms > 0 is the time, else the coarse monotonic clock is read
 * (vDSO, 4 ms resolution on a 250 Hz kernel, no system call). */
typedef struct {
    uint64_t manual_ms;
} fr_clock;

static inline uint64_t fr_now_ms(const fr_clock *clock)
{
    struct timespec ts;
    if (FR_UNLIKELY(clock->manual_ms))
        return clock->manual_ms;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
#else
    clock_gettime(CLOCK_MONOTONIC, &ts);
#endif
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static inline uint32_t fr_now_tick(const fr_clock *clock)
{
    return (uint32_t)(fr_now_ms(clock) >> FR_TICK_SHIFT);
}

/* Rounds up, so that a lifetime is never shorter than asked for. */
static inline uint32_t fr_ticks_of_ms(uint64_t ms)
{
    return (uint32_t)((ms + (1u << FR_TICK_SHIFT) - 1) >> FR_TICK_SHIFT);
}

/* High 64 bits of a product: maps a uniform 64-bit hash to 0..n-1 without division. */
static inline uint64_t fr_mulhi64(uint64_t a, uint64_t b)
{
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
}

#endif
