/* fr_affinity.h: the affinity table, fingerprint -> binding, in a zone's memory; safe when a process dies at any store.
 *
 * Not here: where records stand and how they are found (fr_bucket.h), locks and kill points (fr_shm.h), layout (fr_zone.h),
 * the push channel (fr_push.h), agreement between machines, what a slot means.
 *
 * Writers: lock the stripe, fill the journal, mark it valid, store, mark it empty (rules in fr_shm.h). The order of stores:
 * home's spill count up, sequence odd, record, tag, sequence even, old record's spill count down, counters. So a reader
 * never misses a record that spilled. A repair redoes all of it, except that a record that is already in its place is
 * left alone: a touch may have extended it since.
 *
 * fr_aff_touch stores without the lock; see there. Every call is bounded in time and answers FR_AFF_BUSY rather than wait
 * for a stopped process.
 */
#ifndef FR_AFFINITY_H
#define FR_AFFINITY_H

#include "fr_push.h"

/* ---- writing under the stripe's lock ----------------------------------------------------------------------------- */

/* Store what the journal says. skip_record: the record is in its place already. */
static inline void fr_journal_apply(fr_table *table, fr_stripe *stripe, int skip_record)
{
    fr_journal *journal = &stripe->journal;
    uint32_t home = FR_GET(&journal->home), gone = FR_GET(&journal->gone);

    if (home != FR_NO_BUCKET) {
        FR_PUT(&table->buckets[home].spilled, (uint32_t)FR_GET(&journal->home_spilled));
        FR_KILL_POINT();
    }
    if (!skip_record) {
        fr_bucket *bucket = &table->buckets[FR_GET(&journal->bucket)];
        uint32_t cell = FR_GET(&journal->cell), shift = 8 * (cell & 7);
        uint32_t odd = FR_GET(&bucket->sequence) | 1;
        uint64_t *tags = &bucket->tags[cell >> 3];

        FR_PUT(&bucket->sequence, odd);
        FR_FENCE_RELEASE();             /* odd is seen before any word of the record */
        FR_KILL_POINT();
        for (int i = 0; i < 5; i++) {
            FR_PUT(&bucket->cells[cell].word[i], FR_GET(&journal->record.word[i]));
            FR_KILL_POINT();
        }
        FR_PUT(tags, (FR_GET(tags) & ~(0xFFull << shift)) | (uint64_t)FR_GET(&journal->tag) << shift);
        FR_KILL_POINT();
        FR_PUT_RELEASE(&bucket->sequence, odd + 1);
        FR_KILL_POINT();
    }
    if (gone != FR_NO_BUCKET) {
        FR_PUT(&table->buckets[gone].spilled, (uint32_t)FR_GET(&journal->gone_spilled));
        FR_KILL_POINT();
    }
    if (FR_GET(&journal->counted)) {
        FR_PUT(&stripe->evictions, FR_GET(&stripe->next_evictions));
        FR_KILL_POINT();
        FR_PUT(&stripe->lost, FR_GET(&stripe->next_lost));
        FR_KILL_POINT();
    }
    FR_PUT_RELEASE(&journal->state, (uint32_t)FR_JOURNAL_EMPTY);
    FR_KILL_POINT();
}

/* Redo what a dead owner had begun. A record that is in its place in whole (even sequence, same decision) stays as it is:
 * it was readable, and a touch may have extended it since. */
