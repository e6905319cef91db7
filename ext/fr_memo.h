/* fr_memo.h: a bounded memo of keys: key bytes -> (object, place). Exact: an entry is believed when all bytes are the same.
 *
 * 1,024 sets of four entries, one cache line each. A cheap hash finds the set and the way to look at first; it need not
 * resist anybody: keys made to collide cost their owner the lookup that the memo would have spared, nothing else.
 * When a set is full its ways are replaced in turn.
 *
 * Rules: no Python; memory is the caller's; objects are borrowed, so the caller empties the memo before they go.
 */
#ifndef FR_MEMO_H
#define FR_MEMO_H

#include <stdlib.h>

#include "fr_base.h"

#define FR_MEMO_SETS 1024
#define FR_MEMO_WAYS 4
#define FR_MEMO_KEY_BYTES 47
#define FR_MEMO_BYTES (FR_MEMO_SETS * FR_MEMO_WAYS * 64)

typedef struct {
    void *object;
    uint32_t place;
    uint32_t tag;       /* upper half of the hash */
    uint8_t size;       /* of the key, plus one; 0: an empty entry */
    uint8_t key[FR_MEMO_KEY_BYTES];
} fr_memo_entry;

static inline uint64_t fr_memo_load(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static inline uint64_t fr_memo_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Folded multiplication of 16 bytes at a time; the last 16 overlap those before. One after the other: folding the last
 * beside the others is faster, and spreads keys that differ in their last digits so badly that sets overflow. The odd
 * constants are digits of pi. */
static inline uint64_t fr_memo_hash(const uint8_t *key, size_t size)
{
    uint64_t hash = 0x243f6a8885a308d3ull ^ size, word = 0;
    if (size >= 16) {
        for (size_t at = 0; at + 16 < size; at += 16)
            hash = fr_memo_fold(fr_memo_load(key + at) ^ 0x13198a2e03707345ull, fr_memo_load(key + at + 8) ^ hash);
        return fr_memo_fold(fr_memo_load(key + size - 16) ^ 0xa4093822299f31d1ull, fr_memo_load(key + size - 8) ^ hash);
    }
    if (size >= 8)
        return fr_memo_fold(fr_memo_load(key) ^ 0x13198a2e03707345ull, fr_memo_load(key + size - 8) ^ hash);
    for (size_t at = 0; at < size; at++)
        word = word << 8 | key[at];
    return fr_memo_fold(word ^ 0x13198a2e03707345ull, hash);
}

static inline int fr_memo_same(const uint8_t *a, const uint8_t *b, size_t size)
{
    if (size >= 8) {
        for (size_t at = 0; at + 8 < size; at += 8)
            if (fr_memo_load(a + at) != fr_memo_load(b + at))
                return 0;
        return fr_memo_load(a + size - 8) == fr_memo_load(b + size - 8);
    }
    for (size_t at = 0; at < size; at++)
        if (a[at] != b[at])
            return 0;
    return 1;
}

/* An empty memo, or NULL; freed with free(). */
static inline fr_memo_entry *fr_memo_make(void)
{
    fr_memo_entry *memo = NULL;
    if (posix_memalign((void **)&memo, 64, FR_MEMO_BYTES))
        return NULL;
    memset(memo, 0, FR_MEMO_BYTES);
    return memo;
}

/* The key's entry, or NULL. Precondition: size <= FR_MEMO_KEY_BYTES. */
static inline fr_memo_entry *fr_memo_find(fr_memo_entry *memo, const uint8_t *key, size_t size, uint64_t hash)
{
    fr_memo_entry *set = memo + (hash % FR_MEMO_SETS) * FR_MEMO_WAYS;
    uint32_t tag = (uint32_t)(hash >> 32);
    for (unsigned i = 0; i < FR_MEMO_WAYS; i++) {
        fr_memo_entry *entry = &set[((hash >> 10) + i) % FR_MEMO_WAYS];
        if (entry->tag == tag && entry->size == size + 1 && FR_LIKELY(fr_memo_same(entry->key, key, size)))
            return entry;
    }
    return NULL;
}

/* Keep a key that is not there. */
static inline void fr_memo_put(fr_memo_entry *memo, const uint8_t *key, size_t size, uint64_t hash, unsigned turn,
                               void *object, uint32_t place)
{
    fr_memo_entry *set = memo + (hash % FR_MEMO_SETS) * FR_MEMO_WAYS, *entry = &set[turn % FR_MEMO_WAYS];
    for (unsigned i = 0; i < FR_MEMO_WAYS; i++)
        if (set[((hash >> 10) + i) % FR_MEMO_WAYS].size == 0) {
            entry = &set[((hash >> 10) + i) % FR_MEMO_WAYS];
            break;
        }
    entry->object = object;
    entry->place = place;
    entry->tag = (uint32_t)(hash >> 32);
    entry->size = (uint8_t)(size + 1);
    memcpy(entry->key, key, size);
}

#endif
