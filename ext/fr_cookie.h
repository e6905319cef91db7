/* fr_cookie.h: finds one cookie among the Cookie fields of a scanned head (RFC 6265 5.4).
 *
 * Not here: what its value means (token.pyx). Rules: points into the head, copies nothing, decodes nothing.
 */
#ifndef FR_COOKIE_H
#define FR_COOKIE_H

#include "fr_http.h"

/* Pairs are split at ';' first, whatever quotes say (RFC 6265 5.4 as servers read it; quoted-string parsing has let
 * cookies swallow others). Names are compared byte by byte, up to the first '='; values keep their quotes. */
static ptrdiff_t fr_cookie_find(const uint8_t *data, const fr_head *head, const uint8_t *name, size_t name_size, size_t *value_at)
{
    for (const fr_field *field = head->fields; field < head->fields + head->field_count; field++) {
        const uint8_t *p = data + field->value_at, *end = p + field->value_size, *pair_end;
        if (field->id != FR_FIELD_COOKIE)
            continue;
        for (; p < end; p = pair_end + 1) {
            while (p < end && (*p == ' ' || *p == '\t'))
                p++;
            pair_end = memchr(p, ';', (size_t)(end - p));
            if (!pair_end)
                pair_end = end;
            if ((size_t)(pair_end - p) > name_size && p[name_size] == '=' && !memcmp(p, name, name_size)) {
                const uint8_t *value = p + name_size + 1;
                while (pair_end > value && (pair_end[-1] == ' ' || pair_end[-1] == '\t'))
                    pair_end--;
                *value_at = (size_t)(value - data);
                return pair_end - value;
            }
        }
    }
    return -1;
}

#endif
