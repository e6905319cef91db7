/* fr_json_key.h: one top-level member of a JSON object, as the bytes of an affinity key (RFC 8259).
 *
 * Not a parser that builds anything. The whole text is checked, so that two balancers cannot read one body in two ways: what
 * is not one well-formed object has no key. Of members of one name the first counts; a name written with escapes is not
 * found. A string becomes its UTF-8, a number and true or false their own text; null, arrays and objects are no keys.
 * Rules: reads only data[0 .. size); no allocation; nesting to FR_JSON_DEPTH_MAX.
 */
#ifndef FR_JSON_KEY_H
#define FR_JSON_KEY_H

#include "fr_base.h"

#define FR_JSON_DEPTH_MAX 64 /* an LLM's request nests some 8 deep; Python's json stops at 1000 */

static inline const uint8_t *fr_json_space(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

static inline int fr_json_hex(const uint8_t *p, const uint8_t *end)
{
    int value = 0;
    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int c = p[i] | 0x20;
        if (p[i] >= '0' && p[i] <= '9')
            value = value * 16 + (p[i] - '0');
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (c - 'a' + 10);
        else
            return -1;
    }
    return value;
}

/* A string from its opening quote to behind its closing one; NULL: not one. */
static const uint8_t *fr_json_string(const uint8_t *p, const uint8_t *end)
{
    if (p >= end || *p++ != '"')
        return NULL;
    while (p < end && *p != '"') {
        if (*p < 0x20)
            return NULL;
        if (*p++ != '\\')
            continue;
        if (p == end)
            return NULL;
        if (*p == 'u') {
            if (fr_json_hex(p + 1, end) < 0)
                return NULL;
            p += 5;
        } else if (memchr("\"\\/bfnrt", *p, 8)) {
            p++;
        } else {
            return NULL;
        }
    }
    return p < end ? p + 1 : NULL;
}

static const uint8_t *fr_json_digits(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *start = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p > start ? p : NULL;
}

static const uint8_t *fr_json_number(const uint8_t *p, const uint8_t *end)
{
    if (p < end && *p == '-')
        p++;
    if (p < end && *p == '0')
        p++;
    else if (!(p = fr_json_digits(p, end)))
        return NULL;
    if (p < end && *p == '.' && !(p = fr_json_digits(p + 1, end)))
        return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        return fr_json_digits(p, end);
    }
    return p;
}

/* Any value; NULL: not one. */
static const uint8_t *fr_json_value(const uint8_t *p, const uint8_t *end, int depth)
{
    uint8_t close;
    if (p >= end || depth > FR_JSON_DEPTH_MAX)
        return NULL;
    switch (*p) {
    case '"': return fr_json_string(p, end);
    case 't': return end - p >= 4 && !memcmp(p, "true", 4) ? p + 4 : NULL;
    case 'f': return end - p >= 5 && !memcmp(p, "false", 5) ? p + 5 : NULL;
    case 'n': return end - p >= 4 && !memcmp(p, "null", 4) ? p + 4 : NULL;
    case '{':
    case '[': break;
    default: return fr_json_number(p, end);
    }
    close = *p == '{' ? '}' : ']';
    p = fr_json_space(p + 1, end);
    if (p < end && *p == close)
        return p + 1;
    for (;;) {
        if (close == '}') {
            if (!(p = fr_json_string(p, end)))
                return NULL;
            p = fr_json_space(p, end);
            if (p >= end || *p++ != ':')
                return NULL;
            p = fr_json_space(p, end);
        }
        if (!(p = fr_json_value(p, end, depth + 1)))
            return NULL;
        p = fr_json_space(p, end);
        if (p >= end)
            return NULL;
        if (*p == close)
            return p + 1;
        if (*p++ != ',')
            return NULL;
        p = fr_json_space(p, end);
    }
}

/* A checked string's text, between its quotes, as UTF-8: its size, -1 when it does not fit or has half a surrogate pair. */
static ptrdiff_t fr_json_text(const uint8_t *p, const uint8_t *end, uint8_t *to, size_t room)
{
    size_t size = 0;
    while (p < end) {
        uint32_t code = *p++;
        if (size + 4 > room)
            return -1;
        if (code != '\\') {
            to[size++] = (uint8_t)code;
            continue;
        }
        code = *p++;
        switch (code) {
        case 'b': code = '\b'; break;
        case 'f': code = '\f'; break;
        case 'n': code = '\n'; break;
        case 'r': code = '\r'; break;
        case 't': code = '\t'; break;
        case 'u':
            code = (uint32_t)fr_json_hex(p, end);
            p += 4;
            if (code >= 0xd800 && code < 0xdc00) {
                int low = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? fr_json_hex(p + 2, end) : -1;
                if (low < 0xdc00 || low > 0xdfff)
                    return -1;
                code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
                p += 6;
            } else if (code >= 0xdc00 && code < 0xe000) {
                return -1;
            }
            break;
        default: break; /* quote, backslash, slash: themselves */
        }
        if (code < 0x80) {
            to[size++] = (uint8_t)code;
        } else if (code < 0x800) {
            to[size++] = (uint8_t)(0xc0 | code >> 6);
            to[size++] = (uint8_t)(0x80 | (code & 63));
        } else if (code < 0x10000) {
            to[size++] = (uint8_t)(0xe0 | code >> 12);
            to[size++] = (uint8_t)(0x80 | (code >> 6 & 63));
            to[size++] = (uint8_t)(0x80 | (code & 63));
        } else {
            to[size++] = (uint8_t)(0xf0 | code >> 18);
            to[size++] = (uint8_t)(0x80 | (code >> 12 & 63));
            to[size++] = (uint8_t)(0x80 | (code >> 6 & 63));
            to[size++] = (uint8_t)(0x80 | (code & 63));
        }
    }
    return (ptrdiff_t)size;
}

/* The key that member `name` holds, written to `to`: its size, 0 when there is none. */
static size_t fr_json_key(const uint8_t *data, size_t size, const uint8_t *name, size_t name_size, uint8_t *to, size_t room)
{
    const uint8_t *p = data, *end = data + size, *at = NULL, *stop = NULL, *start;
    ptrdiff_t text;

    p = fr_json_space(p, end);
    if (p >= end || *p++ != '{')
        return 0;
    p = fr_json_space(p, end);
    if (p < end && *p == '}')
        return 0;
    for (;;) {
        int wanted;
        start = p + 1;
        if (!(p = fr_json_string(p, end)))
            return 0;
        wanted = !at && (size_t)(p - 1 - start) == name_size && !memcmp(start, name, name_size);
        p = fr_json_space(p, end);
        if (p >= end || *p++ != ':')
            return 0;
        start = p = fr_json_space(p, end);
        if (!(p = fr_json_value(p, end, 1)))
            return 0;
        if (wanted) {
            at = start;
            stop = p;
        }
        p = fr_json_space(p, end);
        if (p >= end)
            return 0;
        if (*p == '}')
            break;
        if (*p++ != ',')
            return 0;
        p = fr_json_space(p, end);
    }
    if (fr_json_space(p + 1, end) != end || !at || *at == '{' || *at == '[' || *at == 'n')
        return 0;
    if (*at != '"') {
        if ((size_t)(stop - at) > room)
            return 0;
        memcpy(to, at, (size_t)(stop - at));
        return (size_t)(stop - at);
    }
    text = fr_json_text(at + 1, stop - 1, to, room);
    return text > 0 ? (size_t)text : 0;
}

#endif
