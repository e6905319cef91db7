/* fr_scan_field.h: the field lines of a head: names, lists, Connection, framing and Upgrade (RFC 9110 5-7, RFC 9112 6).
 *
 * Not here: the start line, Host, and what a direction makes of it all (fr_scan.h).
 * Rules: works on lines that fr_scan_lines.h has passed, and relies on their CR as its sentinel; whatever could be read in
 * two ways is refused: duplicate Content-Length even if equal, any transfer coding but chunked, a framing field that
 * Connection names, a known name written with underscores.
 */
#ifndef FR_SCAN_FIELD_H
#define FR_SCAN_FIELD_H

#include "fr_scan_lines.h"

#define FR_LENGTH_DIGITS_MAX 19u       /* Content-Length: below 10^19, fits 64 bits without a check per digit */
#define FR_NOMINATION_WORK_MAX 16384u  /* Connection options x fields compared: keeps a hostile head linear in cost */

static inline uint8_t fr_field_id(const uint8_t *name, size_t size)
{
#define FR_NAMED(literal, id) if (fr_equal_lower(name, literal, sizeof(literal) - 1)) return id
    switch (size) {
    case 2: FR_NAMED("te", FR_FIELD_TE); break;
    case 3: FR_NAMED("via", FR_FIELD_VIA); break;
    case 4: FR_NAMED("host", FR_FIELD_HOST); FR_NAMED("date", FR_FIELD_DATE); break;
    case 6: FR_NAMED("cookie", FR_FIELD_COOKIE); FR_NAMED("expect", FR_FIELD_EXPECT); break;
    case 7: FR_NAMED("upgrade", FR_FIELD_UPGRADE); FR_NAMED("trailer", FR_FIELD_TRAILER); break;
    case 9: FR_NAMED("forwarded", FR_FIELD_FORWARDED); FR_NAMED("x-real-ip", FR_FIELD_X_REAL_IP); break;
    case 10: FR_NAMED("connection", FR_FIELD_CONNECTION); FR_NAMED("set-cookie", FR_FIELD_SET_COOKIE);
             FR_NAMED("keep-alive", FR_FIELD_KEEP_ALIVE); break;
    case 12: FR_NAMED("content-type", FR_FIELD_CONTENT_TYPE); FR_NAMED("max-forwards", FR_FIELD_MAX_FORWARDS); break;
    case 14: FR_NAMED("content-length", FR_FIELD_CONTENT_LENGTH); FR_NAMED("http2-settings", FR_FIELD_HTTP2_SETTINGS); break;
    case 15: FR_NAMED("x-forwarded-for", FR_FIELD_X_FORWARDED_FOR); break;
    case 16: FR_NAMED("proxy-connection", FR_FIELD_PROXY_CONNECTION);
             FR_NAMED("x-forwarded-host", FR_FIELD_X_FORWARDED_HOST); break;
    case 17: FR_NAMED("transfer-encoding", FR_FIELD_TRANSFER_ENCODING);
             FR_NAMED("x-forwarded-proto", FR_FIELD_X_FORWARDED_PROTO); break;
    case 18: FR_NAMED("proxy-authenticate", FR_FIELD_PROXY_AUTHENTICATE); break;
    case 19: FR_NAMED("proxy-authorization", FR_FIELD_PROXY_AUTHORIZATION); break;
    }
    if (size >= 11)
        FR_NAMED("x-fastroute", FR_FIELD_X_FASTROUTE);
#undef FR_NAMED
    return FR_FIELD_OTHER;
}

/* Hop-by-hop whether Connection names it or not (RFC 9110 7.6.1; Trailer because trailers are dropped; Proxy-Auth* as
 * RFC 2616 13.5.1; HTTP2-Settings goes with h2c). */
#define FR_BIT(id) (1u << (id))
#define FR_HOP_IDS                                                                                                     \
    (FR_BIT(FR_FIELD_CONNECTION) | FR_BIT(FR_FIELD_KEEP_ALIVE) | FR_BIT(FR_FIELD_PROXY_CONNECTION) | FR_BIT(FR_FIELD_TE) |  \
     FR_BIT(FR_FIELD_TRANSFER_ENCODING) | FR_BIT(FR_FIELD_TRAILER) | FR_BIT(FR_FIELD_UPGRADE) |                        \
     FR_BIT(FR_FIELD_HTTP2_SETTINGS) | FR_BIT(FR_FIELD_PROXY_AUTHENTICATE) | FR_BIT(FR_FIELD_PROXY_AUTHORIZATION))
#define FR_FRAMING_IDS (FR_BIT(FR_FIELD_HOST) | FR_BIT(FR_FIELD_CONTENT_LENGTH) | FR_BIT(FR_FIELD_TRANSFER_ENCODING))

/* X_Forwarded_For is to a CGI-like server what X-Forwarded-For is: a name that only underscores tell from one that the
 * proxy acts on is refused. */
