/* fr_forward.h: writes the head that goes on: a request to a server, a response to a client.
 *
 * Not a scanner (http_head) and not a router. What goes out is written anew from parsed fields, never the bytes that came
 * in: one SP, one CRLF, one Host, one framing (RFC 9112, 3 and 6). End-to-end fields keep order, case and duplicates.
 * Order of the rules (a field named by Connection must not take ours with it): framing was parsed by the scanner;
 * hop-by-hop fields are left out; then X-Forwarded-* and Via are added last.
 * Rules of this file: pure functions over fr_head and fr_out, no Python, nothing allocated but in fr_out.
 */
#ifndef FR_FORWARD_H
#define FR_FORWARD_H

#include "fr_fields.h"
#include "fr_http.h"
#include "fr_out.h"
#include "fr_upgrade.h"

#define FR_FIELD_STAYS (FR_FIELD_HOP | FR_FIELD_DROPPED)

/* What not every listener has. */
typedef struct {
    const fr_field_rules *rules; /* NULL: none */
    const fr_field_rules *more;  /* of a hook; NULL: none */
    fr_text id_name;             /* of the field with the request id; size 0: there is none */
    int forwarded;               /* write Forwarded (RFC 7239) */
    fr_text values[FR_PIECES];
} fr_forward_extra;

typedef struct {
    const uint8_t *cookie; /* the balancer's own cookie: never shown to a server; size 0: none */
    size_t cookie_size;
    const uint8_t *peer; /* the client's address as text */
    size_t peer_size;
    int trusted; /* the peer's forwarded fields count and are kept */
    int tls;
    int upgrade; /* ask the server to switch protocols, as the client did */
    const fr_forward_extra *extra; /* NULL: none */
} fr_forward_request;

typedef struct {
    const uint8_t *cookie; /* the balancer's own cookie: a server may not set it; size 0: none */
    size_t cookie_size;
    const uint8_t *date; /* Date for a response that has none (RFC 9110, 6.6.1) */
    size_t date_size;
    int body;        /* FR_BODY_*: how the body goes to the client; FR_BODY_NONE: there is none */
    int close;       /* the connection ends after this response */
    const fr_field_rules *rules; /* NULL: none; its drops were marked */
    const fr_text *values;
    const fr_field_rules *more; /* of a hook; NULL: none */
} fr_forward_response;

#define fr_same_lit(data, size, literal) fr_same_text((data), (size), (literal), sizeof(literal) - 1)

/* X-Forwarded-Port, -Prefix and the like: servers believe them as they believe ours. */
static inline int fr_is_forwarding(const uint8_t *name, size_t size)
{
    return size > 12 && fr_same_lit(name, 12, "x-forwarded-");
}

static inline void fr_put_field(fr_out *out, const uint8_t *data, const fr_field *field)
{
    uint8_t *to;

    if (!fr_out_room(out, (size_t)field->name_size + field->value_size + 4))
        return;
    to = out->data + out->size;
    memcpy(to, data + field->name_at, field->name_size);
    to += field->name_size;
    *to++ = ':';
    *to++ = ' ';
    memcpy(to, data + field->value_at, field->value_size);
    to += field->value_size;
    *to++ = '\r';
    *to++ = '\n';
    out->size = (size_t)(to - out->data);
}

/* The Cookie field without the pairs called `name`; nothing at all when no other pair is left. Pairs are split on ';'
 * alone: quotes have no meaning here (RFC 6265, 4.2; a quoted ';' must not hide a pair). */
static inline void fr_put_cookie_field(fr_out *out, const uint8_t *data, const fr_field *field, const uint8_t *name, size_t name_size)
{
    const uint8_t *at = data + field->value_at, *end = at + field->value_size, *stop, *from, *to;
    size_t start = out->size;
    int kept = 0, dropped = 0;

    fr_out_put(out, data + field->name_at, field->name_size);
    fr_out_lit(out, ": ");
    for (; at <= end; at = stop + 1) {
        stop = (const uint8_t *)memchr(at, ';', (size_t)(end - at));
        if (stop == NULL)
            stop = end;
        for (from = at; from < stop && (*from == ' ' || *from == '\t'); from++)
            ;
        for (to = stop; to > from && (to[-1] == ' ' || to[-1] == '\t'); to--)
            ;
        if ((size_t)(to - from) > name_size && from[name_size] == '=' && memcmp(from, name, name_size) == 0) {
            dropped = 1;
            continue;
        }
        if (kept)
            fr_out_lit(out, "; ");
        fr_out_put(out, from, (size_t)(to - from));
        kept |= to > from;
    }
    if (!dropped) { /* as it came: other clients' oddities are the server's business */
        out->size = start;
        fr_put_field(out, data, field);
    } else if (!kept) {
        out->size = start;
    } else {
        fr_out_lit(out, "\r\n");
    }
}

