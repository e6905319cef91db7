/* fr_fields.h: header rules: fields that are taken out of a message, and fields that are written into it.
 *
 * Not here: which rules a message has (http_fields, config), the fields that the relay always writes (fr_forward.h). A rule's
 * text was checked and cut into pieces when it was loaded: bytes as they stand, and places for a value of the request.
 * Values come from checked heads and addresses, so that no CR, LF or NUL gets out through them. Removing is a mark on scanned
 * fields (FR_FIELD_DROPPED), which the writers read together with FR_FIELD_HOP: rules that are off cost nothing per field.
 * Rules of this file: pure functions, nothing allocated but in fr_out.
 */
#ifndef FR_FIELDS_H
#define FR_FIELDS_H

#include "fr_http.h"
#include "fr_out.h"

enum { FR_FIELD_DROPPED = 2 }; /* beside FR_FIELD_HOP in fr_field.flags */

enum {
    FR_PIECE_TEXT = 0,
    FR_PIECE_CLIENT_IP,
    FR_PIECE_REQUEST_ID,
    FR_PIECE_HOST,
    FR_PIECE_SCHEME,
    FR_PIECE_SERVER,
    FR_PIECE_REASON,
    FR_PIECES
};

typedef struct {
    const uint8_t *data;
    size_t size;
} fr_text;

typedef struct {
    int kind;
    fr_text text; /* with FR_PIECE_TEXT */
} fr_piece;

typedef struct {
    const fr_text *drops; /* names in lower case */
    uint32_t drop_count;
    const fr_piece *pieces;
    uint32_t piece_count;
} fr_field_rules;

static inline int fr_same_text(const uint8_t *data, size_t size, const char *lower, size_t lower_size)
{
    if (size != lower_size)
        return 0;
    for (size_t i = 0; i < size; i++) {
        uint8_t c = data[i];

        if (c >= 'A' && c <= 'Z')
            c |= 0x20;
        if (c != (uint8_t)lower[i])
            return 0;
    }
    return 1;
}

/* Marks the fields that are not to go on. */
static inline void fr_fields_drop(const uint8_t *data, fr_head *head, const fr_text *names, uint32_t count)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        fr_field *field = &head->fields[i];

        for (uint32_t n = 0; n < count; n++)
            if (fr_same_text(data + field->name_at, field->name_size, (const char *)names[n].data, names[n].size)) {
                field->flags |= FR_FIELD_DROPPED;
                break;
            }
    }
}

/* The fields of the rules, each with its line end. A value that is not known is written as "-". */
static inline void fr_fields_put(fr_out *out, const fr_field_rules *rules, const fr_text values[FR_PIECES])
{
    for (uint32_t i = 0; i < rules->piece_count; i++) {
        const fr_piece *piece = &rules->pieces[i];
        const fr_text *text = piece->kind == FR_PIECE_TEXT ? &piece->text : &values[piece->kind];

        if (text->size)
            fr_out_put(out, text->data, text->size);
        else
            fr_out_lit(out, "-");
    }
}

/* Request id of a trusted peer: 1 to 128 visible characters without quotes and backslash, so that it can stand in any log. */
static inline int fr_is_request_id(const uint8_t *text, size_t size)
{
    if (size < 1 || size > 128)
        return 0;
    for (size_t i = 0; i < size; i++)
        if (text[i] <= ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
            return 0;
    return 1;
}

static inline void fr_hex_put(uint8_t *to, const uint8_t *from, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        to[2 * i] = (uint8_t)"0123456789abcdef"[from[i] >> 4];
        to[2 * i + 1] = (uint8_t)"0123456789abcdef"[from[i] & 15];
    }
}

#endif
