/* fr_scan.h: strict scanner of HTTP/1.1 request and response heads (RFC 9112, 9110).
 *
 * Not here: I/O, limits on bodies, what is forwarded. Structs and verdicts: fr_http.h. Its parts: bytes (fr_scan_bytes.h),
 * lines (fr_scan_lines.h), fields (fr_scan_field.h), authority (fr_scan_authority.h).
 *
 * How it works. Nothing is judged before the empty line has come, but forbidden bytes and limits (fr_scan_lines.h); then
 * the lines are parsed once: grammar is judged only on complete heads, so a verdict does not depend on the pieces.
 *
 * Rules: reads only data[0 .. size); no allocation, no state, nothing touches Python. Where RFC 9112 leaves a choice
 * between refusing and repairing, refuse: bare LF, obs-fold, Host with percent-escapes, userinfo.
 */
#ifndef FR_SCAN_H
#define FR_SCAN_H

#include "fr_scan_authority.h"
#include "fr_scan_field.h"

/* ---- requests ---------------------------------------------------------------------------------------------- */

static inline uint8_t fr_method_id(const uint8_t *method, size_t size)
{
    switch (size) { /* case-sensitive, RFC 9110 9.1 */
    case 3: return !memcmp(method, "GET", 3) ? FR_METHOD_GET : !memcmp(method, "PUT", 3) ? FR_METHOD_PUT : FR_METHOD_OTHER;
    case 4: return !memcmp(method, "POST", 4) ? FR_METHOD_POST : !memcmp(method, "HEAD", 4) ? FR_METHOD_HEAD : FR_METHOD_OTHER;
    case 5: return !memcmp(method, "PATCH", 5) ? FR_METHOD_PATCH : !memcmp(method, "TRACE", 5) ? FR_METHOD_TRACE : FR_METHOD_OTHER;
    case 6: return !memcmp(method, "DELETE", 6) ? FR_METHOD_DELETE : FR_METHOD_OTHER;
    case 7: return !memcmp(method, "OPTIONS", 7) ? FR_METHOD_OPTIONS : !memcmp(method, "CONNECT", 7) ? FR_METHOD_CONNECT : FR_METHOD_OTHER;
    }
    return FR_METHOD_OTHER;
}

/* "HTTP/" DIGIT "." DIGIT in exactly these 8 bytes: its minor version as we treat it (a higher one as 1.1: RFC 9110
 * 2.5), -505 for another major version, -400 for anything else. */
static inline int fr_version(const uint8_t *data, size_t size)
{
    if (size != 8 || memcmp(data, "HTTP/", 5) || !fr_is(data[5], FR_C_DIGIT) || data[6] != '.' || !fr_is(data[7], FR_C_DIGIT))
        return -400;
    return data[5] != '1' ? -505 : data[7] != '0';
}