static int fr_is_alias(const uint8_t *name, size_t size)
{
    uint8_t dashed[24];
    if (size > sizeof dashed)
        size = sizeof dashed; /* longer than any known name: only the prefix x-fastroute can still match */
    for (size_t i = 0; i < size; i++)
        dashed[i] = name[i] == '_' ? '-' : name[i];
    return fr_field_id(dashed, size) != FR_FIELD_OTHER;
}

/* Content-Length: 1 to 19 digits and nothing else. */
static inline int fr_parse_length(const uint8_t *value, size_t size, uint64_t *length)
{
    uint64_t n = 0;
    if (size == 0 || size > FR_LENGTH_DIGITS_MAX)
        return 0;
    for (size_t i = 0; i < size; i++) {
        if (!fr_is(value[i], FR_C_DIGIT))
            return 0;
        n = n * 10 + (value[i] - '0');
    }
    *length = n;
    return 1;
}

typedef struct {
    const uint8_t *at, *end;
} fr_list;

/* Next member of a comma-separated list (RFC 9110 5.6.1: empty members are ignored), without OWS around it; 0 at the end. */
static inline size_t fr_list_next(fr_list *list, const uint8_t **member)
{
    const uint8_t *p = list->at, *end = list->end, *last;
    while (p < end && (*p == ',' || *p == ' ' || *p == '\t'))
        p++;
    *member = last = p;
    while (p < end && *p != ',') {
        if (*p != ' ' && *p != '\t')
            last = p + 1;
        p++;
    }
    list->at = p;
    return (size_t)(last - *member);
}

static inline int fr_is_token(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!fr_is(data[i], FR_C_TOKEN))
            return 0;
    return size > 0;
}

/* Transfer-Encoding is acceptable only as "chunked". 0: it is; else the status: 501 for a coding below a final chunked
 * (RFC 9112 6.1), 400 for everything whose end could not be told (6.3). */
static int fr_coding_refusal(const uint8_t *value, size_t size)
{
    fr_list list = {value, value + size};
    const uint8_t *member;
    size_t member_size;
    int chunked = 0, final = 0, codings = 0;
    if (FR_LIKELY(FR_IS(value, size, "chunked")))
        return 0;
    while ((member_size = fr_list_next(&list, &member)) != 0) {
        final = FR_IS(member, member_size, "chunked");
        chunked += final;
        codings += 1;
        if (!fr_is_token(member, member_size))
            return 400;
    }
    return final && chunked == 1 && codings > 1 ? 501 : 400;
}

/* One Upgrade field: 1 when it is a list of protocol names (RFC 9110 7.8) without h2c, which must not be offered on. */
static int fr_upgrade_usable(const uint8_t *value, size_t size)
{
    fr_list list = {value, value + size};
    const uint8_t *member;
    size_t member_size;
    int names = 0;
    while ((member_size = fr_list_next(&list, &member)) != 0) {
        const uint8_t *slash = memchr(member, '/', member_size);
        size_t name_size = slash ? (size_t)(slash - member) : member_size;
        if (!fr_is_token(member, name_size) || (slash && !fr_is_token(slash + 1, member_size - name_size - 1)))
            return 0;
        if (FR_IS(member, name_size, "h2c") || FR_IS(member, name_size, "h2"))
            return 0;
        names++;
    }
    return names > 0;
}

enum { FR_OPTION_CLOSE = 1, FR_OPTION_KEEP_ALIVE = 2, FR_OPTION_UPGRADE = 4, FR_OPTION_MALFORMED = 8 };

/* Reads the options of one Connection field and marks the fields they name. Returns FR_OPTION_* bits, or a negative
 * status. Framing fields cannot be nominated away: refused from clients, ignored from servers (RFC 9110 7.6.1). */
static int fr_connection(const uint8_t *data, fr_head *head, const fr_field *field, int request, uint32_t *work)
{
    fr_list list = {data + field->value_at, data + field->value_at + field->value_size};
    const uint8_t *option;
    size_t size;
    int options = 0;
    while ((size = fr_list_next(&list, &option)) != 0) {
        if (FR_IS(option, size, "keep-alive")) {
            options |= FR_OPTION_KEEP_ALIVE;
        } else if (FR_IS(option, size, "close")) {
            options |= FR_OPTION_CLOSE;
        } else if (FR_IS(option, size, "upgrade")) {
            options |= FR_OPTION_UPGRADE;
        } else if (!fr_is_token(option, size)) {
            options |= FR_OPTION_MALFORMED;
        } else {
            *work += head->field_count;
            if (*work > FR_NOMINATION_WORK_MAX)
                return -431;
            for (fr_field *f = head->fields; f < head->fields + head->field_count; f++) {
                if (f->name_size != size || !fr_equal_nocase(data + f->name_at, option, size))
                    continue;
                if (FR_BIT(f->id) & FR_FRAMING_IDS) {
                    if (request)
                        return -400;
                } else {
                    f->flags |= FR_FIELD_HOP;
                }
            }
        }
    }
    return options;
}

