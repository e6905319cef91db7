/* fr_near.h: the index of the near cache: a hash table of entries in the order in which S3-FIFO evicts them.
 *
 * Not here: values, keys' ownership, the GIL (near_cache.pyx). Nothing touches Python; a key is borrowed bytes.
 *
 * S3-FIFO ("FIFO queues are all you need for cache eviction", SOSP 2023, section 4): what is new enters a small queue,
 * a tenth of the bytes. At its end it goes on to the main queue when it was hit more than once meanwhile, else it leaves
 * and only its hash is remembered, as a ghost; what comes back while its ghost lasts enters the main queue at once. At
 * the end of the main queue an entry that was hit gets another round, at most three. A hit only counts, so that entries
 * move when something has to leave, and never for a reader. Why not SIEVE: docs/design/near-cache.md.
 * Added here: an entry past its last limit goes at sight, and after FR_NEAR_STEPS_MAX steps the next one goes whatever
 * its count, so that no put walks a whole queue.
 *
 *   buckets  | tag, index | tag, index | ...      open addressing, linear probing, load <= 1/2, removal shifts back
 *   entries  | 64 bytes: one cache line each | .. dense, by index, grown by doubling; freed ones are chained
 *   queues   newest <-> ... <-> oldest            small and main; neighbours by index
 *   ghosts   | hash, number | hash, number | ..   one place per hash, the later one stays; a ghost lasts while fewer
 *                                                 ghosts came after it than there are entries
 *
 * Rules: an entry is linked (in table and queue), doomed (unlinked, its references not given up yet) or free. Functions
 * that unlink only doom: references are given up by the owner after the structure is consistent, because giving one up
 * may run any code, this cache's own methods included.
 */
#ifndef FR_NEAR_H
#define FR_NEAR_H

#include <stdlib.h>

#include "fr_hash.h"

#define FR_NEAR_NONE 0xFFFFFFFFu
/* Entries at the first put: 64 KiB; then doubled. */
#define FR_NEAR_ENTRIES_MIN 1024u
/* Indexes are 32 bits and the table has two buckets per entry. */
#define FR_NEAR_ENTRIES_MAX 0x40000000u
/* Steps per eviction: 4096 x ~10 ns stays below 50 us even when every step misses the CPU's cache. */
#define FR_NEAR_STEPS_MAX 4096u
/* The small queue's share of the bytes: the paper's tenth. */
#define FR_NEAR_SMALL_PART 10u
/* Hits that are counted; the paper's two bits. */
#define FR_NEAR_HITS_MAX 3u
#define FR_NEAR_SMALL 0
#define FR_NEAR_MAIN 1
/* What an entry costs besides its key and value: entry 64, two buckets 16, two ghosts 16, value slot 8, rounded up. */
#define FR_NEAR_OVERHEAD_BYTES 128u
/* Cells of the fill guard; two keys in one cell only make a fill be refused that could have been kept. */
#define FR_NEAR_GUARD_CELLS 1024u

typedef struct {
    void *owner;                        /* the key's object; a reference held by the shell while not free */
    const uint8_t *key;                 /* bytes inside owner */
    uint64_t hash;
    uint64_t fresh_until_ms;
    uint64_t stale_until_ms;            /* >= fresh_until_ms; absent from then on */
    uint64_t cost_bytes;
    uint32_t key_size;
    uint32_t newer, older;              /* queue neighbours; `newer` chains doomed and free entries */
    uint8_t hits;                       /* 0 .. FR_NEAR_HITS_MAX */
    uint8_t kind;                       /* keys of two kinds are never equal */
    uint8_t queue;                      /* FR_NEAR_SMALL or FR_NEAR_MAIN */
    uint8_t spare;
} fr_near_entry;

_Static_assert(sizeof(fr_near_entry) == 64, "one cache line per entry");

typedef struct {
    uint32_t tag;                       /* low half of the hash; home bucket = tag & mask */
    uint32_t index;                     /* FR_NEAR_NONE: empty */
} fr_near_bucket;