static __attribute__((noinline, cold, unused)) void fr_stripe_repair(fr_table *table, fr_stripe *stripe)
{
    fr_journal *journal = &stripe->journal;

    if (FR_GET_ACQUIRE(&journal->state) == FR_JOURNAL_VALID) {
        const fr_bucket *bucket = &table->buckets[FR_GET(&journal->bucket)];
        const fr_cell *there = &bucket->cells[FR_GET(&journal->cell)], *wanted = &journal->record;
        int in_place = !(FR_GET(&bucket->sequence) & 1) &&
                       fr_tag_at(bucket, FR_GET(&journal->cell)) == FR_GET(&journal->tag) &&
                       there->word[0] == wanted->word[0] && there->word[1] == wanted->word[1] &&
                       there->word[2] == wanted->word[2] && (uint32_t)there->word[3] == (uint32_t)wanted->word[3] &&
                       (uint16_t)(there->word[4] >> 32) == (uint16_t)(wanted->word[4] >> 32);
        fr_journal_apply(table, stripe, in_place);
    }
    FR_PUT(&stripe->repairs, FR_GET(&stripe->repairs) + 1);
    FR_KILL_POINT();
    fr_lock_repaired(&stripe->mutex);
}

/* The stripe, locked and repaired; NULL when it is not to be had within the bound. */
static inline fr_stripe *fr_stripe_lock(fr_table *table, uint32_t index)
{
    fr_stripe *stripe = &table->stripes[index];
    int taken = fr_lock(&stripe->mutex, &table->blocked_until_ms[index], FR_LOCK_WAIT_NS);

    if (FR_LIKELY(taken == FR_LOCK_TAKEN))
        return stripe;
    if (taken == FR_LOCK_BUSY) {
        FR_ADD(&table->busy_writes, 1u);
        return NULL;
    }
    fr_stripe_repair(table, stripe);
    return stripe;
}

/* One write: `record` with `tag` into a cell, or an empty cell when tag is 0. The caller holds the stripe. */
static inline void fr_stripe_write(fr_table *table, fr_stripe *stripe, const fr_spot *spot, uint8_t tag,
                                   const fr_cell *record, uint32_t now_tick)
{
    fr_journal *journal = &stripe->journal;
    const fr_cell *old = &table->buckets[spot->bucket].cells[spot->cell];
    int occupied = fr_tag_at(&table->buckets[spot->bucket], spot->cell) != 0;
    int same = occupied && tag && old->word[0] == record->word[0] && old->word[1] == record->word[1];
    uint32_t home = FR_NO_BUCKET, gone = FR_NO_BUCKET;
    uint8_t counted = 0;

    if (!same) {
        if (tag) {
            fr_place place = fr_place_of(table, record->word[0], record->word[1]);
            if (place.home != spot->bucket)
                home = place.home;
        }
        if (occupied) {
            fr_place place = fr_place_of(table, old->word[0], old->word[1]);
            if (place.home != spot->bucket)
                gone = place.home;
            counted = tag && fr_cell_expires(old) > now_tick;
        }
        if (home == gone)
            home = gone = FR_NO_BUCKET;
    }
    FR_PUT(&journal->bucket, spot->bucket);
    FR_KILL_POINT();
    FR_PUT(&journal->cell, (uint8_t)spot->cell);
    FR_KILL_POINT();
    FR_PUT(&journal->tag, tag);
    FR_KILL_POINT();
    FR_PUT(&journal->home, home);
    FR_KILL_POINT();
    FR_PUT(&journal->gone, gone);
    FR_KILL_POINT();
    if (FR_UNLIKELY(home != FR_NO_BUCKET)) {
        FR_PUT(&journal->home_spilled, (uint16_t)(FR_GET(&table->buckets[home].spilled) + 1));
        FR_KILL_POINT();
    }
    if (FR_UNLIKELY(gone != FR_NO_BUCKET)) {
        FR_ASSERT(FR_GET(&table->buckets[gone].spilled) > 0);
        FR_PUT(&journal->gone_spilled, (uint16_t)(FR_GET(&table->buckets[gone].spilled) - 1));
        FR_KILL_POINT();
    }
    FR_PUT(&journal->counted, counted);
    FR_KILL_POINT();
    if (FR_UNLIKELY(counted)) {
        int bound = !((uint8_t)(old->word[4] >> 48) & FR_BIND_ONCE);
        FR_PUT(&stripe->next_evictions, FR_GET(&stripe->evictions) + 1);
        FR_KILL_POINT();
        FR_PUT(&stripe->next_lost, FR_GET(&stripe->lost) + (uint64_t)bound);
        FR_KILL_POINT();
    }
    for (int i = 0; i < 5; i++) {
        FR_PUT(&journal->record.word[i], record->word[i]);
        FR_KILL_POINT();
    }
    FR_PUT_RELEASE(&journal->state, (uint32_t)FR_JOURNAL_VALID);
    FR_FENCE_RELEASE();                 /* valid is seen before anything it describes */
    FR_KILL_POINT();
    fr_journal_apply(table, stripe, 0);
}