/* What the field lines say together, before it is judged per direction. */
typedef struct {
    uint32_t seen;                       /* FR_BIT of every known field */
    uint32_t repeated;                   /* of those that came more than once */
    uint16_t host, length, coding, upgrade; /* index of the (last) such field; means nothing unless it was seen */
    int options;
} fr_summary;

/* Parses the field lines between the start line and the empty line. 1, or a negative status. */
static int fr_parse_fields(const uint8_t *data, fr_head *head, const fr_walk_state *walk, const uint32_t *ends, int request,
                           fr_summary *summary)
{
    fr_field *field = head->fields;
    memset(summary, 0, sizeof *summary);
    for (uint32_t line = 1; line < walk->lines; line++, field++) {
        const uint8_t *name = data + ends[line - 1] + 2, *end = data + ends[line], *p = name, *value;
        size_t name_size;
        uint8_t id;
        int classes = 0, c;

        while ((c = fr_char[*p]) & FR_C_TOKEN) { /* stops at the line's CR at the latest */
            classes |= c;
            p++;
        }
        name_size = (size_t)(p - name);
        if (FR_UNLIKELY(*p != ':' || name_size == 0))
            return -400;
        if (FR_UNLIKELY(name_size > UINT16_MAX))
            return -431;
        for (value = p + 1; *value == ' ' || *value == '\t'; value++) {
        }
        for (; end > value && (end[-1] == ' ' || end[-1] == '\t'); end--) {
        }
        id = fr_field_id(name, name_size);
        if (FR_UNLIKELY(classes & FR_C_UNDERSCORE) && request && fr_is_alias(name, name_size))
            return -400;
        field->name_at = (uint32_t)(name - data);
        field->name_size = (uint16_t)name_size;
        field->value_at = (uint32_t)(value - data);
        field->value_size = (uint32_t)(end - value);
        field->id = id;
        field->flags = FR_HOP_IDS & FR_BIT(id) ? FR_FIELD_HOP : 0;
        if (id == FR_FIELD_OTHER)
            continue;
        summary->repeated |= summary->seen & FR_BIT(id);
        summary->seen |= FR_BIT(id);
        switch (id) {
        case FR_FIELD_HOST: summary->host = (uint16_t)(line - 1); break;
        case FR_FIELD_CONTENT_LENGTH: summary->length = (uint16_t)(line - 1); break;
        case FR_FIELD_TRANSFER_ENCODING: summary->coding = (uint16_t)(line - 1); break;
        case FR_FIELD_UPGRADE: summary->upgrade = (uint16_t)(line - 1); break;
        case FR_FIELD_EXPECT: /* RFC 9110 10.1.1 knows one expectation */
            if (request && head->minor > 0 && !FR_IS(value, field->value_size, "100-continue"))
                return -417;
            break;
        case FR_FIELD_X_FASTROUTE:
            if (request)
                field->flags = FR_FIELD_HOP;
            break;
        }
    }
    head->field_count = (uint16_t)(walk->lines - 1);
    if (summary->seen & FR_BIT(FR_FIELD_CONNECTION)) {
        uint32_t work = 0;
        for (field = head->fields; field < head->fields + head->field_count; field++) {
            int options;
            if (field->id != FR_FIELD_CONNECTION)
                continue;
            options = fr_connection(data, head, field, request, &work);
            if (options < 0)
                return options;
            summary->options |= options;
        }
    }
    return 1;
}

/* Framing fields of either direction: FR_BODY_NONE (neither), _LENGTH or _CHUNKED; or a negative status. */
static int fr_framing(const uint8_t *data, fr_head *head, const fr_summary *summary)
{
    const uint32_t both = FR_BIT(FR_FIELD_CONTENT_LENGTH) | FR_BIT(FR_FIELD_TRANSFER_ENCODING);
    const fr_field *field;
    int refusal;
    if (!(summary->seen & both))
        return FR_BODY_NONE;
    if (summary->repeated & both)
        return -400;
    if (summary->seen & FR_BIT(FR_FIELD_TRANSFER_ENCODING)) {
        field = &head->fields[summary->coding];
        refusal = fr_coding_refusal(data + field->value_at, field->value_size);
        if (refusal)
            return -refusal;
        return summary->seen & FR_BIT(FR_FIELD_CONTENT_LENGTH) || head->minor == 0 ? -400 : FR_BODY_CHUNKED;
    }
    field = &head->fields[summary->length];
    return fr_parse_length(data + field->value_at, field->value_size, &head->content_length) ? FR_BODY_LENGTH : -400;
}

static int fr_upgrade_of(const uint8_t *data, const fr_head *head, const fr_summary *summary)
{
    const fr_field *field = &head->fields[summary->upgrade];
    return head->minor > 0 && summary->options & FR_OPTION_UPGRADE && summary->seen & FR_BIT(FR_FIELD_UPGRADE) &&
           !(summary->repeated & FR_BIT(FR_FIELD_UPGRADE)) && fr_upgrade_usable(data + field->value_at, field->value_size);
}

#endif
