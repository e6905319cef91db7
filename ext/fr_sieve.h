/* fr_sieve.h: the index of the near cache: a hash table of entries in the order SIEVE evicts them.
 *
 * Not here: values, keys' ownership, the GIL (near_cache.pyx). Nothing touches Python; a key is borrowed bytes.
 *
 * SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024, section 3): a queue from newest to oldest and a hand that
 * walks from the oldest towards the newest. A hit only sets `visited`; the hand clears it and walks on, and evicts the
 * first entry that was not visited since it last came by. Added here: an entry past its last limit goes at sight, and a
 * hand that found FR_SIEVE_STEPS_MAX visited entries in a row takes the next one, so that no put walks the whole queue.
 *
 *   buckets  | tag, index | tag, index | ...      open addressing, linear probing, load <= 1/2, removal shifts back
 *   entries  | 64 bytes: one cache line each | .. dense, by index, grown by doubling; freed ones are chained
 *   queue    newest <-> ... <-> hand ... <-> oldest        neighbours by index
 *
 * Rules: an entry is linked (in table and queue), doomed (unlinked, its references not given up yet) or free. Functions
 * that unlink only doom: references are given up by the owner after the structure is consistent, because giving one up
 * may run any code, this cache's own methods included.
 */
#ifndef FR_SIEVE_H
#define FR_SIEVE_H

#include <stdlib.h>

#include "fr_hash.h"

#define FR_SIEVE_NONE 0xFFFFFFFFu
/* Entries at the first put: 64 KiB; then doubled. */
#define FR_SIEVE_ENTRIES_MIN 1024u
/* Indexes are 32 bits and the table has two buckets per entry. */
#define FR_SIEVE_ENTRIES_MAX 0x40000000u
/* Steps of the hand per eviction: 4096 x ~5 ns stays below 50 us even when every step misses the CPU's cache. */
#define FR_SIEVE_STEPS_MAX 4096u
/* What an entry costs besides its key and value: entry 64, two buckets 16, value slot 8, rounded to a cache line. */
#define FR_SIEVE_OVERHEAD_BYTES 128u
/* Cells of the fill guard; two keys in one cell only make a fill be refused that could have been kept. */
#define FR_SIEVE_GUARD_CELLS 1024u

typedef struct {
    void *owner;                        /* the key's object; a reference held by the shell while not free */
    const uint8_t *key;                 /* bytes inside owner */
    uint64_t hash;
    uint64_t fresh_until_ms;
    uint64_t stale_until_ms;            /* >= fresh_until_ms; absent from then on */
    uint64_t cost_bytes;
    uint32_t key_size;
    uint32_t newer, older;              /* queue neighbours; `newer` chains doomed and free entries */
    uint8_t visited;
    uint8_t kind;                       /* keys of two kinds are never equal */
    uint16_t spare;
} fr_sieve_entry;

_Static_assert(sizeof(fr_sieve_entry) == 64, "one cache line per entry");

typedef struct {
    uint32_t tag;                       /* low half of the hash; home bucket = tag & mask */
    uint32_t index;                     /* FR_SIEVE_NONE: empty */
} fr_sieve_bucket;

typedef struct {
    fr_sieve_entry *entries;
    fr_sieve_bucket *buckets;
    uint64_t bytes, bytes_max;
    uint32_t capacity, bucket_mask, used, count;
    uint32_t free_head, doomed_head, newest, oldest, hand;
    uint64_t evictions, expirations;
    uint64_t sequence;                  /* of invalidations and puts, for the fill guard */
    uint64_t guard[FR_SIEVE_GUARD_CELLS];
} fr_sieve;

static inline void fr_sieve_init(fr_sieve *cache, uint64_t bytes_max)
{
    memset(cache, 0, sizeof *cache);
    cache->bytes_max = bytes_max;
    cache->free_head = cache->doomed_head = cache->newest = cache->oldest = cache->hand = FR_SIEVE_NONE;
}

static inline void fr_sieve_place(fr_sieve *cache, uint32_t tag, uint32_t index)
{
    uint32_t at = tag & cache->bucket_mask;
    while (cache->buckets[at].index != FR_SIEVE_NONE)
        at = (at + 1) & cache->bucket_mask;
    cache->buckets[at].tag = tag;
    cache->buckets[at].index = index;
}

/* Makes room for one more entry: 0, or -1 without memory (nothing changed). Amortised O(1); a doubling at 1 M entries
 * costs some milliseconds once. */
static inline int fr_sieve_reserve(fr_sieve *cache)
{
    uint32_t capacity = cache->capacity ? cache->capacity * 2 : FR_SIEVE_ENTRIES_MIN;
    fr_sieve_entry *entries;
    fr_sieve_bucket *buckets;

    if (cache->free_head != FR_SIEVE_NONE || cache->used < cache->capacity)
        return 0;
    if (cache->capacity >= FR_SIEVE_ENTRIES_MAX)
        return -1;
    buckets = malloc((size_t)capacity * 2 * sizeof *buckets);
    if (!buckets)
        return -1;
    entries = realloc(cache->entries, (size_t)capacity * sizeof *entries);
    if (!entries) {
        free(buckets);
        return -1;
    }
    memset(buckets, 0xFF, (size_t)capacity * 2 * sizeof *buckets);
    free(cache->buckets);
    cache->entries = entries;
    cache->buckets = buckets;
    cache->capacity = capacity;
    cache->bucket_mask = capacity * 2 - 1;
    for (uint32_t index = cache->newest; index != FR_SIEVE_NONE; index = entries[index].older)
        fr_sieve_place(cache, (uint32_t)entries[index].hash, index);
    return 0;
}