/* Put a binding where the key's record stands (spot), or where a new one goes (known = 0). */
static inline void fr_stripe_put(fr_table *table, fr_stripe *stripe, const fr_fingerprint *key, const fr_place *place,
                                 int known, fr_spot *spot, const fr_binding *binding, uint32_t now_tick)
{
    fr_cell record;

    if (!known)
        *spot = fr_stripe_choose(table, place, now_tick);
    fr_cell_make(&record, key, binding);
    fr_stripe_write(table, stripe, spot, place->tag, &record, now_tick);
}

/* What a locked operation starts with: FOUND (*standing is live), ABSENT or BUSY; *known says whether *spot holds the
 * key's record, live or expired. The stripe is locked unless BUSY. */
static inline int fr_aff_open(fr_table *table, const fr_fingerprint *key, const fr_place *place, uint32_t now_tick,
                              fr_stripe **stripe, int *known, fr_spot *spot, fr_binding *standing)
{
    fr_place_prefetch(table, place);
    __builtin_prefetch(&table->stripes[place->stripe].journal, 1);
    *stripe = fr_stripe_lock(table, place->stripe);
    if (FR_UNLIKELY(!*stripe))
        return FR_AFF_BUSY;
    *known = fr_stripe_find(table, key, place, spot);
    if (!*known)
        return FR_AFF_ABSENT;
    fr_cell_copy(&table->buckets[spot->bucket].cells[spot->cell], standing);
    return standing->expires_tick > now_tick ? FR_AFF_FOUND : FR_AFF_ABSENT;
}

/* First writer wins: WROTE, or OTHER with the live record, or BUSY. */
static inline int fr_aff_claim(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *wanted,
                               fr_binding *out)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);
    fr_binding standing, ours = *wanted;        /* wanted and out may be one */
    fr_stripe *stripe;
    fr_spot spot;
    int known = 0, status = fr_aff_open(table, key, &place, now_tick, &stripe, &known, &spot, &standing);

    if (status == FR_AFF_BUSY)
        return status;
    if (status == FR_AFF_FOUND) {
        *out = standing;
        status = FR_AFF_OTHER;
    } else {
        fr_stripe_put(table, stripe, key, &place, known, &spot, &ours, now_tick);
        *out = ours;
        status = FR_AFF_WROTE;
    }
    fr_unlock(&stripe->mutex);
    return status;
}

/* Make the record that was just written there guarded, or, where the channel cannot tell, the store's word for as long as
 * it is without a channel. Lines over and above `own`: neither. The caller holds the stripe. */
static inline void fr_stripe_guard(fr_table *table, const fr_fingerprint *key, const fr_guard *guard, uint32_t own,
                                   fr_cell *cell, uint32_t now_tick)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (int i = 0; i < 4; i++) {
        uint64_t word = FR_GET_ACQUIRE(&cell->word[4]), next = word & 0xFFFFFFFF00000000ull & ~((uint64_t)FR_BIND_PUSH_MASK << 48);
        int lines = fr_push_lines(table, guard, key);

        if (lines >= 0) {
            if ((uint32_t)lines > own || own - (uint32_t)lines > FR_BIND_ECHO_MAX)
                return;
            next |= (uint64_t)(FR_BIND_GUARDED | FR_BIND_ECHO * (own - (uint32_t)lines)) << 48;
        }
        FR_KILL_POINT();
        if (__atomic_compare_exchange_n(&cell->word[4], &word, next | now_tick, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            FR_KILL_POINT();
            return;
        }
    }
}