/* Method, target and version; fills what the request line alone decides. 1, or a negative status. */
static int fr_request_line(const uint8_t *data, uint32_t at, uint32_t end, const fr_head_limits *limits, fr_head *head)
{
    const uint8_t *p = data + at, *line_end = data + end, *target;
    int minor;

    while (fr_is(*p, FR_C_TOKEN))
        p++;
    head->method_at = at;
    head->method_size = (uint32_t)(p - data) - at;
    if (head->method_size == 0 || *p != ' ')
        return -400;
    if (head->method_size > limits->method_bytes)
        return -501;
    head->method = fr_method_id(data + at, head->method_size);

    target = ++p;
    while (fr_is(*p, FR_C_TARGET))
        p++;
    head->target_at = (uint32_t)(target - data);
    head->target_size = (uint32_t)(p - target);
    if (head->target_size == 0 || *p != ' ')
        return -400;
    p++;
    minor = fr_version(p, (size_t)(line_end - p));
    if (minor < 0)
        return minor;
    head->minor = (uint8_t)minor;
    if (head->method == FR_METHOD_CONNECT || head->method == FR_METHOD_TRACE) /* no tunnel to anywhere, no reflection */
        return -501;

    head->path_at = head->target_at;
    head->path_size = head->target_size;
    head->authority_at = head->authority_size = 0;
    if (FR_LIKELY(*target == '/'))
        return 1;
    if (*target == '*' && head->target_size == 1)
        return head->method == FR_METHOD_OPTIONS ? 1 : -400;
    { /* absolute-form: http or https, no userinfo */
        const uint8_t *target_end = target + head->target_size, *q;
        size_t scheme = 0, host_size;
        if (head->target_size > 7 && fr_equal_lower(target, "http", 4) && !memcmp(target + 4, "://", 3))
            scheme = 7;
        else if (head->target_size > 8 && fr_equal_lower(target, "https", 5) && !memcmp(target + 5, "://", 3))
            scheme = 8;
        else
            return -400;
        for (q = target + scheme; q < target_end && *q != '/' && *q != '?'; q++) {
        }
        head->authority_at = head->target_at + (uint32_t)scheme;
        head->authority_size = (uint32_t)(q - (target + scheme));
        head->path_at = (uint32_t)(q - data);
        head->path_size = (uint32_t)(target_end - q);
        return fr_is_authority(target + scheme, head->authority_size, &host_size) ? 1 : -400;
    }
}

/* Host: exactly one in HTTP/1.1 and valid (RFC 9112 3.2); of an absolute-form target the authority holds, and a Host
 * that says something else is refused rather than replaced. */
static int fr_judge_host(const uint8_t *data, fr_head *head, const fr_summary *summary)
{
    const fr_field *field;
    const uint8_t *host, *authority = data + head->authority_at;
    size_t host_size, authority_host_size;
    if (!(summary->seen & FR_BIT(FR_FIELD_HOST)))
        return head->minor > 0 ? -400 : 1;
    field = &head->fields[summary->host];
    host = data + field->value_at;
    if (summary->repeated & FR_BIT(FR_FIELD_HOST) || !fr_is_authority(host, field->value_size, &host_size))
        return -400;
    if (head->authority_size) {
        uint32_t usual = head->authority_at - head->target_at == 7 ? 80 : 443;
        fr_is_authority(authority, head->authority_size, &authority_host_size);
        if (host_size != authority_host_size || !fr_equal_nocase(host, authority, host_size) ||
            fr_port_of(host, field->value_size, host_size, usual) !=
                fr_port_of(authority, head->authority_size, host_size, usual))
            return -400;
    } else {
        head->authority_at = field->value_at;
        head->authority_size = field->value_size;
    }
    return 1;
}

/* A WebSocket handshake without a key cannot succeed (RFC 6455 4.2.1): refused before it makes anything wait. */
static int fr_websocket_lacks_key(const uint8_t *data, const fr_head *head, const fr_summary *summary)
{
    const fr_field *field = &head->fields[summary->upgrade];
    if (!FR_IS(data + field->value_at, field->value_size, "websocket"))
        return 0;
    for (field = head->fields; field < head->fields + head->field_count; field++)
        if (FR_IS(data + field->name_at, field->name_size, "sec-websocket-key"))
            return field->value_size == 0;
    return 1;
}