/* Index of the linked entry with this key, or FR_SIEVE_NONE. Expired ones are found too. */
static inline uint32_t fr_sieve_find(const fr_sieve *cache, uint64_t hash, int kind, const uint8_t *key, uint32_t size)
{
    uint32_t at;
    if (FR_UNLIKELY(!cache->count))
        return FR_SIEVE_NONE;
    for (at = (uint32_t)hash & cache->bucket_mask;; at = (at + 1) & cache->bucket_mask) {
        const fr_sieve_bucket bucket = cache->buckets[at];
        const fr_sieve_entry *entry;
        if (bucket.index == FR_SIEVE_NONE)
            return FR_SIEVE_NONE;
        if (bucket.tag != (uint32_t)hash)
            continue;
        entry = &cache->entries[bucket.index];
        if (FR_LIKELY(entry->hash == hash && entry->key_size == size && entry->kind == kind
                      && (entry->key == key || memcmp(entry->key, key, size) == 0)))
            return bucket.index;
    }
}

/* Linked -> doomed. */
static inline void fr_sieve_doom(fr_sieve *cache, uint32_t index)
{
    fr_sieve_entry *entry = &cache->entries[index];
    uint32_t at = (uint32_t)entry->hash & cache->bucket_mask, next;

    while (cache->buckets[at].index != index)
        at = (at + 1) & cache->bucket_mask;
    for (next = (at + 1) & cache->bucket_mask; cache->buckets[next].index != FR_SIEVE_NONE;
         next = (next + 1) & cache->bucket_mask) {
        uint32_t home = cache->buckets[next].tag & cache->bucket_mask;
        if (((next - home) & cache->bucket_mask) >= ((next - at) & cache->bucket_mask)) {
            cache->buckets[at] = cache->buckets[next];
            at = next;
        }
    }
    cache->buckets[at].index = FR_SIEVE_NONE;

    if (cache->hand == index)
        cache->hand = entry->newer;
    if (entry->newer != FR_SIEVE_NONE)
        cache->entries[entry->newer].older = entry->older;
    else
        cache->newest = entry->older;
    if (entry->older != FR_SIEVE_NONE)
        cache->entries[entry->older].newer = entry->newer;
    else
        cache->oldest = entry->newer;

    FR_ASSERT(cache->count > 0 && cache->bytes >= entry->cost_bytes);
    cache->count--;
    cache->bytes -= entry->cost_bytes;
    entry->newer = cache->doomed_head;
    cache->doomed_head = index;
}

/* Dooms what SIEVE evicts next; the cache must not be empty. */
static inline void fr_sieve_evict(fr_sieve *cache, uint64_t now_ms)
{
    uint32_t index = cache->hand, steps = 0;
    fr_sieve_entry *entry;

    for (;; index = entry->newer) {
        if (index == FR_SIEVE_NONE)
            index = cache->oldest;
        entry = &cache->entries[index];
        if (entry->stale_until_ms <= now_ms) {
            cache->expirations++;
            break;
        }
        if (!entry->visited || steps++ >= FR_SIEVE_STEPS_MAX) {
            cache->evictions++;
            break;
        }
        entry->visited = 0;
    }
    cache->hand = index;
    fr_sieve_doom(cache, index);
}

/* Links a new entry as the newest, its key not in the table; room was made by fr_sieve_reserve. Returns its index. */
static inline uint32_t fr_sieve_link(fr_sieve *cache, uint64_t hash, int kind, const uint8_t *key, uint32_t size,
                                     uint64_t cost_bytes)
{
    uint32_t index = cache->free_head;
    fr_sieve_entry *entry;

    if (index != FR_SIEVE_NONE)
        cache->free_head = cache->entries[index].newer;
    else
        index = cache->used++;
    FR_ASSERT(index < cache->capacity);
    entry = &cache->entries[index];
    entry->key = key;
    entry->key_size = size;
    entry->kind = (uint8_t)kind;
    entry->hash = hash;
    entry->cost_bytes = cost_bytes;
    entry->visited = 0;
    entry->newer = FR_SIEVE_NONE;
    entry->older = cache->newest;
    if (cache->newest != FR_SIEVE_NONE)
        cache->entries[cache->newest].newer = index;
    else
        cache->oldest = index;
    cache->newest = index;
    cache->count++;
    cache->bytes += cost_bytes;
    fr_sieve_place(cache, (uint32_t)hash, index);
    return index;
}

/* Takes one doomed entry off the list for the owner to give its references up; FR_SIEVE_NONE when there is none.
 * The owner reads what it needs, then calls fr_sieve_release, then gives up the references. */
static inline uint32_t fr_sieve_take_doomed(fr_sieve *cache)
{
    uint32_t index = cache->doomed_head;
    if (index != FR_SIEVE_NONE)
        cache->doomed_head = cache->entries[index].newer;
    return index;
}

static inline void fr_sieve_release(fr_sieve *cache, uint32_t index)
{
    cache->entries[index].owner = NULL;
    cache->entries[index].newer = cache->free_head;
    cache->free_head = index;
}

/* Fill guard. A fill notes the sequence when it begins; a later invalidation or put of the key moves its cell on. */
static inline void fr_sieve_disturb(fr_sieve *cache, uint64_t hash)
{
    cache->guard[hash >> 54] = ++cache->sequence;
}

static inline int fr_sieve_undisturbed(const fr_sieve *cache, uint64_t hash, uint64_t ticket)
{
    return cache->guard[hash >> 54] <= ticket;
}

#endif