/* What was only read of the store (some of its nodes, or without sliding the expiry there): the time of the last full touch
 * stays what the zone knows of it, and where it knows nothing a touch is wanted. */
static inline void fr_binding_only_read(fr_binding *ours, const fr_binding *standing, int status)
{
    if (status == FR_AFF_FOUND && standing->term == ours->term && standing->generation == ours->generation) {
        ours->expires_tick = standing->expires_tick;
        ours->flags |= standing->flags & FR_BIND_ONCE;
    } else {
        ours->flags |= FR_BIND_ONCE;
    }
}

/* The store's truth: stands over what is here unless that is the same term with a higher generation. WROTE, OTHER or BUSY.
 *
 * The answer was asked for after `guard` was taken; `own`: writes to the key that this process committed since (rules and
 * proof in fr_push.h). only_read: see fr_binding_only_read. */
static inline int fr_aff_learn_guarded(fr_table *table, const fr_fingerprint *key, uint32_t now_tick,
                                       const fr_binding *truth, const fr_guard *guard, uint32_t own, int only_read,
                                       fr_binding *out)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);
    fr_binding standing, ours = *truth;
    fr_stripe *stripe;
    fr_spot spot;
    int known = 0, status;

    status = fr_aff_open(table, key, &place, now_tick, &stripe, &known, &spot, &standing);
    if (status == FR_AFF_BUSY)
        return status;
    if (only_read)
        fr_binding_only_read(&ours, &standing, status);
    if (status == FR_AFF_FOUND && standing.term == ours.term && standing.generation > ours.generation) {
        *out = standing;
        status = FR_AFF_OTHER;
    } else if (!guard->guarded) {
        /* The lines of own writes may come all the same (the channel is in doubt): they are no reason to ask again. */
        ours.flags |= (uint8_t)(FR_BIND_ECHO * (own > FR_BIND_ECHO_MAX ? FR_BIND_ECHO_MAX : own));
        fr_stripe_put(table, stripe, key, &place, known, &spot, &ours, now_tick);
        *out = ours;
        status = FR_AFF_WROTE;
    } else {
        fr_cell *cell;
        ours.verified_tick = 0;
        ours.flags &= (uint8_t)~FR_BIND_PUSH_MASK;
        ours.spare = known ? (uint8_t)(standing.spare + 1) : 0;
        fr_stripe_put(table, stripe, key, &place, known, &spot, &ours, now_tick);
        cell = &table->buckets[spot.bucket].cells[spot.cell];
        fr_stripe_guard(table, key, guard, own, cell, now_tick);
        fr_cell_copy(cell, out);
        status = FR_AFF_WROTE;
    }
    fr_unlock(&stripe->mutex);
    return status;
}

/* The same of an answer that no channel guards. */
static inline int fr_aff_learn(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *truth,
                               fr_binding *out)
{
    const fr_guard none = {0, 0, 0};
    return fr_aff_learn_guarded(table, key, now_tick, truth, &none, 0, 0, out);
}

/* Compare and set on (term, generation): WROTE, OTHER with the live record, ABSENT or BUSY. */
static inline int fr_aff_replace(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, uint64_t term,
                                 uint32_t generation, const fr_binding *wanted, fr_binding *out)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);
    fr_binding standing, ours = *wanted;
    fr_stripe *stripe;
    fr_spot spot;
    int known = 0, status = fr_aff_open(table, key, &place, now_tick, &stripe, &known, &spot, &standing);

    if (status == FR_AFF_BUSY)
        return status;
    if (status == FR_AFF_FOUND) {
        if (standing.term == term && standing.generation == generation) {
            fr_stripe_put(table, stripe, key, &place, 1, &spot, &ours, now_tick);
            *out = ours;
            status = FR_AFF_WROTE;
        } else {
            *out = standing;
            status = FR_AFF_OTHER;
        }
    }
    fr_unlock(&stripe->mutex);
    return status;
}

