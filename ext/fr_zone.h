/* fr_zone.h: the layout of a zone's memory and its directory of servers and pools.
 *
 * Not here: files, names and mappings (zone.pyx), locks (fr_shm.h), what happens inside buckets (fr_affinity.h).
 *
 *      0        header      magic, layout, size, identity; directory lock, journal and counts          4096 bytes
 *      4096     servers     digest of (fleet, pool, server) -> slot, 32 bytes each, open addressing
 *               pools       digest of (fleet, pool) and its round-robin cursor, one cache line each
 *               processes   who owns which row of loads, 32 bytes each
 *               loads       requests in flight by process (row) and server slot or pool (column), 4 bytes each (fr_loads.h)
 *               ring        the last invalidations of the push channel, 8 bytes each (fr_push.h)
 *               stripes     lock and redo journal of a run of buckets, 192 bytes each
 *               buckets     the affinity table, 1024 bytes each, up to the end
 *
 * Everything follows from size_bytes (fr_zone_plan), so that two processes that agree on the size agree on every offset;
 * what they must agree on besides is in the header. A change of this layout raises FR_ZONE_LAYOUT, which is part of the
 * segment's name: two versions live side by side.
 *
 * The directory only grows: an entry is never changed or given to another server, so records that carry a slot always
 * mean the server they were written for, and lookups need no lock. A directory that is full is an error that names it.
 */
#ifndef FR_ZONE_H
#define FR_ZONE_H

#include "fr_hash.h"
#include "fr_loads.h"
#include "fr_shm.h"

#define FR_ZONE_MAGIC 0x31656e6f7a5f7266ull     /* "fr_zone1" */
#define FR_ZONE_LAYOUT 3u
#define FR_ZONE_IDENTITY_BYTES 16

#define FR_ZONE_BYTES_MIN (256u << 10)
#define FR_ZONE_BYTES_MAX (64ull << 30)
#define FR_ZONE_HEADER_BYTES 4096u
#define FR_POOL_ENTRIES 256u                    /* pools of all fleets of a zone */
#define FR_SERVER_ENTRIES_MIN 256u
#define FR_SERVER_ENTRIES_MAX 32768u            /* slots are 16 bits, FR_NO_SLOT stands apart */
#define FR_ZONE_BYTES_PER_SERVER 4096u          /* 64 MiB: 16384 servers */
#define FR_STRIPES_MIN 8u
#define FR_STRIPES_MAX 65536u
#define FR_STRIPE_BUCKETS_WANTED 128u           /* 64 MiB: 512 stripes */
#define FR_STRIPE_BUCKETS_MAX 2048u             /* so that a spill count fits 16 bits in the journal: 24 x 2047 */
#define FR_BUCKET_CELLS 24u
#define FR_LOAD_ROWS_MIN 4u
#define FR_LOADS_SHARE 32u                      /* of the zone: 64 MiB have rows for 31 processes */
#define FR_PUSH_NODES 64u                       /* nodes of one store (NODES_MAX of fastroute/memcache/cluster.py) */
#define FR_PUSH_RING_MIN 64u
#define FR_PUSH_RING_MAX 8192u                  /* invalidations remembered: at 400,000 a second, all that a node can announce,
                                                 * 20 ms, many round trips of a store */
#define FR_ZONE_BYTES_PER_RING_ENTRY 4096u      /* 32 MiB and more: 8192 entries, 64 KiB */

/* How long the control plane waits for the directory's lock. */
#define FR_DIRECTORY_WAIT_NS 100000000u

typedef struct {
    uint64_t lo, hi;
    uint32_t used;          /* stored last, with release: the entry is complete and never changes again */
    uint16_t slot;
    uint16_t spare;
    uint64_t spare_word;
} fr_server_entry;

typedef struct {
    uint64_t lo, hi;
    uint32_t used;
    uint32_t spare;
    uint64_t cursor;        /* atomic adds by anybody */
    uint64_t spare_words[4];
} fr_pool_entry;

enum { FR_ENTRY_SERVER = 1, FR_ENTRY_POOL = 2 };

