/* fr_scan.h: strict scanner of HTTP/1.1 heads, decoder of chunked bodies, finder of cookies (RFC 9112, 9110, 6265).
 *
 * Not here: I/O, limits on bodies, what is forwarded. Structs and verdicts: fr_http.h.
 *
 * How it works. fr_walk finds line ends and forbidden bytes, 16 bytes at a time; it is an automaton whose whole state
 * (position, start of the line, lines, empty lines) is packed into one word between two calls, so a head in N pieces
 * costs O(size). Nothing else is judged before the empty line has come; then the lines are parsed once. Hence a verdict
 * is a function of the bytes, not of the pieces: the first of {forbidden byte, limit, end of head} in the order of the
 * stream decides, and grammar is judged only on complete heads.
 *
 * Rules: reads only data[0 .. size); no allocation, no state, nothing touches Python. After fr_walk a head consists of
 * lines that end in CRLF, of bytes >= 0x20 without DEL, and HTAB; the parser relies on the CR as its sentinel.
 * Where RFC 9112 leaves a choice between refusing and repairing, refuse: bare LF, obs-fold, duplicate Content-Length
 * even if equal, any transfer coding but chunked, Host with percent-escapes, userinfo.
 */
#ifndef FR_SCAN_H
#define FR_SCAN_H

#include "fr_http.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define FR_EMPTY_LINES_MAX 4u          /* before a request line; RFC 9112 2.2 asks for at least one */
#define FR_HEAD_BYTES_MAX 0xFFFFFFu    /* 16 MiB - 1: positions are packed into 24 bits */
#define FR_LENGTH_DIGITS_MAX 19u       /* Content-Length: below 10^19, fits 64 bits without a check per digit */
#define FR_NOMINATION_WORK_MAX 16384u  /* Connection options x fields compared: keeps a hostile head linear in cost */
#define FR_CHUNK_LINE_BYTES_MAX 4096u  /* size and extensions; RFC 9112 7.1.1 asks for a limit */
#define FR_CHUNK_DIGITS_MAX 16u
#define FR_TRAILER_BYTES_MAX 32768u    /* as the default head limit */
#define FR_TRAILER_FIELDS_MAX 100u

/* ---- bytes ------------------------------------------------------------------------------------------------- */

enum { FR_C_TOKEN = 1, FR_C_TARGET = 2, FR_C_HOST = 4, FR_C_UNDERSCORE = 8, FR_C_DIGIT = 16, FR_C_HEX = 32, FR_C_TEXT = 64 };

/* TEXT = HTAB, SP, VCHAR, obs-text: what a field value may hold. HOST leaves out "%" and ",". */
#define FR_C_ALNUM (FR_C_TOKEN | FR_C_TARGET | FR_C_HOST | FR_C_TEXT)
#define FR_C_PLAIN (FR_C_TARGET | FR_C_TEXT)
#define FR_C_MARK (FR_C_TOKEN | FR_C_TARGET | FR_C_TEXT)

static const uint8_t fr_char[256] = {
    [0x09] = FR_C_TEXT, [' '] = FR_C_TEXT,
    ['!'] = FR_C_ALNUM, ['"'] = FR_C_PLAIN, ['#'] = FR_C_TOKEN | FR_C_TEXT, ['$'] = FR_C_ALNUM, ['%'] = FR_C_MARK,
    ['&'] = FR_C_ALNUM, ['\''] = FR_C_ALNUM, ['('] = FR_C_PLAIN | FR_C_HOST, [')'] = FR_C_PLAIN | FR_C_HOST,
    ['*'] = FR_C_ALNUM, ['+'] = FR_C_ALNUM, [','] = FR_C_PLAIN, ['-'] = FR_C_ALNUM, ['.'] = FR_C_ALNUM, ['/'] = FR_C_PLAIN,
    ['0' ... '9'] = FR_C_ALNUM | FR_C_DIGIT | FR_C_HEX,
    [':'] = FR_C_PLAIN, [';'] = FR_C_PLAIN | FR_C_HOST, ['<'] = FR_C_PLAIN, ['='] = FR_C_PLAIN | FR_C_HOST,
    ['>'] = FR_C_PLAIN, ['?'] = FR_C_PLAIN, ['@'] = FR_C_PLAIN,
    ['A' ... 'F'] = FR_C_ALNUM | FR_C_HEX, ['G' ... 'Z'] = FR_C_ALNUM,
    ['['] = FR_C_PLAIN, ['\\'] = FR_C_PLAIN, [']'] = FR_C_PLAIN, ['^'] = FR_C_MARK, ['_'] = FR_C_ALNUM | FR_C_UNDERSCORE,
    ['`'] = FR_C_MARK,
    ['a' ... 'f'] = FR_C_ALNUM | FR_C_HEX, ['g' ... 'z'] = FR_C_ALNUM,
    ['{'] = FR_C_PLAIN, ['|'] = FR_C_MARK, ['}'] = FR_C_PLAIN, ['~'] = FR_C_ALNUM,
    [0x80 ... 0xFF] = FR_C_TEXT,
};

