/* fr_hash_murmur.h: MurmurHash2 for 64-bit machines (MurmurHash64A, Austin Appleby, public domain algorithm).
 *
 * Envoy's MURMUR_HASH_2 is this function with the seed of libstdc++'s std::hash, 0xc70f6907.
 * Checked against Envoy's ring points in tests/unit/test_ring_vectors.py and published values in test_ring_hashes.py.
 */
#ifndef FR_HASH_MURMUR_H
#define FR_HASH_MURMUR_H

#include "fr_base.h"

#define FR_MURMUR2_STD_SEED 0xc70f6907ull

static inline uint64_t fr_murmur64a(const void *data, size_t size, uint64_t seed)
{
    const uint64_t m = 0xc6a4a7935bd1e995ull;
    const uint8_t *p = (const uint8_t *)data;
    uint64_t h = seed ^ (size * m), k;
    for (size_t words = size >> 3; words; words--, p += 8) {
        memcpy(&k, p, 8);
        k *= m;
        k ^= k >> 47;
        h = (h ^ (k * m)) * m;
    }
    if (size & 7) {
        k = 0;
        memcpy(&k, p, size & 7);
        h = (h ^ k) * m;
    }
    h ^= h >> 47;
    h *= m;
    return h ^ (h >> 47);
}

#endif