/* Redo journal of the directory. */
typedef struct {
    uint32_t state;
    uint32_t kind;
    uint32_t index;         /* of the entry */
    uint32_t slot;          /* its slot; the count afterwards is slot + 1 */
    uint64_t lo, hi;
} fr_directory_journal;

/* What the push channel of this zone's store knows; rules in fr_push.h. The first line is what lookups read. */
typedef struct {
    uint64_t live;          /* entries guarded at or after the tick in the low half are the store's word, while the time is
                             * below the tick in the high half */
    uint64_t store;         /* digest of the store whose channel this is */
    uint8_t spare[48];
    uint64_t lease;         /* of the process that runs the channel: expiry tick << 32 | its token; 0: nobody yet */
    uint64_t epoch;         /* counts losses: what was read under another one is not guarded */
    uint64_t sequence;      /* invalidations so far */
    uint32_t owner_pid;     /* for people */
    uint32_t spare_word;
    uint64_t spare_end[4];
} fr_push;

/* One life of a node of the store: another pid, start or count of flushes means that it has lost its records. */
typedef struct {
    uint64_t name;          /* digest; 0: empty */
    uint32_t pid;
    uint32_t start_s;       /* on the node's own clock */
    uint64_t flushes;
} fr_push_node;

typedef struct {
    uint64_t magic;
    uint32_t layout;
    uint32_t lock_kind;     /* FR_LOCK_KIND of the C library that made it: another one's locks are another layout */
    uint64_t size_bytes;
    uint8_t identity[FR_ZONE_IDENTITY_BYTES];
    uint8_t spare[512 - 40];
    pthread_mutex_t lock;
    uint8_t spare_lock[128 - sizeof(pthread_mutex_t)];
    fr_directory_journal journal;
    uint32_t server_count;
    uint32_t pool_count;
    uint64_t repairs;       /* of the directory */
    uint8_t spare_push[1024 - 640 - sizeof(fr_directory_journal) - 16];
    fr_push push;
    fr_push_node push_nodes[FR_PUSH_NODES];
    uint8_t spare_end[FR_ZONE_HEADER_BYTES - 1024 - sizeof(fr_push) - FR_PUSH_NODES * sizeof(fr_push_node)];
} fr_zone_header;

typedef struct {
    uint64_t word[5];       /* lo, hi, term, generation | expires << 32, verified | slot << 32 | flags << 48 */
} fr_cell;

/* One bucket of the affinity table. */
typedef struct {
    uint32_t sequence;      /* odd while a writer is inside */
    uint32_t spilled;       /* records whose home this is and that stand in their other bucket */
    uint64_t tags[3];       /* one byte per cell; 0: empty */
    uint64_t spare[4];
    fr_cell cells[FR_BUCKET_CELLS];
} fr_bucket;

/* Redo journal of a stripe: one write, with absolute values, so that redoing it twice changes nothing. */
typedef struct {
    uint32_t state;
    uint32_t bucket;        /* where the record goes */
    uint32_t home;          /* bucket whose spill count grows, or FR_NO_BUCKET */
    uint32_t gone;          /* bucket whose spill count shrinks, because the cell's old record leaves, or FR_NO_BUCKET */
    uint16_t home_spilled;  /* counts afterwards */
    uint16_t gone_spilled;
    uint8_t cell;
    uint8_t tag;            /* 0: the cell becomes empty */
    uint8_t counted;        /* 1: evictions and lost take their next_ values */
    uint8_t spare;
    fr_cell record;
} fr_journal;

typedef struct {
    pthread_mutex_t mutex;
    uint8_t spare_lock[64 - sizeof(pthread_mutex_t)];
    fr_journal journal;
    uint64_t evictions;     /* live records that gave way to others */
    uint64_t lost;          /* of these, bound ones (not FR_BIND_ONCE) */
    uint64_t next_evictions, next_lost;
    uint64_t repairs;       /* locks taken from dead owners */
    uint64_t spare_words[3];
} fr_stripe;

#define FR_NO_BUCKET 0xFFFFFFFFu

