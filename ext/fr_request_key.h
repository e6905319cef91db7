/* fr_request_key.h: where a request's affinity key stands: the places that sticky.on and key can name.
 *
 * Not here: the balancer's own cookie (token.pyx), bodies (fr_json_key.h), what a key is bound to.
 * Rules: raw bytes are keys, nothing is decoded (HAProxy and nginx alike), so that every balancer sees one key; the first
 * parameter of a name counts; an empty value, or one longer than FR_KEY_BYTES_MAX, is no key.
 */
#ifndef FR_REQUEST_KEY_H
#define FR_REQUEST_KEY_H

#include <arpa/inet.h>
#include <stdio.h>

#include "fr_cookie.h"
#include "fr_forward.h"

#define FR_KEY_BYTES_MAX 4096 /* a session id of more is an attack, not a session */

enum {
    FR_FROM_NONE = 0, FR_FROM_INSERT, FR_FROM_COOKIE, FR_FROM_HEADER, FR_FROM_CLIENT_IP, FR_FROM_QUERY, FR_FROM_PATH_PARAM,
    FR_FROM_PATH, FR_FROM_URL, FR_FROM_JSON
};

typedef struct {
    const uint8_t *name; /* of cookie, field (lower case), parameter or member */
    size_t name_size;
    int kind;
    int bits4, bits6; /* of client-ip: how much of an address counts; 0: all of it */
} fr_key_rule;

typedef struct {
    const uint8_t *data;
    size_t size;
} fr_span;

/* `name=value` between separators in p..end. */
static inline int fr_parameter(const uint8_t *p, const uint8_t *end, uint8_t separator, const fr_key_rule *rule, fr_span *found)
{
    while (p < end) {
        const uint8_t *stop = (const uint8_t *)memchr(p, separator, (size_t)(end - p));
        if (!stop)
            stop = end;
        if ((size_t)(stop - p) > rule->name_size && p[rule->name_size] == '=' && !memcmp(p, rule->name, rule->name_size)) {
            found->data = p + rule->name_size + 1;
            found->size = (size_t)(stop - found->data);
            return 1;
        }
        p = stop + 1;
    }
    return 0;
}

static inline int fr_key_in_path(const uint8_t *p, const uint8_t *end, const fr_key_rule *rule, fr_span *found)
{
    while (p < end) { /* segment by segment: "/shop;jsessionid=1/cart" */
        const uint8_t *stop = (const uint8_t *)memchr(p, '/', (size_t)(end - p)), *semicolon;
        if (!stop)
            stop = end;
        semicolon = (const uint8_t *)memchr(p, ';', (size_t)(stop - p));
        if (semicolon && fr_parameter(semicolon + 1, stop, ';', rule, found))
            return 1;
        p = stop + 1;
    }
    return 0;
}

/* The network of an address, as text in `room`; an address that cannot be read stays as it is. */
static void fr_network_of(const fr_key_rule *rule, fr_span *address, char room[64])
{
    uint8_t raw[16];
    char text[48], shown[INET6_ADDRSTRLEN];
    int family, bits, bytes, size;

    if (!rule->bits4 || address->size >= sizeof text)
        return;
    memcpy(text, address->data, address->size);
    text[address->size] = 0;
    if (inet_pton(AF_INET, text, raw) == 1) {
        family = AF_INET, bits = rule->bits4, bytes = 4;
    } else if (inet_pton(AF_INET6, text, raw) == 1) {
        family = AF_INET6, bits = rule->bits6, bytes = 16;
    } else {
        return;
    }
    for (int i = 0; i < bytes; i++, bits -= 8)
        raw[i] &= bits >= 8 ? 0xff : bits <= 0 ? 0 : (uint8_t)(0xff << (8 - bits));
    inet_ntop(family, raw, shown, sizeof shown);
    size = snprintf(room, 64, "%s/%d", shown, family == AF_INET ? rule->bits4 : rule->bits6);
    address->data = (const uint8_t *)room;
    address->size = (size_t)size;
}

/* Does this rule find a key? client: the client's address as text; room: where a network's text may be written. */
static int fr_key_by_rule(const fr_key_rule *rule, const uint8_t *data, const fr_head *head, fr_span client, char room[64], fr_span *found)
{
    const uint8_t *path = data + head->path_at, *end = path + head->path_size, *query;
    size_t at = 0;
    ptrdiff_t size = 0;

    found->size = 0;
    switch (rule->kind) {
    case FR_FROM_COOKIE:
        size = fr_cookie_find(data, head, rule->name, rule->name_size, &at);
        if (size > 1 && data[at] == '"' && data[at + (size_t)size - 1] == '"') { /* RFC 6265 4.1.1: the quotes are no part of it */
            at++;
            size -= 2;
        }
        break;
    case FR_FROM_HEADER:
        size = fr_find_field(data, head, (const char *)rule->name, rule->name_size, &at);
        break;
    case FR_FROM_CLIENT_IP:
        *found = client;
        fr_network_of(rule, found, room);
        return found->size > 0;
    default:
        query = head->path_size ? (const uint8_t *)memchr(path, '?', head->path_size) : NULL;
        if (rule->kind == FR_FROM_QUERY) {
            if (!query || !fr_parameter(query + 1, end, '&', rule, found))
                return 0;
        } else if (rule->kind == FR_FROM_PATH_PARAM) {
            if (!fr_key_in_path(path, query ? query : end, rule, found))
                return 0;
        } else if (rule->kind == FR_FROM_PATH || rule->kind == FR_FROM_URL) {
            found->data = path;
            found->size = (size_t)((rule->kind == FR_FROM_PATH && query ? query : end) - path);
            if (found->size == 0) {
                found->data = (const uint8_t *)"/";
                found->size = 1;
            }
        }
        return found->size > 0 && found->size <= FR_KEY_BYTES_MAX;
    }
    if (size <= 0 || size > FR_KEY_BYTES_MAX)
        return 0;
    found->data = data + at;
    found->size = (size_t)size;
    return 1;
}

/* Is the body JSON, by its media type? Then it may be waited for. */
static int fr_has_json(const uint8_t *data, const fr_head *head)
{
    for (const fr_field *field = head->fields; field < head->fields + head->field_count; field++) {
        const uint8_t *p = data + field->value_at, *end = p + field->value_size, *stop;
        if (field->id != FR_FIELD_CONTENT_TYPE)
            continue;
        stop = (const uint8_t *)memchr(p, ';', field->value_size);
        if (!stop)
            stop = end;
        while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        return stop - p > 5 && (stop[-5] == '/' || stop[-5] == '+') && fr_same_lit(stop - 4, 4, "json");
    }
    return 0;
}

#endif