static int fr_scan_request_head(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *given, fr_head *head)
{
    const fr_head_limits limits = fr_limits_bounded(given);
    uint32_t ends[FR_FIELDS_CAPACITY + 1];
    fr_walk_state walk;
    fr_summary summary;
    int verdict = fr_walk_head(data, size, searched, &limits, FR_EMPTY_LINES_MAX, ends, &walk);
    if (verdict != FR_SCAN_DONE)
        return verdict;

    head->head_size = walk.at;
    head->reason_at = head->reason_size = 0;
    head->status = 0;
    head->content_length = 0;
    if ((verdict = fr_request_line(data, 2 * walk.empties, ends[0], &limits, head)) < 0 ||
        (verdict = fr_parse_fields(data, head, &walk, ends, 1, &summary)) < 0 ||
        (verdict = fr_judge_host(data, head, &summary)) < 0 || (verdict = fr_framing(data, head, &summary)) < 0)
        return verdict;
    if (FR_UNLIKELY(summary.options & FR_OPTION_MALFORMED || summary.repeated & FR_BIT(FR_FIELD_CONTENT_TYPE)))
        return -400;
    head->body = (uint8_t)verdict;
    /* A proxy keeps no connection to an HTTP/1.0 client, whatever it asks for (RFC 9112 9.3). */
    head->keep_alive = head->minor > 0 && !(summary.options & FR_OPTION_CLOSE);
    head->expect_continue = head->minor > 0 && summary.seen & FR_BIT(FR_FIELD_EXPECT) &&
                            (head->body == FR_BODY_CHUNKED || head->content_length > 0);
    head->upgrade = (uint8_t)fr_upgrade_of(data, head, &summary);
    if (head->upgrade) { /* a body in front of a tunnel has smuggled requests through other proxies */
        if (head->body == FR_BODY_CHUNKED || head->content_length > 0 || fr_websocket_lacks_key(data, head, &summary))
            return -400;
    }
    return FR_SCAN_DONE;
}

/* ---- responses --------------------------------------------------------------------------------------------- */

/* "HTTP/1.x SP 3DIGIT [SP reason]"; servers that leave out the second SP are common enough. */
static int fr_status_line(const uint8_t *data, uint32_t end, fr_head *head)
{
    int minor;
    if (end < 12 || (minor = fr_version(data, 8)) < 0 || data[8] != ' ')
        return -502;
    for (int i = 9; i < 12; i++)
        if (!fr_is(data[i], FR_C_DIGIT))
            return -502;
    head->minor = (uint8_t)minor;
    head->status = (uint16_t)((data[9] - '0') * 100 + (data[10] - '0') * 10 + (data[11] - '0'));
    if (head->status < 100 || head->status > 599 || (end > 12 && data[12] != ' '))
        return -502;
    head->reason_at = end > 12 ? 13 : 12;
    head->reason_size = end - head->reason_at;
    return 1;
}

static int fr_scan_response_head(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *given, fr_head *head)
{
    const fr_head_limits limits = fr_limits_bounded(given);
    uint32_t ends[FR_FIELDS_CAPACITY + 1];
    fr_walk_state walk;
    fr_summary summary;
    int framing, bodiless, verdict = fr_walk_head(data, size, searched, &limits, 0, ends, &walk);
    if (verdict != FR_SCAN_DONE)
        return verdict < 0 ? -502 : verdict;

    head->head_size = walk.at;
    head->method_at = head->method_size = head->target_at = head->target_size = 0;
    head->path_at = head->path_size = head->authority_at = head->authority_size = 0;
    head->method = FR_METHOD_OTHER;
    head->expect_continue = 0;
    head->content_length = 0;
    if (fr_status_line(data, ends[0], head) < 0 || fr_parse_fields(data, head, &walk, ends, 0, &summary) < 0 ||
        (framing = fr_framing(data, head, &summary)) < 0)
        return -502;
    head->upgrade = (uint8_t)fr_upgrade_of(data, head, &summary);
    if (head->status == 101 && !head->upgrade) /* RFC 9110 7.8: the server names the protocol */
        return -502;
    bodiless = head->status < 200 || head->status == 204 || head->status == 304;
    head->body = (uint8_t)(bodiless ? FR_BODY_NONE : framing == FR_BODY_NONE ? FR_BODY_UNTIL_CLOSE : framing);
    head->keep_alive = !(summary.options & (FR_OPTION_CLOSE | FR_OPTION_MALFORMED)) &&
                       (head->minor > 0 || summary.options & FR_OPTION_KEEP_ALIVE) && head->body != FR_BODY_UNTIL_CLOSE &&
                       /* a server that frames a body where none may be will send one: never reuse it */
                       !(bodiless && head->status != 304 && (framing == FR_BODY_CHUNKED || head->content_length > 0));
    return FR_SCAN_DONE;
}

#endif
