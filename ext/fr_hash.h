/* fr_hash.h: the hashes of the data plane, inlined where they are used.
 *
 *   fr_xxh64        XXH64, the default for keys of rings        (xxHash specification 0.1.1, Yann Collet)
 *   fr_siphash128   SipHash-2-4 with 128-bit output, keyed: the fingerprint of an affinity key
 *                   (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; reference vectors of its authors)
 *
 * Both read unaligned little-endian words through memcpy and never read past data + size. Checked against published
 * test values in tests/unit/test_hashes.py.
 */
#ifndef FR_HASH_H
#define FR_HASH_H

#include "fr_base.h"

typedef struct {
    uint64_t lo, hi;
} fr_fingerprint;

typedef struct {
    uint64_t k0, k1;
} fr_hash_key;

static inline uint64_t fr_read64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline uint32_t fr_read32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static inline uint64_t fr_rotl64(uint64_t x, int r)
{
    return (x << r) | (x >> (64 - r));
}

#define FR_XXH_P1 0x9E3779B185EBCA87ull
#define FR_XXH_P2 0xC2B2AE3D27D4EB4Full
#define FR_XXH_P3 0x165667B19E3779F9ull
#define FR_XXH_P4 0x85EBCA77C2B2AE63ull
#define FR_XXH_P5 0x27D4EB2F165667C5ull

static inline uint64_t fr_xxh64_round(uint64_t acc, uint64_t lane)
{
    return fr_rotl64(acc + lane * FR_XXH_P2, 31) * FR_XXH_P1;
}

static inline uint64_t fr_xxh64_merge(uint64_t acc, uint64_t lane)
{
    return (acc ^ fr_xxh64_round(0, lane)) * FR_XXH_P1 + FR_XXH_P4;
}

static inline uint64_t fr_xxh64(const void *data, size_t size, uint64_t seed)
{
    const uint8_t *p = (const uint8_t *)data, *end = p + size;
    uint64_t h;

    if (size >= 32) {
        uint64_t a = seed + FR_XXH_P1 + FR_XXH_P2, b = seed + FR_XXH_P2, c = seed, d = seed - FR_XXH_P1;
        do {
            a = fr_xxh64_round(a, fr_read64(p));
            b = fr_xxh64_round(b, fr_read64(p + 8));
            c = fr_xxh64_round(c, fr_read64(p + 16));
            d = fr_xxh64_round(d, fr_read64(p + 24));
            p += 32;
        } while (end - p >= 32);
        h = fr_rotl64(a, 1) + fr_rotl64(b, 7) + fr_rotl64(c, 12) + fr_rotl64(d, 18);
        h = fr_xxh64_merge(h, a);
        h = fr_xxh64_merge(h, b);
        h = fr_xxh64_merge(h, c);
        h = fr_xxh64_merge(h, d);
    } else {
        h = seed + FR_XXH_P5;
    }
    h += (uint64_t)size;
    for (; end - p >= 8; p += 8)
        h = fr_rotl64(h ^ fr_xxh64_round(0, fr_read64(p)), 27) * FR_XXH_P1 + FR_XXH_P4;
    if (end - p >= 4) {
        h = fr_rotl64(h ^ (uint64_t)fr_read32(p) * FR_XXH_P1, 23) * FR_XXH_P2 + FR_XXH_P3;
        p += 4;
    }
    for (; p < end; p++)
        h = fr_rotl64(h ^ (uint64_t)*p * FR_XXH_P5, 11) * FR_XXH_P1;
    h ^= h >> 33;
    h *= FR_XXH_P2;
    h ^= h >> 29;
    h *= FR_XXH_P3;
    h ^= h >> 32;
    return h;
}

#define FR_SIP_ROUND(v0, v1, v2, v3)                                                                                   \
    do {                                                                                                               \
        v0 += v1; v1 = fr_rotl64(v1, 13); v1 ^= v0; v0 = fr_rotl64(v0, 32);                                            \
        v2 += v3; v3 = fr_rotl64(v3, 16); v3 ^= v2;                                                                    \
        v0 += v3; v3 = fr_rotl64(v3, 21); v3 ^= v0;                                                                    \
        v2 += v1; v1 = fr_rotl64(v1, 17); v1 ^= v2; v2 = fr_rotl64(v2, 32);                                            \
    } while (0)

static inline fr_fingerprint fr_siphash128(const fr_hash_key *key, const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data, *end = p + (size & ~(size_t)7);
    uint64_t v0 = 0x736f6d6570736575ull ^ key->k0, v1 = 0x646f72616e646f6dull ^ key->k1 ^ 0xee;
    uint64_t v2 = 0x6c7967656e657261ull ^ key->k0, v3 = 0x7465646279746573ull ^ key->k1;
    uint64_t m, last = (uint64_t)size << 56;
    size_t left = size & 7;
    fr_fingerprint out;

    for (; p < end; p += 8) {
        m = fr_read64(p);
        v3 ^= m;
        FR_SIP_ROUND(v0, v1, v2, v3);
        FR_SIP_ROUND(v0, v1, v2, v3);
        v0 ^= m;
    }
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v3 ^= last;
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    v0 ^= last;
    v2 ^= 0xee;
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    out.lo = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd;
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    FR_SIP_ROUND(v0, v1, v2, v3);
    out.hi = v0 ^ v1 ^ v2 ^ v3;
    return out;
}

#endif
