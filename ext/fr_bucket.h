/* fr_bucket.h: buckets of the affinity table: where a fingerprint may stand, finding it, choosing a cell for it.
 *
 * Not here: writing (fr_affinity.h), locks (fr_shm.h), layout (fr_zone.h). Nothing in this file stores to the zone.
 *
 * The table. Fixed 40-byte records in 1024-byte buckets: one header line (sequence, spill count, 24 one-byte tags) and
 * 24 cells. A fingerprint (128 uniform bits) has a home bucket and one other bucket in the same stripe, so one lock
 * covers both. It goes home unless FR_HOME_FILL cells are taken there, then into the emptier of the two ("the power of
 * two choices": Azar, Broder, Karlin, Upfal, 1994). Tested: at FR_CAPACITY_PER_1024 of all cells no window is full.
 * Lookups read the other bucket only when the home counts spilled records.
 *
 *   bits of the fingerprint:  lo: [stripe | home in the stripe | ... | tag 8]   hi: [other bucket | ... | cell wanted 16]
 *
 * One cache miss. A record stands in the cell its fingerprint wants when that is free, else in the next free one. A lookup
 * fetches the header line and the wanted cell's line together, and compares that cell before it looks at tags.
 *
 * Readers take no lock: the bucket's sequence must be even, and the same before and after (Boehm, "Can seqlocks get along
 * with programming language memory models?", 2012: relaxed word copies, then an acquire fence), at most FR_READ_TRIES
 * times. A writer that was killed inside leaves it odd: readers answer FR_AFF_BUSY until the next writer of the stripe
 * repairs it.
 */
#ifndef FR_BUCKET_H
#define FR_BUCKET_H

#include <stdlib.h>

#include "fr_zone.h"

/* Home cells taken before a record looks at its other bucket. Lower: fewer records share the home's line; higher: fewer
 * lookups of two buckets. At 20 a quarter of the homes of a table at capacity spill, 4 % of its records. */
#define FR_HOME_FILL 20
/* Live records below which none is lost, as a share of all cells: 1,083,360 in 64 MiB, 62 bytes per record all told.
 * Filled to 800 of 1024 no window was full in any of 20 runs (tests/unit/test_affinity_table.py fills one). */
#define FR_CAPACITY_PER_1024 740u

typedef struct {
    uint64_t term;
    uint32_t generation;
    uint32_t expires_tick;      /* absent from then on */
    uint32_t verified_tick;
    uint16_t slot;
    uint8_t flags;
    uint8_t spare;
} fr_binding;

_Static_assert(sizeof(fr_binding) == 24, "a binding is the last three words of a cell");

/* ONCE: of a key seen once, or: a touch of the store's record is wanted. GUARDED: since verified_tick the push channel has
 * watched the key (fr_push.h). The two ECHO bits count the lines of the channel that this machine's own writes will still
 * draw. ASKED: one process asks the store about it (fr_aff_take_question). `spare` counts the lines that came, modulo 256. */
enum { FR_BIND_ONCE = 1, FR_BIND_PROVISIONAL = 2, FR_BIND_GUARDED = 4, FR_BIND_ECHO = 8, FR_BIND_ASKED = 32 };
#define FR_BIND_ECHO_MAX 3
#define FR_BIND_PUSH_MASK (FR_BIND_GUARDED | FR_BIND_ECHO * FR_BIND_ECHO_MAX)

enum { FR_AFF_ABSENT = 0, FR_AFF_FOUND = 1, FR_AFF_WROTE = 2, FR_AFF_OTHER = 3, FR_AFF_BUSY = 4 };

/* A process's view of the table. */
typedef struct {
    fr_bucket *buckets;
    fr_stripe *stripes;
    uint32_t stripe_bits, stripe_buckets, stripe_count;
    uint64_t *blocked_until_ms;     /* one per stripe, this process's memory of locks that timed out */
    fr_push *push;
    uint64_t *ring;
    uint32_t ring_mask;
    uint64_t busy_reads, busy_writes;
} fr_table;

/* Where a fingerprint may stand. */
typedef struct {
    uint32_t stripe, home, other;
    uint32_t wanted;                /* cell */
    uint8_t tag;
} fr_place;

/* A cell found or chosen by a writer. */
typedef struct {
    uint32_t bucket;
    uint32_t cell;
} fr_spot;

