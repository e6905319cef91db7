/* fr_cache_key.h: what a request is called in the cache of responses, and whether more than its name has to be looked at.
 *
 * Not a lookup. The key is what the server gets: scheme, host (lower case, without the scheme's own port) and target, byte
 * for byte; from trusted peers also what they say of the request that servers believe. fastroute.http_cache.keys makes the
 * same text of a URL.
 * Rules of this file: pure functions over fr_head and fr_out.
 */
#ifndef FR_CACHE_KEY_H
#define FR_CACHE_KEY_H

#include "fr_forward.h"

enum {
    FR_CACHE_PLAIN = 0,  /* a fresh stored response is the answer */
    FR_CACHE_ASKS = 1,   /* fields that the rules have to read */
    FR_CACHE_BYPASS = 2  /* no key says what this request asks for */
};

static inline int fr_cache_interest(const uint8_t *name, size_t size)
{
    switch (size) {
    case 5:
        return fr_same_lit(name, size, "range") ? FR_CACHE_ASKS : 0;
    case 6:
        if (fr_same_lit(name, size, "x-host"))
            return FR_CACHE_BYPASS;
        return fr_same_lit(name, size, "pragma") ? FR_CACHE_ASKS : 0;
    case 8:
        return fr_same_lit(name, size, "if-range") || fr_same_lit(name, size, "if-match") ? FR_CACHE_ASKS : 0;
    case 12:
        return fr_same_lit(name, size, "x-url-scheme") ? FR_CACHE_BYPASS : 0;
    case 13:
        if (fr_same_lit(name, size, "x-rewrite-url") || fr_same_lit(name, size, "x-http-method"))
            return FR_CACHE_BYPASS;
        return fr_same_lit(name, size, "cache-control") || fr_same_lit(name, size, "if-none-match") ? FR_CACHE_ASKS : 0;
    case 14:
        return fr_same_lit(name, size, "x-original-url") ? FR_CACHE_BYPASS : 0;
    case 15:
        return fr_same_lit(name, size, "x-original-host") ? FR_CACHE_BYPASS : 0;
    case 17:
        if (fr_same_lit(name, size, "x-method-override"))
            return FR_CACHE_BYPASS;
        return fr_same_lit(name, size, "if-modified-since") ? FR_CACHE_ASKS : 0;
    case 19:
        return fr_same_lit(name, size, "if-unmodified-since") ? FR_CACHE_ASKS : 0;
    case 22:
        return fr_same_lit(name, size, "x-http-method-override") ? FR_CACHE_BYPASS : 0;
    }
    return 0;
}

/* Write the request's key to an empty buffer; what else has to be looked at: FR_CACHE_*. */
static inline int fr_cache_key(fr_out *out, const uint8_t *data, const fr_head *head, int tls, int trusted)
{
    const uint8_t *host = data + head->authority_at, *said = NULL;
    size_t host_size = head->authority_size, said_size = 0, start;
    int asks = 0;

    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        if (field->id == FR_FIELD_X_FORWARDED_PROTO && trusted && said == NULL)
            said = data + field->value_at, said_size = field->value_size;
        else if (field->id == FR_FIELD_OTHER)
            asks |= fr_cache_interest(data + field->name_at, field->name_size);
    }
    if (asks & FR_CACHE_BYPASS || host_size == 0 || head->upgrade)
        return FR_CACHE_BYPASS;
    if (said != NULL) {
        if (fr_same_lit(said, said_size, "https"))
            tls = 1;
        else if (fr_same_lit(said, said_size, "http"))
            tls = 0;
        else
            return FR_CACHE_BYPASS;
    }
    if (tls)
        fr_out_lit(out, "https://");
    else
        fr_out_lit(out, "http://");
    if (tls && host_size > 4 && memcmp(host + host_size - 4, ":443", 4) == 0)
        host_size -= 4;
    else if (!tls && host_size > 3 && memcmp(host + host_size - 3, ":80", 3) == 0)
        host_size -= 3;
    start = out->size;
    fr_out_put(out, host, host_size);
    if (FR_UNLIKELY(out->failed))
        return FR_CACHE_BYPASS;
    for (size_t i = start; i < out->size; i++)
        if (out->data[i] >= 'A' && out->data[i] <= 'Z')
            out->data[i] |= 0x20;
    if (head->path_size == 0 || data[head->path_at] == '?')
        fr_out_lit(out, "/");
    fr_out_put(out, data + head->path_at, head->path_size);
    if (FR_UNLIKELY(trusted)) {
        for (unsigned i = 0; i < head->field_count; i++) {
            const fr_field *field = &head->fields[i];
            const uint8_t *value = data + field->value_at;

            if (field->id == FR_FIELD_X_FORWARDED_HOST) {
                if (field->value_size == head->authority_size && memcmp(value, host, field->value_size) == 0)
                    continue;
            } else if (field->id == FR_FIELD_OTHER && fr_is_forwarding(data + field->name_at, field->name_size)) {
                if (field->name_size == 16 && fr_same_lit(data + field->name_at, 16, "x-forwarded-port") &&
                    (fr_same_lit(value, field->value_size, "80") || fr_same_lit(value, field->value_size, "443")))
                    continue;
            } else if (field->id != FR_FIELD_FORWARDED) {
                continue;
            }
            fr_out_lit(out, "\n");
            fr_out_put(out, data + field->name_at, field->name_size);
            fr_out_lit(out, ":");
            fr_out_put(out, value, field->value_size);
        }
    }
    /* The near cache compares UTF-8: bytes beyond ASCII would be another text's. */
    for (size_t i = 0; i < out->size; i++)
        if (out->data[i] & 0x80)
            return FR_CACHE_BYPASS;
    return out->failed ? FR_CACHE_BYPASS : asks;
}

#endif