typedef struct {
    uint64_t bytes;
    uint32_t newest, oldest, count;
} fr_near_queue;

typedef struct {
    uint32_t hash;                      /* upper half */
    uint32_t number;                    /* which ghost this was; 0: none */
} fr_near_ghost;

typedef struct {
    fr_near_entry *entries;
    fr_near_bucket *buckets;
    fr_near_ghost *ghosts;
    fr_near_queue queues[2];
    uint64_t bytes, bytes_max;
    uint32_t capacity, bucket_mask, used, count;
    uint32_t free_head, doomed_head, ghost_mask, ghost_number;
    uint64_t evictions, expirations;
    uint64_t sequence;                  /* of invalidations and puts, for the fill guard */
    uint64_t guard[FR_NEAR_GUARD_CELLS];
} fr_near;

static inline void fr_near_init(fr_near *cache, uint64_t bytes_max)
{
    memset(cache, 0, sizeof *cache);
    cache->bytes_max = bytes_max;
    cache->free_head = cache->doomed_head = FR_NEAR_NONE;
    for (int queue = 0; queue < 2; queue++)
        cache->queues[queue].newest = cache->queues[queue].oldest = FR_NEAR_NONE;
}

static inline void fr_near_place(fr_near *cache, uint32_t tag, uint32_t index)
{
    uint32_t at = tag & cache->bucket_mask;
    while (cache->buckets[at].index != FR_NEAR_NONE)
        at = (at + 1) & cache->bucket_mask;
    cache->buckets[at].tag = tag;
    cache->buckets[at].index = index;
}

/* Makes room for one more entry: 0, or -1 without memory (nothing changed). Amortised O(1); a doubling at 1 M entries
 * costs some milliseconds once. */
static inline int fr_near_reserve(fr_near *cache)
{
    uint32_t capacity = cache->capacity ? cache->capacity * 2 : FR_NEAR_ENTRIES_MIN;
    fr_near_entry *entries;
    fr_near_bucket *buckets;
    fr_near_ghost *ghosts;

    if (cache->free_head != FR_NEAR_NONE || cache->used < cache->capacity)
        return 0;
    if (cache->capacity >= FR_NEAR_ENTRIES_MAX)
        return -1;
    buckets = malloc((size_t)capacity * 2 * sizeof *buckets);
    if (!buckets)
        return -1;
    ghosts = calloc((size_t)capacity * 2, sizeof *ghosts);
    entries = ghosts ? realloc(cache->entries, (size_t)capacity * sizeof *entries) : NULL;
    if (!entries) {
        free(buckets);
        free(ghosts);
        return -1;
    }
    /* By the upper half's low bits: a ghost's place in the larger table is not known from its place in the smaller one,
     * but its hash is kept. */
    for (uint32_t at = 0; cache->ghosts && at <= cache->ghost_mask; at++)
        if (cache->ghosts[at].number)
            ghosts[cache->ghosts[at].hash & (capacity * 2 - 1)] = cache->ghosts[at];
    free(cache->ghosts);
    cache->ghosts = ghosts;
    cache->ghost_mask = capacity * 2 - 1;
    memset(buckets, 0xFF, (size_t)capacity * 2 * sizeof *buckets);
    free(cache->buckets);
    cache->entries = entries;
    cache->buckets = buckets;
    cache->capacity = capacity;
    cache->bucket_mask = capacity * 2 - 1;
    for (int queue = 0; queue < 2; queue++)
        for (uint32_t index = cache->queues[queue].newest; index != FR_NEAR_NONE; index = entries[index].older)
            fr_near_place(cache, (uint32_t)entries[index].hash, index);
    return 0;
}