/* Value of the first field with this lower-case name; -1: none. */
static inline long fr_find_field(const uint8_t *data, const fr_head *head, const char *name, size_t name_size, size_t *value_at)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        if (field->name_size == name_size && fr_same_text(data + field->name_at, name_size, name, name_size)) {
            *value_at = field->value_at;
            return (long)field->value_size;
        }
    }
    return -1;
}

/* Max-Forwards of an OPTIONS or TRACE request (RFC 9110, 7.6.2): -1 none or not a number, else its value (at most 999). */
static inline int fr_max_forwards(const uint8_t *data, const fr_head *head)
{
    int value = 0;

    if (head->method != FR_METHOD_OPTIONS && head->method != FR_METHOD_TRACE)
        return -1;
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        if (field->id != FR_FIELD_MAX_FORWARDS || field->value_size < 1 || field->value_size > 3)
            continue;
        for (uint32_t at = field->value_at; at < field->value_at + field->value_size; at++) {
            if (data[at] < '0' || data[at] > '9')
                return -1;
            value = value * 10 + data[at] - '0';
        }
        return value;
    }
    return -1;
}

/* Forwarded: what a trusted peer said, then this hop. Addresses of IPv6 and hosts are quoted (RFC 7239, 4 and 6). */
static inline void fr_put_forwarded(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_request *how)
{
    int v6 = how->peer_size && memchr(how->peer, ':', how->peer_size) != NULL;

    fr_out_lit(out, "Forwarded: ");
    for (unsigned i = 0; how->trusted && i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        if (field->id == FR_FIELD_FORWARDED && field->value_size) {
            fr_out_put(out, data + field->value_at, field->value_size);
            fr_out_lit(out, ", ");
        }
    }
    if (how->peer_size && how->peer[how->peer_size - 1] == ':' && how->peer[0] == 'u') { /* a unix socket's */
        fr_out_lit(out, "for=unknown");
    } else {
        fr_out_text(out, v6 ? "for=\"[" : "for=");
        fr_out_put(out, how->peer, how->peer_size);
        fr_out_text(out, v6 ? "]\"" : "");
    }
    fr_out_lit(out, ";host=\"");
    fr_out_put(out, data + head->authority_at, head->authority_size);
    fr_out_text(out, how->tls ? "\";proto=https\r\n" : "\";proto=http\r\n");
}

static inline void fr_put_extra(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_request *how)
{
    const fr_forward_extra *extra = how->extra;

    if (extra->id_name.size) {
        fr_out_put(out, extra->id_name.data, extra->id_name.size);
        fr_out_lit(out, ": ");
        fr_out_put(out, extra->values[FR_PIECE_REQUEST_ID].data, extra->values[FR_PIECE_REQUEST_ID].size);
        fr_out_lit(out, "\r\n");
    }
    if (extra->forwarded)
        fr_put_forwarded(out, data, head, how);
    if (extra->rules != NULL)
        fr_fields_put(out, extra->rules, extra->values);
    if (extra->more != NULL)
        fr_fields_put(out, extra->more, extra->values);
}

