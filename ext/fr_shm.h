/* fr_shm.h: what every structure in shared memory is made of: atomic words, robust locks with a time limit, kill points.
 *
 * Not here: what the memory holds (fr_zone.h: layout and directory; fr_affinity.h: the affinity table).
 *
 * Rules of everything that is written under these locks:
 *   1. A process may be killed or stopped between any two stores. A write first fills a redo journal beside the lock,
 *      then marks it valid (FR_JOURNAL_VALID), then stores, then marks it empty. Whoever gets the lock of a dead owner
 *      redoes a valid journal, which is idempotent. Nothing is undone and nothing is erased by a repair.
 *   2. Waiting is bounded: FR_LOCK_WAIT_NS, and after one such wait the lock is only tried for FR_LOCK_BLOCKED_MS, so a
 *      stopped owner costs an event loop 2 ms per lock and 100 ms, not per request.
 *   3. Words that readers see without the lock are loaded and stored with the relaxed atomics below; ordering comes from
 *      the fences named at each use.
 *   4. FR_KILL_POINT() stands behind every store of a write path.
 *
 * Kill points are compiled into what ships: an integration test kills and stops a process at every one of them, and it
 * is worth more on the binary that ships. The price is a load and a never-taken branch per store, on write paths only: a
 * warm write took 19 to 29 ns with them and 25 ns without, lock included.
 */
#ifndef FR_SHM_H
#define FR_SHM_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "fr_base.h"

/* Robust process-shared mutexes: without them a zone is private to its process. */
#if defined(__linux__)
#define FR_SHM_ROBUST 1
#else
#define FR_SHM_ROBUST 0
#endif

/* How long a writer waits for a lock before it answers "busy" (design.md, the zone: a stopped holder must not stop an
 * event loop). A healthy owner holds one for well under a microsecond, or a scheduler slice when it is preempted. */
#define FR_LOCK_WAIT_NS 2000000u
/* How long a lock that timed out is then only tried. */
#define FR_LOCK_BLOCKED_MS 100u
/* Tries before the wait: covers an owner that is running on another core. */
#define FR_LOCK_SPINS 64
/* Tries of a reader whose bucket a writer is inside; then the answer is "busy". */
#define FR_READ_TRIES 64

#define FR_GET(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define FR_PUT(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define FR_GET_ACQUIRE(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define FR_PUT_RELEASE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define FR_ADD(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define FR_FENCE_ACQUIRE() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define FR_FENCE_RELEASE() __atomic_thread_fence(__ATOMIC_RELEASE)

static inline void fr_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* ---- kill points ------------------------------------------------------------------------------------------------ */

/* State of this extension module's kill points: each module counts its own. */
typedef struct {
    int on;                 /* count points (and act on one) */
    int signal;             /* SIGKILL or SIGSTOP */
    uint64_t passed;        /* points passed since they were turned on */
    uint64_t at;            /* act on the at-th one; 0: count only */
} fr_kill_points;

static fr_kill_points fr_kill __attribute__((unused));

static __attribute__((noinline, cold, unused)) void fr_kill_point(void)
{
    if (++fr_kill.passed == fr_kill.at)
        kill(getpid(), fr_kill.signal);
}

/* The signal fences keep the compiler from moving stores across the point. */
#define FR_KILL_POINT()                                                                                                \
    do {                                                                                                               \
        __atomic_signal_fence(__ATOMIC_SEQ_CST);                                                                       \
        if (FR_UNLIKELY(FR_GET(&fr_kill.on)))                                                                          \
            fr_kill_point();                                                                                           \
        __atomic_signal_fence(__ATOMIC_SEQ_CST);                                                                       \
    } while (0)

/* ---- locks ------------------------------------------------------------------------------------------------------ */

enum { FR_JOURNAL_EMPTY = 0, FR_JOURNAL_VALID = 1 };

/* What fr_lock returns. */
enum {
    FR_LOCK_BUSY = 0,       /* not taken */
    FR_LOCK_TAKEN = 1,
    FR_LOCK_REPAIR = 2      /* taken from a dead owner: redo the journal, then fr_lock_repaired() */
};

/* What a lock's memory means: its size and whose it is. */
#if defined(__GLIBC__)
#define FR_LOCK_KIND ((uint32_t)sizeof(pthread_mutex_t) | 0x10000u)
#else
#define FR_LOCK_KIND ((uint32_t)sizeof(pthread_mutex_t) | 0x20000u)
#endif

static inline int fr_lock_create(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);
    if (error)
        return error;
#if FR_SHM_ROBUST
    error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (!error)
        error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
#endif
    if (!error)
        error = pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}

static inline int fr_lock_result(int error)
{
    return error == 0 ? FR_LOCK_TAKEN : error == EOWNERDEAD ? FR_LOCK_REPAIR : FR_LOCK_BUSY;
}

/* The slow half of fr_lock. *blocked_until_ms is this process's memory of the lock: nobody else writes it. */
static __attribute__((noinline, unused)) int fr_lock_slowly(pthread_mutex_t *mutex, uint64_t *blocked_until_ms,
                                                            uint64_t wait_ns)
{
    static const fr_clock system_clock = {0};
    int error = EBUSY;

    if (FR_GET(blocked_until_ms) > fr_now_ms(&system_clock))
        return FR_LOCK_BUSY;
    for (int i = 0; i < FR_LOCK_SPINS; i++) {
        for (int j = 0; j < 8; j++)
            fr_pause();
        error = pthread_mutex_trylock(mutex);
        if (error != EBUSY)
            return fr_lock_result(error);
    }
#if FR_SHM_ROBUST
    struct timespec until;
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    clock_gettime(CLOCK_MONOTONIC, &until);
#else
    clock_gettime(CLOCK_REALTIME, &until);
#endif
    uint64_t ns = (uint64_t)until.tv_nsec + wait_ns;
    until.tv_sec += (time_t)(ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    error = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);
#else
    error = pthread_mutex_timedlock(mutex, &until);
#endif
#else
    (void)wait_ns;
#endif
    if (fr_lock_result(error) == FR_LOCK_BUSY)
        FR_PUT(blocked_until_ms, fr_now_ms(&system_clock) + FR_LOCK_BLOCKED_MS);
    return fr_lock_result(error);
}

/* Take a lock within wait_ns, whatever its owner does. */
static inline int fr_lock(pthread_mutex_t *mutex, uint64_t *blocked_until_ms, uint64_t wait_ns)
{
    int error = pthread_mutex_trylock(mutex);
    if (FR_LIKELY(error == 0))
        return FR_LOCK_TAKEN;
    if (error == EBUSY)
        return fr_lock_slowly(mutex, blocked_until_ms, wait_ns);
    return fr_lock_result(error);
}

/* After the journal was redone. Killed before this line, the next owner repairs again. */
static inline void fr_lock_repaired(pthread_mutex_t *mutex)
{
#if FR_SHM_ROBUST
    pthread_mutex_consistent(mutex);
#else
    (void)mutex;
#endif
}

static inline void fr_unlock(pthread_mutex_t *mutex)
{
    pthread_mutex_unlock(mutex);
}

#endif