static inline int fr_is(uint8_t byte, int class_) { return fr_char[byte] & class_; }

static inline uint8_t fr_lower(uint8_t byte) { return byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte; }

/* Equal without regard to case. `lower` consists of letters, digits and '-' in lower case, and data of token bytes (or
 * anything >= 0x20): among those no two bytes but a letter's two cases become equal under | 0x20 to one of these. */
static inline int fr_equal_lower(const uint8_t *data, const char *lower, size_t size)
{
    uint64_t a, b;
    uint32_t c, d;
    if (size >= 8) {
        for (size_t i = 0; i + 8 <= size; i += 8) {
            memcpy(&a, data + i, 8);
            memcpy(&b, lower + i, 8);
            if ((a | 0x2020202020202020ull) != b)
                return 0;
        }
        memcpy(&a, data + size - 8, 8);
        memcpy(&b, lower + size - 8, 8);
        return (a | 0x2020202020202020ull) == b;
    }
    if (size >= 4) {
        memcpy(&c, data, 4);
        memcpy(&d, lower, 4);
        if ((c | 0x20202020u) != d)
            return 0;
        memcpy(&c, data + size - 4, 4);
        memcpy(&d, lower + size - 4, 4);
        return (c | 0x20202020u) == d;
    }
    for (size_t i = 0; i < size; i++)
        if ((data[i] | 0x20) != lower[i])
            return 0;
    return 1;
}

#define FR_IS(data, size, literal) ((size) == sizeof(literal) - 1 && fr_equal_lower((data), (literal), sizeof(literal) - 1))

static inline int fr_equal_nocase(const uint8_t *a, const uint8_t *b, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (fr_lower(a[i]) != fr_lower(b[i]))
            return 0;
    return 1;
}

/* Bit i: data[i] is a control byte other than HTAB, or DEL. */
static inline uint32_t fr_control_mask16(const uint8_t *data)
{
#if defined(__SSE2__)
    __m128i x = _mm_loadu_si128((const __m128i *)data);
    __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1F)), x);
    __m128i tab = _mm_cmpeq_epi8(x, _mm_set1_epi8(0x09)), del = _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, low), del));
#else
    uint32_t mask = 0;
    for (unsigned i = 0; i < 16; i++)
        mask |= (uint32_t)!(fr_char[data[i]] & FR_C_TEXT) << i;
    return mask;
#endif
}

/* ---- lines ------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t at, line_at;   /* next byte to look at; first byte of its line */
    uint32_t lines, empties; /* complete lines, the start line counted; empty lines before it */
} fr_walk_state;

static inline fr_walk_state fr_walk_unpack(size_t packed)
{
    fr_walk_state walk = {(uint32_t)(packed & 0xFFFFFF), (uint32_t)(packed >> 24 & 0xFFFFFF),
                          (uint32_t)(packed >> 48 & 0x1FF), (uint32_t)(packed >> 57)};
    return walk;
}

static inline size_t fr_walk_pack(const fr_walk_state *walk)
{
    _Static_assert(sizeof(size_t) == 8 && FR_FIELDS_CAPACITY < 0x1FF, "the walk is packed into 64 bits");
    return (size_t)walk->at | (size_t)walk->line_at << 24 | (size_t)walk->lines << 48 | (size_t)walk->empties << 57;
}

/* Goes on over data[0:size]; ends[i] becomes the position of line i's CR for the lines seen by this call. Done: walk->at
 * is the size of the head. `empties_max` is 0 for responses. */
