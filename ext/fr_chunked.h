/* fr_chunked.h: decoder of chunked bodies, a byte of framing or a run of data at a time (RFC 9112 7.1).
 *
 * Not here: limits on the body's length, what becomes of the data; trailers are checked and dropped.
 * Rules: the state is fr_chunked (fr_http.h) and nothing else, so every split of the stream gives the same answer; data is
 * pointed at, never copied; a refusal is final.
 */
#ifndef FR_CHUNKED_H
#define FR_CHUNKED_H

#include "fr_scan_bytes.h"

#define FR_CHUNK_LINE_BYTES_MAX 4096u  /* size and extensions; RFC 9112 7.1.1 asks for a limit */
#define FR_CHUNK_DIGITS_MAX 16u
#define FR_TRAILER_BYTES_MAX 32768u    /* as the default head limit */
#define FR_TRAILER_FIELDS_MAX 100u

enum {
    FR_CHUNK_SIZE_FIRST = 0, FR_CHUNK_SIZE, FR_CHUNK_NAME_FIRST, FR_CHUNK_NAME, FR_CHUNK_VALUE_FIRST, FR_CHUNK_VALUE,
    FR_CHUNK_QUOTED, FR_CHUNK_ESCAPED, FR_CHUNK_QUOTED_END, FR_CHUNK_SIZE_LF, FR_CHUNK_DATA, FR_CHUNK_DATA_CR,
    FR_CHUNK_DATA_LF, FR_TRAILER_FIRST, FR_TRAILER_NAME, FR_TRAILER_VALUE, FR_TRAILER_LF, FR_CHUNK_END_LF, FR_CHUNK_ENDED,
    FR_CHUNK_REFUSED
};

static inline int fr_hex_value(uint8_t byte)
{
    return byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10;
}

/* One byte of framing: 0, or the status that refuses it. BWS in extensions is refused (nobody sends it, and parsers have
 * disagreed about it); so is a size of 2^63 and more. */
static inline int fr_chunk_byte(fr_chunked *s, uint8_t c)
{
    switch (s->state) {
    case FR_CHUNK_SIZE_FIRST:
        s->left = 0;
        s->line_size = s->digits = 0;
        s->state = FR_CHUNK_SIZE;
        if (!fr_is(c, FR_C_HEX))
            return 400;
        /* fall through */
    case FR_CHUNK_SIZE:
        if (FR_LIKELY(fr_is(c, FR_C_HEX))) {
            if (++s->digits > FR_CHUNK_DIGITS_MAX || s->left >> 59)
                return 400;
            s->left = s->left << 4 | (unsigned)fr_hex_value(c);
            return 0;
        }
        break;
    case FR_CHUNK_NAME_FIRST:
    case FR_CHUNK_VALUE_FIRST:
        if (c == '"' && s->state == FR_CHUNK_VALUE_FIRST)
            s->state = FR_CHUNK_QUOTED;
        else if (fr_is(c, FR_C_TOKEN))
            s->state++;
        else
            return 400;
        return 0;
    case FR_CHUNK_NAME:
        if (c == '=') {
            s->state = FR_CHUNK_VALUE_FIRST;
            return 0;
        }
        /* fall through */
    case FR_CHUNK_VALUE:
        if (fr_is(c, FR_C_TOKEN))
            return 0;
        break;
    case FR_CHUNK_QUOTED:
        if (c == '"')
            s->state = FR_CHUNK_QUOTED_END;
        else if (c == '\\')
            s->state = FR_CHUNK_ESCAPED;
        return fr_is(c, FR_C_TEXT) ? 0 : 400;
    case FR_CHUNK_ESCAPED:
        s->state = FR_CHUNK_QUOTED;
        return fr_is(c, FR_C_TEXT) ? 0 : 400;
    case FR_CHUNK_QUOTED_END:
        break;
    case FR_CHUNK_SIZE_LF:
        s->state = s->left ? FR_CHUNK_DATA : FR_TRAILER_FIRST;
        s->line_size = s->digits = 0;
        return c == '\n' ? 0 : 400;
    case FR_CHUNK_DATA_CR:
        s->state = FR_CHUNK_DATA_LF;
        return c == '\r' ? 0 : 400;
    case FR_CHUNK_DATA_LF:
        s->state = FR_CHUNK_SIZE_FIRST;
        s->line_size = 0;
        return c == '\n' ? 0 : 400;
    case FR_TRAILER_FIRST:
        if (c == '\r') {
            s->state = FR_CHUNK_END_LF;
            return 0;
        }
        s->state = FR_TRAILER_NAME;
        if (++s->digits > FR_TRAILER_FIELDS_MAX)
            return 431;
        return fr_is(c, FR_C_TOKEN) ? 0 : 400;
    case FR_TRAILER_NAME:
        if (c == ':')
            s->state = FR_TRAILER_VALUE;
        return c == ':' || fr_is(c, FR_C_TOKEN) ? 0 : 400;
    case FR_TRAILER_VALUE:
        if (c == '\r')
            s->state = FR_TRAILER_LF;
        return c == '\r' || fr_is(c, FR_C_TEXT) ? 0 : 400;
    case FR_TRAILER_LF:
        s->state = FR_TRAILER_FIRST;
        return c == '\n' ? 0 : 400;
    case FR_CHUNK_END_LF:
        s->state = FR_CHUNK_ENDED;
        return c == '\n' ? 0 : 400;
    default:
        return 400;
    }
    /* the size, an extension's name or value may end here */
    if (c == ';')
        s->state = FR_CHUNK_NAME_FIRST;
    else if (c == '\r')
        s->state = FR_CHUNK_SIZE_LF;
    else
        return 400;
    return 0;
}

static int fr_chunked_run(fr_chunked *s, const uint8_t *data, size_t size, size_t *at, size_t *run_at, size_t *run_size)
{
    size_t i = *at;
    int refusal;
    if (s->state == FR_CHUNK_ENDED)
        return 2;
    if (s->state == FR_CHUNK_REFUSED)
        return -400;
    while (i < size) {
        if (s->state == FR_CHUNK_DATA) {
            size_t run = size - i < s->left ? size - i : (size_t)s->left;
            *run_at = i;
            *run_size = run;
            s->left -= run;
            if (s->left == 0)
                s->state = FR_CHUNK_DATA_CR;
            *at = i + run;
            return 1;
        }
        refusal = fr_chunk_byte(s, data[i++]);
        if (FR_UNLIKELY(++s->line_size > (s->state >= FR_TRAILER_FIRST ? FR_TRAILER_BYTES_MAX : FR_CHUNK_LINE_BYTES_MAX)))
            refusal = s->state >= FR_TRAILER_FIRST ? 431 : 400;
        if (FR_UNLIKELY(refusal)) {
            s->state = FR_CHUNK_REFUSED;
            *at = i;
            return -refusal;
        }
        if (s->state == FR_CHUNK_ENDED) {
            *at = i;
            return 2;
        }
    }
    *at = i;
    return 0;
}

#endif
