/* fr_hash_crc32.h: CRC-32 (ISO 3309, polynomial 0xEDB88320 reflected) as zlib and nginx compute it, eight bytes a step.
 *
 * Source: "slicing-by-8", Kounavis and Berry, "A systematic approach to building high performance software-based CRC
 * generators", 2005. Checked against zlib.crc32 in tests/unit/test_ring_hashes.py.
 * Rules: fr_crc32_prepare once, under the GIL, by every extension that includes this (the table is the extension's own).
 */
#ifndef FR_HASH_CRC32_H
#define FR_HASH_CRC32_H

#include "fr_base.h"

static uint32_t fr_crc32_table[8][256];

static inline void fr_crc32_prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = (c >> 1) ^ (0xEDB88320u & (0u - (c & 1)));
        fr_crc32_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int row = 1; row < 8; row++) {
            uint32_t c = fr_crc32_table[row - 1][i];
            fr_crc32_table[row][i] = (c >> 8) ^ fr_crc32_table[0][c & 255];
        }
}

/* The register (start with ~0) after more bytes; the hash is its complement. */
static inline uint32_t fr_crc32_more(uint32_t c, const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    for (; size >= 8; size -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        v ^= c;
        c = fr_crc32_table[7][v & 255] ^ fr_crc32_table[6][(v >> 8) & 255] ^ fr_crc32_table[5][(v >> 16) & 255] ^
            fr_crc32_table[4][(v >> 24) & 255] ^ fr_crc32_table[3][(v >> 32) & 255] ^
            fr_crc32_table[2][(v >> 40) & 255] ^ fr_crc32_table[1][(v >> 48) & 255] ^ fr_crc32_table[0][v >> 56];
    }
    for (; size; size--, p++)
        c = (c >> 8) ^ fr_crc32_table[0][(c ^ *p) & 255];
    return c;
}

static inline uint32_t fr_crc32(const void *data, size_t size)
{
    return ~fr_crc32_more(0xFFFFFFFFu, data, size);
}

#endif
