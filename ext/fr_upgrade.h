/* fr_upgrade.h: what one side asks to switch to and what the other side agrees to (RFC 9110, 7.8 and 15.2.2).
 *
 * Not here: whether a head may switch at all (fr_scan_field.h judged Connection and Upgrade), bytes of the tunnel (http_relay).
 * A server MUST NOT switch to what the client did not ask for: whoever passes such a 101 on leaves the client speaking a
 * protocol that it does not know. The client's list is read where it was written anew, in the request that went to the server,
 * so that nothing is kept for a request that asks for nothing.
 * Names are compared without case (7.8); versions likewise, and only where both sides name one.
 * Rules of this file: pure functions over checked heads; a 101 is the only message that pays.
 */
#ifndef FR_UPGRADE_H
#define FR_UPGRADE_H

#include "fr_http.h"
#include "fr_out.h"

#define FR_UPGRADE_LINE "\r\nUpgrade: "

/* The value of the (one) Upgrade field; size 0: there is none. */
static inline size_t fr_upgrade_value(const uint8_t *data, const fr_head *head, const uint8_t **value)
{
    for (unsigned i = 0; i < head->field_count; i++) {
        const fr_field *field = &head->fields[i];

        if (field->id == FR_FIELD_UPGRADE) {
            *value = data + field->value_at;
            return field->value_size;
        }
    }
    return 0;
}

/* Connection and Upgrade written anew, for the one message on each side that switches protocols (RFC 9110, 7.8). */
static inline void fr_put_upgrade(fr_out *out, const uint8_t *data, const fr_head *head)
{
    const uint8_t *value = data;
    size_t size = fr_upgrade_value(data, head, &value);

    fr_out_lit(out, "Connection: upgrade" FR_UPGRADE_LINE);
    fr_out_put(out, value, size);
    fr_out_lit(out, "\r\n");
}

static inline int fr_upgrade_same(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size)
{
    if (a_size != b_size)
        return 0;
    for (size_t i = 0; i < a_size; i++) {
        uint8_t x = a[i], y = b[i];

        if (x >= 'A' && x <= 'Z')
            x |= 0x20;
        if (y >= 'A' && y <= 'Z')
            y |= 0x20;
        if (x != y)
            return 0;
    }
    return 1;
}

/* Next protocol of a list: its size, 0 at the end; *name_size is without "/version". */
static inline size_t fr_upgrade_next(const uint8_t **at, const uint8_t *end, const uint8_t **protocol, size_t *name_size)
{
    const uint8_t *p = *at, *stop, *slash;

    while (p < end && (*p == ',' || *p == ' ' || *p == '\t'))
        p++;
    *protocol = stop = p;
    for (; p < end && *p != ','; p++)
        if (*p != ' ' && *p != '\t')
            stop = p + 1;
    *at = p;
    slash = stop > *protocol ? (const uint8_t *)memchr(*protocol, '/', (size_t)(stop - *protocol)) : NULL;
    *name_size = (size_t)((slash ? slash : stop) - *protocol);
    return (size_t)(stop - *protocol);
}

static inline int fr_upgrade_in(const uint8_t *list, const uint8_t *end, const uint8_t *wanted, size_t size, size_t name_size)
{
    const uint8_t *one;
    size_t one_size, one_name;

    while ((one_size = fr_upgrade_next(&list, end, &one, &one_name)) != 0)
        if (fr_upgrade_same(one, one_name, wanted, name_size) &&
            (one_size == one_name || size == name_size ||
             fr_upgrade_same(one + one_name, one_size - one_name, wanted + name_size, size - name_size)))
            return 1;
    return 0;
}

/* Did this request, as fr_write_request wrote it, ask for every protocol that the 101 in `head` names? */
static inline int fr_upgrade_asked(const uint8_t *request, size_t request_size, const uint8_t *data, const fr_head *head)
{
    const size_t line_size = sizeof(FR_UPGRADE_LINE) - 1;
    const uint8_t *asked, *asked_end, *named = data, *named_end, *one;
    size_t size, name_size;

    /* No field's value holds a CR, and no other field has this name: the scanner and the writer saw to it. */
    asked = (const uint8_t *)memmem(request, request_size, FR_UPGRADE_LINE, line_size);
    if (asked == NULL)
        return 0;
    asked += line_size;
    asked_end = (const uint8_t *)memchr(asked, '\r', (size_t)(request + request_size - asked));
    if (asked_end == NULL)
        return 0;
    size = fr_upgrade_value(data, head, &named);
    named_end = named + size;
    if (size == 0)
        return 0;
    while ((size = fr_upgrade_next(&named, named_end, &one, &name_size)) != 0)
        if (!fr_upgrade_in(asked, asked_end, one, size, name_size))
            return 0;
    return 1;
}

#endif
