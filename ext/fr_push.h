/* fr_push.h: the push channel's half of a zone: who runs it, what it saw, and what may be believed because of it.
 *
 * Not here: sockets and lines (fastroute/memcache/watch.py), when something counts as lost (fastroute/affinity/push.py),
 * layout (fr_zone.h).
 *
 * One process of the zone, the owner, reads what the store's nodes announce. Each line about a key becomes: one entry of
 * the ring, THEN one mark at the key's record (fr_push_invalidate). An entry is the store's word without a question while
 *     it is GUARDED, its verified_tick is at or after `live`'s lower half, and now is before `live`'s upper half.
 * The owner moves the upper half ahead while the channel proves that it lives. If the owner dies or is stopped, the upper
 * half is reached by itself. A loss moves the lower half past all entries and counts the epoch up.
 *
 * The fill guard. A reader notes (epoch, sequence) BEFORE it asks the store. When it learns the answer it holds the stripe
 * and (fr_aff_learn_guarded)
 *   1. writes the record unguarded, with verified_tick 0, and lets no later load pass that;
 *   2. reads the record's last word (flags, and `spare`, the count of marks);
 *   3. counts the key's lines in the ring since the noted sequence;
 *   4. makes the record guarded by compare-and-exchange on that word.
 * A line that is not seen in 3 was put into the ring after 3, so its mark comes after 2 and changes the word: 4 fails, or
 * the mark comes after 4 and undoes it. A reader that is stopped or killed anywhere leaves an entry that is not believed.
 *
 * Own writes. Each write that memcached commits draws one line, and its writer knows how many it committed since the noted
 * sequence (own). If the ring shows h <= own lines of the key, the record becomes guarded with own - h echoes expected, and
 * each later line takes one echo off; a line that finds none removes the guard. Claim: an entry that stays guarded is the
 * store's newest word. For: the record was read after the own writes; writes of others that came after the reading are
 * lines over and above the own ones, so that all lines together outnumber own, whatever their order: own then foreign, the
 * second line finds no echo; foreign then own, the same. Others' writes from before the reading whose lines come late only
 * add lines. Too many lines cost a question to the store, and there are never too few: a lost line is a loss, which moves
 * `live` and the epoch.
 *
 * The owner is named by a lease in one word. A process that was stopped, slept through its lease and goes on may be at any
 * instruction: an entry of the ring carries its sequence and is exchanged for what was read before the lease was looked at,
 * so the ring has no two writers; marks too many are harmless; `live` is moved ahead only to a time that was reckoned
 * from when the sign of life was asked for.
 */
#ifndef FR_PUSH_H
#define FR_PUSH_H

#include "fr_bucket.h"

/* How long the process that runs the channel may be silent: after so much (and at most one tick of 64 ms, and the time of
 * one look by the others) another one takes it over. */
#define FR_PUSH_LEASE_MS 500u

typedef struct {
    uint64_t epoch, sequence;
    int guarded;            /* 0: there was no channel; nothing learned with it is guarded */
} fr_guard;

static inline uint64_t fr_push_pair(uint32_t high, uint32_t low)
{
    return (uint64_t)high << 32 | low;
}

/* Is a guarded entry of this store the store's word now? */
static inline int fr_push_holds(const fr_push *push, uint64_t store, uint32_t verified_tick, uint32_t now_tick)
{
    uint64_t live = FR_GET(&push->live);
    return (uint32_t)(live >> 32) > now_tick && verified_tick >= (uint32_t)live && FR_GET(&push->store) == store;
}

static inline fr_guard fr_push_guard(const fr_push *push, uint64_t store, uint32_t now_tick)
{
    fr_guard guard = {FR_GET_ACQUIRE(&push->epoch), FR_GET_ACQUIRE(&push->sequence), 0};
    guard.guarded = fr_push_holds(push, store, 0xFFFFFFFFu, now_tick);
    return guard;
}

/* ---- the owner --------------------------------------------------------------------------------------------------- */

