/* fr_hash_md5.h: MD5, for the ketama family and uhashring alone. Not for secrets or signatures.
 *
 * Source: RFC 1321; checked against its test suite and hashlib in tests/unit/test_ring_hashes.py.
 * Rules: static inline, no state, reads nothing past data + size.
 */
#ifndef FR_HASH_MD5_H
#define FR_HASH_MD5_H

#include "fr_base.h"

static const uint32_t fr_md5_sine[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};
static const uint8_t fr_md5_turn[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

static inline void fr_md5_block(uint32_t state[4], const uint8_t *block)
{
    uint32_t word[16], a = state[0], b = state[1], c = state[2], d = state[3];
    memcpy(word, block, 64);
#define FR_MD5_STEP(mix, i, at)                                                                                        \
    do {                                                                                                               \
        uint32_t sum = a + (mix) + fr_md5_sine[i] + word[(at) & 15];                                                   \
        int turn = fr_md5_turn[(i) >> 4][(i) & 3];                                                                     \
        a = d; d = c; c = b;                                                                                           \
        b += (sum << turn) | (sum >> (32 - turn));                                                                     \
    } while (0)
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        FR_MD5_STEP(d ^ (b & (c ^ d)), i, i);
#pragma GCC unroll 16
    for (int i = 16; i < 32; i++)
        FR_MD5_STEP(c ^ (d & (b ^ c)), i, 5 * i + 1);
#pragma GCC unroll 16
    for (int i = 32; i < 48; i++)
        FR_MD5_STEP(b ^ c ^ d, i, 3 * i + 5);
#pragma GCC unroll 16
    for (int i = 48; i < 64; i++)
        FR_MD5_STEP(c ^ (b | ~d), i, 7 * i);
#undef FR_MD5_STEP
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
}

/* The digest as four little-endian words: its bytes are the words' bytes in order. */
static inline void fr_md5(const void *data, size_t size, uint32_t digest[4])
{
    const uint8_t *p = (const uint8_t *)data;
    uint8_t last[128];
    size_t left = size & 63, padded = left < 56 ? 64 : 128;
    uint64_t bits = (uint64_t)size << 3;

    digest[0] = 0x67452301;
    digest[1] = 0xefcdab89;
    digest[2] = 0x98badcfe;
    digest[3] = 0x10325476;
    for (size_t blocks = size >> 6; blocks; blocks--, p += 64)
        fr_md5_block(digest, p);
    memset(last, 0, padded);
    if (left)
        memcpy(last, p, left);
    last[left] = 0x80;
    memcpy(last + padded - 8, &bits, 8);
    fr_md5_block(digest, last);
    if (padded == 128)
        fr_md5_block(digest, last + 64);
}

#endif
