/* fr_scan_bytes.h: classes of bytes and comparisons that the scanner of HTTP/1.1 works with (RFC 9110 5.6, 9112, 3986).
 *
 * Not here: what the bytes stand for. Rules: pure functions; each reads exactly the bytes it was given, fr_control_mask16
 * always 16 of them.
 */
#ifndef FR_SCAN_BYTES_H
#define FR_SCAN_BYTES_H

#include "fr_http.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { FR_C_TOKEN = 1, FR_C_TARGET = 2, FR_C_HOST = 4, FR_C_UNDERSCORE = 8, FR_C_DIGIT = 16, FR_C_HEX = 32, FR_C_TEXT = 64 };

/* TEXT = HTAB, SP, VCHAR, obs-text: what a field value may hold. HOST leaves out "%" and ",". */
#define FR_C_ALNUM (FR_C_TOKEN | FR_C_TARGET | FR_C_HOST | FR_C_TEXT)
#define FR_C_PLAIN (FR_C_TARGET | FR_C_TEXT)
#define FR_C_MARK (FR_C_TOKEN | FR_C_TARGET | FR_C_TEXT)

static const uint8_t fr_char[256] = {
    [0x09] = FR_C_TEXT, [' '] = FR_C_TEXT,
    ['!'] = FR_C_ALNUM, ['"'] = FR_C_PLAIN, ['#'] = FR_C_TOKEN | FR_C_TEXT, ['$'] = FR_C_ALNUM, ['%'] = FR_C_MARK,
    ['&'] = FR_C_ALNUM, ['\''] = FR_C_ALNUM, ['('] = FR_C_PLAIN | FR_C_HOST, [')'] = FR_C_PLAIN | FR_C_HOST,
    ['*'] = FR_C_ALNUM, ['+'] = FR_C_ALNUM, [','] = FR_C_PLAIN, ['-'] = FR_C_ALNUM, ['.'] = FR_C_ALNUM, ['/'] = FR_C_PLAIN,
    ['0' ... '9'] = FR_C_ALNUM | FR_C_DIGIT | FR_C_HEX,
    [':'] = FR_C_PLAIN, [';'] = FR_C_PLAIN | FR_C_HOST, ['<'] = FR_C_PLAIN, ['='] = FR_C_PLAIN | FR_C_HOST,
    ['>'] = FR_C_PLAIN, ['?'] = FR_C_PLAIN, ['@'] = FR_C_PLAIN,
    ['A' ... 'F'] = FR_C_ALNUM | FR_C_HEX, ['G' ... 'Z'] = FR_C_ALNUM,
    ['['] = FR_C_PLAIN, ['\\'] = FR_C_PLAIN, [']'] = FR_C_PLAIN, ['^'] = FR_C_MARK, ['_'] = FR_C_ALNUM | FR_C_UNDERSCORE,
    ['`'] = FR_C_MARK,
    ['a' ... 'f'] = FR_C_ALNUM | FR_C_HEX, ['g' ... 'z'] = FR_C_ALNUM,
    ['{'] = FR_C_PLAIN, ['|'] = FR_C_MARK, ['}'] = FR_C_PLAIN, ['~'] = FR_C_ALNUM,
    [0x80 ... 0xFF] = FR_C_TEXT,
};

static inline int fr_is(uint8_t byte, int class_) { return fr_char[byte] & class_; }

static inline uint8_t fr_lower(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte; }

/* Equal without regard to case. `lower` consists of letters, digits and '-' in lower case, and data of token bytes (or
 * anything >= 0x20): among those no two bytes but a letter's two cases become equal under | 0x20 to one of these. */
static inline int fr_equal_lower(const uint8_t *data, const char *lower, size_t size)
{
    uint64_t a, b;
    uint32_t c, d;
    if (size >= 8) {
        for (size_t i = 0; i + 8 <= size; i += 8) {
            memcpy(&a, data + i, 8);
            memcpy(&b, lower + i, 8);
            if ((a | 0x2020202020202020ull) != b)
                return 0;
        }
        memcpy(&a, data + size - 8, 8);
        memcpy(&b, lower + size - 8, 8);
        return (a | 0x2020202020202020ull) == b;
    }
    if (size >= 4) {
        memcpy(&c, data, 4);
        memcpy(&d, lower, 4);
        if ((c | 0x20202020u) != d)
            return 0;
        memcpy(&c, data + size - 4, 4);
        memcpy(&d, lower + size - 4, 4);
        return (c | 0x20202020u) == d;
    }
    for (size_t i = 0; i < size; i++)
        if ((data[i] | 0x20) != lower[i])
            return 0;
    return 1;
}

#define FR_IS(data, size, literal) ((size) == sizeof(literal) - 1 && fr_equal_lower((data), (literal), sizeof(literal) - 1))

static inline int fr_equal_nocase(const uint8_t *a, const uint8_t *b, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (fr_lower(a[i]) != fr_lower(b[i]))
            return 0;
    return 1;
}

/* Bit i: data[i] is a control byte other than HTAB, or DEL. */
static inline uint32_t fr_control_mask16(const uint8_t *data)
{
#if defined(__SSE2__)
    __m128i x = _mm_loadu_si128((const __m128i *)data);
    __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1F)), x);
    __m128i tab = _mm_cmpeq_epi8(x, _mm_set1_epi8(0x09)), del = _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, low), del));
#else
    uint32_t mask = 0;
    for (unsigned i = 0; i < 16; i++)
        mask |= (uint32_t)!(fr_char[data[i]] & FR_C_TEXT) << i;
    return mask;
#endif
}

#endif