/* 1: the lease is `token`'s, for FR_PUSH_LEASE_MS from now. 0: it is somebody else's. */
static inline int fr_push_lease(fr_push *push, uint32_t token, uint32_t now_tick)
{
    uint64_t lease = FR_GET_ACQUIRE(&push->lease);

    if ((uint32_t)lease != token && (uint32_t)(lease >> 32) > now_tick)
        return 0;
    if (!__atomic_compare_exchange_n(&push->lease, &lease, fr_push_pair(now_tick + fr_ticks_of_ms(FR_PUSH_LEASE_MS), token),
                                     0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return 0;
    FR_KILL_POINT();
    FR_PUT(&push->owner_pid, (uint32_t)getpid());
    return 1;
}

static inline int fr_push_owns(const fr_push *push, uint32_t token)
{
    return (uint32_t)FR_GET_ACQUIRE(&push->lease) == token;
}

static inline void fr_push_release(fr_push *push, uint32_t token)
{
    uint64_t lease = FR_GET(&push->lease);
    if ((uint32_t)lease == token)
        __atomic_compare_exchange_n(&push->lease, &lease, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Something may have been missed: nothing that was guarded until now is believed any more.
 *
 * The time is read after the epoch was counted up: what a reader guards in spite of it was reckoned from a tick before. The
 * lower half only grows: a process that stood still in here and goes on after others have lost takes nothing of theirs back.
 * One that stays here leaves a channel that is not believed until somebody else begins anew. */
static inline void fr_push_lose(fr_push *push, const fr_clock *clock)
{
    uint64_t live = __atomic_and_fetch(&push->live, 0xFFFFFFFFull, __ATOMIC_ACQ_REL);
    uint32_t after;

    FR_KILL_POINT();
    __atomic_fetch_add(&push->epoch, 1u, __ATOMIC_SEQ_CST);
    FR_KILL_POINT();
    after = fr_now_tick(clock) + 1;
    FR_KILL_POINT();
    while (!__atomic_compare_exchange_n(&push->live, &live, fr_push_pair(0, (uint32_t)live > after ? (uint32_t)live : after), 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    FR_KILL_POINT();
}

/* Entries of another store stand here: they are that one's word no more. */
static inline void fr_push_serve(fr_push *push, uint64_t store, const fr_clock *clock)
{
    if (FR_GET(&push->store) == store)
        return;
    fr_push_lose(push, clock);
    FR_PUT_RELEASE(&push->store, store);
    FR_KILL_POINT();
}

/* The channel lives: all lines from before it was asked have come. Never moves back. 0: somebody else owns it. */
static inline int fr_push_extend(fr_push *push, uint32_t token, uint32_t until_tick)
{
    uint64_t live = FR_GET_ACQUIRE(&push->live);

    do {        /* who owns it is looked at after each reading of `live`: whoever takes it over changes that */
        if (!fr_push_owns(push, token))
            return 0;
    } while ((uint32_t)(live >> 32) < until_tick &&
             !__atomic_compare_exchange_n(&push->live, &live, fr_push_pair(until_tick, (uint32_t)live), 0, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
    return 1;
}

/* Nothing is known to be lost, but the channel is silent: entries are not believed until it is extended again. */
static inline void fr_push_suspend(fr_push *push, uint32_t token)
{
    uint64_t live = FR_GET_ACQUIRE(&push->live);

    while (fr_push_owns(push, token) && live >> 32 &&
           !__atomic_compare_exchange_n(&push->live, &live, (uint32_t)live, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
}

/* An entry of the ring: 48 bits of the fingerprint, 16 of its sequence. */
static inline uint64_t fr_push_entry(const fr_fingerprint *key, uint64_t sequence)
{
    return (key->hi & ~0xFFFFull) | (sequence & 0xFFFF);
}

/* 1: the ring has it. 0: this is not the owner (any more). */
static inline int fr_push_append(fr_table *table, uint32_t token, const fr_fingerprint *key)
{
    fr_push *push = table->push;

    for (int i = 0; i < FR_READ_TRIES; i++) {
        uint64_t at = FR_GET_ACQUIRE(&push->sequence), entry = fr_push_entry(key, at);
        uint64_t *slot = &table->ring[at & table->ring_mask], old = FR_GET_ACQUIRE(slot);

        if (!fr_push_owns(push, token))
            return 0;
        if (old != entry && !__atomic_compare_exchange_n(slot, &old, entry, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            continue;
        FR_KILL_POINT();
        /* Exchanged by somebody else: then the slot of `at` is taken with what was put there last, which is this. */
        if (__atomic_compare_exchange_n(&push->sequence, &at, at + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            FR_KILL_POINT();
            return 1;
        }
        if (FR_GET_ACQUIRE(slot) == entry)
            return 1;
    }
    return 0;
}

/* One line's mark at the key's record, wherever it stands; without the lock, and without the bucket's sequence, since a
 * writer may be stopped inside. `all`: an eviction, which is nobody's echo. 1: a guard was removed.
 *
 * What goes wrong when the cell is given to another key at that moment: the other key's entry is asked for once more. */
static inline int fr_push_mark(fr_table *table, const fr_fingerprint *key, int all)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);
    int removed = 0;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);    /* the ring's entry is seen before the record is looked for */
    for (int side = 0; side < 2; side++) {
        fr_bucket *bucket = &table->buckets[side ? place.other : place.home];
        for (uint32_t mask = fr_tag_mask(bucket, place.tag); mask; mask &= mask - 1) {
            fr_cell *cell = &bucket->cells[__builtin_ctz(mask)];
            uint64_t word = FR_GET_ACQUIRE(&cell->word[4]), next;

            if (!fr_cell_is(cell, key))
                continue;
            do {
                uint8_t flags = (uint8_t)(word >> 48), lines = (uint8_t)(word >> 56);
                uint32_t verified = (uint32_t)word;
                removed = 0;
                if (!all && flags & FR_BIND_ECHO * FR_BIND_ECHO_MAX) {
                    flags -= FR_BIND_ECHO;
                } else {
                    removed = verified != 0;
                    verified = 0;
                    flags &= (uint8_t)~FR_BIND_PUSH_MASK;
                }
                next = (uint64_t)verified | (word & 0xFFFF00000000ull) | (uint64_t)flags << 48 |
                       (uint64_t)(uint8_t)(lines + 1) << 56;
            } while (!__atomic_compare_exchange_n(&cell->word[4], &word, next, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE));
            FR_KILL_POINT();
            if (removed)
                return 1;
        }
    }
    return removed;
}

/* A line came: -1 when this is not the owner any more, else whether a guard was removed. */
static inline int fr_push_invalidate(fr_table *table, uint32_t token, const fr_fingerprint *key, int all)
{
    if (!fr_push_append(table, token, key))
        return -1;
    return fr_push_mark(table, key, all);
}

/* ---- the readers ------------------------------------------------------------------------------------------------- */

/* Lines of the key since the guard was taken, or -1: not to be told. */
static inline int fr_push_lines(const fr_table *table, const fr_guard *guard, const fr_fingerprint *key)
{
    const fr_push *push = table->push;
    uint64_t now = __atomic_load_n(&push->sequence, __ATOMIC_SEQ_CST);
    int lines = 0;

    if (now - guard->sequence > table->ring_mask)
        return -1;
    FR_KILL_POINT();
    for (uint64_t at = guard->sequence; at != now; at++) {
        uint64_t entry = FR_GET_ACQUIRE(&table->ring[at & table->ring_mask]);
        if ((entry & 0xFFFF) != (at & 0xFFFF))
            return -1;
        lines += entry == fr_push_entry(key, at);
    }
    FR_FENCE_ACQUIRE();
    /* Stopped in here while the ring went round, and round again: its 16 bits of sequence tell one round from seven others. */
    if (FR_GET_ACQUIRE(&push->sequence) - guard->sequence > table->ring_mask)
        return -1;
    return __atomic_load_n(&push->epoch, __ATOMIC_SEQ_CST) == guard->epoch ? lines : -1;
}

#endif