/* The request head for the server, up to and with the empty line. Bodies: the same framing, written anew. */
static inline void fr_write_request(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_request *how)
{
    int forwarded_for = 0, kept_proto = 0, kept_host = 0, said_framing = 0;
    int max_forwards = fr_max_forwards(data, head);

    fr_out_room(out, (size_t)head->head_size + how->peer_size + 256);
    fr_out_put(out, data + head->method_at, head->method_size);
    fr_out_lit(out, " ");
    if (head->path_size == 0 && head->method == FR_METHOD_OPTIONS)
        fr_out_lit(out, "*"); /* absolute-form without a path: RFC 9112, 3.2.4 */
    else if (head->path_size == 0 || data[head->path_at] == '?')
        fr_out_lit(out, "/");
    fr_out_put(out, data + head->path_at, head->path_size);
    fr_out_lit(out, " HTTP/1.1\r\nHost: ");
    fr_out_put(out, data + head->authority_at, head->authority_size);
    fr_out_lit(out, "\r\n");
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        switch (field->id) {
        case FR_FIELD_HOST:
        case FR_FIELD_CONNECTION:
        case FR_FIELD_UPGRADE:
        case FR_FIELD_KEEP_ALIVE:
        case FR_FIELD_PROXY_CONNECTION:
        case FR_FIELD_TE:
        case FR_FIELD_TRAILER: /* trailers are dropped with the chunk framing they came in */
        case FR_FIELD_HTTP2_SETTINGS:
        case FR_FIELD_X_FASTROUTE:
            continue;
        case FR_FIELD_CONTENT_LENGTH:
        case FR_FIELD_TRANSFER_ENCODING:
            if (said_framing)
                continue;
            said_framing = 1;
            if (head->body == FR_BODY_CHUNKED) {
                fr_out_lit(out, "Transfer-Encoding: chunked\r\n");
            } else {
                fr_out_lit(out, "Content-Length: ");
                fr_out_decimal(out, head->body == FR_BODY_LENGTH ? head->content_length : 0);
                fr_out_lit(out, "\r\n");
            }
            continue;
        case FR_FIELD_EXPECT:
            if (head->expect_continue && head->minor > 0)
                fr_out_lit(out, "Expect: 100-continue\r\n");
            continue;
        case FR_FIELD_COOKIE:
            if (field->flags & FR_FIELD_STAYS)
                continue;
            if (how->cookie_size)
                fr_put_cookie_field(out, data, field, how->cookie, how->cookie_size);
            else
                fr_put_field(out, data, field);
            continue;
        case FR_FIELD_X_FORWARDED_FOR:
            forwarded_for = how->trusted;
            continue;
        case FR_FIELD_X_FORWARDED_PROTO:
            if (how->trusted && !kept_proto)
                fr_put_field(out, data, field);
            kept_proto = how->trusted;
            continue;
        case FR_FIELD_X_FORWARDED_HOST:
            if (how->trusted && !kept_host)
                fr_put_field(out, data, field);
            kept_host = how->trusted;
            continue;
        case FR_FIELD_FORWARDED:
            if (how->trusted && !(how->extra != NULL && how->extra->forwarded))
                fr_put_field(out, data, field);
            continue;
        case FR_FIELD_X_REAL_IP:
            if (how->trusted && !(field->flags & FR_FIELD_STAYS))
                fr_put_field(out, data, field);
            continue;
        case FR_FIELD_MAX_FORWARDS:
            if (max_forwards > 0) {
                fr_out_lit(out, "Max-Forwards: ");
                fr_out_decimal(out, (uint64_t)max_forwards - 1);
                fr_out_lit(out, "\r\n");
            } else {
                fr_put_field(out, data, field);
            }
            continue;
        default:
            if (field->flags & FR_FIELD_STAYS)
                continue;
            if (!how->trusted && fr_is_forwarding(data + field->name_at, field->name_size))
                continue;
            fr_put_field(out, data, field);
        }
    }
    if (FR_UNLIKELY(how->upgrade))
        fr_put_upgrade(out, data, head);
    if (FR_UNLIKELY(how->extra != NULL))
        fr_put_extra(out, data, head, how);
    fr_out_lit(out, "X-Forwarded-For: ");
    if (FR_UNLIKELY(forwarded_for)) {
        for (unsigned i = 0; i < head->field_count; i++) {
            const fr_field *field = &head->fields[i];

            if (field->id == FR_FIELD_X_FORWARDED_FOR && field->value_size) {
                fr_out_put(out, data + field->value_at, field->value_size);
                fr_out_lit(out, ", ");
            }
        }
    }
    fr_out_put(out, how->peer, how->peer_size);
    if (!kept_proto) {
        if (how->tls)
            fr_out_lit(out, "\r\nX-Forwarded-Proto: https");
        else
            fr_out_lit(out, "\r\nX-Forwarded-Proto: http");
    }
    if (!kept_host) {
        fr_out_lit(out, "\r\nX-Forwarded-Host: ");
        fr_out_put(out, data + head->authority_at, head->authority_size);
    }
    if (head->minor == 0)
        fr_out_lit(out, "\r\nVia: 1.0 fastroute\r\n\r\n");
    else
        fr_out_lit(out, "\r\nVia: 1.1 fastroute\r\n\r\n");
}

