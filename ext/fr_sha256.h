/* fr_sha256.h: SHA-256 (FIPS 180-4) and the second half of HMAC (RFC 2104, FIPS 198-1) over precomputed states.
 *
 * Not here: key derivation and everything else that happens once per key; Python's hashlib does that (token.pyx).
 * Why compiled: a MAC through Python's hmac costs a request more than its routing; with the states of a key's inner and
 * outer block at hand a short MAC is two compressions. Two implementations with one answer: portable C, and the SHA
 * instructions of x86, chosen once at import by fr_sha256_choose. Both are tested against hashlib.
 * Rules: no allocation, no state, nothing touches Python; time depends on the size of the data only.
 */
#ifndef FR_SHA256_H
#define FR_SHA256_H

#include "fr_base.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FR_SHA256_X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

typedef void (*fr_sha256_blocks)(uint32_t state[8], const uint8_t *data, size_t blocks);

static const uint32_t fr_sha256_initial[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t fr_sha256_k[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t fr_rotr32(uint32_t x, int r)
{
    return (x >> r) | (x << (32 - r));
}

static inline uint32_t fr_read32_big(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}

static inline void fr_write32_big(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}

static void fr_sha256_portable(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    for (; blocks; blocks--, data += 64) {
        uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int i = 0; i < 16; i++)
            w[i] = fr_read32_big(data + 4 * i);
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = fr_rotr32(w[i - 15], 7) ^ fr_rotr32(w[i - 15], 18) ^ (w[i - 15] >> 3);
            uint32_t s1 = fr_rotr32(w[i - 2], 17) ^ fr_rotr32(w[i - 2], 19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        for (int i = 0; i < 64; i++) {
            uint32_t s1 = fr_rotr32(e, 6) ^ fr_rotr32(e, 11) ^ fr_rotr32(e, 25);
            uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + fr_sha256_k[i] + w[i];
            uint32_t s0 = fr_rotr32(a, 2) ^ fr_rotr32(a, 13) ^ fr_rotr32(a, 22);
            uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
            h = g; g = f; f = e; e = d + t1;
            d = c; c = b; b = a; a = t1 + t2;
        }
        state[0] += a; state[1] += b; state[2] += c; state[3] += d;
        state[4] += e; state[5] += f; state[6] += g; state[7] += h;
    }
}

#ifdef FR_SHA256_X86
/* The instructions keep the eight words as two vectors, (a b e f) and (c d g h), and do two rounds each; sha256msg1 and
 * sha256msg2 make four words of the message schedule (Intel SDM, volume 2, SHA256RNDS2). */
__attribute__((target("sha,sse4.1,ssse3")))
static void fr_sha256_native(uint32_t state[8], const uint8_t *data, size_t blocks)
{
    const __m128i big = _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xF0);

    for (; blocks; blocks--, data += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), big);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i wk = _mm_add_epi32(w[i & 3], _mm_load_si128((const __m128i *)(fr_sha256_k + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
            if (i < 12) {
                __m128i next = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]),
                                             _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    low = _mm_shuffle_epi32(abef, 0x1B);
    high = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}
#endif

/* The implementation that works here and is fastest; asked once. */
static fr_sha256_blocks fr_sha256_choose(void)
{
#ifdef FR_SHA256_X86
    unsigned a, b, c, d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 29 && /* SHA */
        __get_cpuid(1, &a, &b, &c, &d) && c & 1u << 9 && c & 1u << 19) /* SSSE3, SSE4.1 */
        return fr_sha256_native;
#endif
    return fr_sha256_portable;
}

/* Ends a hash whose state has absorbed `before` bytes (a multiple of 64) with the last `size` bytes. */
static void fr_sha256_finish(fr_sha256_blocks blocks, const uint32_t begun[8], uint64_t before, const uint8_t *data, size_t size,
                             uint8_t digest[32])
{
    uint32_t state[8];
    uint8_t tail[128] = {0};
    const size_t whole = size / 64, rest = size % 64, tail_size = rest + 9 <= 64 ? 64 : 128;
    const uint64_t bits = (before + size) * 8;
    memcpy(state, begun, sizeof state);
    if (whole)
        blocks(state, data, whole);
    if (rest)
        memcpy(tail, data + 64 * whole, rest);
    tail[rest] = 0x80;
    fr_write32_big(tail + tail_size - 8, (uint32_t)(bits >> 32));
    fr_write32_big(tail + tail_size - 4, (uint32_t)bits);
    blocks(state, tail, tail_size / 64);
    for (int i = 0; i < 8; i++)
        fr_write32_big(digest + 4 * i, state[i]);
}

/* One key: the states after the key's inner block plus `inner_bytes - 64` bytes of context, and after its outer block. */
typedef struct {
    uint32_t inner[8], outer[8];
    uint64_t inner_bytes;
} fr_hmac_key;

/* `key` is at most 64 bytes; `context` a multiple of 64 bytes that every message of this key begins with. */
static void fr_hmac_prepare(fr_sha256_blocks blocks, const uint8_t *key, size_t key_size, const uint8_t *context,
                            size_t context_size, fr_hmac_key *out)
{
    uint8_t inner[64], outer[64];
    FR_ASSERT(key_size <= 64 && context_size % 64 == 0);
    memset(inner, 0x36, sizeof inner);
    memset(outer, 0x5C, sizeof outer);
    for (size_t i = 0; i < key_size; i++) {
        inner[i] ^= key[i];
        outer[i] ^= key[i];
    }
    memcpy(out->inner, fr_sha256_initial, sizeof out->inner);
    memcpy(out->outer, fr_sha256_initial, sizeof out->outer);
    blocks(out->inner, inner, 1);
    blocks(out->outer, outer, 1);
    blocks(out->inner, context, context_size / 64);
    out->inner_bytes = 64 + context_size;
    memset(inner, 0, sizeof inner);
    memset(outer, 0, sizeof outer);
    __asm__ __volatile__("" : : "r"(inner), "r"(outer) : "memory"); /* or the stores above would be dropped */
}

static void fr_hmac(fr_sha256_blocks blocks, const fr_hmac_key *key, const uint8_t *data, size_t size, uint8_t mac[32])
{
    uint8_t inner[32];
    fr_sha256_finish(blocks, key->inner, key->inner_bytes, data, size, inner);
    fr_sha256_finish(blocks, key->outer, 64, inner, sizeof inner, mac);
}

/* 1 when equal; the time does not depend on where they differ. */
static inline int fr_equal_constant_time(const uint8_t *a, const uint8_t *b, size_t size)
{
    uint64_t differ = 0, x, y;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        differ |= x ^ y;
    }
    for (; i < size; i++)
        differ |= (uint64_t)(a[i] ^ b[i]);
    __asm__ __volatile__("" : "+r"(differ)); /* the compiler may not turn the loop into an early exit */
    return differ == 0;
}

#endif