/* Index of the linked entry with this key, or FR_NEAR_NONE. Expired ones are found too. */
static inline uint32_t fr_near_find(const fr_near *cache, uint64_t hash, int kind, const uint8_t *key, uint32_t size)
{
    uint32_t at;
    if (FR_UNLIKELY(!cache->count))
        return FR_NEAR_NONE;
    for (at = (uint32_t)hash & cache->bucket_mask;; at = (at + 1) & cache->bucket_mask) {
        const fr_near_bucket bucket = cache->buckets[at];
        const fr_near_entry *entry;
        if (bucket.index == FR_NEAR_NONE)
            return FR_NEAR_NONE;
        if (bucket.tag != (uint32_t)hash)
            continue;
        entry = &cache->entries[bucket.index];
        if (FR_LIKELY(entry->hash == hash && entry->key_size == size && entry->kind == kind
                      && (entry->key == key || memcmp(entry->key, key, size) == 0)))
            return bucket.index;
    }
}

static inline void fr_near_hit(fr_near_entry *entry)
{
    entry->hits += entry->hits < FR_NEAR_HITS_MAX;
}

static inline void fr_near_queue_put(fr_near *cache, uint32_t index, int which)
{
    fr_near_entry *entry = &cache->entries[index];
    fr_near_queue *queue = &cache->queues[which];

    entry->queue = (uint8_t)which;
    entry->newer = FR_NEAR_NONE;
    entry->older = queue->newest;
    if (queue->newest != FR_NEAR_NONE)
        cache->entries[queue->newest].newer = index;
    else
        queue->oldest = index;
    queue->newest = index;
    queue->count++;
    queue->bytes += entry->cost_bytes;
}

static inline void fr_near_queue_take(fr_near *cache, uint32_t index)
{
    fr_near_entry *entry = &cache->entries[index];
    fr_near_queue *queue = &cache->queues[entry->queue];

    if (entry->newer != FR_NEAR_NONE)
        cache->entries[entry->newer].older = entry->older;
    else
        queue->newest = entry->older;
    if (entry->older != FR_NEAR_NONE)
        cache->entries[entry->older].newer = entry->newer;
    else
        queue->oldest = entry->newer;
    FR_ASSERT(queue->count > 0 && queue->bytes >= entry->cost_bytes);
    queue->count--;
    queue->bytes -= entry->cost_bytes;
}

/* A linked entry costs something else from now on. */
static inline void fr_near_resize(fr_near *cache, uint32_t index, uint64_t cost_bytes)
{
    fr_near_entry *entry = &cache->entries[index];
    cache->bytes += cost_bytes - entry->cost_bytes;
    cache->queues[entry->queue].bytes += cost_bytes - entry->cost_bytes;
    entry->cost_bytes = cost_bytes;
}

/* Linked -> doomed. */
static inline void fr_near_doom(fr_near *cache, uint32_t index)
{
    fr_near_entry *entry = &cache->entries[index];
    uint32_t at = (uint32_t)entry->hash & cache->bucket_mask, next;

    while (cache->buckets[at].index != index)
        at = (at + 1) & cache->bucket_mask;
    for (next = (at + 1) & cache->bucket_mask; cache->buckets[next].index != FR_NEAR_NONE;
         next = (next + 1) & cache->bucket_mask) {
        uint32_t home = cache->buckets[next].tag & cache->bucket_mask;
        if (((next - home) & cache->bucket_mask) >= ((next - at) & cache->bucket_mask)) {
            cache->buckets[at] = cache->buckets[next];
            at = next;
        }
    }
    cache->buckets[at].index = FR_NEAR_NONE;

    FR_ASSERT(cache->count > 0 && cache->bytes >= entry->cost_bytes);
    fr_near_queue_take(cache, index);
    cache->count--;
    cache->bytes -= entry->cost_bytes;
    entry->newer = cache->doomed_head;
    cache->doomed_head = index;
}

static inline void fr_near_remember(fr_near *cache, uint64_t hash)
{
    fr_near_ghost *ghost = &cache->ghosts[(uint32_t)(hash >> 32) & cache->ghost_mask];
    ghost->hash = (uint32_t)(hash >> 32);
    if (++cache->ghost_number == 0)     /* after 4 G ghosts: number 0 means none */
        cache->ghost_number = 1;
    ghost->number = cache->ghost_number;
}