static int fr_walk(const uint8_t *data, size_t size, fr_walk_state *walk, const fr_head_limits *limits, uint32_t empties_max,
                   uint32_t *ends)
{
    const size_t stop = size < limits->head_bytes ? size : limits->head_bytes; /* bytes behind it are never looked at */
    size_t line_at = walk->line_at, skip = walk->at;
    uint32_t lines = walk->lines, mask;

    for (size_t base = walk->at; base < stop; base += 16) {
        size_t left = stop - base;
        if (FR_LIKELY(left >= 16)) {
            mask = fr_control_mask16(data + base);
        } else if (stop >= 16) {
            mask = fr_control_mask16(data + stop - 16) >> (16 - left);
        } else {
            mask = 0;
            for (unsigned i = 0; i < left; i++)
                mask |= (uint32_t)!(fr_char[data[base + i]] & FR_C_TEXT) << i;
        }
        for (; mask; mask &= mask - 1) {
            size_t at = base + (unsigned)__builtin_ctz(mask);
            if (at < skip) /* the LF of a CRLF already judged */
                continue;
            if (FR_UNLIKELY(lines == 0 && at - line_at > limits->request_line_bytes))
                return -414;
            if (FR_UNLIKELY(data[at] != '\r'))
                return -400;
            if (FR_UNLIKELY(at + 1 >= limits->head_bytes))
                return -431;
            if (FR_UNLIKELY(at + 1 >= size)) { /* the LF is still to come */
                *walk = (fr_walk_state){(uint32_t)at, (uint32_t)line_at, lines, walk->empties};
                return FR_SCAN_MORE;
            }
            if (FR_UNLIKELY(data[at + 1] != '\n'))
                return -400;
            skip = at + 2;
            if (FR_UNLIKELY(at == line_at)) {
                if (lines) {
                    *walk = (fr_walk_state){(uint32_t)skip, (uint32_t)line_at, lines, walk->empties};
                    return FR_SCAN_DONE;
                }
                if (walk->empties >= empties_max)
                    return -400;
                walk->empties++;
            } else {
                if (FR_UNLIKELY(lines > limits->fields))
                    return -431;
                ends[lines++] = (uint32_t)at;
            }
            line_at = skip;
        }
    }
    if (lines == 0 && stop > line_at && stop - line_at > limits->request_line_bytes)
        return -414;
    if (size >= limits->head_bytes)
        return -431;
    *walk = (fr_walk_state){(uint32_t)(skip > stop ? skip : stop), (uint32_t)line_at, lines, walk->empties};
    return FR_SCAN_MORE;
}

static inline fr_head_limits fr_limits_bounded(const fr_head_limits *limits)
{
    fr_head_limits bounded = *limits;
    if (bounded.head_bytes == 0 || bounded.head_bytes > FR_HEAD_BYTES_MAX)
        bounded.head_bytes = FR_HEAD_BYTES_MAX;
    if (bounded.request_line_bytes == 0)
        bounded.request_line_bytes = UINT32_MAX;
    if (bounded.fields == 0 || bounded.fields > FR_FIELDS_CAPACITY)
        bounded.fields = FR_FIELDS_CAPACITY;
    if (bounded.method_bytes == 0)
        bounded.method_bytes = UINT32_MAX;
    return bounded;
}

/* The whole head's lines: walks on from *searched and, when the head is complete, knows every line's end. */
static int fr_walk_head(const uint8_t *data, size_t size, size_t *searched, const fr_head_limits *limits, uint32_t empties_max,
                        uint32_t *ends, fr_walk_state *walk)
{
    int verdict;
    *walk = fr_walk_unpack(*searched);
    verdict = fr_walk(data, size, walk, limits, empties_max, ends);
    if (verdict == FR_SCAN_MORE) {
        *searched = fr_walk_pack(walk);
        return verdict;
    }
    if (verdict == FR_SCAN_DONE && *searched != 0) { /* came in pieces: the ends of the earlier lines were not kept */
        *walk = fr_walk_unpack(0);
        verdict = fr_walk(data, size, walk, limits, empties_max, ends);
    }
    *searched = 0;
    return verdict;
}

/* ---- fields ------------------------------------------------------------------------------------------------ */

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

/* ---- authority --------------------------------------------------------------------------------------------- */