/* Remove if (term, generation) stand, or whatever stands when term is 0: WROTE, OTHER, ABSENT or BUSY. */
static inline int fr_aff_remove(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, uint64_t term,
                                uint32_t generation)
{
    static const fr_cell nothing = {{0, 0, 0, 0, 0}};
    fr_place place = fr_place_of(table, key->lo, key->hi);
    fr_binding standing;
    fr_stripe *stripe;
    fr_spot spot;
    int known = 0, status = fr_aff_open(table, key, &place, now_tick, &stripe, &known, &spot, &standing);

    if (status == FR_AFF_BUSY)
        return status;
    if (status == FR_AFF_FOUND) {
        if (term == 0 || (standing.term == term && standing.generation == generation)) {
            fr_stripe_write(table, stripe, &spot, 0, &nothing, now_tick);
            status = FR_AFF_WROTE;
        } else {
            status = FR_AFF_OTHER;
        }
    }
    fr_unlock(&stripe->mutex);
    return status;
}

/* Extend the idle expiry (never shortens), set verified_tick (0 keeps it) and clear flags, if (term, generation) stand:
 * WROTE, OTHER, ABSENT or BUSY.
 *
 * Without the lock, so that a stopped writer of the stripe keeps nobody's session from being extended: the record is
 * read, then two of its words are replaced by compare-and-exchange, (generation, expiry) and then (verified, slot, flags).
 * What can go wrong in the nanoseconds between the read and the exchange:
 *   - the record is replaced by a later decision or given to another key: the word differs, the exchange fails and the
 *     record is read again. It would have to hold the same generation and the same expiry to be taken for the old one;
 *     then another key's record lives longer by at most one idle expiry, or counts as verified in the tick in which
 *     another one was. Neither sends anybody to another server.
 *   - a writer rewrites the same record: its words win, the touch is lost; the next request touches again.
 *   - the process dies between the exchanges: extended, and still flagged. The next touch clears the flag. */
static inline int fr_aff_touch(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, uint64_t term,
                               uint32_t generation, uint32_t expires_tick, uint32_t verified_tick, uint8_t clear_flags)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);

    fr_place_prefetch(table, &place);
    for (int i = 0; i < FR_READ_TRIES; i++) {
        fr_binding old, new;
        fr_spot spot;
        uint64_t before[3], after[3];
        fr_cell *cell;
        int status = fr_aff_find(table, key, &place, now_tick, &old, &spot);

        if (status != FR_AFF_FOUND)
            return status;
        if (old.term != term || old.generation != generation)
            return FR_AFF_OTHER;
        new = old;
        if (expires_tick > old.expires_tick)
            new.expires_tick = expires_tick;
        if (verified_tick)
            new.verified_tick = verified_tick;
        new.flags &= (uint8_t)~clear_flags;
        memcpy(before, &old, sizeof(before));
        memcpy(after, &new, sizeof(after));
        cell = &table->buckets[spot.bucket].cells[spot.cell];
        if (before[1] != after[1]) {
            if (!__atomic_compare_exchange_n(&cell->word[3], &before[1], after[1], 0, __ATOMIC_ACQ_REL,
                                             __ATOMIC_RELAXED))
                continue;
            FR_KILL_POINT();
        }
        if (before[2] != after[2]) {
            if (!__atomic_compare_exchange_n(&cell->word[4], &before[2], after[2], 0, __ATOMIC_ACQ_REL,
                                             __ATOMIC_RELAXED))
                continue;
            FR_KILL_POINT();
        }
        return FR_AFF_WROTE;
    }
    FR_ADD(&table->busy_writes, 1u);
    return FR_AFF_BUSY;
}

/* Take a touch of the store's record on, for all processes of the zone: WROTE for one of those that found it due, and the
 * record here is extended, so that the others see it done. Lock-free like fr_aff_touch. `found` is what was read. */