static inline void fr_table_view(fr_table *table, const fr_zone *zone, uint64_t *blocked_until_ms)
{
    memset(table, 0, sizeof(*table));
    table->buckets = (fr_bucket *)(zone->base + zone->plan.buckets_at);
    table->stripes = (fr_stripe *)(zone->base + zone->plan.stripes_at);
    table->stripe_bits = zone->plan.stripe_bits;
    table->stripe_count = zone->plan.stripes;
    table->stripe_buckets = zone->plan.stripe_buckets;
    table->blocked_until_ms = blocked_until_ms;
    table->push = &zone->header->push;
    table->ring = (uint64_t *)(zone->base + zone->plan.ring_at);
    table->ring_mask = zone->plan.ring_entries - 1;
}

static inline uint64_t fr_table_bucket_count(const fr_zone_plan *plan)
{
    return (uint64_t)plan->stripes * plan->stripe_buckets;
}

static inline uint64_t fr_table_capacity(const fr_zone_plan *plan)
{
    return fr_table_bucket_count(plan) * FR_BUCKET_CELLS * FR_CAPACITY_PER_1024 / 1024;
}

static inline fr_place fr_place_of(const fr_table *table, uint64_t lo, uint64_t hi)
{
    fr_place place;
    uint32_t first;

    place.stripe = (uint32_t)(lo >> (64 - table->stripe_bits));
    first = place.stripe * table->stripe_buckets;
    place.home = first + (uint32_t)fr_mulhi64(lo << table->stripe_bits, table->stripe_buckets);
    place.other = first + (uint32_t)fr_mulhi64(hi, table->stripe_buckets);
    if (place.other == place.home)
        place.other = place.home + 1 == first + table->stripe_buckets ? first : place.home + 1;
    place.wanted = ((uint32_t)(hi & 0xFFFF) * FR_BUCKET_CELLS) >> 16;
    place.tag = (uint8_t)(lo & 0xFF);
    place.tag += place.tag == 0;
    return place;
}

static inline void fr_place_prefetch(const fr_table *table, const fr_place *place)
{
    const fr_bucket *home = &table->buckets[place->home];
    const uint8_t *cell = (const uint8_t *)&home->cells[place->wanted];
    __builtin_prefetch(home);
    __builtin_prefetch(cell);
    __builtin_prefetch(cell + sizeof(fr_cell) - 1);
}

/* Bit i: byte i of the header's tags equals tag. Exact (no borrow between bytes). */
static inline uint32_t fr_tag_mask(const fr_bucket *bucket, uint8_t tag)
{
    const uint64_t low7 = 0x7F7F7F7F7F7F7F7Full, pattern = 0x0101010101010101ull * tag;
    uint32_t mask = 0;

    for (int i = 0; i < 3; i++) {
        uint64_t x = FR_GET(&bucket->tags[i]) ^ pattern;
        uint64_t zero = ~(((x & low7) + low7) | x | low7);          /* 0x80 in each byte that is zero */
        mask |= (uint32_t)(((zero >> 7) * 0x0102040810204080ull) >> 56) << (8 * i);
    }
    return mask;
}

static inline uint8_t fr_tag_at(const fr_bucket *bucket, uint32_t cell)
{
    return (uint8_t)(FR_GET(&bucket->tags[cell >> 3]) >> (8 * (cell & 7)));
}

static inline int fr_cell_is(const fr_cell *cell, const fr_fingerprint *key)
{
    return FR_GET(&cell->word[0]) == key->lo && FR_GET(&cell->word[1]) == key->hi;
}

static inline uint32_t fr_cell_expires(const fr_cell *cell)
{
    return (uint32_t)(FR_GET(&cell->word[3]) >> 32);
}

static inline void fr_cell_copy(const fr_cell *cell, fr_binding *out)
{
    uint64_t words[3] = {FR_GET(&cell->word[2]), FR_GET(&cell->word[3]), FR_GET(&cell->word[4])};
    memcpy(out, words, sizeof(words));
}

static inline void fr_cell_make(fr_cell *cell, const fr_fingerprint *key, const fr_binding *binding)
{
    cell->word[0] = key->lo;
    cell->word[1] = key->hi;
    memcpy(&cell->word[2], binding, sizeof(*binding));
}

/* ---- reading without the lock ------------------------------------------------------------------------------------ */