/* Whether this hash left the small queue not long ago; the ghost is gone then. */
static inline int fr_near_recall(fr_near *cache, uint64_t hash)
{
    fr_near_ghost *ghost = &cache->ghosts[(uint32_t)(hash >> 32) & cache->ghost_mask];
    int lasts = ghost->number && ghost->hash == (uint32_t)(hash >> 32)
                && cache->ghost_number - ghost->number < cache->count;
    if (lasts)
        ghost->number = 0;
    return lasts;
}

/* Dooms what S3-FIFO evicts next; the cache must not be empty. */
static inline void fr_near_evict(fr_near *cache, uint64_t now_ms)
{
    fr_near_queue *small = &cache->queues[FR_NEAR_SMALL], *main = &cache->queues[FR_NEAR_MAIN];

    for (uint32_t steps = 0;; steps++) {
        int from_small = small->count && (small->bytes >= cache->bytes_max / FR_NEAR_SMALL_PART || !main->count);
        uint32_t index = from_small ? small->oldest : main->oldest;
        fr_near_entry *entry = &cache->entries[index];
        uint8_t hits = entry->hits;

        if (entry->stale_until_ms <= now_ms) {
            cache->expirations++;
            fr_near_doom(cache, index);
            return;
        }
        if (steps >= FR_NEAR_STEPS_MAX || (from_small ? hits <= 1 : hits == 0)) {
            cache->evictions++;
            if (from_small)
                fr_near_remember(cache, entry->hash);
            fr_near_doom(cache, index);
            return;
        }
        fr_near_queue_take(cache, index);
        entry->hits = from_small ? 0 : (uint8_t)(hits - 1);
        fr_near_queue_put(cache, index, FR_NEAR_MAIN);
    }
}

/* Links a new entry as the newest, its key not in the table; room was made by fr_near_reserve. Returns its index. */
static inline uint32_t fr_near_link(fr_near *cache, uint64_t hash, int kind, const uint8_t *key, uint32_t size,
                                    uint64_t cost_bytes)
{
    uint32_t index = cache->free_head;
    fr_near_entry *entry;

    if (index != FR_NEAR_NONE)
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
    entry->hits = 0;
    fr_near_queue_put(cache, index, fr_near_recall(cache, hash) ? FR_NEAR_MAIN : FR_NEAR_SMALL);
    cache->count++;
    cache->bytes += cost_bytes;
    fr_near_place(cache, (uint32_t)hash, index);
    return index;
}

/* Some linked entry, FR_NEAR_NONE when there is none. */
static inline uint32_t fr_near_any(const fr_near *cache)
{
    uint32_t index = cache->queues[FR_NEAR_SMALL].newest;
    return index != FR_NEAR_NONE ? index : cache->queues[FR_NEAR_MAIN].newest;
}

/* Takes one doomed entry off the list for the owner to give its references up; FR_NEAR_NONE when there is none.
 * The owner reads what it needs, then calls fr_near_release, then gives up the references. */
static inline uint32_t fr_near_take_doomed(fr_near *cache)
{
    uint32_t index = cache->doomed_head;
    if (index != FR_NEAR_NONE)
        cache->doomed_head = cache->entries[index].newer;
    return index;
}

static inline void fr_near_release(fr_near *cache, uint32_t index)
{
    cache->entries[index].owner = NULL;
    cache->entries[index].newer = cache->free_head;
    cache->free_head = index;
}

/* Fill guard. A fill notes the sequence when it begins; a later invalidation or put of the key moves its cell on. */
static inline void fr_near_disturb(fr_near *cache, uint64_t hash)
{
    cache->guard[hash >> 54] = ++cache->sequence;
}

static inline int fr_near_undisturbed(const fr_near *cache, uint64_t hash, uint64_t ticket)
{
    return cache->guard[hash >> 54] <= ticket;
}

#endif
