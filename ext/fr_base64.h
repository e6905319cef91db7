/* fr_base64.h: base64url without padding (RFC 4648 section 5), one text per byte string.
 *
 * Not here: the standard alphabet, padding, white space: all refused, as are non-zero unused bits in the last character.
 * Rules: static inline only, no allocation, nothing touches Python. Sizes are the caller's to check.
 */
#ifndef FR_BASE64_H
#define FR_BASE64_H

#include "fr_base.h"

static const uint8_t fr_base64_digits[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* A digit's value plus one; 0: no digit. */
static const uint8_t fr_base64_values[256] = {
    ['A'] = 1, ['B'] = 2, ['C'] = 3, ['D'] = 4, ['E'] = 5, ['F'] = 6, ['G'] = 7, ['H'] = 8, ['I'] = 9, ['J'] = 10,
    ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16, ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20,
    ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30,
    ['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49, ['x'] = 50,
    ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56, ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60,
    ['8'] = 61, ['9'] = 62, ['-'] = 63, ['_'] = 64,
};

/* Characters that `size` bytes take. */
static inline size_t fr_base64_size(size_t size)
{
    return size / 3 * 4 + (size % 3 ? size % 3 + 1 : 0);
}

static inline size_t fr_base64_encode(const uint8_t *data, size_t size, uint8_t *out)
{
    const uint8_t *digits = fr_base64_digits;
    uint8_t *at = out;
    size_t i = 0;
    for (; i + 3 <= size; i += 3, at += 4) {
        uint32_t v = (uint32_t)data[i] << 16 | (uint32_t)data[i + 1] << 8 | data[i + 2];
        at[0] = digits[v >> 18];
        at[1] = digits[v >> 12 & 63];
        at[2] = digits[v >> 6 & 63];
        at[3] = digits[v & 63];
    }
    if (size - i == 1) {
        *at++ = digits[data[i] >> 2];
        *at++ = digits[(data[i] & 3) << 4];
    } else if (size - i == 2) {
        *at++ = digits[data[i] >> 2];
        *at++ = digits[(data[i] & 3) << 4 | data[i + 1] >> 4];
        *at++ = digits[(data[i + 1] & 15) << 2];
    }
    return (size_t)(at - out);
}

/* Bytes written to out (room for size * 3 / 4), or -1 unless text is the one encoding of some bytes. */
static inline ptrdiff_t fr_base64_decode(const uint8_t *text, size_t size, uint8_t *out)
{
    const uint8_t *values = fr_base64_values;
    uint8_t *at = out;
    size_t i = 0;
    uint32_t a, b, c, d, bad = 0;
    for (; i + 4 <= size; i += 4, at += 3) {
        a = values[text[i]] - 1u;
        b = values[text[i + 1]] - 1u;
        c = values[text[i + 2]] - 1u;
        d = values[text[i + 3]] - 1u;
        bad |= a | b | c | d; /* of a character that is no digit, all bits are set */
        a = a << 18 | b << 12 | c << 6 | d;
        at[0] = (uint8_t)(a >> 16);
        at[1] = (uint8_t)(a >> 8);
        at[2] = (uint8_t)a;
    }
    if (size - i == 1)
        return -1;
    if (size - i >= 2) {
        a = values[text[i]] - 1u;
        b = values[text[i + 1]] - 1u;
        bad |= a | b;
        *at++ = (uint8_t)(a << 2 | b >> 4);
        if (size - i == 3) {
            c = values[text[i + 2]] - 1u;
            bad |= c | (c & 3) << 8;
            *at++ = (uint8_t)(b << 4 | c >> 2);
        } else {
            bad |= (b & 15) << 8;
        }
    }
    return bad > 63 ? -1 : at - out;
}

#endif
