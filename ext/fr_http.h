/* fr_http.h: what the scanner of HTTP/1.1 heads (http_head) hands to the relay (http_relay): offsets and verdicts.
 *
 * All offsets count from the first byte given to the scanner. Nothing is copied, nothing is allocated; the buffer must
 * stay where it is while the struct is used.
 */
#ifndef FR_HTTP_H
#define FR_HTTP_H

#include "fr_base.h"

#define FR_FIELDS_CAPACITY 256 /* the configured limit on fields may not exceed it */

/* Fields the proxy acts on; everything else is FR_FIELD_OTHER. */
enum {
    FR_FIELD_OTHER = 0, FR_FIELD_HOST, FR_FIELD_CONTENT_LENGTH, FR_FIELD_TRANSFER_ENCODING, FR_FIELD_CONNECTION,
    FR_FIELD_COOKIE, FR_FIELD_SET_COOKIE, FR_FIELD_EXPECT, FR_FIELD_UPGRADE, FR_FIELD_KEEP_ALIVE,
    FR_FIELD_PROXY_CONNECTION, FR_FIELD_TE, FR_FIELD_TRAILER, FR_FIELD_VIA, FR_FIELD_X_FORWARDED_FOR,
    FR_FIELD_X_FORWARDED_PROTO, FR_FIELD_X_FORWARDED_HOST, FR_FIELD_FORWARDED, FR_FIELD_DATE, FR_FIELD_HTTP2_SETTINGS,
    FR_FIELD_PROXY_AUTHENTICATE, FR_FIELD_PROXY_AUTHORIZATION, FR_FIELD_X_FASTROUTE, /* any name that begins so */
    FR_FIELD_X_REAL_IP, FR_FIELD_MAX_FORWARDS, FR_FIELD_CONTENT_TYPE
};

/* Field flags. */
enum { FR_FIELD_HOP = 1 }; /* named by Connection: or hop-by-hop by RFC 9110 7.6.1; not forwarded */

typedef struct {
    uint32_t name_at, value_at, value_size;
    uint16_t name_size;
    uint8_t id, flags;
} fr_field;

/* Methods whose semantics the proxy needs; others are FR_METHOD_OTHER and forwarded as they are. */
enum {
    FR_METHOD_OTHER = 0, FR_METHOD_GET, FR_METHOD_HEAD, FR_METHOD_POST, FR_METHOD_PUT, FR_METHOD_DELETE,
    FR_METHOD_OPTIONS, FR_METHOD_TRACE, FR_METHOD_CONNECT, FR_METHOD_PATCH
};

enum { FR_BODY_NONE = 0, FR_BODY_LENGTH, FR_BODY_CHUNKED, FR_BODY_UNTIL_CLOSE };

typedef struct {
    uint32_t request_line_bytes, head_bytes, fields, method_bytes;
} fr_head_limits;

typedef struct {
    uint32_t head_size;                 /* bytes of the whole head, leading empty lines and the empty line included */
    uint32_t method_at, method_size;    /* requests */
    uint32_t target_at, target_size;    /* as received */
    uint32_t path_at, path_size;        /* origin-form to forward: of an absolute-form target the part from its path on;
                                           size 0: send "/" ("*" if OPTIONS); first byte '?': send "/" before it */
    uint32_t authority_at, authority_size; /* effective Host: the absolute-form authority, else the Host field; size 0: none */
    uint32_t reason_at, reason_size;    /* responses */
    uint16_t status;                    /* responses: 100..999 */
    uint16_t field_count;
    uint8_t method;
    uint8_t minor;                      /* HTTP/1.minor */
    uint8_t body;                       /* FR_BODY_*: framing of this message (responses: as if to a GET; the relay knows HEAD) */
    uint8_t keep_alive;                 /* the sender keeps the connection: version and Connection field together */
    uint8_t expect_continue;            /* the client waits for 100 before it sends the body (never set without a body) */
    uint8_t upgrade;                    /* Connection: upgrade and one well-formed Upgrade field without h2c are both there */
    uint64_t content_length;            /* with FR_BODY_LENGTH */
    fr_field fields[FR_FIELDS_CAPACITY];
} fr_head;

/* Verdicts: 0 = more bytes are needed; 1 = *head is filled; negative = refused, -verdict is the status that answers it
 * (requests: 400 413 414 417 421 431 501 505; responses: always 502). */
enum { FR_SCAN_MORE = 0, FR_SCAN_DONE = 1 };

/* Chunked decoder: state between two calls. */
typedef struct {
    uint64_t left;                      /* bytes of the present chunk still to come */
    uint32_t line_size;                 /* bytes of the present size line or trailer section so far */
    uint8_t state, digits;
} fr_chunked;

#endif
