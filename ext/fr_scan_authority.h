/* fr_scan_authority.h: host and port as Host and absolute-form carry them (RFC 3986 3.2, RFC 9110 7.2).
 *
 * Not here: which of the two holds (fr_scan.h). Rules: stricter than the grammar by choice, see fr_is_authority; reads only
 * the bytes it was given.
 */
#ifndef FR_SCAN_AUTHORITY_H
#define FR_SCAN_AUTHORITY_H

#include "fr_scan_bytes.h"

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

#endif