_Static_assert(sizeof(fr_server_entry) == 32, "layout");
_Static_assert(sizeof(fr_pool_entry) == 64, "layout");
_Static_assert(sizeof(fr_zone_header) == FR_ZONE_HEADER_BYTES, "layout");
_Static_assert(offsetof(fr_zone_header, lock) == 512 && offsetof(fr_zone_header, journal) == 640, "layout");
_Static_assert(sizeof(fr_push) == 128 && offsetof(fr_push, lease) == 64 && sizeof(fr_push_node) == 24, "layout");
_Static_assert(offsetof(fr_zone_header, push) == 1024 && offsetof(fr_zone_header, push_nodes) == 1152, "layout");
_Static_assert(sizeof(fr_cell) == 40 && offsetof(fr_bucket, cells) == 64 && sizeof(fr_bucket) == 1024, "layout");
_Static_assert(sizeof(fr_journal) == 64 && sizeof(fr_stripe) == 192, "layout");

/* Offsets and counts, all from the size. */
typedef struct {
    uint64_t size_bytes;
    uint32_t server_entries;    /* a power of two */
    uint32_t stripes;           /* a power of two */
    uint32_t stripe_bits;
    uint32_t stripe_buckets;
    uint32_t load_rows;         /* processes that are counted in this zone */
    uint32_t load_words;        /* columns of a row: servers, then pools */
    uint32_t ring_entries;      /* a power of two */
    uint64_t servers_at, pools_at, processes_at, loads_at, ring_at, stripes_at, buckets_at;
} fr_zone_plan;

/* A mapped zone, as this process sees it. */
typedef struct {
    uint8_t *base;
    fr_zone_header *header;
    fr_zone_plan plan;
    uint64_t directory_blocked_until_ms;
} fr_zone;

/* 0, or -1 when the size is outside FR_ZONE_BYTES_MIN..MAX. */
static inline int fr_zone_plan_of(uint64_t size_bytes, fr_zone_plan *plan)
{
    uint64_t fixed, buckets, rows;

    memset(plan, 0, sizeof(*plan));
    if (size_bytes < FR_ZONE_BYTES_MIN || size_bytes > FR_ZONE_BYTES_MAX)
        return -1;
    plan->size_bytes = size_bytes;
    plan->server_entries = FR_SERVER_ENTRIES_MIN;
    while (plan->server_entries < FR_SERVER_ENTRIES_MAX &&
           plan->server_entries * 2ull * FR_ZONE_BYTES_PER_SERVER <= size_bytes)
        plan->server_entries *= 2;
    plan->servers_at = FR_ZONE_HEADER_BYTES;
    plan->pools_at = plan->servers_at + plan->server_entries * (uint64_t)sizeof(fr_server_entry);
    plan->processes_at = plan->pools_at + FR_POOL_ENTRIES * (uint64_t)sizeof(fr_pool_entry);
    plan->load_words = plan->server_entries + FR_POOL_ENTRIES;
    rows = size_bytes / FR_LOADS_SHARE / (plan->load_words * 4ull);
    plan->load_rows = rows < FR_LOAD_ROWS_MIN ? FR_LOAD_ROWS_MIN : rows > FR_LOAD_ROWS_MAX ? FR_LOAD_ROWS_MAX : (uint32_t)rows;
    plan->loads_at = (plan->processes_at + plan->load_rows * (uint64_t)sizeof(fr_load_process) + 63) & ~63ull;
    plan->ring_entries = FR_PUSH_RING_MIN;
    while (plan->ring_entries < FR_PUSH_RING_MAX &&
           plan->ring_entries * 2ull * FR_ZONE_BYTES_PER_RING_ENTRY <= size_bytes)
        plan->ring_entries *= 2;
    plan->ring_at = (plan->loads_at + plan->load_rows * (uint64_t)plan->load_words * 4 + 63) & ~63ull;
    plan->stripes_at = plan->ring_at + plan->ring_entries * 8ull;
    fixed = plan->stripes_at + sizeof(fr_bucket);       /* the last term: for aligning the buckets */
    buckets = (size_bytes - fixed) / sizeof(fr_bucket);
    plan->stripes = FR_STRIPES_MIN;
    plan->stripe_bits = 3;
    while (plan->stripes < FR_STRIPES_MAX && plan->stripes * (uint64_t)FR_STRIPE_BUCKETS_WANTED < buckets) {
        plan->stripes *= 2;
        plan->stripe_bits++;
    }
    buckets = (size_bytes - fixed - plan->stripes * (uint64_t)sizeof(fr_stripe)) / sizeof(fr_bucket);
    plan->stripe_buckets = (uint32_t)(buckets / plan->stripes);
    if (plan->stripe_buckets > FR_STRIPE_BUCKETS_MAX)
        plan->stripe_buckets = FR_STRIPE_BUCKETS_MAX;
    plan->buckets_at = (plan->stripes_at + plan->stripes * (uint64_t)sizeof(fr_stripe) + sizeof(fr_bucket) - 1) &
                       ~(uint64_t)(sizeof(fr_bucket) - 1);
    return 0;
}

