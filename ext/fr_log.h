/* fr_log.h: one request, or one TCP connection, as one line of the access log: combined (as Apache and nginx write it) or JSON.
 *
 * Not here: what is logged when (http_log, http_attempt), files (fastroute.proxy.access_log). Rules: a line holds no byte that
 * could end it or forge another: everything but printable ASCII, and quotes and backslashes, is escaped ("\x0A" as nginx does
 * in combined, "\u000a" in JSON; bytes of 0x80 on as the character of that number). Never cookies, never Authorization.
 */
#ifndef FR_LOG_H
#define FR_LOG_H

#include "fr_fields.h"
#include "fr_out.h"

/* Longest part of a field that is logged; a target is bounded by the listener's request_line_bytes too. */
#define FR_LOG_TARGET_MAX 8192u
#define FR_LOG_FIELD_MAX 1024u

typedef struct {
    fr_text client, method, target, host, agent, referer; /* of the request; method empty: it was not understood */
    fr_text listener, pool, server, reason, id;            /* empty: none */
    int minor, status, retries;
    uint64_t bytes;       /* after the head */
    uint64_t duration_ns;
    const char *stamp;    /* of the present second, in the format's own form */
    unsigned stamp_ms;
    int tcp;              /* a connection: no request, `host` is the name that its TLS hello asked for */
} fr_log_record;

static inline void fr_log_escape(fr_out *out, const fr_text *text, int json)
{
    static const char hex[] = "0123456789ABCDEF";
    const uint8_t *at = text->data, *end = at + text->size, *plain = at;

    for (; at < end; at++) {
        uint8_t c = *at;

        if (FR_LIKELY(c >= ' ' && c < 0x7F && c != '"' && c != '\\'))
            continue;
        fr_out_put(out, plain, (size_t)(at - plain));
        plain = at + 1;
        fr_out_put(out, json ? "\\u00" : "\\x", json ? 4 : 2);
        fr_out_put(out, &hex[c >> 4], 1);
        fr_out_put(out, &hex[c & 15], 1);
    }
    fr_out_put(out, plain, (size_t)(end - plain));
}

static inline void fr_log_quoted(fr_out *out, const fr_text *text)
{
    if (text->size == 0) {
        fr_out_lit(out, "\"-\"");
        return;
    }
    fr_out_lit(out, "\"");
    fr_log_escape(out, text, 0);
    fr_out_lit(out, "\"");
}

static inline void fr_log_combined(fr_out *out, const fr_log_record *one)
{
    fr_out_put(out, one->client.data, one->client.size);
    fr_out_lit(out, " - - [");
    fr_out_text(out, one->stamp);
    fr_out_lit(out, "] \"");
    if (one->method.size) {
        fr_log_escape(out, &one->method, 0);
        fr_out_lit(out, " ");
        fr_log_escape(out, &one->target, 0);
        fr_out_text(out, one->minor ? " HTTP/1.1" : " HTTP/1.0");
    } else if (one->tcp) {
        fr_out_text(out, one->host.size ? "TCP " : "TCP");
        fr_log_escape(out, &one->host, 0);
    } else {
        fr_out_lit(out, "-");
    }
    fr_out_lit(out, "\" ");
    fr_out_decimal(out, (uint64_t)one->status);
    fr_out_lit(out, " ");
    fr_out_decimal(out, one->bytes);
    fr_out_lit(out, " ");
    fr_log_quoted(out, &one->referer);
    fr_out_lit(out, " ");
    fr_log_quoted(out, &one->agent);
    fr_out_lit(out, "\n");
}

#define fr_log_member(out, name, text)                                                                                             \
    do {                                                                                                                           \
        fr_out_lit((out), ",\"" name "\":");                                                                                       \
        if ((text)->size) {                                                                                                        \
            fr_out_lit((out), "\"");                                                                                               \
            fr_log_escape((out), (text), 1);                                                                                       \
            fr_out_lit((out), "\"");                                                                                               \
        } else {                                                                                                                   \
            fr_out_lit((out), "null");                                                                                             \
        }                                                                                                                          \
    } while (0)

static inline void fr_log_digits(fr_out *out, uint64_t value, int digits)
{
    char text[20];

    for (int at = digits - 1; at >= 0; at--, value /= 10)
        text[at] = (char)('0' + value % 10);
    fr_out_put(out, text, (size_t)digits);
}

static inline void fr_log_json(fr_out *out, const fr_log_record *one)
{
    fr_out_lit(out, "{\"time\":\"");
    fr_out_text(out, one->stamp);
    fr_out_lit(out, ".");
    fr_log_digits(out, one->stamp_ms, 3);
    fr_out_lit(out, "Z\"");
    fr_log_member(out, "listener", &one->listener);
    fr_log_member(out, "client", &one->client);
    fr_log_member(out, "method", &one->method);
    fr_log_member(out, "host", &one->host);
    fr_log_member(out, "target", &one->target);
    fr_out_lit(out, ",\"protocol\":");
    fr_out_text(out, one->method.size ? one->minor ? "\"HTTP/1.1\"" : "\"HTTP/1.0\"" : one->tcp ? "\"TCP\"" : "null");
    fr_out_lit(out, ",\"status\":");
    fr_out_decimal(out, (uint64_t)one->status);
    fr_out_lit(out, ",\"bytes\":");
    fr_out_decimal(out, one->bytes);
    fr_out_lit(out, ",\"duration_s\":");
    fr_out_decimal(out, one->duration_ns / 1000000000u);
    fr_out_lit(out, ".");
    fr_log_digits(out, one->duration_ns / 1000u % 1000000u, 6);
    fr_log_member(out, "pool", &one->pool);
    fr_log_member(out, "server", &one->server);
    fr_log_member(out, "reason", &one->reason);
    fr_out_lit(out, ",\"retries\":");
    fr_out_decimal(out, (uint64_t)one->retries);
    fr_log_member(out, "request_id", &one->id);
    fr_log_member(out, "referer", &one->referer);
    fr_log_member(out, "user_agent", &one->agent);
    fr_out_lit(out, "}\n");
}

#endif
