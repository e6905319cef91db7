/* fr_out.h: a growable buffer of bytes: what the relay writes into, and what it keeps of a message that came in pieces.
 *
 * Not a string builder for Python: nothing here touches Python, and the memory is the C library's.
 * Rules: a failed allocation sets `failed` and drops what follows; the owner looks at it once, before sending. The size
 * is bounded by the owner (limits on heads, back-pressure on bodies), not here.
 */
#ifndef FR_OUT_H
#define FR_OUT_H

#include <stdlib.h>

#include "fr_base.h"

/* Kept between two uses; a buffer that grew past it is given back when it is emptied. */
#define FR_OUT_KEEP_BYTES (256u << 10)

typedef struct {
    uint8_t *data;
    size_t size, capacity;
    int failed;
} fr_out;

static inline int fr_out_room(fr_out *out, size_t more)
{
    size_t wanted = out->size + more, capacity = out->capacity ? out->capacity : 512;
    uint8_t *data;

    if (FR_LIKELY(wanted <= out->capacity))
        return 1;
    while (capacity < wanted)
        capacity *= 2;
    data = (uint8_t *)realloc(out->data, capacity);
    if (data == NULL) {
        out->failed = 1;
        return 0;
    }
    out->data = data;
    out->capacity = capacity;
    return 1;
}

static inline void fr_out_put(fr_out *out, const void *data, size_t size)
{
    if (FR_LIKELY(size) && FR_LIKELY(fr_out_room(out, size))) {
        memcpy(out->data + out->size, data, size);
        out->size += size;
    }
}

#define fr_out_lit(out, literal) fr_out_put((out), (literal), sizeof(literal) - 1)

static inline void fr_out_text(fr_out *out, const char *text)
{
    fr_out_put(out, text, strlen(text));
}

static inline void fr_out_decimal(fr_out *out, uint64_t value)
{
    char text[20];
    int at = sizeof text;

    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    fr_out_put(out, text + at, sizeof text - (size_t)at);
}

static inline void fr_out_hex(fr_out *out, uint64_t value)
{
    char text[16];
    int at = sizeof text;

    do {
        text[--at] = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value);
    fr_out_put(out, text + at, sizeof text - (size_t)at);
}

/* One chunk of a chunked body (RFC 9112, 7.1). */
static inline void fr_out_chunk(fr_out *out, const uint8_t *data, size_t size)
{
    if (size) {
        fr_out_hex(out, size);
        fr_out_lit(out, "\r\n");
        fr_out_put(out, data, size);
        fr_out_lit(out, "\r\n");
    }
}

static inline void fr_out_free(fr_out *out)
{
    free(out->data);
    memset(out, 0, sizeof *out);
}

static inline void fr_out_clear(fr_out *out)
{
    out->size = 0;
    out->failed = 0;
    if (FR_UNLIKELY(out->capacity > FR_OUT_KEEP_BYTES))
        fr_out_free(out);
}

/* Drop the first `size` bytes. */
static inline void fr_out_drop(fr_out *out, size_t size)
{
    if (size >= out->size) {
        fr_out_clear(out);
    } else if (size) {
        memmove(out->data, out->data + size, out->size - size);
        out->size -= size;
    }
}

#endif
