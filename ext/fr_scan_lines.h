/* fr_scan_lines.h: where the lines of an HTTP/1.1 head end, and whether a forbidden byte or a limit comes first.
 *
 * How it works. fr_walk finds line ends and forbidden bytes, 16 bytes at a time; it is an automaton whose whole state
 * (position, start of the line, lines, empty lines) is packed into one word between two calls, so a head in N pieces
 * costs O(size). Hence a verdict is a function of the bytes, not of the pieces: the first of {forbidden byte, limit, end of
 * head} in the order of the stream decides.
 *
 * Not here: what the lines say (fr_scan_field.h, fr_scan.h). Rules: reads only data[0 .. size); after FR_SCAN_DONE the head
 * consists of lines that end in CRLF, of bytes >= 0x20 without DEL, and HTAB: parsers rely on the CR as their sentinel.
 */
#ifndef FR_SCAN_LINES_H
#define FR_SCAN_LINES_H

#include "fr_scan_bytes.h"

#define FR_EMPTY_LINES_MAX 4u          /* before a request line; RFC 9112 2.2 asks for at least one */
#define FR_HEAD_BYTES_MAX 0xFFFFFFu    /* 16 MiB - 1: positions are packed into 24 bits */

typedef struct {
    uint32_t at, line_at;   /* next byte to look at; first byte of its line */
    uint32_t lines, empties; /* complete lines, the start line counted; empty lines before it */
} fr_walk_state;

static inline fr_walk_state fr_walk_unpack(size_t packed)
{
    fr_walk_state walk = {(uint32_t)(packed & 0xFFFFFF), (uint32_t)(packed >> 24 & 0xFFFFFF),
                          (uint32_t)(packed >> 48 & 0x1FF), (uint32_t)(packed >> 57)};
    return walk;
}

static inline size_t fr_walk_pack(const fr_walk_state *walk)
{
    _Static_assert(sizeof(size_t) == 8 && FR_FIELDS_CAPACITY < 0x1FF, "the walk is packed into 64 bits");
    return (size_t)walk->at | (size_t)walk->line_at << 24 | (size_t)walk->lines << 48 | (size_t)walk->empties << 57;
}

/* Goes on over data[0:size]; ends[i] becomes the position of line i's CR for the lines seen by this call. Done: walk->at
 * is the size of the head. `empties_max` is 0 for responses. */
static int fr_walk(const uint8_t *data, size_t size, fr_walk_state *walk, const fr_head_limits *limits, uint32_t empties_max,
                   uint32_t *ends)
{
    const size_t stop = size < limits->head_bytes ? size : limits->head_bytes; /* bytes behind it are never looked at */
    size_t line_at = walk->line_at, skip = walk->at;
    uint32_t lines = walk->lines, mask;

    for (size_t base = walk->at; base < stop; base += 16) {
        size_t left = stop - base;
        if (FR_LIKELY(left >= 16)) {
            mask = fr_control_mask16(data + base);
        } else if (stop >= 16) {
            mask = fr_control_mask16(data + stop - 16) >> (16 - left);
        } else {
            mask = 0;
            for (unsigned i = 0; i < left; i++)
                mask |= (uint32_t)!(fr_char[data[base + i]] & FR_C_TEXT) << i;
        }
        for (; mask; mask &= mask - 1) {
            size_t at = base + (unsigned)__builtin_ctz(mask);
            if (at < skip) /* the LF of a CRLF already judged */
                continue;
            if (FR_UNLIKELY(lines == 0 && at - line_at > limits->request_line_bytes))
                return -414;
            if (FR_UNLIKELY(data[at] != '\r'))
                return -400;
            if (FR_UNLIKELY(at + 1 >= limits->head_bytes))
                return -431;
            if (FR_UNLIKELY(at + 1 >= size)) { /* the LF is still to come */
                *walk = (fr_walk_state){(uint32_t)at, (uint32_t)line_at, lines, walk->empties};
                return FR_SCAN_MORE;
            }
            if (FR_UNLIKELY(data[at + 1] != '\n'))
                return -400;
            skip = at + 2;
            if (FR_UNLIKELY(at == line_at)) {
                if (lines) {
                    *walk = (fr_walk_state){(uint32_t)skip, (uint32_t)line_at, lines, walk->empties};
                    return FR_SCAN_DONE;
                }
                if (walk->empties >= empties_max)
                    return -400;
                walk->empties++;
            } else {
                if (FR_UNLIKELY(lines > limits->fields))
                    return -431;
                ends[lines++] = (uint32_t)at;
            }
            line_at = skip;
        }
    }
    if (lines == 0 && stop > line_at && stop - line_at > limits->request_line_bytes)
        return -414;
    if (size >= limits->head_bytes)
        return -431;
    *walk = (fr_walk_state){(uint32_t)(skip > stop ? skip : stop), (uint32_t)line_at, lines, walk->empties};
    return FR_SCAN_MORE;
}

static inline fr_head_limits fr_limits_bounded(const fr_head_limits *limits)
{
    fr_head_limits bounded = *limits;
    if (bounded.head_bytes == 0 || bounded.head_bytes > FR_HEAD_BYTES_MAX)
        bounded.head_bytes = FR_HEAD_BYTES_MAX;
    if (bounded.request_line_bytes == 0)
        bounded.request_line_bytes = UINT32_MAX;
    if (bounded.fields == 0 || bounded.fields > FR_FIELDS_CAPACITY)
        bounded.fields = FR_FIELDS_CAPACITY;
    if (bounded.method_bytes == 0)
        bounded.method_bytes = UINT32_MAX;
    return bounded;
}

/* The whole head's lines: walks on from *searched and, when the head is complete, knows every line's end. */
static int fr_walk_head(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, uint32_t empties_max,
                        uint32_t *ends, fr_walk_state *walk)
{
    int verdict;
    *walk = fr_walk_unpack(*searched);
    verdict = fr_walk(data, size, walk, limits, empties_max, ends);
    if (verdict == FR_SCAN_MORE) {
        *searched = fr_walk_pack(walk);
        return verdict;
    }
    if (verdict == FR_SCAN_DONE && *searched != 0) { /* came in pieces: the ends of the earlier lines were not kept */
        *walk = fr_walk_unpack(0);
        verdict = fr_walk(data, size, walk, limits, empties_max, ends);
    }
    *searched = 0;
    return verdict;
}

#endif