/* Does this Set-Cookie field set the cookie `name`? Then *at and *size are its value. */
static inline int fr_sets_cookie(const uint8_t *data, const fr_field *field, const uint8_t *name, size_t name_size, size_t *at, size_t *size)
{
    const uint8_t *from = data + field->value_at, *end = from + field->value_size, *stop;

    if (field->id != FR_FIELD_SET_COOKIE)
        return 0;
    stop = (const uint8_t *)memchr(from, ';', field->value_size);
    if (stop == NULL)
        stop = end;
    while (from < stop && (*from == ' ' || *from == '\t'))
        from++;
    if ((size_t)(stop - from) < name_size || memcmp(from, name, name_size) != 0)
        return 0;
    for (from += name_size; from < stop && (*from == ' ' || *from == '\t'); from++)
        ;
    if (from == stop || *from != '=')
        return 0;
    for (from++; from < stop && (*from == ' ' || *from == '\t'); from++)
        ;
    while (stop > from && (stop[-1] == ' ' || stop[-1] == '\t'))
        stop--;
    *at = (size_t)(from - data);
    *size = (size_t)(stop - from);
    return 1;
}

/* The response head for the client without its empty line: the caller adds fields of its own and CRLF.
 * `how->body` is how the body goes on; lengths of bodies that are not sent (HEAD, 304) are kept as the server said them.
 * Returns how many Set-Cookie fields of the balancer's own name were left out. */
static inline int fr_write_response(fr_out *out, const uint8_t *data, const fr_head *head, const fr_forward_response *how)
{
    int said_length = 0, said_date = 0, removed = 0;
    size_t at, size;

    fr_out_room(out, (size_t)head->head_size + 256);
    fr_out_lit(out, "HTTP/1.1 ");
    fr_out_decimal(out, head->status);
    fr_out_lit(out, " ");
    fr_out_put(out, data + head->reason_at, head->reason_size);
    fr_out_lit(out, "\r\n");
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        switch (field->id) {
        case FR_FIELD_CONNECTION:
        case FR_FIELD_UPGRADE:
        case FR_FIELD_KEEP_ALIVE:
        case FR_FIELD_PROXY_CONNECTION:
        case FR_FIELD_TE:
        case FR_FIELD_TRAILER:
        case FR_FIELD_TRANSFER_ENCODING:
        case FR_FIELD_X_FASTROUTE:
            continue;
        case FR_FIELD_CONTENT_LENGTH:
            if (said_length || (head->body != FR_BODY_LENGTH && head->status != 304))
                continue;
            said_length = 1;
            fr_out_lit(out, "Content-Length: ");
            fr_out_decimal(out, head->content_length);
            fr_out_lit(out, "\r\n");
            continue;
        case FR_FIELD_SET_COOKIE:
            if (how->cookie_size && fr_sets_cookie(data, field, how->cookie, how->cookie_size, &at, &size)) {
                removed++;
                continue;
            }
            if (!(field->flags & FR_FIELD_STAYS))
                fr_put_field(out, data, field);
            continue;
        case FR_FIELD_DATE:
            if (said_date)
                continue;
            said_date = 1;
            fr_put_field(out, data, field);
            continue;
        default:
            if (!(field->flags & FR_FIELD_STAYS))
                fr_put_field(out, data, field);
        }
    }
    if (head->status == 101)
        fr_put_upgrade(out, data, head);
    if (FR_UNLIKELY(how->rules != NULL))
        fr_fields_put(out, how->rules, how->values);
    if (FR_UNLIKELY(how->more != NULL))
        fr_fields_put(out, how->more, how->values);
    if (head->status < 200)
        return removed;
    if (FR_UNLIKELY(!said_date)) {
        fr_out_lit(out, "Date: ");
        fr_out_put(out, how->date, how->date_size);
        fr_out_lit(out, "\r\n");
    }
    if (how->body == FR_BODY_CHUNKED)
        fr_out_lit(out, "Transfer-Encoding: chunked\r\n");
    if (FR_UNLIKELY(how->close))
        fr_out_lit(out, "Connection: close\r\n");
    return removed;
}

#endif
