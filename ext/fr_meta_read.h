/* fr_meta_read.h: cuts what memcached sends into lines and values, in pieces of any size.
 *
 * Not here: what a line says (fr_meta.h), whose reply it is and who gets the value (mc_queue.pyx).
 * Rules: the state is fr_meta_reader and nothing else, so that every split of the stream gives the same answer; lines that
 * came whole and values are pointed at, never copied; a value is counted, never searched for its end; a refusal is final
 * until fr_meta_reader_reset().
 */
#ifndef FR_META_READ_H
#define FR_META_READ_H

#include "fr_meta.h"

enum { FR_META_READ_LINE = 0, FR_META_READ_VALUE, FR_META_READ_CR, FR_META_READ_LF, FR_META_READ_REFUSED };

typedef struct {
    uint64_t value_left;        /* bytes of the value still to come */
    uint32_t line_size;         /* bytes of a line that came in pieces */
    uint8_t reading;
    uint8_t line[FR_META_LINE_BYTES_MAX];
} fr_meta_reader;

/* What fr_meta_read found. LINE: at[0..size) without its end. PIECE: the next bytes of the value. VALUE_END: the value and
 * its line end are over. MORE: everything was read. The others are refusals; *found says why in words. */
enum { FR_META_MORE = 0, FR_META_LINE, FR_META_PIECE, FR_META_VALUE_END, FR_META_REFUSED };

static inline void fr_meta_reader_reset(fr_meta_reader *r)
{
    r->reading = FR_META_READ_LINE;
    r->line_size = 0;
    r->value_left = 0;
}

/* The line just read announced a value of so many bytes. */
static inline void fr_meta_expect_value(fr_meta_reader *r, uint64_t size)
{
    r->value_left = size;
    r->reading = size ? FR_META_READ_VALUE : FR_META_READ_CR;
}

static inline int fr_meta_refuse(fr_meta_reader *r, const char *why, const uint8_t **at)
{
    r->reading = FR_META_READ_REFUSED;
    *at = (const uint8_t *)why;
    return FR_META_REFUSED;
}

/* One step from *p on, which is moved behind what was read. `at` of a line is good until the next step; `at` of a refusal
 * is its reason, a C string. */
static inline int fr_meta_read(fr_meta_reader *r, const uint8_t **p, const uint8_t *end, const uint8_t **at, size_t *size)
{
    const uint8_t *newline;
    size_t n;
    while (*p < end) {
        switch (r->reading) {
        case FR_META_READ_LINE:
            newline = (const uint8_t *)memchr(*p, '\n', (size_t)(end - *p));
            n = (size_t)((newline ? newline : end) - *p);
            /* The longest line has FR_META_LINE_BYTES_MAX bytes with its line feed, however it is cut. */
            if (FR_UNLIKELY(n + r->line_size >= FR_META_LINE_BYTES_MAX))
                return fr_meta_refuse(r, "a line without an end", at);
            if (newline == NULL) {
                memcpy(r->line + r->line_size, *p, n);
                r->line_size += (uint32_t)n;
                *p = end;
                return FR_META_MORE;
            }
            *at = *p;
            if (r->line_size) {
                memcpy(r->line + r->line_size, *p, n);
                n += r->line_size;
                r->line_size = 0;
                *at = r->line;
            }
            *p = newline + 1;
            if (FR_UNLIKELY(n == 0 || (*at)[n - 1] != '\r'))
                return fr_meta_refuse(r, "a line that ends without a carriage return", at);
            *size = n - 1;
            return FR_META_LINE;
        case FR_META_READ_VALUE:
            n = (size_t)(end - *p);
            if (n > r->value_left)
                n = (size_t)r->value_left;
            *at = *p;
            *size = n;
            *p += n;
            r->value_left -= n;
            if (r->value_left == 0)
                r->reading = FR_META_READ_CR;
            return FR_META_PIECE;
        case FR_META_READ_CR:
        case FR_META_READ_LF:
            if (FR_UNLIKELY(**p != (r->reading == FR_META_READ_CR ? '\r' : '\n')))
                return fr_meta_refuse(r, "a value that does not end where its length says", at);
            ++*p;
            if (r->reading++ == FR_META_READ_LF) {
                r->reading = FR_META_READ_LINE;
                return FR_META_VALUE_END;
            }
            break;
        default:
            return fr_meta_refuse(r, "bytes after a refusal", at);
        }
    }
    return FR_META_MORE;
}

#endif