static inline void fr_zone_view(fr_zone *zone, void *base, const fr_zone_plan *plan)
{
    zone->base = (uint8_t *)base;
    zone->header = (fr_zone_header *)base;
    zone->plan = *plan;
    zone->directory_blocked_until_ms = 0;
}

/* Make fresh zeroed memory a zone nobody else sees yet. 0 or an errno. */
static inline int fr_zone_create(fr_zone *zone, const uint8_t identity[FR_ZONE_IDENTITY_BYTES])
{
    fr_zone_header *header = zone->header;
    fr_stripe *stripes = (fr_stripe *)(zone->base + zone->plan.stripes_at);
    int error = fr_lock_create(&header->lock);

    for (uint32_t i = 0; !error && i < zone->plan.stripes; i++)
        error = fr_lock_create(&stripes[i].mutex);
    if (error)
        return error;
    header->layout = FR_ZONE_LAYOUT;
    header->lock_kind = FR_LOCK_KIND;
    header->size_bytes = zone->plan.size_bytes;
    memcpy(header->identity, identity, FR_ZONE_IDENTITY_BYTES);
    FR_PUT_RELEASE(&header->magic, FR_ZONE_MAGIC);
    return 0;
}

/* ---- directory --------------------------------------------------------------------------------------------------- */

enum { FR_DIRECTORY_ABSENT = -1, FR_DIRECTORY_FULL = -2, FR_DIRECTORY_BUSY = -3 };

static inline fr_server_entry *fr_zone_servers(const fr_zone *zone)
{
    return (fr_server_entry *)(zone->base + zone->plan.servers_at);
}

static inline fr_pool_entry *fr_zone_pools(const fr_zone *zone)
{
    return (fr_pool_entry *)(zone->base + zone->plan.pools_at);
}

/* Digest of a tuple of names, already length-prefixed by the caller: no two tuples share their bytes. The key is fixed:
 * names come from configurations, not from clients. */
static inline fr_fingerprint fr_directory_digest(int kind, const void *names, size_t size)
{
    fr_hash_key key = {0x7a6f6e652d646972ull, (uint64_t)kind};
    return fr_siphash128(&key, names, size);
}

/* Entry of a digest, or the empty entry where it would go (*found says which); -2 when neither exists. */
static inline int fr_directory_probe(const fr_zone *zone, int kind, const fr_fingerprint *digest, int *found)
{
    uint32_t entries = kind == FR_ENTRY_SERVER ? zone->plan.server_entries : FR_POOL_ENTRIES;
    uint32_t at = (uint32_t)digest->lo & (entries - 1);

    *found = 0;
    for (uint32_t i = 0; i < entries; i++, at = (at + 1) & (entries - 1)) {
        uint64_t lo, hi;
        if (kind == FR_ENTRY_SERVER) {
            fr_server_entry *entry = &fr_zone_servers(zone)[at];
            if (!FR_GET_ACQUIRE(&entry->used))
                return (int)at;
            lo = FR_GET(&entry->lo);
            hi = FR_GET(&entry->hi);
        } else {
            fr_pool_entry *entry = &fr_zone_pools(zone)[at];
            if (!FR_GET_ACQUIRE(&entry->used))
                return (int)at;
            lo = FR_GET(&entry->lo);
            hi = FR_GET(&entry->hi);
        }
        if (lo == digest->lo && hi == digest->hi) {
            *found = 1;
            return (int)at;
        }
    }
    return FR_DIRECTORY_FULL;
}