static inline int fr_aff_take_touch(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, const fr_binding *found,
                                    uint32_t expires_tick)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);
    fr_binding old;
    fr_spot spot;
    fr_cell *cell;
    uint64_t words[3], next;

    if (fr_aff_find(table, key, &place, now_tick, &old, &spot) != FR_AFF_FOUND)
        return FR_AFF_ABSENT;
    if (old.term != found->term || old.generation != found->generation || old.expires_tick != found->expires_tick ||
        old.flags != found->flags)
        return FR_AFF_OTHER;
    memcpy(words, &old, sizeof(words));
    cell = &table->buckets[spot.bucket].cells[spot.cell];
    if (old.flags & FR_BIND_ONCE) {
        next = words[2] & ~((uint64_t)FR_BIND_ONCE << 48);
        if (!__atomic_compare_exchange_n(&cell->word[4], &words[2], next, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return FR_AFF_OTHER;
        FR_KILL_POINT();
        if (expires_tick > old.expires_tick)
            fr_aff_touch(table, key, now_tick, old.term, old.generation, expires_tick, 0, 0);
        return FR_AFF_WROTE;
    }
    next = (words[1] & 0xFFFFFFFFull) | (uint64_t)expires_tick << 32;
    if (!__atomic_compare_exchange_n(&cell->word[3], &words[1], next, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return FR_AFF_OTHER;
    FR_KILL_POINT();
    return FR_AFF_WROTE;
}

/* The touch that was taken on did not reach the store: whoever sees the key next is to try. */
static inline void fr_aff_want_touch(fr_table *table, const fr_fingerprint *key, uint32_t now_tick)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);

    for (int i = 0; i < FR_READ_TRIES; i++) {
        fr_binding old;
        fr_spot spot;
        uint64_t words[3];

        if (fr_aff_find(table, key, &place, now_tick, &old, &spot) != FR_AFF_FOUND || old.flags & FR_BIND_ONCE)
            return;
        memcpy(words, &old, sizeof(words));
        if (__atomic_compare_exchange_n(&table->buckets[spot.bucket].cells[spot.cell].word[4], &words[2],
                                        words[2] | (uint64_t)FR_BIND_ONCE << 48, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return;
    }
}

/* Ask the store about a record for all processes of the zone. WROTE: the caller is to ask, and ends it (learning ends it
 * too). OTHER: somebody is asking; who waits for that does so for a bounded time, since he may have died. ABSENT, BUSY:
 * nothing stands that could say so. Lock-free like fr_aff_touch. */
static inline int fr_aff_take_question(fr_table *table, const fr_fingerprint *key, uint32_t now_tick)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);

    for (int i = 0; i < FR_READ_TRIES; i++) {
        fr_binding old;
        fr_spot spot;
        uint64_t words[3];
        int status = fr_aff_find(table, key, &place, now_tick, &old, &spot);

        if (status != FR_AFF_FOUND)
            return status;
        if (old.flags & FR_BIND_ASKED)
            return FR_AFF_OTHER;
        memcpy(words, &old, sizeof(words));
        if (__atomic_compare_exchange_n(&table->buckets[spot.bucket].cells[spot.cell].word[4], &words[2],
                                        words[2] | (uint64_t)FR_BIND_ASKED << 48, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            FR_KILL_POINT();
            return FR_AFF_WROTE;
        }
    }
    return FR_AFF_BUSY;
}

/* The question that was taken on has ended, with an answer or without. */
static inline void fr_aff_end_question(fr_table *table, const fr_fingerprint *key, uint32_t now_tick)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);

    for (int i = 0; i < FR_READ_TRIES; i++) {
        fr_binding old;
        fr_spot spot;
        uint64_t words[3];

        if (fr_aff_find(table, key, &place, now_tick, &old, &spot) != FR_AFF_FOUND || !(old.flags & FR_BIND_ASKED))
            return;
        memcpy(words, &old, sizeof(words));
        if (__atomic_compare_exchange_n(&table->buckets[spot.bucket].cells[spot.cell].word[4], &words[2],
                                        words[2] & ~((uint64_t)FR_BIND_ASKED << 48), 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            return;
    }
}

#endif