/* IPv6 text between brackets (RFC 3986 3.2.2): at most 8 groups of 1-4 hex digits, one "::", IPv4 in the last 32 bits. */
static int fr_is_ipv6(const uint8_t *p, const uint8_t *end)
{
    int groups = 0, gap = 0;
    if (end - p < 2)
        return 0;
    if (*p == ':') {
        if (p[1] != ':')
            return 0;
        p += 2;
        gap = 1;
    }
    while (p < end) {
        const uint8_t *start = p;
        while (p < end && p - start < 5 && fr_is(*p, FR_C_HEX))
            p++;
        if (p < end && *p == '.') { /* the rest must be a dotted quad */
            int parts = 0;
            for (p = start; parts < 4; parts++) {
                int value = 0, digits = 0;
                if (parts && (p == end || *p++ != '.'))
                    return 0;
                for (; p < end && fr_is(*p, FR_C_DIGIT) && digits < 4; p++, digits++)
                    value = value * 10 + (*p - '0');
                if (digits == 0 || digits > 3 || value > 255)
                    return 0;
            }
            groups += 2;
            return p == end && (gap ? groups <= 7 : groups == 8);
        }
        if (p == start || p - start > 4)
            return 0;
        groups++;
        if (p == end)
            break;
        if (*p++ != ':' || p == end)
            return 0;
        if (*p == ':') {
            if (gap)
                return 0;
            gap = 1;
            p++;
        }
    }
    return gap ? groups <= 7 : groups == 8;
}

/* host [":" port] as Host and absolute-form carry it. Stricter than the grammar by choice: no empty host, no
 * percent-escapes, no comma, port at most 65535. *host_size is the part before the port's colon. */
static int fr_is_authority(const uint8_t *data, size_t size, size_t *host_size)
{
    const uint8_t *p = data, *end = data + size;
    uint32_t port = 0;
    if (size == 0)
        return 0;
    if (*p == '[') {
        const uint8_t *close = memchr(p, ']', size);
        if (!close || !fr_is_ipv6(p + 1, close))
            return 0;
        p = close + 1;
    } else {
        while (p < end && fr_is(*p, FR_C_HOST))
            p++;
        if (p == data)
            return 0;
    }
    *host_size = (size_t)(p - data);
    if (p == end)
        return 1;
    if (*p++ != ':')
        return 0;
    for (; p < end; p++) {
        if (!fr_is(*p, FR_C_DIGIT) || (port = port * 10 + (*p - '0')) > 65535)
            return 0;
    }
    return 1;
}

/* The port as a number; the scheme's own one where it is left out. */
static uint32_t fr_port_of(const uint8_t *authority, size_t size, size_t host_size, uint32_t usual)
{
    uint32_t port = 0;
    if (size <= host_size + 1)
        return usual;
    for (size_t i = host_size + 1; i < size; i++)
        port = port * 10 + (authority[i] - '0');
    return port;
}

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

/* ---- chunked bodies ---------------------------------------------------------------------------------------- */

enum {
    FR_CHUNK_SIZE_FIRST = 0, FR_CHUNK_SIZE, FR_CHUNK_NAME_FIRST, FR_CHUNK_NAME, FR_CHUNK_VALUE_FIRST, FR_CHUNK_VALUE,
    FR_CHUNK_QUOTED, FR_CHUNK_ESCAPED, FR_CHUNK_QUOTED_END, FR_CHUNK_SIZE_LF, FR_CHUNK_DATA, FR_CHUNK_DATA_CR,
    FR_CHUNK_DATA_LF, FR_TRAILER_FIRST, FR_TRAILER_NAME, FR_TRAILER_VALUE, FR_TRAILER_LF, FR_CHUNK_END_LF, FR_CHUNK_ENDED,
    FR_CHUNK_REFUSED
};

static inline int fr_hex_value(uint8_t byte)
{
    return byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10;
}

/* One byte of framing: 0, or the status that refuses it. BWS in extensions is refused (nobody sends it, and parsers have
 * disagreed about it); so is a size of 2^63 and more. */