/* Do what a valid journal says, from the start; the caller holds the lock. */
static inline void fr_directory_redo(fr_zone *zone)
{
    fr_zone_header *header = zone->header;
    fr_directory_journal *journal = &header->journal;
    uint32_t index = FR_GET(&journal->index), slot = FR_GET(&journal->slot);

    if (FR_GET(&journal->kind) == FR_ENTRY_SERVER) {
        fr_server_entry *entry = &fr_zone_servers(zone)[index & (zone->plan.server_entries - 1)];
        FR_PUT(&entry->lo, FR_GET(&journal->lo));
        FR_KILL_POINT();
        FR_PUT(&entry->hi, FR_GET(&journal->hi));
        FR_KILL_POINT();
        FR_PUT(&entry->slot, (uint16_t)slot);
        FR_KILL_POINT();
        FR_PUT_RELEASE(&entry->used, 1u);
        FR_KILL_POINT();
        FR_PUT(&header->server_count, slot + 1);
        FR_KILL_POINT();
    } else {
        fr_pool_entry *entry = &fr_zone_pools(zone)[index & (FR_POOL_ENTRIES - 1)];
        FR_PUT(&entry->lo, FR_GET(&journal->lo));
        FR_KILL_POINT();
        FR_PUT(&entry->hi, FR_GET(&journal->hi));
        FR_KILL_POINT();
        FR_PUT_RELEASE(&entry->used, 1u);
        FR_KILL_POINT();
        FR_PUT(&header->pool_count, slot + 1);
        FR_KILL_POINT();
    }
    FR_PUT_RELEASE(&journal->state, (uint32_t)FR_JOURNAL_EMPTY);
    FR_KILL_POINT();
}

static inline int fr_directory_lock(fr_zone *zone)
{
    fr_zone_header *header = zone->header;
    int taken = fr_lock(&header->lock, &zone->directory_blocked_until_ms, FR_DIRECTORY_WAIT_NS);

    if (taken == FR_LOCK_REPAIR) {
        if (FR_GET_ACQUIRE(&header->journal.state) == FR_JOURNAL_VALID)
            fr_directory_redo(zone);
        FR_PUT(&header->repairs, FR_GET(&header->repairs) + 1);
        fr_lock_repaired(&header->lock);
    }
    return taken;
}

/* Index of the digest's entry, made at first sight; or FR_DIRECTORY_FULL, FR_DIRECTORY_BUSY. */
static inline int fr_directory_enter(fr_zone *zone, int kind, const fr_fingerprint *digest)
{
    fr_zone_header *header = zone->header;
    fr_directory_journal *journal = &header->journal;
    int found, at = fr_directory_probe(zone, kind, digest, &found);

    if (found || at < 0)
        return at;
    if (fr_directory_lock(zone) == FR_LOCK_BUSY)
        return FR_DIRECTORY_BUSY;
    at = fr_directory_probe(zone, kind, digest, &found);        /* somebody may have been faster */
    if (!found && at >= 0) {
        uint32_t count = kind == FR_ENTRY_SERVER ? FR_GET(&header->server_count) : FR_GET(&header->pool_count);
        FR_PUT(&journal->kind, (uint32_t)kind);
        FR_KILL_POINT();
        FR_PUT(&journal->index, (uint32_t)at);
        FR_KILL_POINT();
        FR_PUT(&journal->slot, count);
        FR_KILL_POINT();
        FR_PUT(&journal->lo, digest->lo);
        FR_KILL_POINT();
        FR_PUT(&journal->hi, digest->hi);
        FR_KILL_POINT();
        FR_PUT_RELEASE(&journal->state, (uint32_t)FR_JOURNAL_VALID);
        FR_FENCE_RELEASE();                                     /* the journal is seen before what it describes */
        FR_KILL_POINT();
        fr_directory_redo(zone);
    }
    fr_unlock(&header->lock);
    return at;
}

#endif