/* FOUND (live or not: *out and *cell are set), ABSENT (*spilled is set) or BUSY, in one bucket. */
static inline int fr_bucket_read(const fr_bucket *bucket, const fr_fingerprint *key, const fr_place *place,
                                 fr_binding *out, uint32_t *cell, uint32_t *spilled)
{
    for (int i = 0; i < FR_READ_TRIES; i++) {
        uint32_t sequence = FR_GET_ACQUIRE(&bucket->sequence);
        int found = FR_AFF_ABSENT;

        if (FR_UNLIKELY(sequence & 1)) {
            fr_pause();
            continue;
        }
        *cell = place->wanted;
        if (FR_LIKELY(fr_cell_is(&bucket->cells[place->wanted], key) &&
                      fr_cell_expires(&bucket->cells[place->wanted]))) {    /* 0: empty, for the key that is all zeros */
            found = FR_AFF_FOUND;
        } else {
            for (uint32_t mask = fr_tag_mask(bucket, place->tag); mask; mask &= mask - 1) {
                *cell = (uint32_t)__builtin_ctz(mask);
                if (fr_cell_is(&bucket->cells[*cell], key)) {
                    found = FR_AFF_FOUND;
                    break;
                }
            }
        }
        if (found == FR_AFF_FOUND)
            fr_cell_copy(&bucket->cells[*cell], out);
        *spilled = FR_GET(&bucket->spilled);
        FR_FENCE_ACQUIRE();
        if (FR_LIKELY(FR_GET(&bucket->sequence) == sequence))
            return found;
        fr_pause();
    }
    return FR_AFF_BUSY;
}

/* FOUND with *out and *spot, ABSENT, or BUSY; expired is absent. Counts its busy answers, in this process. */
static inline int fr_aff_find(fr_table *table, const fr_fingerprint *key, const fr_place *place, uint32_t now_tick,
                              fr_binding *out, fr_spot *spot)
{
    uint32_t spilled = 0;
    int found;

    spot->bucket = place->home;
    found = fr_bucket_read(&table->buckets[place->home], key, place, out, &spot->cell, &spilled);
    if (FR_UNLIKELY(found == FR_AFF_ABSENT && spilled)) {
        spot->bucket = place->other;
        found = fr_bucket_read(&table->buckets[place->other], key, place, out, &spot->cell, &spilled);
    }
    if (FR_UNLIKELY(found == FR_AFF_BUSY))
        FR_ADD(&table->busy_reads, 1u);
    else if (found == FR_AFF_FOUND && out->expires_tick <= now_tick)
        return FR_AFF_ABSENT;
    return found;
}

/* The live record: FOUND, ABSENT or BUSY. Lock-free, bounded, never writes the zone. *out is undefined unless FOUND. */
static inline int fr_aff_lookup(fr_table *table, const fr_fingerprint *key, uint32_t now_tick, fr_binding *out)
{
    fr_place place = fr_place_of(table, key->lo, key->hi);
    fr_spot spot;

    fr_place_prefetch(table, &place);
    return fr_aff_find(table, key, &place, now_tick, out, &spot);
}

/* ---- under the stripe's lock, or in a table nobody writes ---------------------------------------------------------- */

/* Cell of the key's record, live or not, among those with its tag. The caller holds the stripe. */
static inline int fr_stripe_find(const fr_table *table, const fr_fingerprint *key, const fr_place *place, fr_spot *spot)
{
    const fr_bucket *bucket = &table->buckets[place->home];

    for (spot->bucket = place->home;; bucket = &table->buckets[spot->bucket = place->other]) {
        for (uint32_t mask = fr_tag_mask(bucket, place->tag); mask; mask &= mask - 1) {
            spot->cell = (uint32_t)__builtin_ctz(mask);
            if (fr_cell_is(&bucket->cells[spot->cell], key))
                return 1;
        }
        if (spot->bucket == place->other || !FR_GET(&bucket->spilled))
            return 0;
    }
}

/* Bit i: cell i holds a live record. */
static inline uint32_t fr_bucket_live(const fr_bucket *bucket, uint32_t now_tick)
{
    uint32_t used = ~fr_tag_mask(bucket, 0) & 0xFFFFFFu, live = 0;

    for (; used; used &= used - 1) {
        uint32_t cell = (uint32_t)__builtin_ctz(used);
        live |= (uint32_t)(fr_cell_expires(&bucket->cells[cell]) > now_tick) << cell;
    }
    return live;
}

/* The wanted cell if it is free, else the next one that is, around the bucket; free is not 0. */
static inline uint32_t fr_cell_pick(uint32_t free_cells, uint32_t wanted)
{
    uint32_t from_wanted = free_cells >> wanted;
    return from_wanted ? wanted + (uint32_t)__builtin_ctz(from_wanted) : (uint32_t)__builtin_ctz(free_cells);
}

/* Where a new record goes: an empty or expired cell, else that of the live record that would expire first of all cells of
 * both buckets: with one idle expiry for all, the least recently used. The caller holds the stripe. */