static inline int fr_chunk_byte(fr_chunked *s, uint8_t c)
{
    switch (s->state) {
    case FR_CHUNK_SIZE_FIRST:
        s->left = 0;
        s->line_size = s->digits = 0;
        s->state = FR_CHUNK_SIZE;
        if (!fr_is(c, FR_C_HEX))
            return 400;
        /* fall through */
    case FR_CHUNK_SIZE:
        if (FR_LIKELY(fr_is(c, FR_C_HEX))) {
            if (++s->digits > FR_CHUNK_DIGITS_MAX || s->left >> 59)
                return 400;
            s->left = s->left << 4 | (unsigned)fr_hex_value(c);
            return 0;
        }
        break;
    case FR_CHUNK_NAME_FIRST:
    case FR_CHUNK_VALUE_FIRST:
        if (c == '"' && s->state == FR_CHUNK_VALUE_FIRST)
            s->state = FR_CHUNK_QUOTED;
        else if (fr_is(c, FR_C_TOKEN))
            s->state++;
        else
            return 400;
        return 0;
    case FR_CHUNK_NAME:
        if (c == '=') {
            s->state = FR_CHUNK_VALUE_FIRST;
            return 0;
        }
        /* fall through */
    case FR_CHUNK_VALUE:
        if (fr_is(c, FR_C_TOKEN))
            return 0;
        break;
    case FR_CHUNK_QUOTED:
        if (c == '"')
            s->state = FR_CHUNK_QUOTED_END;
        else if (c == '\\')
            s->state = FR_CHUNK_ESCAPED;
        return fr_is(c, FR_C_TEXT) ? 0 : 400;
    case FR_CHUNK_ESCAPED:
        s->state = FR_CHUNK_QUOTED;
        return fr_is(c, FR_C_TEXT) ? 0 : 400;
    case FR_CHUNK_QUOTED_END:
        break;
    case FR_CHUNK_SIZE_LF:
        s->state = s->left ? FR_CHUNK_DATA : FR_TRAILER_FIRST;
        s->line_size = s->digits = 0;
        return c == '\n' ? 0 : 400;
    case FR_CHUNK_DATA_CR:
        s->state = FR_CHUNK_DATA_LF;
        return c == '\r' ? 0 : 400;
    case FR_CHUNK_DATA_LF:
        s->state = FR_CHUNK_SIZE_FIRST;
        s->line_size = 0;
        return c == '\n' ? 0 : 400;
    case FR_TRAILER_FIRST:
        if (c == '\r') {
            s->state = FR_CHUNK_END_LF;
            return 0;
        }
        s->state = FR_TRAILER_NAME;
        if (++s->digits > FR_TRAILER_FIELDS_MAX)
            return 431;
        return fr_is(c, FR_C_TOKEN) ? 0 : 400;
    case FR_TRAILER_NAME:
        if (c == ':')
            s->state = FR_TRAILER_VALUE;
        return c == ':' || fr_is(c, FR_C_TOKEN) ? 0 : 400;
    case FR_TRAILER_VALUE:
        if (c == '\r')
            s->state = FR_TRAILER_LF;
        return c == '\r' || fr_is(c, FR_C_TEXT) ? 0 : 400;
    case FR_TRAILER_LF:
        s->state = FR_TRAILER_FIRST;
        return c == '\n' ? 0 : 400;
    case FR_CHUNK_END_LF:
        s->state = FR_CHUNK_ENDED;
        return c == '\n' ? 0 : 400;
    default:
        return 400;
    }
    /* the size, an extension's name or value may end here */
    if (c == ';')
        s->state = FR_CHUNK_NAME_FIRST;
    else if (c == '\r')
        s->state = FR_CHUNK_SIZE_LF;
    else
        return 400;
    return 0;
}

static int fr_chunked_run(fr_chunked *s, const uint8_t *data, size_t size, size_t *at, size_t *run_at, size_t *run_size)
{
    size_t i = *at;
    int refusal;
    if (s->state == FR_CHUNK_ENDED)
        return 2;
    if (s->state == FR_CHUNK_REFUSED)
        return -400;
    while (i < size) {
        if (s->state == FR_CHUNK_DATA) {
            size_t run = size - i < s->left ? size - i : (size_t)s->left;
            *run_at = i;
            *run_size = run;
            s->left -= run;
            if (s->left == 0)
                s->state = FR_CHUNK_DATA_CR;
            *at = i + run;
            return 1;
        }
        refusal = fr_chunk_byte(s, data[i++]);
        if (FR_UNLIKELY(++s->line_size > (s->state >= FR_TRAILER_FIRST ? FR_TRAILER_BYTES_MAX : FR_CHUNK_LINE_BYTES_MAX)))
            refusal = s->state >= FR_TRAILER_FIRST ? 431 : 400;
        if (FR_UNLIKELY(refusal)) {
            s->state = FR_CHUNK_REFUSED;
            *at = i;
            return -refusal;
        }
        if (s->state == FR_CHUNK_ENDED) {
            *at = i;
            return 2;
        }
    }
    *at = i;
    return 0;
}

/* ---- cookies ----------------------------------------------------------------------------------------------- */

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