static inline fr_spot fr_stripe_choose(const fr_table *table, const fr_place *place, uint32_t now_tick)
{
    const fr_bucket *home = &table->buckets[place->home], *other = &table->buckets[place->other];
    uint32_t all = 0xFFFFFFu, empty = fr_tag_mask(home, 0), home_free, other_free, oldest = 0xFFFFFFFFu;
    int home_count, other_count;
    fr_spot spot = {place->home, place->wanted};

    if (__builtin_popcount(empty) > (int)FR_BUCKET_CELLS - FR_HOME_FILL) {
        if (fr_cell_expires(&home->cells[place->wanted]) > now_tick)
            spot.cell = fr_cell_pick(empty, place->wanted);
        return spot;
    }
    home_free = all & ~fr_bucket_live(home, now_tick);
    home_count = __builtin_popcount(home_free);
    if (home_count <= (int)FR_BUCKET_CELLS - FR_HOME_FILL) {
        other_free = all & ~fr_bucket_live(other, now_tick);
        other_count = __builtin_popcount(other_free);
        if (other_count > home_count) {
            spot.bucket = place->other;
            spot.cell = fr_cell_pick(other_free, place->wanted);
            return spot;
        }
        if (home_count == 0) {
            for (uint32_t cell = 0; cell < 2 * FR_BUCKET_CELLS; cell++) {
                uint32_t bucket = cell < FR_BUCKET_CELLS ? place->home : place->other;
                uint32_t at = cell < FR_BUCKET_CELLS ? cell : cell - FR_BUCKET_CELLS;
                uint32_t expires = fr_cell_expires(&table->buckets[bucket].cells[at]);
                if (expires < oldest) {
                    oldest = expires;
                    spot.bucket = bucket;
                    spot.cell = at;
                }
            }
            return spot;
        }
    }
    spot.cell = fr_cell_pick(home_free, place->wanted);
    return spot;
}

/* ---- walking and checking ------------------------------------------------------------------------------------------ */

/* Copy a bucket's live records to keys and bindings (24 each): their number, or -1 when it is busy. Lock-free. */
static inline int fr_aff_bucket_records(const fr_table *table, uint32_t index, uint32_t now_tick, fr_fingerprint *keys,
                                        fr_binding *bindings)
{
    const fr_bucket *bucket = &table->buckets[index];

    for (int i = 0; i < FR_READ_TRIES; i++) {
        uint32_t sequence = FR_GET_ACQUIRE(&bucket->sequence);
        int count = 0;

        if (!(sequence & 1)) {
            for (uint32_t live = fr_bucket_live(bucket, now_tick); live; live &= live - 1, count++) {
                const fr_cell *cell = &bucket->cells[__builtin_ctz(live)];
                keys[count].lo = FR_GET(&cell->word[0]);
                keys[count].hi = FR_GET(&cell->word[1]);
                fr_cell_copy(cell, &bindings[count]);
            }
            FR_FENCE_ACQUIRE();
            if (FR_GET(&bucket->sequence) == sequence)
                return count;
        }
        fr_pause();
    }
    return -1;
}

/* Number of broken rules in a table nobody writes: odd sequences, records out of place, under a wrong tag or there twice,
 * wrong spill counts, valid journals; -1 when memory is short. For tests and tools. */
static __attribute__((noinline, cold, unused)) int64_t fr_aff_check(const fr_table *table)
{
    uint32_t count = table->stripe_count * table->stripe_buckets;
    uint32_t *spilled = (uint32_t *)calloc(count, sizeof(*spilled));
    int64_t broken = 0;

    if (!spilled)
        return -1;
    for (uint32_t i = 0; i < table->stripe_count; i++)
        broken += FR_GET(&table->stripes[i].journal.state) != FR_JOURNAL_EMPTY;
    for (uint32_t i = 0; i < count; i++) {
        const fr_bucket *bucket = &table->buckets[i];

        broken += FR_GET(&bucket->sequence) & 1;
        for (uint32_t cell = 0; cell < FR_BUCKET_CELLS; cell++) {
            fr_fingerprint key = {bucket->cells[cell].word[0], bucket->cells[cell].word[1]};
            fr_place place = fr_place_of(table, key.lo, key.hi);
            fr_spot spot;

            if (!fr_tag_at(bucket, cell)) {
                for (int word = 0; word < 5; word++)
                    broken += bucket->cells[cell].word[word] != 0;
                continue;
            }
            broken += fr_tag_at(bucket, cell) != place.tag;
            broken += place.home != i && place.other != i;
            broken += !fr_stripe_find(table, &key, &place, &spot) || spot.bucket != i || spot.cell != cell;
            spilled[place.home] += place.home != i;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        broken += spilled[i] != FR_GET(&table->buckets[i].spilled);
    free(spilled);
    return broken;
}

#endif
